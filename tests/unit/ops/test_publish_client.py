"""Publishing goes on until each line has an answer that stands, within its bounds, and never changes a line."""

import json
from collections.abc import Sequence

import pytest

from ops.commands.agent_key import new_agent_key
from ops.commands.edge_client import EdgeClient, EdgeRefusedError, Identity
from ops.commands.publish_client import LineResult, Outcome, Patience, Publisher
from tests.unit.ops.stand_in import API_KEY, Reply, StandIn, stand_in

BUSY = {"error_code": "INGEST_BACKPRESSURE_HARDSTOP", "retry_after_ms": 700, "detail": "full"}


class Hours:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def patience(self, give_up_seconds: float | None) -> Patience:
        return Patience(give_up_seconds, lambda: self.now, self.sleep, lambda: 0.0)


def publish(
    edge: StandIn, lines: Sequence[bytes], hours: Hours, give_up_seconds: float | None = 300, api_key: str = API_KEY
) -> list[LineResult]:
    client = EdgeClient(edge.url, api_key)
    try:
        return Publisher(client, hours.patience(give_up_seconds)).publish(lines)
    finally:
        client.close()


def lines_of(count: int) -> list[bytes]:
    return [json.dumps({"event_id": f"e{number}"}).encode() for number in range(count)]


def outcomes(results: Sequence[LineResult]) -> list[Outcome]:
    return [result.outcome for result in results]


def test_only_the_lines_without_a_standing_answer_are_sent_again_and_after_the_longest_wait_asked_for() -> None:
    busy = {"e1", "e3"}

    def refuse(event: dict[str, str]) -> dict[str, object] | None:
        if event["event_id"] == "e2":
            return {"status": 400, "error_code": "SOURCE_REQUIRED", "detail": "no source"}
        if event["event_id"] in busy:
            busy.discard(event["event_id"])
            if event["event_id"] == "e1":
                return {"status": 429, "error_code": "A_CODE_OF_A_LATER_VERSION", "retry_after_ms": 300}
            return BUSY | {"status": 503}
        return None

    with stand_in() as edge:
        edge.refuse = refuse
        hours, lines = Hours(), lines_of(5)
        results = publish(edge, lines, hours)
    assert outcomes(results) == [
        Outcome.ACCEPTED,
        Outcome.ACCEPTED,
        Outcome.REFUSED,
        Outcome.ACCEPTED,
        Outcome.ACCEPTED,
    ]
    assert results[2].code == "SOURCE_REQUIRED"
    assert [result.event_id for result in results if result.event_id] == ["e0", "e1", "e3", "e4"]
    assert edge.requests == [lines, [lines[1], lines[3]]]
    assert hours.waits == [0.7]


@pytest.mark.parametrize(
    ("reply", "wait"),
    [
        (Reply(429, {"error_code": "RATE_LIMITED", "retry_after_ms": 250}, retry_after="1"), 0.25),
        (Reply(503, {"error_code": "STREAM_UNAVAILABLE"}, retry_after="2"), 2.0),
        (Reply(409, {"error_code": "EVENT_IN_FLIGHT"}), 0.1),
        (Reply(502, "a proxy's own words"), 0.1),
        (Reply(503, {"error_code": "HOUR", "retry_after_ms": 3_600_000}), 300.0),
        (Reply(0), 0.1),
    ],
)
def test_a_request_without_a_standing_answer_is_sent_again_whole(reply: Reply, wait: float) -> None:
    with stand_in(lambda number, _lines: reply if number == 0 else None) as edge:
        hours, lines = Hours(), lines_of(3)
        results = publish(edge, lines, hours)
    assert outcomes(results) == [Outcome.ACCEPTED] * 3
    assert edge.requests == [lines, lines]
    assert hours.waits == [wait]


def test_events_stored_before_the_connection_broke_are_replayed_and_not_lost() -> None:
    with stand_in(lambda number, _lines: Reply(0, take=True) if number == 0 else None) as edge:
        results = publish(edge, lines_of(2), Hours())
    assert outcomes(results) == [Outcome.REPLAYED] * 2


def test_patience_ends_after_the_given_time_without_progress_and_waits_grow_until_then() -> None:
    with stand_in(lambda _number, _lines: Reply(503, {"error_code": "STREAM_UNAVAILABLE"})) as edge:
        hours = Hours()
        results = publish(edge, lines_of(2), hours, give_up_seconds=20)
    assert outcomes(results) == [Outcome.UNSETTLED] * 2
    assert {result.code for result in results} == {"STREAM_UNAVAILABLE"}
    assert hours.waits[:7] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert sum(hours.waits) == pytest.approx(20)


def test_progress_renews_patience() -> None:
    with stand_in() as edge:
        taken: set[str] = set()

        def one_at_a_time(event: dict[str, str]) -> dict[str, object] | None:
            if taken and event["event_id"] not in taken:
                turn = len(edge.requests) - 1
                if event["event_id"] != f"e{turn}":
                    return BUSY | {"status": 503, "retry_after_ms": 9_000}
            elif event["event_id"] != "e0":
                return BUSY | {"status": 503, "retry_after_ms": 9_000}
            taken.add(event["event_id"])
            return None

        edge.refuse = one_at_a_time
        hours = Hours()
        results = publish(edge, lines_of(5), hours, give_up_seconds=10)
    assert outcomes(results) == [Outcome.ACCEPTED] * 5
    assert sum(hours.waits) == 36


def test_an_edge_that_is_not_there_is_waited_for_and_given_up() -> None:
    with stand_in() as edge:
        pass
    hours = Hours()
    results = publish(edge, lines_of(1), hours, give_up_seconds=1)
    assert (results[0].outcome, results[0].code) == (Outcome.UNSETTLED, "NO_ANSWER")
    assert sum(hours.waits) == pytest.approx(1)


def test_a_batch_that_is_too_large_is_halved_until_only_the_line_at_fault_is_refused() -> None:
    def too_large(_number: int, lines: list[bytes]) -> Reply | None:
        return Reply(413, {"error_code": "PAYLOAD_TOO_LARGE"}) if b'{"event_id": "e2"}' in lines else None

    with stand_in(too_large) as edge:
        results = publish(edge, lines_of(5), Hours())
    assert outcomes(results) == [Outcome.ACCEPTED] * 2 + [Outcome.REFUSED] + [Outcome.ACCEPTED] * 2
    assert results[2].code == "PAYLOAD_TOO_LARGE"
    assert sorted(edge.events) == ["e0", "e1", "e3", "e4"]


def test_a_refused_credential_ends_everything_at_once_and_says_what_to_do() -> None:
    with stand_in() as edge, pytest.raises(EdgeRefusedError, match=r"401 AUTHENTICATION_REQUIRED. Check FG_API_KEY"):
        publish(edge, lines_of(1), Hours(), api_key="not-this")


@pytest.mark.parametrize("document", [[{"status": 202}], "hello", [{}, {}]])
def test_an_answer_that_is_not_one_result_a_line_is_no_acceptance(document: object) -> None:
    with stand_in(lambda _number, _lines: Reply(200, document)) as edge, pytest.raises(EdgeRefusedError):
        publish(edge, lines_of(2), Hours())


def test_a_refused_credential_is_never_shown() -> None:
    with stand_in() as edge, pytest.raises(EdgeRefusedError) as raised:
        publish(edge, lines_of(1), Hours(), api_key="canary")
    assert "canary" not in raised.value.message


def test_what_a_run_cost_is_accounted_for() -> None:
    replies = {
        0: Reply(503, {"error_code": "STREAM_UNAVAILABLE", "retry_after_ms": 200}, budget="4"),
        1: Reply(429, {"error_code": "RATE_LIMITED"}, retry_after="1", budget="3"),
    }
    with stand_in(lambda number, _lines: replies.get(number)) as edge:
        client, hours = EdgeClient(edge.url, API_KEY), Hours()
        publisher = Publisher(client, hours.patience(300))
        publisher.publish(lines_of(3))
        client.close()
    assert publisher.account.document() == {
        "requests": 3,
        "lines_sent_again": 6,
        "waited_seconds": 1.2,
        "retry_budget_remaining_min": 3,
    }


def test_with_the_retry_budget_spent_waits_grow_whatever_the_edge_asks_for() -> None:
    reply = Reply(503, {"error_code": "STREAM_UNAVAILABLE", "retry_after_ms": 150}, budget="0")
    with stand_in(lambda number, _lines: reply if number < 5 else None) as edge:
        hours = Hours()
        publish(edge, lines_of(1), hours)
    assert hours.waits == [0.15, 0.2, 0.4, 0.8, 1.6]


def test_the_spread_of_a_wait_is_bounded() -> None:
    hours = Hours()
    patience = Patience(None, lambda: hours.now, hours.sleep, lambda: 1.0)
    assert patience.wait(1_000) == 1.25
    assert hours.waits == [1.25]


def test_every_try_is_signed_anew_and_keeps_its_request_id() -> None:
    key = new_agent_key("acme", "agent-7")
    closed = Reply(401, {"error_code": "REPLAY_WINDOW_CLOSED", "retry_after_ms": 6_000})
    with stand_in(lambda number, _lines: closed if number == 0 else None) as edge:
        client, hours = EdgeClient(edge.url, API_KEY, Identity(agent_key=key)), Hours()
        results = Publisher(client, hours.patience(300)).publish(lines_of(2))
        client.close()
    assert outcomes(results) == [Outcome.ACCEPTED] * 2
    assert hours.waits == [6.0]
    first, second = edge.heads
    assert first["x-request-id"] == second["x-request-id"]
    assert first["signature-input"] != second["signature-input"]
    assert first["x-tenant-id"] == "acme"


@pytest.mark.parametrize(
    ("code", "advice"), [("SIGNATURE_INVALID", "FG_AGENT_KEY_FILE"), ("REPLAY_WINDOW_CLOSED", "FG_API_KEY")]
)
def test_without_a_key_a_refused_signature_ends_everything_and_says_what_to_do(code: str, advice: str) -> None:
    reply = Reply(401, {"error_code": code})
    with stand_in(lambda _number, _lines: reply) as edge, pytest.raises(EdgeRefusedError, match=advice):
        publish(edge, lines_of(1), Hours())
