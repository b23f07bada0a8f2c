"""Depth views in Redis or Valkey: who samples a partition, what was sampled, and a key per tenant and lane.

One edge at a time samples a partition. Its right is a key that expires within a second of its last
use, and what it writes as the view is written only while it has that right, stamped with the
store's own time.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis

from edge.depth_keys import TenantKey
from edge.redis_store import Script
from schemas.depth import LaneDepth
from schemas.subjects import PARTITIONS

LEASE_MS = 800
"""Sampling and reading every 500 ms, other edges have a view again within 2 s of the last one's death."""
VIEW_MS = 10_000
KEY_MS = 10_000
KEYS_PER_CALL_MAX = 500
"""The server answers nobody else during a call."""

TURNS = Script("depth_turns.lua")
PUBLISH = Script("depth_publish.lua")
WRITE = Script("remember.lua")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, LaneDepth]).decode


class SharedView(NamedTuple):
    """The depths of a partition as some edge sampled them, `age_ms` ago by the store's clock."""

    taken_store_ms: int
    age_ms: int
    depths: Mapping[str, LaneDepth]


class AgedView(NamedTuple):
    """The depths of a partition as this edge sampled them, `age_ms` ago by its own clock."""

    age_ms: int
    depths: Mapping[str, LaneDepth]


class Turn(NamedTuple):
    """Whether this edge is to sample the partition now, and what is known of it meanwhile."""

    held: bool
    view: SharedView | None


class DepthStore:
    """One edge's way to the shared views. Every method raises RedisError or OSError where the store is away."""

    def __init__(self, client: "Redis", key_template: str, holder: str) -> None:
        self._client = client
        self._key_template = key_template
        self._holder = holder

    async def turns(self, sitting_out: Collection[int]) -> Sequence[Turn]:
        """One turn per partition, in one call. Those this edge sits out go to whoever asks next."""
        every = range(PARTITIONS)
        willing = [int(partition not in sitting_out) for partition in every]
        now_ms, *answers = await TURNS.call(self._client, _names(every), self._holder, LEASE_MS, *willing)
        held, views = answers[:PARTITIONS], answers[PARTITIONS:]
        return [Turn(bool(one), _view(now_ms, raw)) for one, raw in zip(held, views, strict=True)]

    async def publish(self, views: Mapping[int, AgedView]) -> Sequence[int]:
        """Write the partitions' views. Returns for each when it was taken, 0 where another edge samples by now."""
        ages_ms = [view.age_ms for view in views.values()]
        packed = [_encode(view.depths) for view in views.values()]
        taken: list[int] = await PUBLISH.call(self._client, _names(views), self._holder, VIEW_MS, *ages_ms, *packed)
        return taken

    async def write(self, keys: Sequence[TenantKey]) -> None:
        """Write those keys, for whoever looks from outside; they expire."""
        for start in range(0, len(keys), KEYS_PER_CALL_MAX):
            share = keys[start : start + KEYS_PER_CALL_MAX]
            names = [self._name(key.tenant_id, key.lane) for key in share]
            await WRITE.call(self._client, names, KEY_MS, *(key.messages for key in share))

    def _name(self, tenant_id: str, lane: str) -> str:
        """The braces around the tenant are part of the key: a cluster's hash tag."""
        return self._key_template.replace("{tenant_id}", f"{{{tenant_id}}}").replace("{lane}", lane)


def _names(partitions: Collection[int]) -> list[str]:
    """The holders of those partitions, then their views."""
    return [f"fg:depth:{partition}:{what}" for what in ("holder", "view") for partition in partitions]


def _view(now_ms: int, raw: bytes | None) -> SharedView | None:
    """What was written; nothing that does not read as a view is one."""
    if raw is None:
        return None
    head, _, packed = raw.partition(b":")
    try:
        taken_ms = int(head)
        return SharedView(taken_ms, now_ms - taken_ms, _decode(packed))
    except (ValueError, msgspec.MsgspecError):
        return None
