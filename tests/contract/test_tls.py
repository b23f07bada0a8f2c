"""TLS with required client certificates: who may connect, and for whom a connection speaks."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge.settings import TlsSettings
from ops import edge_service
from ops.tls import TlsError, faults, server_context
from schemas.principal import Scope
from sinks.api_keys import ApiKeys
from tests.contract.certificates import Authority, Files, agent_uri, client_context, tls_settings
from tests.contract.conftest import RunEdge, Sender
from tests.contract.running import Edge
from tests.contract.wire import Answer, Client, Connection, head

AGENT = "agent-7"
"""The one a sound envelope names."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
async def tls_edge(run_edge: RunEdge, authority: Authority) -> AsyncIterator[Edge]:
    async with run_edge(more={"tls": tls_settings(authority.server(), authority.certificate)}) as edge:
        yield edge


async def connected(edge: Edge, context: ssl.SSLContext) -> Connection:
    return Connection(*await asyncio.open_connection("127.0.0.1", edge.port, ssl=context))


async def asked(edge: Edge, context: ssl.SSLContext, request: bytes) -> Answer:
    async with await connected(edge, context) as connection:
        connection.send(request)
        return await connection.answer()


async def sent(edge: Edge, sender: Sender, authority: Authority, *uris: str) -> Answer:
    """The answer to a sound event that is sent with a certificate of these names."""
    context = client_context(authority, authority.client(*uris))
    return await asked(edge, context, sender.client.request("POST", "/ingest", sender.body()))


async def test_an_agent_with_its_own_certificate_is_served(
    tls_edge: Edge, sender: Sender, authority: Authority
) -> None:
    assert (await sent(tls_edge, sender, authority, agent_uri(sender.tenant_id, AGENT))).status == 202


async def test_names_that_are_no_uris_of_agents_do_not_disturb(
    tls_edge: Edge, sender: Sender, authority: Authority
) -> None:
    uris = ("https://example.com/agent", agent_uri(sender.tenant_id, AGENT))
    assert (await sent(tls_edge, sender, authority, *uris)).status == 202


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://agents.example/tenant/{tenant}/agent/agent-7",),
        ("spiffe://other.example/tenant/{tenant}/agent/agent-7",),
        ("spiffe://agents.example.org/tenant/{tenant}/agent/agent-7",),
        ("spiffe://agents.example:1/tenant/{tenant}/agent/agent-7",),
        ("spiffe://AGENTS.example/tenant/{tenant}/agent/agent-7",),
        ("SPIFFE://agents.example/tenant/{tenant}/agent/agent-7",),
        ("spiffe://agents.example/tenant/{tenant}",),
        ("spiffe://agents.example/tenant/{tenant}/agent/",),
        ("spiffe://agents.example/tenant/{tenant}/agent/agent-7/",),
        ("spiffe://agents.example/tenant/{tenant}/agent/agent-7?x",),
        ("spiffe://agents.example/tenant/{tenant}/agent/agent%2D7",),
        ("spiffe://agents.example//tenant/{tenant}/agent/agent-7",),
        ("spiffe://agents.example/tenant/another/agent/agent-7",),
        ("spiffe://agents.example/tenant/{tenant}/agent/agent-8",),
        (
            "spiffe://agents.example/tenant/{tenant}/agent/agent-7",
            "spiffe://agents.example/tenant/another/agent/agent-7",
        ),
        (
            "spiffe://agents.example/tenant/{tenant}/agent/agent-7",
            "spiffe://other.example/tenant/another/agent/agent-7",
        ),
    ],
)
async def test_a_certificate_that_does_not_name_exactly_this_agent_is_refused(
    tls_edge: Edge, sender: Sender, authority: Authority, uris: tuple[str, ...]
) -> None:
    answer = await sent(tls_edge, sender, authority, *(uri.format(tenant=sender.tenant_id) for uri in uris))
    assert (answer.status, answer.code) == (403, "TENANT_MISMATCH")
    sound = await sent(tls_edge, sender, authority, agent_uri(sender.tenant_id, AGENT))
    assert "idempotency-replayed" not in sound.headers  # the refused one left nothing


async def test_a_key_of_one_agent_needs_the_certificate_of_that_agent(
    tls_edge: Edge, sender: Sender, authority: Authority, keys: ApiKeys
) -> None:
    issued = await keys.issue(sender.tenant_id, "agent-8", [Scope.INGEST])
    request = Client(tls_edge.port, issued.secret).request("POST", "/ingest", sender.body(agent_id="agent-8"))
    for agent_id, status in (("agent-7", 403), ("agent-8", 202)):
        context = client_context(authority, authority.client(agent_uri(sender.tenant_id, agent_id)))
        assert (await asked(tls_edge, context, request)).status == status


async def test_every_line_of_a_batch_is_held_to_the_certificate(
    tls_edge: Edge, sender: Sender, authority: Authority
) -> None:
    context = client_context(authority, authority.client(agent_uri(sender.tenant_id, AGENT)))
    lines = [sender.body(event_id="own"), sender.body(event_id="foreign", agent_id="agent-8")]
    answer = await asked(tls_edge, context, sender.client.request("POST", "/ingest/batch", b"\n".join(lines)))
    assert [line["status"] for line in answer.lines] == [202, 403]


async def test_nobody_connects_without_a_certificate_of_the_authority(
    tls_edge: Edge, sender: Sender, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").client(agent_uri(sender.tenant_id, AGENT))
    server_like = authority.server()
    for shown in (None, stranger, server_like):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await asked(tls_edge, client_context(authority, shown), head("GET", "/livez"))


async def test_plain_http_is_not_spoken_there(tls_edge: Edge) -> None:
    async with await Connection.open(tls_edge.port) as connection:
        connection.send(head("GET", "/livez"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await connection.answer()


async def test_a_handshake_that_does_not_end_is_given_up(
    run_edge: RunEdge, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_service, "HANDSHAKE_S", 0.2)
    async with (
        run_edge(more={"tls": tls_settings(authority.server(), None)}) as edge,
        await Connection.open(edge.port) as silent,
    ):
        assert await silent.closed()


async def test_a_refusal_while_reading_arrives_over_tls_too(
    tls_edge: Edge, sender: Sender, authority: Authority
) -> None:
    context = client_context(authority, authority.client(agent_uri(sender.tenant_id, AGENT)))
    async with await connected(tls_edge, context) as connection:
        connection.send(head("GET", "/livez", "X-Filler: " + "x" * 1_000_000))
        assert (await connection.answer()).code == "HEADERS_TOO_LARGE"
        assert await connection.closed()


async def test_without_a_client_authority_no_certificate_is_asked_for(
    run_edge: RunEdge, sender: Sender, authority: Authority
) -> None:
    async with run_edge(more={"tls": tls_settings(authority.server(), None)}) as edge:
        request = sender.client.request("POST", "/ingest", sender.body())
        assert (await asked(edge, client_context(authority, None), request)).status == 202


def test_nothing_older_than_tls_1_2_is_spoken(authority: Authority) -> None:
    context = server_context(tls_settings(authority.server(), authority.certificate))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_every_file_at_fault_is_named_with_its_cause_and_none_of_its_content(
    authority: Authority, tmp_path: Path
) -> None:
    server, other = authority.server(), authority.client()
    absent, garbage = tmp_path / "absent.pem", tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
    cases = [
        (Files(absent, server.key), authority.certificate, [absent]),
        (Files(absent, absent), absent, [absent, absent, absent]),
        (Files(server.certificate, garbage), authority.certificate, [garbage]),
        (Files(garbage, server.key), authority.certificate, [garbage]),
        (Files(server.certificate, other.key), authority.certificate, [other.key]),
        (server, garbage, [garbage]),
    ]
    for files, client_ca, blamed in cases:
        with pytest.raises(TlsError) as caught:
            server_context(tls_settings(files, client_ca))
        assert len(caught.value.faults) == len(blamed)
        for fault, file in zip(caught.value.faults, blamed, strict=True):
            assert str(file) in fault
            assert "secret" not in fault


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("edge.example", False),
        ("", False),
    ],
)
def test_plain_http_is_for_loopback_only(authority: Authority, host: str, allowed: bool) -> None:
    plain = TlsSettings(cert_file="", key_file="", client_ca_file="", trust_domain="")
    assert bool(faults(host, plain)) is not allowed
    assert faults(host, tls_settings(authority.server(), None)) == []
