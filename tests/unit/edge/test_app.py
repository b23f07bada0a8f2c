"""The application over ports in memory: what is answered, measured and logged."""

import asyncio
import logging
import time
from typing import Any

import pytest

from edge.app import EdgeApp
from edge.settings import EdgeSettings
from schemas.answers import NoAnswer
from schemas.codes import TABLE, Code
from schemas.logkeys import REQUIRED
from schemas.principal import Principal, Scope
from schemas.readiness import Readiness
from tests.unit.edge.calling import Client
from tests.unit.edge.conftest import TRACE_ID, World, body_of


@pytest.mark.parametrize("path", ["/ingest", "/ingest/batch"])
async def test_the_time_a_sender_takes_for_its_body_is_not_the_edges(
    world: World,
    settings: EdgeSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    shown_s = [1_000.0]
    took_ms: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: shown_s[0])
    monkeypatch.setattr(world.gates, "took", lambda _tenant_id, _events, elapsed_ms: took_ms.append(elapsed_ms))
    body = body_of(agent_id="?")
    parts = [body[:-5], body[-5:-2], body[-2:]]

    async def receive() -> dict[str, Any]:
        shown_s[0] += 0.6
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        del message

    media_type = b"application/x-ndjson" if path.endswith("batch") else b"application/json"
    fields = {b"host": b"edge", b"authorization": b"Bearer key", b"content-type": media_type}
    headers = [*fields.items(), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "method": "POST", "raw_path": path.encode(), "headers": headers}
    with caplog.at_level(logging.INFO):
        await EdgeApp(settings, world.ports)(scope, receive, send)
    assert not parts
    assert took_ms == pytest.approx([0.0])
    (line,) = [record for record in caplog.records if hasattr(record, "latency_ms")]
    assert line.__dict__["latency_ms"] == pytest.approx(0.0)


async def test_a_body_that_ends_before_its_announced_length_has_no_effect_and_no_answer(
    world: World, settings: EdgeSettings
) -> None:
    body = body_of()
    parts: list[dict[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    length = str(len(body) + 1).encode()
    headers = [(b"host", b"edge"), (b"authorization", b"Bearer key"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "raw_path": b"/ingest",
        "headers": [*headers, (b"content-length", length)],
    }
    await EdgeApp(settings, world.ports)(scope, receive, send)
    assert sent == []
    assert world.broker.submitted == []


async def test_an_accepted_event_is_answered_with_its_receipt_and_ids(client: Client) -> None:
    answer = await client("POST", "/ingest", body_of(), x_request_id="my-request")
    assert answer.status == 202
    assert list(answer.document) == [
        "status", "tenant_id", "event_id", "trace_id", "request_id", "ingest_ts", "stream", "seq", "body_sha256",
    ]  # fmt: skip
    assert answer.headers["x-request-id"] == answer.document["request_id"] == "my-request"
    assert (answer.headers["x-tenant-id"], answer.headers["x-event-id"]) == ("acme", "evt-1")
    assert answer.headers["x-trace-id"] == TRACE_ID
    assert answer.headers["traceparent"] == f"00-{TRACE_ID.replace('-', '')}-{answer.headers['x-span-id']}-01"


async def test_a_problem_document_says_everything_and_repeats_nothing(client: Client) -> None:
    secret = "do-not-repeat-me"
    answer = await client("POST", "/ingest", body_of(source=[secret], agent_id=f"?{secret}"))
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.document == {
        "type": "urn:frostgate:error:AGENT_ID_INVALID",
        "title": TABLE[Code.AGENT_ID_INVALID].title,
        "status": 400,
        "detail": f"{TABLE[Code.AGENT_ID_INVALID].title}; {TABLE[Code.SOURCE_INVALID].title}."
        " The same bytes will be refused again.",
        "instance": f"urn:frostgate:request:{answer.headers['x-request-id']}",
        "error_code": "AGENT_ID_INVALID",
        "trace_id": TRACE_ID,
        "retry_after_ms": None,
        "errors": [
            {"error_code": "AGENT_ID_INVALID", "field": "agent_id"},
            {"error_code": "SOURCE_INVALID", "field": "source"},
        ],
    }
    assert secret not in str(answer)
    assert "retry-after" not in answer.headers


async def test_a_refusal_that_may_fare_better_says_when(world: World, client: Client) -> None:
    world.broker.refuses = Code.INGEST_BACKPRESSURE_HARDSTOP
    answer = await client("POST", "/ingest", body_of())
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.document["retry_after_ms"] == 1_000
    (line,) = (await client("POST", "/ingest/batch", body_of())).lines
    assert (line["status"], line["retry_after_ms"]) == (503, 1_000)


@pytest.mark.parametrize("value", ["", "a b", "-x", "x" * 65, "a/b"])
async def test_a_request_id_out_of_form_is_refused_and_not_repeated(client: Client, value: str) -> None:
    answer = await client("POST", "/ingest", body_of(), x_request_id=value)
    assert (answer.status, answer.document["error_code"]) == (400, "REQUEST_ID_INVALID")
    assert answer.headers["x-request-id"].startswith("request-")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("x_tenant_id", "other", Code.TENANT_MISMATCH),
        ("x_trace_id", "other", Code.TRACE_ID_CONFLICT),
        ("x_event_id", "other", Code.EVENT_ID_CONFLICT),
        ("idempotency_key", "other", Code.IDEMPOTENCY_KEY_CONFLICT),
    ],
)
async def test_a_header_that_disagrees_refuses_before_any_effect(
    world: World, client: Client, field: str, value: str, code: Code
) -> None:
    answer = await client("POST", "/ingest", body_of(), **{field: value})
    assert (answer.status, answer.document["error_code"]) == (TABLE[code].status, code)
    assert world.broker.by_id == {}


async def test_a_key_speaks_for_its_tenant_and_agent_alone(world: World, client: Client) -> None:
    world.ring.principals["key"] = Principal("k1", "acme", "agent-7", frozenset({Scope.INGEST}), "free")
    assert (await client("POST", "/ingest", body_of())).status == 202
    for changes in ({"tenant_id": "other"}, {"agent_id": "agent-8"}):
        answer = await client("POST", "/ingest", body_of(**changes))
        assert (answer.status, answer.document["error_code"]) == (403, "TENANT_MISMATCH")


async def test_without_a_valid_key_nobody_enters(client: Client) -> None:
    for path in ("/ingest", "/ingest/batch"):
        answer = await client("POST", path, body_of(), authorization="Bearer wrong")
        assert (answer.status, answer.document["error_code"]) == (401, "AUTHENTICATION_REQUIRED")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_opens_only_what_its_scopes_name(world: World, client: Client) -> None:
    assert (await client("GET", "/v1/events/evt-1")).document["error_code"] == "SCOPE_DENIED"
    world.ring.principals["key"] = Principal("k1", "acme", None, frozenset({Scope.EVENTS_READ}), "free")
    world.clock.advance(10_000)
    assert (await client("GET", "/v1/events/evt-1")).document["error_code"] == "NOT_FOUND"
    assert (await client("POST", "/ingest", body_of())).document["error_code"] == "SCOPE_DENIED"


@pytest.mark.parametrize("path", ["/", "/ingest/", "/ingest//batch", "//ingest", "/%69ngest", "/v1/events", "/INGEST"])
async def test_a_path_that_is_not_exactly_one_of_ours_is_not_found(client: Client, path: str) -> None:
    answer = await client("POST", path, body_of())
    assert (answer.status, answer.document["error_code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/ingest", "POST"),
        ("PUT", "/ingest/batch", "POST"),
        ("POST", "/readyz", "GET"),
        ("HEAD", "/livez", "GET"),
    ],
)
async def test_a_wrong_method_names_the_right_one(client: Client, method: str, path: str, allow: str) -> None:
    answer = await client(method, path)
    assert (answer.status, answer.document["error_code"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allow


async def test_the_limits_are_those_in_force(client: Client, settings: EdgeSettings) -> None:
    limits = (await client("GET", "/v1/limits")).document
    assert (limits["tenant_id"], limits["plan_tier"], limits["queue_depth_hardstop"]) == ("acme", "free", 12_000)
    assert limits["body_bytes_max"] == settings.body_bytes_max
    assert (await client("GET", "/v1/limits", authorization="none")).status == 401


async def test_an_edge_that_should_get_no_traffic_says_why(world: World, settings: EdgeSettings) -> None:
    ports = world.ports
    fields = {name: getattr(ports, name) for name in ports.__dataclass_fields__}
    fields["readiness"] = lambda: Readiness(("the broker is away",), ("no hints",))
    answer = await Client(EdgeApp(settings, type(ports)(**fields)))("GET", "/readyz")
    assert answer.status == 503
    assert answer.document == {"ready": False, "reasons": ["the broker is away"], "degraded": ["no hints"]}


async def test_live_and_ready_need_no_key(client: Client) -> None:
    assert (await client("GET", "/livez", authorization="")).document == {"live": True}
    ready = await client("GET", "/readyz", authorization="")
    assert (ready.status, ready.document) == (200, {"ready": True, "reasons": [], "degraded": []})


async def test_every_event_is_counted_once_with_its_outcome(world: World, client: Client) -> None:
    await client("POST", "/ingest", body_of())
    await client("POST", "/ingest", body_of())
    await client("POST", "/ingest", b"{}")
    await client("POST", "/ingest", body_of(), authorization="none")
    await client("POST", "/ingest/batch", b"\n".join([body_of(), body_of(event_id="evt-2"), b"{}", b"{}"]))
    told = world.tally.told
    assert told["frostgate_ingest_requests_total", "acme", "free", "accepted"] == 2
    assert told["frostgate_ingest_requests_total", "acme", "free", "replayed"] == 2
    assert told["frostgate_ingest_requests_total", "acme", "free", "refused"] == 3
    assert told["frostgate_ingest_requests_total", "_other", "_other", "refused"] == 1
    assert told["frostgate_ingest_rejected_total", "acme", "tenant_id_required"] == 3
    assert told["frostgate_ingest_rejected_total", "_other", "authentication_required"] == 1
    assert ("frostgate_ingest_latency_ms", "total", "acme") in told
    assert ("frostgate_ingest_latency_ms", "batch", "acme") in told


async def test_a_refusal_is_logged_with_its_ids_and_without_its_input(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge")
    await client("POST", "/ingest", body_of(source=["do-not-repeat-me"]), x_request_id="r-1")
    (record,) = [record for record in caplog.records if record.getMessage() == "refused"]
    extra = {name: value for name, value in vars(record).items() if name in REQUIRED and name != "module"}
    assert extra.pop("latency_ms") >= 0
    assert extra == {
        "request_id": "r-1",
        "tenant_id": "acme",
        "event_id": "evt-1",
        "trace_id": TRACE_ID,
        "route": "/ingest",
        "status_code": 400,
        "error_code": "SOURCE_INVALID",
    }
    assert "do-not-repeat-me" not in str(vars(record))


async def test_without_the_database_a_first_request_gets_no_verdict(world: World, client: Client) -> None:
    world.ring.answers = False
    answer = await client("POST", "/ingest", body_of())
    assert (answer.status, answer.document["error_code"]) == (503, "STORE_UNAVAILABLE")
    assert "www-authenticate" not in answer.headers


async def test_a_life_that_cannot_be_read_is_unavailable_not_absent(world: World, settings: EdgeSettings) -> None:
    class AwayLives:
        async def life_of(self, tenant_id: str, event_id: str, agent_id: str | None) -> bytes | None:
            del tenant_id, event_id, agent_id
            raise NoAnswer(Code.STORE_UNAVAILABLE)

    ports = world.ports
    fields = {name: getattr(ports, name) for name in ports.__dataclass_fields__} | {"lives": AwayLives()}
    world.ring.principals["key"] = Principal("k1", "acme", None, frozenset({Scope.EVENTS_READ}), "free")
    answer = await Client(EdgeApp(settings, type(ports)(**fields)))("GET", "/v1/events/evt-1")
    assert (answer.status, answer.document["error_code"]) == (503, "STORE_UNAVAILABLE")


@pytest.mark.parametrize("path", ["/ingest", "/ingest/batch"])
async def test_a_request_that_is_cut_off_at_its_publication_says_that_its_outcome_is_unknown(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    submitted = asyncio.Event()

    def submit(*_: object) -> asyncio.Future[Any]:
        submitted.set()
        return asyncio.get_running_loop().create_future()

    monkeypatch.setattr(world.broker, "submit", submit)
    request = asyncio.create_task(client("POST", path, body_of()))
    await submitted.wait()
    request.cancel()
    answer = await request
    assert (answer.status, answer.document["error_code"]) == (503, "OUTCOME_UNKNOWN")
    assert answer.headers["retry-after"] == "1"
