"""The client commands' connection over TLS: both sides are proven, and requests are signed on top."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

from ops.commands.agent_key import new_agent_key
from ops.commands.edge_client import EdgeClient, EdgeRefusedError, Identity, identity_of
from ops.commands.publish_client import LineResult, Outcome, Patience, Publisher
from ops.settings import load
from sinks.agent_keys import AgentKeys
from sinks.pg import Pool
from tests.contract.certificates import Authority, agent_uri, tls_settings
from tests.contract.conftest import RunEdge, Sender
from tests.contract.running import SETTINGS, Edge
from tests.contract.test_signed_requests import begin_epoch

AGENT = "agent-7"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
async def strict_edge(run_edge: RunEdge, authority: Authority) -> AsyncIterator[Edge]:
    """An edge as in production: certificates and signatures required."""
    tls = tls_settings(authority.server(), authority.certificate)
    async with run_edge(settings=replace(SETTINGS, signature_required=True), more={"tls": tls}) as edge:
        yield edge


def identity(authority: Authority, tenant_id: str, tmp_path: Path, **variables: str) -> Identity:
    """What a client command makes of the environment of an agent."""
    files = authority.client(agent_uri(tenant_id, AGENT))
    both = tmp_path / "client.pem"
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    environ = {"FG_CA_FILE": str(authority.certificate), "FG_CLIENT_CERT_FILE": str(both)} | variables
    return identity_of(load(environ))


def published(edge: Edge, sender: Sender, who: Identity) -> list[LineResult]:
    client = EdgeClient(f"https://127.0.0.1:{edge.port}", sender.api_key, who)
    try:
        lines = [sender.body(event_id=f"evt-{number}") for number in range(3)]
        return Publisher(client, Patience(20)).publish(lines)
    finally:
        client.close()


async def test_a_command_with_certificate_and_key_publishes_to_an_edge_of_production(
    strict_edge: Edge, sender: Sender, operator_pool: Pool, authority: Authority, redis: str, tmp_path: Path
) -> None:
    key = new_agent_key(sender.tenant_id, AGENT)
    await AgentKeys(operator_pool).issue(sender.tenant_id, AGENT, key.public_key)
    await begin_epoch(redis, sender.tenant_id)
    with key.kept_in(tmp_path / "agent.key"):
        who = identity(authority, sender.tenant_id, tmp_path, FG_AGENT_KEY_FILE=str(tmp_path / "agent.key"))
    results = await asyncio.to_thread(published, strict_edge, sender, who)
    assert [result.outcome for result in results] == [Outcome.ACCEPTED] * 3


async def test_a_command_without_a_key_is_told_to_have_one(
    strict_edge: Edge, sender: Sender, authority: Authority, tmp_path: Path
) -> None:
    who = identity(authority, sender.tenant_id, tmp_path)
    with pytest.raises(EdgeRefusedError, match=r"401 SIGNATURE_INVALID.*FG_AGENT_KEY_FILE"):
        await asyncio.to_thread(published, strict_edge, sender, who)


async def test_an_edge_that_does_not_prove_who_it_is_is_sent_nothing(
    strict_edge: Edge, sender: Sender, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    with pytest.raises(EdgeRefusedError, match="does not prove who it is"):
        await asyncio.to_thread(published, strict_edge, sender, identity(stranger, sender.tenant_id, tmp_path))


def test_a_certificate_without_its_key_is_refused_before_anything_is_sent(authority: Authority) -> None:
    certificate = authority.client(agent_uri("acme", AGENT)).certificate
    with pytest.raises(click.UsageError, match="FG_CLIENT_CERT_FILE"):
        identity_of(load({"FG_CLIENT_CERT_FILE": str(certificate)}))
