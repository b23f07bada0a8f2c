"""Certificates of one run: the edge takes the agent's, and the agent the edge's."""

import ssl
from contextlib import suppress
from pathlib import Path

from edge.client_certificate import Identity, identity, uris_of
from edge.settings import TlsSettings
from ops.bench.certificates import TRUST_DOMAIN, make_certificates
from ops.bench.load import client_context
from ops.clock import SystemClock
from ops.tls import server_context


def _go_on(side: ssl.SSLObject) -> None:
    """As far as the handshake goes with what the other side has sent."""
    with suppress(ssl.SSLWantReadError):
        side.do_handshake()


def test_edge_and_agent_accept_each_other(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, "acme", "agent-7", SystemClock())
    told = made.edge
    settings = TlsSettings(
        cert_file=told["FG_TLS_CERT_FILE"],
        key_file=told["FG_TLS_KEY_FILE"],
        client_ca_file=told["FG_TLS_CLIENT_CA_FILE"],
        trust_domain=told["FG_TLS_TRUST_DOMAIN"],
    )
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context(settings).wrap_bio(to_server, to_client, server_side=True)
    client = client_context(made.client).wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    for side in (client, server, client, server):
        _go_on(side)
    assert identity(uris_of(server.getpeercert()), TRUST_DOMAIN) == Identity("acme", "agent-7")


def test_private_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    make_certificates(tmp_path, "acme", "agent-7", SystemClock())
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("*.key")} == {0o600}
