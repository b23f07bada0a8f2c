"""Requests generated from our own OpenAPI document, valid ones and spoilt ones, against the real edge.

schemathesis holds every answer to the document: its status, media type, fields and body.
"""

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import hypothesis
import jsonschema_rs
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from edge.jsonguard import is_storable
from edge.openapi import openapi_document
from ops.clock import SystemClock
from schemas.units import format_rfc3339
from tests.contract.conftest import RunEdge, Sender
from tests.contract.proxy import Proxy
from tests.contract.running import SETTINGS

OF_EVERY_ANSWER = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
    checks.missing_required_header,
    checks.ignored_auth,
]
NO_FAILURE = [not_a_server_error, *OF_EVERY_ANSWER]
DOCUMENT: Any = msgspec.json.decode(openapi_document(SETTINGS))
OPERATIONS = [(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods]
EXAMPLES = 40
ENVELOPE: Any = DOCUMENT["components"]["schemas"]["Envelope"]
Operation = tuple[str, str]


@schemathesis.serializer("application/x-ndjson")
def one_line(_context: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def first_line(_context: object, response: schemathesis.Response) -> object:
    return json.loads(response.content.splitlines()[0])


def explored(document: Any, operation: Operation, mode: GenerationMode, exercise: Callable[[Case], None]) -> None:
    """Exercise generated cases of the operation: the same ones in every run."""
    schema = schemathesis.openapi.from_dict(document)
    cases = schema[operation[0]][operation[1]].as_strategy(generation_mode=mode)

    @hypothesis.seed(1)
    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @hypothesis.given(case=cases)
    def explore(case: Case) -> None:
        exercise(case)

    explore()


def offered(case: Case, sender: Sender, checked: list[Any]) -> None:
    """Send the case and hold the answer to the document."""
    response = case.call(
        base_url=f"http://127.0.0.1:{sender.client.port}", headers={"Authorization": f"Bearer {sender.api_key}"}
    )
    case.validate_response(response, checks=checked)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
async def test_every_answer_is_a_documented_one_and_none_is_a_failure(
    sender: Sender, operation: Operation, mode: GenerationMode
) -> None:
    await asyncio.to_thread(explored, DOCUMENT, operation, mode, lambda case: offered(case, sender, NO_FAILURE))


def without_fields(document: Any) -> Any:
    """The document without optional request fields: the envelope alone decides."""
    bare = copy.deepcopy(document)
    bare["paths"]["/ingest"]["post"]["parameters"] = []
    return bare


def told_apart(case: Case, sender: Sender) -> None:
    """What no schema can say is put right where the schema is kept: the tenant, the clock, the hash."""
    if isinstance(case.body, dict):
        right = {"tenant_id": sender.tenant_id, "created_at": format_rfc3339(SystemClock().now_ms())}
        case.body |= {name: value for name, value in right.items() if keeps_schema(name, case.body.get(name))}
        if keeps_schema("integrity_hash", case.body.get("integrity_hash")):
            case.body.pop("integrity_hash", None)
        hypothesis.assume(is_storable(case.body, SETTINGS.json_depth_max, SETTINGS.json_nodes_max))
    checked = [*NO_FAILURE, checks.positive_data_acceptance, checks.negative_data_rejection]
    offered(case, sender, checked)


def keeps_schema(name: str, value: object) -> bool:
    schema = {"$schema": ENVELOPE["$schema"]} | ENVELOPE["properties"][name]
    return bool(jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(value))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_an_envelope_is_accepted_if_and_only_if_it_keeps_the_published_schema(
    sender: Sender, mode: GenerationMode
) -> None:
    bare = without_fields(DOCUMENT)
    await asyncio.to_thread(explored, bare, ("/ingest", "POST"), mode, lambda case: told_apart(case, sender))


async def test_without_redis_every_answer_is_still_a_documented_one(
    sender: Sender, run_edge: RunEdge, redis_proxy: tuple[Proxy, str]
) -> None:
    proxy, url = redis_proxy
    async with run_edge(redis_url=url) as edge:
        here = sender.at(edge)
        proxy.cut()
        bare = without_fields(DOCUMENT)
        await asyncio.to_thread(
            explored,
            bare,
            ("/ingest", "POST"),
            GenerationMode.POSITIVE,
            lambda case: told_apart_without_redis(case, here),
        )


def told_apart_without_redis(case: Case, sender: Sender) -> None:
    case.body |= {"tenant_id": sender.tenant_id, "created_at": format_rfc3339(SystemClock().now_ms())}
    offered(case, sender, OF_EVERY_ANSWER)
