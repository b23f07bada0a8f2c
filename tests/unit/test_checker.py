"""The checker sees each broken promise, and none where all were kept."""

from collections import Counter
from pathlib import Path

import pytest

from chaos.checker import canaries_in, check, main
from chaos.history import Event, Ledger, Outcome, Request, events, outcome_of
from chaos.nemesis import VICTIMS, plan
from chaos.stores import Link, TenantState
from schemas.evidence import ChainEntry, EntryKind, genesis_hash, seal

TENANT = "acme"
RECEIPT = '{"status":"accepted"}'


def _chain(*events: tuple[str, EntryKind]) -> tuple[Link, ...]:
    links = []
    previous = genesis_hash(TENANT)
    for seq, (event_id, kind) in enumerate(events, start=1):
        entry = ChainEntry(1, TENANT, seq, kind, event_id, "t", "t", "r", "p", "c", "b", 100, "a", 10, previous)
        data, chain_hash = seal(entry)
        links.append(Link(seq, kind, event_id, data.decode(), previous, chain_hash))
        previous = chain_hash
    return tuple(links)


def _event(event_id: str, *outcomes: Outcome, answer: str = RECEIPT, body_bytes: int = 100) -> Event:
    requests = [
        Request("client", number, TENANT, event_id, body_bytes, outcome, 202, answer)
        for number, outcome in enumerate(outcomes, start=1)
    ]
    return Event(TENANT, event_id, tuple(requests))


HISTORY = [
    _event("one", Outcome.OK, Outcome.OK),
    _event("two", Outcome.UNKNOWN),
    _event("three", Outcome.FAIL, answer="{}"),
]
STATE = TenantState(
    TENANT,
    {"one": RECEIPT, "two": RECEIPT},
    Counter(one=1, two=1),
    frozenset(),
    _chain(("one", EntryKind.DECISION), ("two", EntryKind.DECISION)),
    Counter(one=1, two=1),
    20,
    {"ingest_events_total": 2, "ingest_bytes_total": 200, "artifacts_bytes_stored_total": 20},
    0,
)


def _broken(history: list[Event], state: TenantState) -> set[str]:
    return {finding.rule for finding in check(history, [state])}


def test_a_history_that_was_kept_has_no_finding() -> None:
    assert check(HISTORY, [STATE]) == []


@pytest.mark.parametrize(
    ("rule", "state"),
    [
        ("C1", STATE._replace(decided=Counter(two=1))),
        ("C2", STATE._replace(decided=Counter(one=1, two=1, three=1))),
        ("C2", STATE._replace(decided=Counter(one=1, two=1, nobody=1))),
        ("C3", STATE._replace(decided=Counter(one=2, two=1))),
        ("C3", STATE._replace(artifacts=Counter(one=1))),
        ("C4", STATE._replace(receipts={"one": "another"})),
        ("C5", STATE._replace(chain=STATE.chain[1:])),
        ("C5", STATE._replace(chain=STATE.chain[::-1])),
        ("C5", STATE._replace(chain=(STATE.chain[0]._replace(entry=STATE.chain[1].entry), STATE.chain[1]))),
        ("C6", STATE._replace(outbox_rows=1)),
        ("C6", STATE._replace(dead=frozenset({"one"}))),
        ("C8", STATE._replace(meters={**STATE.meters, "ingest_events_total": 3})),
        ("C8", STATE._replace(meters={**STATE.meters, "ingest_bytes_total": 199})),
        ("C8", STATE._replace(artifact_bytes=21)),
    ],
)
def test_each_broken_promise_of_the_stores_is_named(rule: str, state: TenantState) -> None:
    assert rule in _broken(HISTORY, state)


@pytest.mark.parametrize(
    ("history", "dead", "words"),
    [
        pytest.param([HISTORY[0]], "", "events_total is 2, the clients say 1", id="an event no client sent is billed"),
        pytest.param(
            [*HISTORY, _event("four", Outcome.OK)],
            "",
            "events_total is 2, the clients say 3",
            id="one that was accepted is not billed",
        ),
        pytest.param(HISTORY, "one", "events_total is 2, the clients say 1", id="one that is dead is billed"),
        pytest.param(
            [HISTORY[0], _event("two", Outcome.UNKNOWN, body_bytes=99)],
            "",
            "bytes_total is 200, the clients say 199",
            id="another body is billed",
        ),
    ],
)
def test_meters_that_agree_with_the_chain_and_not_with_the_clients_are_named(
    history: list[Event], dead: str, words: str
) -> None:
    found = check(history, [STATE._replace(dead=frozenset({dead} - {""}))])
    assert f"ingest_{words}" in [finding.words for finding in found if finding.rule == "C8"]


def test_an_event_nobody_saw_answered_counts_as_the_stores_have_it() -> None:
    """Its other requests were refused, or it may have been one of two bodies: neither is a finding."""
    unsure = _event("two", Outcome.FAIL, Outcome.UNKNOWN, Outcome.FAIL, answer="{}")
    never = _event("four", Outcome.UNKNOWN)
    assert check([HISTORY[0], unsure, never], [STATE]) == []
    torn = Event(TENANT, "two", (*HISTORY[1].requests, *_event("two", Outcome.UNKNOWN, body_bytes=700).requests))
    assert check([HISTORY[0], torn], [STATE]) == []


def test_a_dead_event_is_billed_to_nobody() -> None:
    state = STATE._replace(
        decided=Counter(one=1),
        dead=frozenset({"two"}),
        chain=_chain(("one", EntryKind.DECISION), ("two", EntryKind.DEAD_LETTER)),
        artifacts=Counter(one=1),
        meters={**STATE.meters, "ingest_events_total": 1, "ingest_bytes_total": 100},
    )
    assert check([HISTORY[0], _event("two", Outcome.OK)], [state]) == []


def test_two_answers_to_one_event_and_payloads_in_answers_are_named() -> None:
    torn = Event(TENANT, "one", (*HISTORY[0].requests, *_event("one", Outcome.OK, answer="other").requests))
    assert "C4" in _broken([torn, *HISTORY[1:]], STATE)
    told = _event("four", Outcome.FAIL, answer='{"detail":"canary-acme"}')
    assert _broken([*HISTORY, told], STATE) == {"C7"}


def test_a_tenant_whose_rows_were_not_read_is_a_finding() -> None:
    assert {finding.rule for finding in check(HISTORY, [])} == {"C1"}


def test_payloads_in_a_log_are_found(tmp_path: Path) -> None:
    (tmp_path / "clean.log").write_text("nothing")
    (tmp_path / "edge.log").write_text("refused canary-acme")
    found = canaries_in([tmp_path / "clean.log", tmp_path / "edge.log"])
    assert [(finding.rule, finding.words) for finding in found] == [("C7", "edge.log holds a payload")]


@pytest.mark.parametrize(
    ("status", "answer", "outcome"),
    [
        (202, b"{}", Outcome.OK),
        (503, b'{"error_code":"CIRCUIT_OPEN"}', Outcome.FAIL),
        (503, b'{"error_code":"OUTCOME_UNKNOWN"}', Outcome.UNKNOWN),
        (502, b"<html>", Outcome.UNKNOWN),
        (500, b'{"error_code":"SOMETHING"}', Outcome.UNKNOWN),
    ],
)
def test_only_a_definite_answer_is_a_failure(status: int, answer: bytes, outcome: Outcome) -> None:
    assert outcome_of(status, answer) is outcome


def test_a_client_that_died_before_the_answer_has_told_the_truth(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    ledger = Ledger(file, "client")
    ledger.end(ledger.begin(TENANT, "one", 3), 202, b"receipt")
    ledger.begin(TENANT, "two", 3)
    ledger.close()
    with file.open("ab") as cut:
        cut.write(b'{"client":"client","num')
    read = {event.event_id: event for event in events([file])}
    assert read["one"].receipts == {"receipt"}
    assert not read["two"].accepted
    assert not read["two"].refused


def test_a_seed_repeats_its_strikes_and_spares_nobody() -> None:
    assert plan(7, 60) == plan(7, 60)
    assert {strike.victim for strike in plan(7, 60)} == set(VICTIMS)


def test_the_command_wants_a_ledger_and_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as usage:
        main([])
    assert usage.value.code == 2
    assert "--dsn" in capsys.readouterr().err


def test_the_command_wants_a_worm_store_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FG_WORM_DIR", str(tmp_path / "unmounted"))
    with pytest.raises(SystemExit) as usage:
        main([str(tmp_path / "ledger"), "--dsn", "postgresql://nowhere"])
    assert usage.value.code == 2
    assert "unmounted" in capsys.readouterr().err
