"""Dead letters: a row an operator can read and a chain entry, in one transaction."""

import base64
import logging
from collections.abc import Iterator, Sequence

import msgspec

from schemas.canonical import canonical_plain, sha256_hex
from schemas.codes import DeadReason
from schemas.envelope import DeadLetter
from schemas.evidence import EntryKind
from schemas.rows import BuriedLetter
from schemas.units import format_rfc3339
from sinks import chain, outcomes
from sinks.chain import Draft
from sinks.pg import Connection, Pool

log = logging.getLogger("sinks")

RECORD_VERSION = 1
EVENT_ID_CHARACTERS_MAX = 128
TRACE_ID_CHARACTERS_MAX = 36
REQUEST_ID_CHARACTERS_MAX = 64
STREAM_CHARACTERS_MAX = 64
SEQ_MAX = 2**63 - 1

# `retry_count` is the attempts the event's own failures were given, and one for each later message of the event
# that ended for the same reason without any. A letter delivered again changes nothing, nor does a second letter of the
# same message. Which of two deaths is the later one only FG_DLQ can say: the messages may lie in different streams.
# The acceptance is the latest of which a letter speaks, for every earlier one of the event has ended with it.
_UPSERT = """
INSERT INTO ingest_dlq AS old (
    tenant_id, event_id, reason_code, trace_id, stage, stream, seq, payload_json, first_seen_at, last_seen_at,
    retry_count, letter_seq, accepted_stream, accepted_seq
)
SELECT
    tenant_id, event_id, reason_code, trace_id, stage, stream, seq,
    coalesce(app.jsonb_or_null(message), jsonb_build_object('message_base64', message_base64)),
    seen_at::timestamptz, seen_at::timestamptz, attempts, letter_seq, nullif(accepted_stream, ''),
    nullif(accepted_seq, 0)
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[],
    $10::text[], $11::integer[], $12::bigint[], $13::text[], $14::bigint[]
) AS l (
    tenant_id, event_id, reason_code, trace_id, stage, stream, seq, message, message_base64, seen_at, attempts,
    letter_seq, accepted_stream, accepted_seq
)
ON CONFLICT (tenant_id, event_id, reason_code) DO UPDATE SET
    retry_count = old.retry_count + greatest(1, EXCLUDED.retry_count),
    stage = EXCLUDED.stage, stream = EXCLUDED.stream, seq = EXCLUDED.seq, letter_seq = EXCLUDED.letter_seq,
    accepted_stream = coalesce(EXCLUDED.accepted_stream, old.accepted_stream),
    accepted_seq = CASE
        WHEN EXCLUDED.accepted_stream <> old.accepted_stream THEN EXCLUDED.accepted_seq
        ELSE greatest(EXCLUDED.accepted_seq, old.accepted_seq)
    END,
    last_seen_at = greatest(old.last_seen_at, EXCLUDED.last_seen_at)
WHERE EXCLUDED.letter_seq > coalesce(old.letter_seq, 0) AND (EXCLUDED.stream, EXCLUDED.seq) <> (old.stream, old.seq)
RETURNING tenant_id, event_id, reason_code, xmax = 0 AS new
"""


class DeadLetters:
    def __init__(self, pool: Pool, config_hash: str) -> None:
        self._pool = pool
        self._config_hash = config_hash

    async def bury(self, letters: Sequence[BuriedLetter]) -> list[BuriedLetter]:
        """Commit row and chain entry of each letter; return those whose event had no row for their reason yet.

        An event that is decided has ended: a letter of it takes no effect, unless it is of another body
        with the event's id. An event gets one chain entry of this kind, whatever the number of its letters;
        a message that only took an event's id has one of its own, named by stream and sequence. No letter is
        refused for what it holds. Raises NoAnswer: burying again has the effect of once.
        """
        plain = [_storable(buried) for buried in letters]
        tenant_ids = sorted({buried.letter.tenant_id for buried in plain})
        async with self._pool.writing(tenant_ids, "ingest_dlq", "upsert") as connection:
            await chain.lock(connection, tenant_ids)
            owed = await _undecided(connection, plain)
            if not owed:
                return []
            drafts = [self._draft(buried) for buried in owed]
            await chain.append(connection, EntryKind.DEAD_LETTER, drafts, looking=True)
            return [new for once in _rounds(owed) for new in await _upsert(connection, once)]

    def _draft(self, buried: BuriedLetter) -> Draft:
        """`ingest_ts` is the burial, `body_*` are the message: what is dead may have had no readable event."""
        letter, seen_at = buried.letter, format_rfc3339(buried.seen_at_ms)
        message = base64.b64decode(letter.message_base64)
        message_sha256 = sha256_hex(message)
        record = {
            "v": RECORD_VERSION,
            "tenant_id": letter.tenant_id,
            "event_id": letter.event_id,
            "trace_id": letter.trace_id,
            "request_id": letter.request_id,
            "reason_code": letter.reason_code,
            "stage": letter.stage,
            "stream": letter.stream,
            "seq": letter.seq,
            "message_sha256": message_sha256,
            "message_bytes": len(message),
            "first_seen_at": seen_at,
        }
        return Draft(
            tenant_id=letter.tenant_id,
            event_id=f"{letter.stream}:{letter.seq}" if _is_conflict(letter) else letter.event_id,
            ingest_ts=seen_at,
            trace_id=letter.trace_id,
            request_id=letter.request_id,
            policy_hash="",
            config_hash=self._config_hash,
            body_sha256=message_sha256,
            body_bytes=len(message),
            artifact=canonical_plain(record),
            break_glass=letter.break_glass,
        )


async def _undecided(connection: Connection, letters: Sequence[BuriedLetter]) -> list[BuriedLetter]:
    """The letters that still decide what became of their event. The caller holds the lock of their chains' heads."""
    bodies = await outcomes.decided_bodies(
        connection, [(buried.letter.tenant_id, buried.letter.event_id) for buried in letters]
    )
    owed: list[BuriedLetter] = []
    for buried in letters:
        letter = buried.letter
        decided = bodies.get((letter.tenant_id, letter.event_id))
        if decided is None or _is_conflict(letter) or letter.body_sha256 not in {"", decided}:
            owed.append(buried)
        else:
            log.info("a letter of stage %s changes nothing: its event is decided", letter.stage)
    return owed


def _is_conflict(letter: DeadLetter) -> bool:
    """Whether it is of another message with the event's id, and not of the event."""
    return letter.reason_code == DeadReason.EVENT_ID_CONFLICT


def _storable(buried: BuriedLetter) -> BuriedLetter:
    """The letter with ids that fit their columns: they may have been read out of a broken message."""
    letter = buried.letter
    placed = 0 <= letter.accepted_seq <= SEQ_MAX
    storable = msgspec.structs.replace(
        letter,
        event_id=fitting(letter.event_id, EVENT_ID_CHARACTERS_MAX),
        trace_id=fitting(letter.trace_id, TRACE_ID_CHARACTERS_MAX),
        request_id=fitting(letter.request_id, REQUEST_ID_CHARACTERS_MAX),
        accepted_stream=fitting(letter.accepted_stream, STREAM_CHARACTERS_MAX) if placed else "",
        accepted_seq=letter.accepted_seq if placed else 0,
    )
    return buried._replace(letter=storable)


def fitting(text: str, characters_max: int) -> str:
    """The text as a column of so many characters can hold it."""
    return text[:characters_max].replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _rounds(letters: Sequence[BuriedLetter]) -> Iterator[list[BuriedLetter]]:
    """The letters in their order in FG_DLQ, no event and reason twice in one round: one statement takes one."""
    waiting = sorted(letters, key=lambda buried: buried.seq)
    while waiting:
        once: dict[tuple[str, str, str], BuriedLetter] = {}
        later = [buried for buried in waiting if once.setdefault(_key(buried), buried) is not buried]
        yield list(once.values())
        waiting = later


async def _upsert(connection: Connection, letters: Sequence[BuriedLetter]) -> list[BuriedLetter]:
    rows = await connection.fetch(_UPSERT, *zip(*(_row(buried) for buried in letters), strict=True))
    new = {(row["tenant_id"], row["event_id"], row["reason_code"]) for row in rows if row["new"]}
    return [buried for buried in letters if _key(buried) in new]


def _key(buried: BuriedLetter) -> tuple[str, str, str]:
    letter = buried.letter
    return letter.tenant_id, letter.event_id, letter.reason_code


def _row(buried: BuriedLetter) -> tuple[str | int | None, ...]:
    letter = buried.letter
    return (
        letter.tenant_id,
        letter.event_id,
        letter.reason_code,
        letter.trace_id,
        letter.stage,
        letter.stream,
        letter.seq,
        _text_of(base64.b64decode(letter.message_base64)),
        letter.message_base64,
        format_rfc3339(buried.seen_at_ms),
        letter.attempts,
        buried.seq,
        letter.accepted_stream,
        letter.accepted_seq,
    )


def _text_of(message: bytes) -> str | None:
    """The message as text, None when Postgres has no text for it."""
    if b"\x00" in message:
        return None
    try:
        return message.decode()
    except UnicodeDecodeError:
        return None
