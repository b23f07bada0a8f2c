"""Rounds as the WORM store has them, held against those of the database.

Whoever may write to the store can lay anything under the key of a round to come. So what lies there speaks
against the database only where a key of the ring signed it as that very round; all else is in the way, no more.
"""

import msgspec

from schemas.answers import Refusal
from schemas.checkpoint import round_of
from sinks.checkpoints import Checkpoints, StoredRound, round_key
from sinks.keyring import Keyring
from sinks.notes import text_of, verify
from sinks.signing import SignatureError
from sinks.worm import Worm

ROLLED_BACK, FORKED, LOST = "EVIDENCE_ROLLED_BACK", "EVIDENCE_FORKED", "EVIDENCE_LOST"
OBSTRUCTED = "EVIDENCE_OBSTRUCTED"
OBSTRUCTED_MAX = 100
"""Where so many keys in a row hold what nobody of the ring signed, nothing can be told of the store."""
ROUND_BYTES_MAX = 1024 * 1024
"""A round of 500 leaves is a tenth of it."""


class _Held(msgspec.Struct):
    note: str


_held = msgspec.json.Decoder(_Held)


class RoundStore:
    """Every method raises NoAnswer where a store is away."""

    def __init__(self, checkpoints: Checkpoints, worm: Worm) -> None:
        self._checkpoints = checkpoints
        self._worm = worm

    async def rollback_of(self, partition: int, ring: Keyring) -> str:
        """A code and a sentence when the WORM store knows more than the database, less or other things; else empty."""
        last = await self._checkpoints.last(partition)
        if later := await self._later(partition, last.number if last else 0, ring):
            return later
        if last is not None and last.stored:
            held = await self._get(last.key)
            if held != last.data:
                return _differs(held, last, ring, f"{LOST}: the WORM store lacks {_words(last)}, which was put there")
        return await self._fork_of_the_waiting(partition, ring)

    async def put(self, this: StoredRound, ring: Keyring, *, retain_days: int) -> str:
        """Empty once the round is in the store and the database knows; else a code and a sentence why it never can."""
        try:
            await self._worm.put(this.key, this.data, retain_days=retain_days)
        except Refusal:
            unsigned = f"{OBSTRUCTED}: no key of the ring signed what lies in the WORM store under {this.key}"
            return _differs(await self._get(this.key), this, ring, unsigned)
        await self._checkpoints.stored(this)
        return ""

    async def _later(self, partition: int, number: int, ring: Keyring) -> str:
        """What the store holds after the database's last round, which is `number`."""
        for after in range(number + 1, number + 1 + OBSTRUCTED_MAX):
            held = await self._get(round_key(partition, after))
            if held is None:
                return ""
            if _round_in(held, partition, after, ring):
                now = await self._checkpoints.last(partition)  # another worker may just have made it
                if (now.number if now else 0) >= after:
                    return ""
                return f"{ROLLED_BACK}: the WORM store holds round {after} of partition {partition}, the database none"
        return f"{OBSTRUCTED}: no key of the ring signed {OBSTRUCTED_MAX} rounds that lie after {number}"

    async def _fork_of_the_waiting(self, partition: int, ring: Keyring) -> str:
        """A database that went on from an older state has outgrown the store's last round, not the first it made anew.

        That one is among those which wait for the store. Rounds are put in order, but for those whose keys were
        obstructed: so where one is not there, the others of its page are looked for all the same, and no page
        after it.
        """
        after, complete = 0, True
        while complete and (rounds := await self._checkpoints.unstored(partition, after)):
            for this in rounds:
                held = await self._get(this.key)
                complete = complete and held is not None
                if (found := _differs(held, this, ring, "")).startswith(FORKED):
                    return found
            after = rounds[-1].number
        return ""

    async def _get(self, key: str) -> bytes | None:
        return await self._worm.get_range(key, 0, ROUND_BYTES_MAX)


def _differs(held: bytes | None, this: StoredRound, ring: Keyring, otherwise: str) -> str:
    """What another object than `this.data` under the round's key says; `otherwise` when it is no signed round.

    The same note in another wrapping is no other history: whoever may write there can copy it out of a bundle.
    """
    text = _round_in(held, this.partition, this.number, ring)
    if not text:
        return otherwise
    if says(this, text):
        return f"{OBSTRUCTED}: the WORM store holds {_words(this)} in another wrapping under {this.key}"
    return f"{FORKED}: the WORM store holds another {_words(this)}"


def _round_in(held: bytes | None, partition: int, number: int, ring: Keyring) -> str:
    """The text of the note in these bytes, once a key of the ring signed it for that round; else empty."""
    try:
        text = verify(_held.decode(held or b"").note, ring.public_keys())
        found = round_of(text)
    except (ValueError, SignatureError, RecursionError):
        return ""
    return text if (found.partition, found.number) == (partition, number) else ""


def says(this: StoredRound, text: str) -> bool:
    """Whether the round's note has this text, whoever signed it."""
    try:
        return text_of(this.note) == text
    except SignatureError:
        return False


def _words(this: StoredRound) -> str:
    return f"round {this.number} of partition {this.partition}"
