"""Every refusal of an envelope or a credential, from the wire."""

import dataclasses

import msgspec
import pytest
import rfc8785

from ops.clock import SystemClock
from schemas.canonical import sha256_hex
from schemas.codes import TABLE, Code
from schemas.principal import Scope
from schemas.units import UnixMs, format_rfc3339
from sinks.api_keys import ApiKeys
from tests.contract.conftest import RunEdge, Sender
from tests.contract.running import DAY_MS, SETTINGS, Edge
from tests.contract.wire import Client

FIELDS = ("tenant_id", "event_id", "trace_id", "agent_id", "schema_version", "created_at", "source", "payload")


async def refused(sender: Sender, body: bytes, *fields: str) -> str:
    """The code of the refusal, after the batch gave the same one and the event was found not to be there."""
    answer = await sender.client.ingest(body, *fields)
    assert answer.status == TABLE[Code(answer.code)].status
    if not fields:
        (line,) = (await sender.client.batch(body)).lines
        assert (line["status"], line["error_code"]) == (answer.status, answer.code)
        assert line["errors"] == answer.document["errors"]
    return answer.code


async def test_a_sound_event_is_accepted_and_its_receipt_names_it(sender: Sender) -> None:
    envelope = sender.envelope()
    answer = await sender.client.ingest(msgspec.json.encode(envelope))
    assert answer.status == 202
    receipt = answer.document
    assert receipt["body_sha256"] == sha256_hex(rfc8785.dumps(envelope))
    assert (receipt["tenant_id"], receipt["event_id"]) == (sender.tenant_id, "evt-1")
    assert receipt["seq"] > 0


@pytest.mark.parametrize("absent", [..., None, ""])
@pytest.mark.parametrize("field", FIELDS)
async def test_each_required_field_has_its_own_code(sender: Sender, field: str, absent: object) -> None:
    assert await refused(sender, sender.body(**{field: absent})) == f"{field.upper()}_REQUIRED"


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("tenant_id", "a.b"),
        ("event_id", "a b"),
        ("trace_id", "not-a-uuid"),
        ("agent_id", "\u0000"),
        ("schema_version", "1"),
        ("created_at", "yesterday"),
        ("source", 7),
        ("integrity_hash", "md5:x"),
        ("payload", [1]),
        ("payload", {"n": 2**53}),
        ("payload", {"t": "\u0000"}),
        ("payload", {"x": "a" * 65_536}),
    ],
)
async def test_each_wrong_field_has_its_own_code(sender: Sender, field: str, wrong: object) -> None:
    assert await refused(sender, sender.body(**{field: wrong})) == f"{field.upper()}_INVALID"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.MALFORMED_JSON),
        (b"{", Code.MALFORMED_JSON),
        (b"[]", Code.MALFORMED_JSON),
        (b'{"a":"\xff"}', Code.MALFORMED_JSON),
        (b'{"a":"\\ud800"}', Code.MALFORMED_JSON),
        (b'{"a":1,"a":1}', Code.DUPLICATE_KEY),
        (b'{"tenant_id":"x","tenant\\u005fid":"y"}', Code.DUPLICATE_KEY),
        (b'{"a":' + b"[" * 40_000 + b"]" * 40_000 + b"}", Code.JSON_TOO_DEEP),
        (b'{"a":[' + b"0," * 2_000 + b"0]}", Code.JSON_TOO_DEEP),
        (b'{"a":1e999}', Code.PAYLOAD_INVALID),
    ],
)
async def test_bytes_that_are_no_sound_json_object_are_refused(sender: Sender, body: bytes, code: Code) -> None:
    answer = await sender.client.ingest(body)
    assert answer.code == code
    if body:
        assert (await sender.client.batch(body)).lines[0]["error_code"] == code


@pytest.mark.parametrize("version", ["2.0", "0.1"])
async def test_a_version_nobody_reads_is_unsupported(sender: Sender, version: str) -> None:
    assert await refused(sender, sender.body(schema_version=version)) == "SCHEMA_VERSION_UNSUPPORTED"


async def test_a_later_minor_is_accepted(sender: Sender) -> None:
    assert (await sender.client.ingest(sender.body(schema_version="1.9", new_field=1))).status == 202


async def test_created_at_may_lie_neither_in_the_future_nor_too_far_back(sender: Sender) -> None:
    now_ms = SystemClock().now_ms()
    for created_ms in (now_ms + 60_000, now_ms - 8 * DAY_MS):
        body = sender.body(created_at=format_rfc3339(UnixMs(created_ms)))
        assert await refused(sender, body) == "CREATED_AT_INVALID"


async def test_integrity_is_verified_whenever_it_is_claimed(sender: Sender) -> None:
    envelope = sender.envelope(payload={"\u00e9": 1.0})
    right = envelope | {"integrity_hash": f"sha256:{sha256_hex(rfc8785.dumps(envelope))}"}
    wrong = right | {"source": "elsewhere"}
    assert await refused(sender, msgspec.json.encode(wrong)) == "INTEGRITY_HASH_MISMATCH"
    assert (await sender.client.ingest(msgspec.json.encode(right))).status == 202


async def test_where_the_integrity_mode_is_on_the_hash_is_required(sender: Sender, run_edge: RunEdge) -> None:
    strict = dataclasses.replace(SETTINGS, integrity_required=True)
    async with run_edge(settings=strict) as edge:
        assert await refused(sender.at(edge), sender.body()) == "INTEGRITY_HASH_REQUIRED"


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("X-Trace-Id: 018f7e20-6d6f-7e20-a3f1-9eb6b7a1f113", Code.TRACE_ID_CONFLICT),
        (f"traceparent: 00-{'a' * 32}-b7ad6b7169203331-01", Code.TRACE_ID_CONFLICT),
        ("X-Event-Id: evt-2", Code.EVENT_ID_CONFLICT),
        ('Idempotency-Key: "evt-2"', Code.IDEMPOTENCY_KEY_CONFLICT),
        ("X-Request-Id: no spaces please", Code.REQUEST_ID_INVALID),
        ("X-Tenant-Id: someone-else", Code.TENANT_MISMATCH),
    ],
)
async def test_headers_must_agree_with_the_envelope(sender: Sender, field: str, code: Code) -> None:
    assert await refused(sender, sender.body(), field) == code


async def test_headers_that_agree_are_welcome_and_ids_come_back(sender: Sender) -> None:
    trace_id = sender.envelope()["trace_id"]
    answer = await sender.client.ingest(
        sender.body(),
        f"X-Trace-Id: {trace_id}",
        f"traceparent: 00-{trace_id.replace('-', '')}-b7ad6b7169203331-00",
        "X-Event-Id: evt-1",
        'Idempotency-Key: "evt-1"',
        f"X-Tenant-Id: {sender.tenant_id}",
        "X-Request-Id: chain-1",
    )
    assert answer.status == 202
    assert answer.document["request_id"] == answer.headers["x-request-id"] == "chain-1"
    assert (answer.headers["x-trace-id"], answer.headers["x-event-id"]) == (trace_id, "evt-1")
    span_id = answer.headers["x-span-id"]
    assert answer.headers["traceparent"] == f"00-{trace_id.replace('-', '')}-{span_id}-00"


@pytest.mark.parametrize("credential", ["Basic eA==", "Bearer", "Bearer wrong", f"Bearer fgk_{'0' * 16}_{'a' * 43}"])
async def test_without_a_valid_key_nobody_enters(sender: Sender, credential: str) -> None:
    answer = await sender.client.ingest(sender.body(), f"Authorization: {credential}")
    assert (answer.status, answer.code) == (401, "AUTHENTICATION_REQUIRED")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_revoked_key_is_refused(sender: Sender, keys: ApiKeys, run_edge: RunEdge) -> None:
    at_once = dataclasses.replace(SETTINGS, key_fresh_ms=0)
    issued = await keys.issue(sender.tenant_id, None, [Scope.INGEST])
    async with run_edge(settings=at_once) as edge:
        client = Client(edge.port, issued.secret)
        assert (await client.ingest(sender.body())).status == 202
        await keys.revoke(issued.key_id)
        assert (await client.ingest(sender.body())).code == "AUTHENTICATION_REQUIRED"


async def test_the_tenant_and_the_agent_of_the_key_are_binding(sender: Sender, edge: Edge, keys: ApiKeys) -> None:
    assert await refused(sender, sender.body(tenant_id="someone-else")) == "TENANT_MISMATCH"
    issued = await keys.issue(sender.tenant_id, "agent-7", [Scope.INGEST])
    bound = Client(edge.port, issued.secret)
    assert (await bound.ingest(sender.body(agent_id="agent-8"))).code == "TENANT_MISMATCH"
    assert (await bound.ingest(sender.body())).status == 202


async def test_a_scope_opens_its_own_door_alone(sender: Sender, edge: Edge, keys: ApiKeys) -> None:
    reader = Client(edge.port, (await keys.issue(sender.tenant_id, None, [Scope.EVENTS_READ])).secret)
    writer = Client(edge.port, (await keys.issue(sender.tenant_id, None, [Scope.INGEST])).secret)
    assert (await reader.ingest(sender.body())).code == "SCOPE_DENIED"
    assert (await writer.ask("GET", "/v1/events/evt-1")).code == "SCOPE_DENIED"
    assert (await reader.ask("GET", "/v1/limits")).status == (await writer.ask("GET", "/v1/limits")).status == 200


async def test_nothing_refused_was_stored(sender: Sender) -> None:
    """The event id is still free for the body that is right."""
    for changes in ({"source": ...}, {"tenant_id": "other"}, {"payload": {"n": 2**60}}):
        await refused(sender, sender.body(**changes))
    answer = await sender.client.ingest(sender.body())
    assert answer.status == 202
    assert "idempotency-replayed" not in answer.headers
