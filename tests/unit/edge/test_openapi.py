"""The published contract follows the types and the table of codes."""

from typing import Any

import msgspec
import pytest

from edge.admit import FIELDS
from edge.openapi import openapi_document
from edge.settings import EdgeSettings
from schemas.codes import TABLE, Code
from schemas.registry import PUBLISHED


@pytest.fixture
def document(settings: EdgeSettings) -> Any:
    return msgspec.json.decode(openapi_document(settings))


def test_every_code_is_described_under_its_status(document: Any) -> None:
    described = set()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                named = {code for code in Code if f"`{code}`" in answer["description"]}
                assert all(TABLE[code].status == int(status) for code in named)
                described |= named
    assert described == set(Code) - {Code.METHOD_NOT_ALLOWED}


def test_every_reference_leads_somewhere(document: Any) -> None:
    for reference in references(document):
        _, _, kind, name = reference.split("/")
        assert name in document["components"][kind]


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [one for value in node.values() for one in references(value)]
    return [one for value in node for one in references(value)] if isinstance(node, list) else []


def test_the_envelope_is_the_newest_published_one_that_is_read(document: Any) -> None:
    assert document["components"]["schemas"]["Envelope"] == PUBLISHED["1.0"]


def test_every_answer_names_the_request_and_every_refusal_that_may_be_tried_again_says_when(document: Any) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                assert "X-Request-Id" in answer["headers"]
                again = {code for code in Code if f"`{code}`" in answer["description"] and TABLE[code].retry != "never"}
                assert not again or "Retry-After" in answer["headers"], status


def test_the_envelope_requires_what_the_contract_requires(document: Any) -> None:
    schema = document["components"]["schemas"]["Envelope"]
    assert set(schema["required"]) == set(FIELDS) - {"integrity_hash"}
    strict = EdgeSettings(integrity_required=True, event_age_ms_max=1)
    required = msgspec.json.decode(openapi_document(strict))["components"]["schemas"]["Envelope"]["required"]
    assert set(required) == set(FIELDS)
