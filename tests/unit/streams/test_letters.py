"""Letters as the dlq stage reads them: each says which acceptance of its event it speaks of, if anything can."""

import msgspec
import pytest

from schemas.codes import DeadReason
from schemas.envelope import AcceptedEvent, DeadLetter, DecideTask
from streams.delivery import Delivery
from streams.graveyard import letter_of
from streams.stages.dead_letter import read_letter

SHA = "a" * 64
EVENT = AcceptedEvent("acme", "e1", "t", "r", "agent", "2026-01-31T23:59:59.120Z", "", SHA, msgspec.Raw(b"{}"))
INGESTED = Delivery("fg.in.3.acme", msgspec.json.encode(EVENT), "", "FG_INGEST_0", 5)
TO_BE_DECIDED = Delivery(
    "fg.decide.3.acme", msgspec.json.encode(DecideTask("FG_INGEST_0", 5, EVENT)), "", "FG_DECIDE", 900
)
EMPTY = {"accepted_stream": "", "accepted_seq": 0, "body_sha256": ""}


def _read(letter: DeadLetter, subject: str = "fg.dlq.3.acme") -> DeadLetter:
    return read_letter(Delivery(subject, msgspec.json.encode(letter), "", "FG_DLQ", 9))


@pytest.mark.parametrize("dead", [INGESTED, TO_BE_DECIDED])
def test_a_letter_of_an_earlier_version_says_what_its_message_says(dead: Delivery) -> None:
    letter = letter_of("dedupe", dead, DeadReason.RETRY_BUDGET_EXHAUSTED, 5)
    assert (letter.accepted_stream, letter.accepted_seq, letter.body_sha256) == ("FG_INGEST_0", 5, SHA)
    assert _read(msgspec.structs.replace(letter, **EMPTY)) == letter
    elsewhere = msgspec.structs.replace(letter, accepted_seq=4)
    assert _read(elsewhere) == elsewhere, "what a letter says itself is believed"


@pytest.mark.parametrize("of", [{"tenant_id": "other"}, {"event_id": "e2"}])
def test_a_message_of_another_event_says_nothing_of_the_letters(of: dict[str, str]) -> None:
    letter = msgspec.structs.replace(letter_of("dedupe", INGESTED, DeadReason.POISON), **EMPTY, **of)
    assert _read(letter, f"fg.dlq.3.{letter.tenant_id}") == letter


def test_a_letter_whose_message_cannot_be_read_stays_as_it_is() -> None:
    letter = letter_of("dedupe", Delivery("fg.in.3.acme", b"\xff{", "", "FG_INGEST_0", 5), DeadReason.POISON)
    assert _read(letter) == letter


@pytest.mark.parametrize("message", ["a", "é"])
def test_a_letter_whose_message_is_no_base64_becomes_one_of_its_own(message: str) -> None:
    letter = letter_of("dedupe", INGESTED, DeadReason.STORE_REFUSED)
    read = _read(msgspec.structs.replace(letter, message_base64=message))
    assert (read.event_id, read.reason_code, read.stage) == ("FG_DLQ:9", DeadReason.POISON, "dlq")
