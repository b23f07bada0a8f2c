"""The memory that bodies take is bounded, and one tenant's bodies do not take what another needs."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import bodies
from edge.app import EdgeApp
from edge.bodies import BODIES_BYTES_MAX, Bodies
from edge.settings import EdgeSettings
from tests.unit.edge.conftest import World, body_of

MIB = 1024 * 1024


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 80 * MIB)), max_size=20))
def test_all_bodies_together_never_exceed_the_bound(asked: list[tuple[str, int]]) -> None:
    room = Bodies()
    taken = [(room.held(tenant_id, size), size) for tenant_id, size in asked]
    held = [(block, size) for block, size in taken if block.__enter__()]
    assert sum(size for _, size in held) <= BODIES_BYTES_MAX
    for block, _ in held:
        block.__exit__(None, None, None)
    with room.held("a", BODIES_BYTES_MAX // 2) as whole:
        assert whole, "all of it was given back"


def test_a_tenant_takes_half_and_leaves_room_for_others() -> None:
    room = Bodies()
    blocks = [room.held("greedy", 4 * MIB) for _ in range(16)]
    assert sum(block.__enter__() for block in blocks) == 8
    with room.held("other", 4 * MIB) as one, room.held("other", 4 * MIB) as another:
        assert one
        assert another


async def test_a_body_there_is_no_room_for_is_refused_unread_and_may_be_sent_again(
    world: World, settings: EdgeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = body_of()
    monkeypatch.setattr(bodies, "BODIES_BYTES_MAX", 2 * len(body))
    app = EdgeApp(settings, world.ports)
    stalled, second = Sending(body), Sending(body)
    first = asyncio.create_task(stalled.run(app))
    await stalled.asked.wait()
    second.rest.set()
    await second.run(app)
    assert (second.sent[0]["status"], dict(second.sent[0]["headers"])[b"retry-after"]) == (429, b"1")
    assert b"RATE_LIMITED" in second.sent[1]["body"]
    stalled.rest.set()
    await first
    assert stalled.sent[0]["status"] == 202
    third = Sending(body)
    third.rest.set()
    await third.run(app)
    assert third.sent[0]["status"] == 202


class Sending:
    """A request whose body comes when it is told to."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked = asyncio.Event()
        self.rest = asyncio.Event()
        self.sent: list[Any] = []

    async def run(self, app: EdgeApp) -> None:
        fields = {
            b"host": b"edge",
            b"authorization": b"Bearer key",
            b"content-type": b"application/json",
            b"content-length": b"%d" % len(self.body),
        }
        scope = {"type": "http", "method": "POST", "raw_path": b"/ingest", "headers": list(fields.items())}
        await app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        self.asked.set()
        await self.rest.wait()
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
