"""Many events in one request: one result a line, and no line harms another."""

import logging

import pytest

from edge.settings import EdgeSettings
from tests.unit.edge.calling import Client
from tests.unit.edge.conftest import body_of


async def test_a_batch_has_one_result_a_line_in_order_with_the_bytes_of_the_single_receipt(client: Client) -> None:
    wrong = b'{"tenant_id":"acme"}'
    answer = await client("POST", "/ingest/batch", b"\n".join([body_of(), b"", wrong, body_of(event_id="evt-2"), b""]))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert [(line["line"], line["status"]) for line in answer.lines] == [(1, 202), (2, 400), (3, 400), (4, 202)]
    assert [line.get("error_code") for line in answer.lines] == [None, "MALFORMED_JSON", "EVENT_ID_REQUIRED", None]
    assert [one["error_code"] for one in answer.lines[2]["errors"]][:2] == ["EVENT_ID_REQUIRED", "TRACE_ID_REQUIRED"]
    receipt = (await client("POST", "/ingest", body_of())).body
    fields = receipt.removeprefix(b'{"status":"accepted",').removesuffix(b"}")
    assert answer.body.splitlines()[0] == b'{"line":1,"status":202,' + fields + b',"replayed":false}'


@pytest.mark.parametrize("lines", [999, 1_000])
async def test_a_batch_may_have_a_thousand_lines_with_or_without_a_last_line_end(client: Client, lines: int) -> None:
    for end in (b"", b"\n"):
        assert len((await client("POST", "/ingest/batch", b"\n".join([b"{}"] * lines) + end)).lines) == lines


@pytest.mark.parametrize("body", [b"\n".join([b"{}"] * 1_001), b"{}\n" * 1_001, b"\n" * 100_000])
async def test_a_longer_batch_is_refused_whole(client: Client, body: bytes) -> None:
    answer = await client("POST", "/ingest/batch", body)
    assert (answer.status, answer.document["error_code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert "connection" not in answer.headers, "the body was read, so the connection serves on"


@pytest.mark.parametrize("body", [b"", b" ", b"\r"])
async def test_a_batch_without_lines_is_malformed(client: Client, body: bytes) -> None:
    answer = await client("POST", "/ingest/batch", body)
    assert (answer.status, answer.document["error_code"]) == (400, "MALFORMED_REQUEST")


async def test_a_line_too_long_for_one_event_harms_no_other(client: Client, settings: EdgeSettings) -> None:
    long = body_of(source="x" * settings.body_bytes_max)
    answer = await client("POST", "/ingest/batch", long + b"\n" + body_of())
    assert [(line["status"], line.get("error_code")) for line in answer.lines] == [
        (413, "PAYLOAD_TOO_LARGE"),
        (202, None),
    ]


async def test_of_those_a_batch_heeds_the_tenant_alone(client: Client) -> None:
    answer = await client("POST", "/ingest/batch", body_of(), x_trace_id="x", x_event_id="x", idempotency_key="x")
    assert answer.lines[0]["status"] == 202
    answer = await client("POST", "/ingest/batch", body_of(), x_tenant_id="other")
    assert (answer.status, answer.document["error_code"]) == (403, "TENANT_MISMATCH")


async def test_a_batch_logs_each_code_once(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge")
    await client("POST", "/ingest/batch", b"\n".join([b"{}", b"{}", b"x", body_of()]))
    refused = [record for record in caplog.records if hasattr(record, "error_code")]
    assert [(record.getMessage(), vars(record)["error_code"]) for record in refused] == [
        ("batch lines refused: 2", "TENANT_ID_REQUIRED"),
        ("batch lines refused: 1", "MALFORMED_JSON"),
    ]
