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
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from edge.jsonguard import is_storable
from edge.openapi import openapi_document
from ops.clock import SystemClock, new_uuid7
from schemas.units import UnixMs, format_rfc3339
from tests.contract.conftest import RunEdge, Sender
from tests.contract.proxy import Proxy
from tests.contract.running import DAY_MS, SETTINGS

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
EXAMPLES = 25
ENVELOPE: Any = DOCUMENT["components"]["schemas"]["Envelope"]
Case = schemathesis.Case[Any]
Operation = tuple[str, str]
INGEST = ("/ingest", "POST")
WITHOUT_FIELDS = copy.deepcopy(DOCUMENT)
"""The document without optional request fields: the envelope alone decides."""
WITHOUT_FIELDS["paths"]["/ingest"]["post"]["parameters"] = []
LONG_AGO = format_rfc3339(UnixMs(SystemClock().now_ms() - DAY_MS))
"""With Postgres away nobody could tell whether an event this old is a duplicate."""


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


def offered_right(case: Case, sender: Sender, checked: list[Any]) -> None:
    """What no schema can say is put right where the schema is kept: tenant, newness, clock, hash."""
    body: Any = case.body
    if isinstance(body, dict):
        now = format_rfc3339(SystemClock().now_ms())
        right = {"tenant_id": sender.tenant_id, "event_id": new_uuid7(), "created_at": now, "integrity_hash": None}
        case.body = body | {name: value for name, value in right.items() if name in body and kept(name, body[name])}
        hypothesis.assume(is_storable(case.body, SETTINGS.json_depth_max, SETTINGS.json_nodes_max))
    offered(case, sender, checked)


def kept(name: str, value: object) -> bool:
    schema = {"$schema": ENVELOPE["$schema"]} | ENVELOPE["properties"][name]
    return bool(jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(value))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_an_envelope_is_accepted_if_and_only_if_it_keeps_the_published_schema(
    sender: Sender, mode: GenerationMode
) -> None:
    checked = [*NO_FAILURE, checks.positive_data_acceptance, checks.negative_data_rejection]
    await asyncio.to_thread(explored, WITHOUT_FIELDS, INGEST, mode, lambda case: offered_right(case, sender, checked))


@pytest.fixture(params=[("redis", "redis_url"), ("postgres", "postgres_dsn")])
def proxied(request: pytest.FixtureRequest) -> tuple[Proxy, dict[str, str]]:
    """A proxy before one of the servers, and what leads an edge through it."""
    server, name = request.param
    proxy, url = request.getfixturevalue(f"{server}_proxy")
    return proxy, {name: url}


async def test_with_a_server_away_every_answer_is_still_a_documented_one(
    sender: Sender, run_edge: RunEdge, proxied: tuple[Proxy, dict[str, str]]
) -> None:
    proxy, through = proxied
    async with run_edge(**through) as edge:
        here = sender.at(edge)
        assert (await here.client.ingest(here.body())).status == 202
        proxy.cut()
        mode = GenerationMode.POSITIVE
        await asyncio.to_thread(
            explored, WITHOUT_FIELDS, INGEST, mode, lambda case: offered_right(case, here, OF_EVERY_ANSWER)
        )
        assert (await here.client.ingest(here.body(event_id="away", created_at=LONG_AGO))).status == 503
