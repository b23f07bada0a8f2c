"""The remote policy, against a small server that answers as OPA documents it, or worse. The test tells the time."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.codes import PolicyCode
from schemas.decision import PolicyAnswer
from streams.opa import RemotePolicy
from streams.opa_breaker import FAILURES_IN_A_ROW, OPEN_MS
from streams.opa_proof import CHECK_MS, PROOF_AGE_MS_MAX
from streams.policy import NO_ANSWER, NO_RULE, STALE
from streams.policy_files import PolicyError, read_policy

DECISION = "/v1/data/fg/decision/decision?provenance=true"
RULES = 'package fg.decision\ndecision := {"allow": true}\n'
DATA = {"fg": {"lists": {"ports": [23]}}}
ALLOW = PolicyAnswer(PolicyCode.POLICY_ALLOW, ())


class FakeOpa:
    """Serves what `answers` holds by path: a document, or raw bytes of a response. Keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "/v1/policies": {"result": [{"id": "main.rego", "raw": RULES, "ast": {}}]},
            "/v1/data": {"result": {"fg": {**copy.deepcopy(DATA["fg"]), "decision": {"decision": {"allow": True}}}}},
            DECISION: {"result": {"allow": True}},
        }
        self.asked: list[tuple[str, bytes]] = []
        self.connections = 0
        self.closing = False
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                path = head.split(b" ")[1].decode()
                self.asked.append((head.split(b" ")[0].decode() + " " + path, await reader.readexactly(length)))
                answer = self.answers[path]
                if answer is None:
                    await reader.read()
                writer.write(answer if isinstance(answer, bytes) else response(json.dumps(answer).encode()))
                await writer.drain()
                if self.closing:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def response(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture
async def opa() -> AsyncIterator[FakeOpa]:
    fake = FakeOpa()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        yield fake


class Watch:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def policy(opa: FakeOpa, directory: Path, watch: Watch) -> AsyncIterator[RemotePolicy]:
    """Proven, on a connection that is kept."""
    remote = RemotePolicy(opa.url, read_policy(directory), watch.now_ms)
    await remote.prove()
    opa.asked.clear()
    yield remote
    remote.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "main.rego").write_text(RULES)
    (tmp_path / "main_test.rego").write_text("package fg_test.main\ntest_it if true\n")
    (tmp_path / "data.json").write_text(json.dumps(DATA))
    return tmp_path


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"result": {"allow": True}, "decision_id": "1"}, ALLOW),
        ({"result": {"allow": False, "reasons": ["a.b"]}}, PolicyAnswer(PolicyCode.POLICY_DENY, ("a.b",))),
        ({"decision_id": "1"}, NO_RULE),
        ({}, NO_RULE),
        ({"result": None}, NO_ANSWER),
        ({"result": True}, NO_ANSWER),
        ({"result": {"allow": True, "reasons": ["a.b"]}}, NO_ANSWER),
        ([], NO_ANSWER),
        (response(b'{"result": {"allow": true}}', "500 Internal Server Error"), NO_ANSWER),
        (response(b'{"result": {"allow": true}}', "404 Not Found"), NO_ANSWER),
        (response(b"{}", "403 Forbidden"), NO_ANSWER),
        (response(b'{"result": {"allow": tr'), NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n", NO_ANSWER),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NO_ANSWER),
    ],
)
async def test_only_a_whole_200_with_an_allow_in_the_agreed_shape_allows(
    opa: FakeOpa, policy: RemotePolicy, answer: Any, expected: PolicyAnswer
) -> None:
    opa.answers[DECISION] = answer
    assert await policy.evaluate({"event": {"payload": {"kind": "a"}}}) == expected
    assert opa.asked == [(f"POST {DECISION}", b'{"input":{"event":{"payload":{"kind":"a"}}}}')]


async def test_an_answer_in_pieces_is_put_together(opa: FakeOpa, policy: RemotePolicy) -> None:
    body = b'{"result": {"allow": true}}'
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:])) + b"0\r\n\r\n"
    opa.answers[DECISION] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    assert await policy.evaluate({}) == ALLOW


async def test_no_answer_in_time_is_a_deny_and_the_next_event_is_asked_anew(opa: FakeOpa, policy: RemotePolicy) -> None:
    opa.answers[DECISION] = None
    assert await policy.evaluate({}) == NO_ANSWER
    opa.answers[DECISION] = {"result": {"allow": True}}
    assert await policy.evaluate({}) == ALLOW
    assert opa.connections == 2


async def test_an_answer_cut_off_is_a_deny(opa: FakeOpa, policy: RemotePolicy) -> None:
    opa.answers[DECISION] = b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n" + b'{"result": {"allow": true}}'
    opa.closing = True
    assert await policy.evaluate({}) == NO_ANSWER


async def test_nobody_behind_a_proxy_is_a_deny(opa: FakeOpa, policy: RemotePolicy) -> None:
    opa.answers[DECISION] = response(b"no healthy upstream", "503 Service Unavailable")
    assert [await policy.evaluate({}) for _ in range(FAILURES_IN_A_ROW + 3)] == [NO_ANSWER] * (FAILURES_IN_A_ROW + 3)
    assert len(opa.asked) == FAILURES_IN_A_ROW


async def test_an_event_that_is_no_json_is_a_deny(policy: RemotePolicy) -> None:
    assert await policy.evaluate({"event": "\ud800"}) == NO_ANSWER
    assert await policy.evaluate({"event": object()}) == NO_ANSWER


async def test_connections_are_kept_and_one_that_was_closed_meanwhile_costs_no_event(
    opa: FakeOpa, policy: RemotePolicy
) -> None:
    assert [await policy.evaluate({}) for _ in range(3)] == [ALLOW] * 3
    assert opa.connections == 1
    assert await asyncio.gather(*(policy.evaluate({}) for _ in range(4))) == [ALLOW] * 4
    assert opa.connections == 4
    opa.closing = True
    assert await asyncio.gather(*(policy.evaluate({}) for _ in range(4))) == [ALLOW] * 4
    opa.closing = False
    assert await policy.evaluate({}) == ALLOW
    assert opa.connections == 5


async def test_a_server_that_holds_the_directory_is_named_by_its_hash(opa: FakeOpa, directory: Path) -> None:
    remote = await RemotePolicy.connect(opa.url, directory)
    assert remote.policy_hash == read_policy(directory).policy_hash
    assert await remote.evaluate({}) == ALLOW
    remote.close()


def without_a_list(answers: dict[str, Any]) -> None:
    answers["/v1/data"]["result"]["fg"]["lists"]["ports"] = []


def with_another_module(answers: dict[str, Any]) -> None:
    answers["/v1/policies"]["result"].append({"id": "more.rego", "raw": "package fg.decision\n"})


def with_another_text(answers: dict[str, Any]) -> None:
    answers["/v1/policies"]["result"][0]["raw"] += "# changed\n"


def without_data(answers: dict[str, Any]) -> None:
    answers["/v1/data"] = {"result": {}}


def without_a_right_to_ask(answers: dict[str, Any]) -> None:
    answers["/v1/policies"] = response(b"{}", "401 Unauthorized")


def with_nonsense(answers: dict[str, Any]) -> None:
    answers["/v1/policies"] = {"result": {"main.rego": RULES}}


@pytest.mark.parametrize(
    "difference",
    [without_a_list, with_another_module, with_another_text, without_data, without_a_right_to_ask, with_nonsense],
)
async def test_a_server_with_other_rules_is_refused(
    opa: FakeOpa, directory: Path, difference: Callable[[dict[str, Any]], None]
) -> None:
    difference(opa.answers)
    with pytest.raises(PolicyError, match="OPA"):
        await RemotePolicy.connect(opa.url, directory)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ('decision := {"allow": http.send({"url": "http://x"}).status_code == 200}', "the built-in http.send"),
        ('decision := {"allow": time.now_ns() > 0}', "the built-in time.now_ns"),
        ('decision := {"allow": decision.allow}', "depends on itself"),
        ('decision := {"allow": ', "main.rego"),
    ],
)
async def test_rules_that_must_not_be_used_are_refused_also_when_a_server_would_run_them(
    opa: FakeOpa, directory: Path, rule: str, fault: str
) -> None:
    """A decision that follows from more than rules and event could not be made again from the evidence."""
    (directory / "main.rego").write_text(f"package fg.decision\n{rule}\n")
    opa.answers["/v1/policies"] = {"result": [{"id": "main.rego", "raw": (directory / "main.rego").read_text()}]}
    with pytest.raises(PolicyError, match=fault):
        await RemotePolicy.connect(opa.url, directory)
    assert opa.asked == []


async def test_a_server_that_is_not_there_is_refused(unused_url: str, directory: Path) -> None:
    with pytest.raises(PolicyError, match="could not be asked"):
        await RemotePolicy.connect(unused_url, directory)


@pytest.mark.parametrize("url", ["127.0.0.1:8181", "unix:///run/opa.sock", "http://", ""])
def test_a_url_that_is_none_is_refused(url: str, directory: Path) -> None:
    with pytest.raises(ValueError, match="FG_OPA_URL"):
        RemotePolicy(url, read_policy(directory))


async def test_before_its_rules_are_proven_a_server_is_not_even_asked(opa: FakeOpa, directory: Path) -> None:
    remote = RemotePolicy(opa.url, read_policy(directory))
    assert await remote.evaluate({}) == STALE
    assert opa.asked == []


@pytest.mark.parametrize("difference", [without_a_list, with_another_module, with_another_text, without_data])
async def test_other_rules_are_found_within_30_s_and_deny_until_the_proven_ones_are_back(
    opa: FakeOpa, policy: RemotePolicy, watch: Watch, difference: Callable[[dict[str, Any]], None]
) -> None:
    right = copy.deepcopy(opa.answers)
    difference(opa.answers)
    watch.ms += CHECK_MS
    await policy.look()
    assert await policy.evaluate({}) == STALE
    assert "every event is denied" in policy.findings[0]
    opa.answers = right
    await policy.look()
    assert policy.findings == []
    assert await policy.evaluate({}) == ALLOW


async def test_an_answer_under_another_bundle_revision_is_stale_at_once(
    opa: FakeOpa, policy: RemotePolicy, watch: Watch
) -> None:
    opa.answers[DECISION] = {"result": {"allow": True}, "provenance": {"bundles": {"fg": {"revision": "2"}}}}
    assert await policy.evaluate({}) == STALE
    asked = len(opa.asked)
    assert await policy.evaluate({}) == STALE
    assert len(opa.asked) == asked, "a server in doubt is not asked"
    watch.ms += 1
    await policy.look()
    assert await policy.evaluate({}) == ALLOW, "the new revision holds the same rules"


async def test_rules_that_cannot_be_compared_for_90_s_are_stale(
    opa: FakeOpa, policy: RemotePolicy, watch: Watch
) -> None:
    opa.answers["/v1/policies"] = response(b"{}", "503 Service Unavailable")
    watch.ms += CHECK_MS
    await policy.look()
    assert (await policy.evaluate({}), policy.findings) == (ALLOW, [])
    watch.ms += PROOF_AGE_MS_MAX - CHECK_MS
    assert await policy.evaluate({}) == ALLOW
    watch.ms += 1
    assert await policy.evaluate({}) == STALE
    opa.answers["/v1/policies"] = {"result": [{"raw": RULES}]}
    await policy.look()
    assert await policy.evaluate({}) == ALLOW


async def test_rules_are_not_compared_before_30_s(opa: FakeOpa, policy: RemotePolicy, watch: Watch) -> None:
    watch.ms += CHECK_MS - 1
    await policy.look()
    assert opa.asked == []


async def test_a_silent_server_is_left_alone_for_5_s_and_then_asked_once(
    opa: FakeOpa, policy: RemotePolicy, watch: Watch
) -> None:
    opa.answers[DECISION] = b"HTTP/1.1 nonsense\r\n\r\n"
    for _ in range(FAILURES_IN_A_ROW + 5):
        assert await policy.evaluate({}) == NO_ANSWER
    assert len(opa.asked) == FAILURES_IN_A_ROW
    assert policy.findings == ["the policy server does not answer, every event is denied"]
    watch.ms += OPEN_MS
    assert await asyncio.gather(*(policy.evaluate({}) for _ in range(4))) == [NO_ANSWER] * 4
    assert len(opa.asked) == FAILURES_IN_A_ROW + 1
    opa.answers[DECISION] = {"result": {"allow": True}}
    watch.ms += OPEN_MS
    assert await policy.evaluate({}) == ALLOW
    assert policy.findings == []


async def test_without_events_the_server_is_probed_all_the_same(
    opa: FakeOpa, policy: RemotePolicy, watch: Watch
) -> None:
    opa.answers[DECISION] = b"HTTP/1.1 nonsense\r\n\r\n"
    for _ in range(FAILURES_IN_A_ROW):
        await policy.evaluate({})
    opa.answers[DECISION] = {"result": {"allow": True}}
    await policy.look()
    assert policy.findings
    watch.ms += OPEN_MS
    await policy.look()
    assert policy.findings == []


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error"])
async def test_what_one_event_makes_the_server_say_does_not_open_its_circuit_for_all(
    opa: FakeOpa, policy: RemotePolicy, status: str
) -> None:
    opa.answers[DECISION] = response(b"{}", status)
    for _ in range(2 * FAILURES_IN_A_ROW):
        assert await policy.evaluate({}) == NO_ANSWER
    opa.answers[DECISION] = {"result": {"allow": True}}
    assert await policy.evaluate({}) == ALLOW


async def test_it_looks_after_itself_until_told_to_stop(opa: FakeOpa, policy: RemotePolicy, watch: Watch) -> None:
    stopping = asyncio.Event()
    stopping.set()
    watch.ms += CHECK_MS
    await policy.run(stopping)
    assert opa.asked == []


@pytest.fixture
async def unused_url() -> str:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"
