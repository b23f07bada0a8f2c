"""Signed requests from the wire: what is accepted, every refusal, replays, rotation, and a lost memory of nonces."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from edge.redis_store import redis_client
from ops.clock import SystemClock
from ops.embedded import EmbeddedServers
from ops.embedded.directory import DataDirectory
from schemas.codes import TABLE, Code
from schemas.units import UnixMs
from sinks.agent_keys import AgentKeys
from sinks.pg import Pool
from tests.contract.conftest import RunEdge, Sender
from tests.contract.running import SETTINGS, Edge
from tests.contract.wire import Answer
from tests.signing import Agent, batch_fields, single_fields, target_of

PROMPT_S = 20.0
WINDOW_S = 5
"""A signature may be so much ahead of the clock, and must be so much younger than the memory of nonces."""


@dataclass(frozen=True)
class Signer:
    """An agent of the sender's tenant, and the requests it makes."""

    sender: Sender
    agent: Agent

    async def ingest(self, body: bytes, signed: dict[bytes, bytes] | None = None) -> Answer:
        return await self.sender.client.ingest(body, *_lines(self.signed(body) if signed is None else signed))

    async def batch(self, *lines: bytes) -> Answer:
        body = b"\n".join(lines)
        fields = self.agent.sign(batch_fields(body, self.sender.tenant_id), target_of("/ingest/batch"), created=now_s())
        return await self.sender.client.ask("POST", "/ingest/batch", body, *_lines(fields))

    def signed(self, body: bytes, request_id: str = "req-1", **parameters: Any) -> dict[bytes, bytes]:
        event_id = msgspec.json.decode(body)["event_id"]
        fields = single_fields(body, self.sender.tenant_id, event_id, x_request_id=request_id)
        return self.agent.sign(fields, target_of("/ingest"), **{"created": now_s()} | parameters)

    def at(self, edge: Edge) -> "Signer":
        return replace(self, sender=self.sender.at(edge))


def _lines(fields: dict[bytes, bytes]) -> list[str]:
    return [f"{name.decode()}: {value.decode()}" for name, value in fields.items()]


def now_s() -> int:
    return SystemClock().now_ms() // 1_000


def refusal(answer: Answer) -> Code:
    code = Code(answer.code)
    assert answer.status == TABLE[code].status
    return code


async def begin_epoch(redis_url: str, tenant_id: str) -> None:
    """The tenant's memory of nonces is as old as the window and more."""
    client = redis_client(redis_url)
    await client.set(f"fg:{{{tenant_id}}}:ep", SystemClock().now_ms() - 60_000)
    await client.aclose()


@pytest.fixture(scope="session")
def agent_keys(operator_pool: Pool) -> AgentKeys:
    return AgentKeys(operator_pool)


@pytest.fixture
async def signer(sender: Sender, agent_keys: AgentKeys, redis: str) -> Signer:
    await begin_epoch(redis, sender.tenant_id)
    agent = Agent(sender.tenant_id)
    await agent_keys.issue(sender.tenant_id, agent.agent_id, agent.public_key)
    return Signer(sender, agent)


async def test_a_signed_event_is_accepted_and_an_edge_that_requires_signatures_takes_no_other(
    signer: Signer, run_edge: RunEdge
) -> None:
    async with run_edge(settings=replace(SETTINGS, signature_required=True)) as strict:
        signer = signer.at(strict)
        body = signer.sender.body()
        assert refusal(await signer.sender.client.ingest(body)) is Code.SIGNATURE_INVALID
        assert refusal(await signer.sender.client.batch(body)) is Code.SIGNATURE_INVALID
        answer = await signer.ingest(body)
        assert (answer.status, answer.document["request_id"]) == (202, "req-1")
        (line,) = (await signer.batch(signer.sender.body(event_id="evt-2"))).lines
        assert (line["status"], line["replayed"]) == (202, False)


async def test_the_same_signature_twice_is_a_replay_that_sees_no_stored_answer(signer: Signer) -> None:
    body = signer.sender.body()
    signed = signer.signed(body)
    first = await signer.ingest(body, signed)
    assert first.status == 202
    again = await signer.ingest(body, signed)
    assert refusal(again) is Code.REPLAY_DETECTED
    assert first.document["ingest_ts"].encode() not in again.body
    assert "idempotency-replayed" not in again.headers


async def test_a_retry_under_a_new_signature_gets_the_very_same_receipt(signer: Signer) -> None:
    body = signer.sender.body()
    first = await signer.ingest(body)
    again = await signer.ingest(body, signer.signed(body, request_id="req-2"))
    assert (first.status, again.status) == (202, 202)
    assert again.body == first.body
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_refused_request_spends_no_nonce(signer: Signer) -> None:
    body = signer.sender.body()
    signed = signer.signed(body)
    broken = signed | {b"signature": b"sig1=:" + b"A" * 86 + b"==:"}
    assert refusal(await signer.ingest(body, broken)) is Code.SIGNATURE_INVALID
    assert (await signer.ingest(body, signed)).status == 202


async def test_a_batch_is_replayed_whole_and_its_lines_under_a_new_signature(signer: Signer) -> None:
    lines = [signer.sender.body(event_id=f"evt-{number}") for number in range(3)]
    first = await signer.batch(*lines)
    assert [line["status"] for line in first.lines] == [202] * 3
    assert [line["replayed"] for line in (await signer.batch(*lines)).lines] == [True] * 3
    body = b"\n".join(lines)
    fields = batch_fields(body, signer.sender.tenant_id)
    signed = signer.agent.sign(fields, target_of("/ingest/batch"), created=now_s())
    answers = [await signer.sender.client.ask("POST", "/ingest/batch", body, *_lines(signed)) for _ in range(2)]
    assert answers[0].status == 200
    assert refusal(answers[1]) is Code.REPLAY_DETECTED


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({b"signature": b"sig1=:" + b"A" * 86 + b"==:"}, Code.SIGNATURE_INVALID),
        ({b"content-digest": b"sha-256=:" + b"A" * 43 + b"=:"}, Code.SIGNATURE_INVALID),
        ({b"x-request-id": b"req-2"}, Code.SIGNATURE_INVALID),
        ({b"host": b"elsewhere"}, Code.SIGNATURE_INVALID),
        ({b"content-digest": b"md5=:AAAA:"}, Code.SIGNATURE_COMPONENTS_INVALID),
        ({b"signature-input": b'sig1=("@method");created=1'}, Code.SIGNATURE_COMPONENTS_INVALID),
        ({b"signature-input": b"()"}, Code.SIGNATURE_COMPONENTS_INVALID),
        ({b"signature": b"sig1=:AA==:, sig2=:AA==:"}, Code.MALFORMED_REQUEST),
        ({b"x-event-id": b"evt-2"}, Code.EVENT_ID_CONFLICT),
        ({b"x-tenant-id": b"rival"}, Code.TENANT_MISMATCH),
    ],
)
async def test_a_changed_field_is_refused(signer: Signer, changed: dict[bytes, bytes], code: Code) -> None:
    body = signer.sender.body()
    assert refusal(await signer.ingest(body, signer.signed(body) | changed)) is code


@pytest.mark.parametrize("name", ["Signature", "Signature-Input", "Content-Digest"])
async def test_a_field_of_the_signature_sent_twice_is_malformed(signer: Signer, name: str) -> None:
    body = signer.sender.body()
    fields = _lines(signer.signed(body))
    again = next(field for field in fields if field.lower().startswith(f"{name.lower()}:"))
    assert refusal(await signer.sender.client.ingest(body, *fields, again)) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"created": 0}, Code.SIGNATURE_COMPONENTS_INVALID),
        ({"nonce": "short"}, Code.SIGNATURE_COMPONENTS_INVALID),
        ({"tag": "fg-batch-v1"}, Code.SIGNATURE_COMPONENTS_INVALID),
        ({"keyid": "0" * 16}, Code.SIGNATURE_INVALID),
    ],
)
async def test_a_parameter_that_is_not_as_it_must_be_is_refused(
    signer: Signer, parameters: dict[str, Any], code: Code
) -> None:
    body = signer.sender.body()
    assert refusal(await signer.ingest(body, signer.signed(body, **parameters))) is code


@pytest.mark.parametrize("ahead_s", [-180, 60])
async def test_a_signature_outside_of_the_window_is_to_be_made_anew(signer: Signer, ahead_s: int) -> None:
    body = signer.sender.body()
    answer = await signer.ingest(body, signer.signed(body, created=now_s() + ahead_s))
    assert refusal(answer) is Code.REPLAY_WINDOW_CLOSED
    assert int(answer.headers["retry-after"]) >= 1
    assert (await signer.ingest(body)).status == 202


async def test_keys_that_may_not_sign_are_refused_in_the_same_words(
    signer: Signer, other_sender: Sender, agent_keys: AgentKeys
) -> None:
    tenant_id, body = signer.sender.tenant_id, signer.sender.body()
    unknown, foreign, early, late, other = (Agent(tenant_id) for _ in range(5))
    now_ms = SystemClock().now_ms()
    await agent_keys.issue(other_sender.tenant_id, "agent-7", foreign.public_key)
    await agent_keys.issue(tenant_id, "agent-7", early.public_key, UnixMs(now_ms + 3_600_000))
    await agent_keys.issue(tenant_id, "agent-7", late.public_key, UnixMs(0), UnixMs(now_ms - 3_600_000))
    answers = []
    for agent in (unknown, foreign, early, late):
        answers.append(await replace(signer, agent=agent).ingest(body))
        assert refusal(answers[-1]) is Code.SIGNATURE_INVALID
    assert len({(answer.status, answer.body) for answer in answers}) == 1
    await agent_keys.issue(tenant_id, "agent-8", other.public_key)
    assert refusal(await replace(signer, agent=other).ingest(body)) is Code.TENANT_MISMATCH
    (line,) = (await replace(signer, agent=other).batch(body)).lines
    assert line["error_code"] == Code.TENANT_MISMATCH


async def test_both_keys_sign_during_a_rotation_and_a_revoked_one_no_longer(
    signer: Signer, agent_keys: AgentKeys
) -> None:
    new, body = replace(signer, agent=Agent(signer.sender.tenant_id)), signer.sender.body()
    await agent_keys.rotate(signer.agent.key_id, new.agent.public_key, 3_600_000)
    for one in (signer, new):
        assert (await one.ingest(body)).status == 202
    await agent_keys.revoke(signer.agent.key_id)
    answer = await signer.ingest(body)
    async with asyncio.timeout(PROMPT_S):
        while answer.status == 202:
            await asyncio.sleep(0.05)
            answer = await signer.ingest(body)
    assert refusal(answer) is Code.SIGNATURE_INVALID
    assert (await new.ingest(body)).status == 202


@pytest.fixture(scope="module")
async def spare_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServers]:
    """A Valkey nobody else uses."""
    with await DataDirectory.open(tmp_path_factory.mktemp("valkey") / "data") as directory:
        embedded = EmbeddedServers(directory)
        try:
            await embedded.start_one("valkey")
            yield embedded
        finally:
            await embedded.stop()
            shutil.rmtree(directory.outside, ignore_errors=True)


async def test_after_a_lost_memory_of_nonces_old_signatures_are_refused_until_they_are_made_anew(
    signer: Signer, run_edge: RunEdge, spare_redis: EmbeddedServers
) -> None:
    await begin_epoch(spare_redis.redis_admin_url, signer.sender.tenant_id)
    async with run_edge(redis_url=spare_redis.redis_url) as edge:
        signer = signer.at(edge)
        first, second = (signer.sender.body(event_id=f"evt-{number}") for number in range(2))
        signed = signer.signed(first)
        assert (await signer.ingest(first, signed)).status == 202
        client = redis_client(spare_redis.redis_admin_url)
        await client.flushall()
        await client.aclose()
        assert refusal(await signer.ingest(first, signed)) is Code.REPLAY_WINDOW_CLOSED
        closed = await signer.ingest(second)
        assert refusal(closed) is Code.REPLAY_WINDOW_CLOSED
        wait_s = int(closed.headers["retry-after"])
        assert 1 <= wait_s <= WINDOW_S + 1
        await asyncio.sleep(wait_s)  # as an agent does
        assert (await signer.ingest(second)).status == 202
        assert refusal(await signer.ingest(first, signed)) is Code.REPLAY_WINDOW_CLOSED
