"""The leaves of signed rounds: what a tree is held against."""

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.checkpoint import Leaf, first_link, link_to, round_of, round_root
from sinks.keyring import Keyring
from sinks.notes import text_of, verify
from sinks.pg import Connection
from sinks.signing import SignatureError

_leaves = msgspec.json.Decoder(tuple[Leaf, ...])
_ROUNDS = """
SELECT checkpoint_seq, note, leaves FROM chain_checkpoints
WHERE partition = $1 AND checkpoint_seq IN ($2::bigint, $2::bigint - 1) ORDER BY checkpoint_seq
"""


async def signed_leaves(connection: Connection, partition: int, number: int, ring: Keyring) -> frozenset[Leaf]:
    """The leaves of that round, once a key of the ring signed it and it follows from them; else none at all."""
    rounds = await connection.fetch(_ROUNDS, partition, number)
    return _signed(rounds, partition, number, ring)


def _signed(rounds: Sequence[Any], partition: int, number: int, ring: Keyring) -> frozenset[Leaf]:
    if not rounds or rounds[-1]["checkpoint_seq"] != number or len(rounds) != min(2, number):
        return frozenset()
    try:
        this = round_of(verify(rounds[-1]["note"], ring.public_keys()))
        leaves = _leaves.decode(rounds[-1]["leaves"])
        link = first_link(partition) if number == 1 else link_to(text_of(rounds[0]["note"]))
    except (SignatureError, ValueError):
        return frozenset()
    follows = (this.partition, this.number) == (partition, number) and round_root(link, leaves) == this.root
    return frozenset(leaves) if follows else frozenset()
