"""What scripts/certificates makes is what the edge serves with and what it knows its agents by."""

import asyncio
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from edge.client_certificate import Identity, identity, uris_of
from edge.settings import TlsSettings
from ops.tls import server_context

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "certificates"
TRUST_DOMAIN = "agents.example"
ANSWER_S_MAX = 10


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", SCRIPT, *arguments], capture_output=True, text=True, check=False)


def _made(*arguments: str | Path) -> None:
    done = _run(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a space in its name, as a person may have it, with one certificate of each kind."""
    directory = tmp_path_factory.mktemp("made") / "our certificates"
    _made("authority", directory)
    _made("server", directory, "edge", "localhost", "127.0.0.1", "::1", "*.edge.example.org")
    _made("agent", directory, TRUST_DOMAIN, "acme", "host-1.example:7")
    return directory


async def _seen(made: Path, client: ssl.SSLContext, host: str = "127.0.0.1") -> tuple[str, ...]:
    """The URIs an edge sees in the client's certificate. Raises ssl.SSLError or OSError when one refuses the other."""
    tls = TlsSettings(
        cert_file=str(made / "edge.crt"),
        key_file=str(made / "edge.key"),
        client_ca_file=str(made / "ca.crt"),
        trust_domain=TRUST_DOMAIN,
    )
    seen: list[tuple[str, ...]] = []

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(uris_of(writer.get_extra_info("peercert")))
        writer.write(b"seen")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(tls))
    async with server, asyncio.timeout(ANSWER_S_MAX):
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=host)
        try:
            await reader.readexactly(4)
        finally:
            writer.transport.abort()
    return seen[0]


def _client(made: Path, certificate: str, key: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(made / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(made / certificate, None if key is None else made / key)
    return context


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "one.edge.example.org"])
async def test_an_edge_serves_under_every_name_and_knows_the_agent(made: Path, host: str) -> None:
    uris = await _seen(made, _client(made, "acme.host-1.example:7.pem"), host)
    assert identity(uris, TRUST_DOMAIN) == Identity("acme", "host-1.example:7")
    assert identity(uris, "other.example") is None


async def test_an_edge_is_not_taken_for_a_name_it_has_no_certificate_for(made: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await _seen(made, _client(made, "acme.host-1.example:7.pem"), "edge.example.org")


async def test_the_certificate_of_a_server_is_no_client_certificate(made: Path) -> None:
    with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
        await _seen(made, _client(made, "edge.crt", "edge.key"))


async def test_an_agent_of_another_authority_is_refused(made: Path, tmp_path: Path) -> None:
    _made("authority", tmp_path)
    _made("agent", tmp_path, TRUST_DOMAIN, "acme", "host-1")
    client = _client(made, "acme.host-1.example:7.pem")
    client.load_cert_chain(tmp_path / "acme.host-1.pem")
    with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
        await _seen(made, client)


def test_keys_are_for_their_owner_alone_and_nothing_else_is_left(made: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in made.iterdir()}
    assert modes == {
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "edge.crt": 0o644,
        "edge.key": 0o600,
        "acme.host-1.example:7.pem": 0o600,
    }
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "arguments",
    [
        ("authority", "{made}"),
        ("server", "{made}", "edge", "localhost"),
        ("agent", "{made}", TRUST_DOMAIN, "acme", "host-1.example:7"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_file_is_written_over(made: Path, arguments: tuple[str, ...]) -> None:
    before = {file: file.read_bytes() for file in made.iterdir()}
    done = _run(*(argument.format(made=made) for argument in arguments))
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert {file: file.read_bytes() for file in made.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("authority",),
        ("server", "{made}", "edge"),
        ("server", "{made}", "ca", "localhost"),
        ("server", "{made}", "../edge", "localhost"),
        ("server", "{made}", "other", "localhost,URI:spiffe://agents.example/tenant/acme/agent/host-1"),
        ("server", "{made}", "other", "localhost\nbasicConstraints=CA:TRUE"),
        ("agent", "{made}", TRUST_DOMAIN, "acme/agent/host-1", "x"),
        ("agent", "{made}", TRUST_DOMAIN, "acme", "host-1,DNS:edge"),
        ("agent", "{made}", TRUST_DOMAIN, "acme", "host-1\n"),
        ("agent", "{made}", "agents.example/tenant/acme", "acme", "host-1"),
        ("other", "{made}"),
    ],
)
def test_what_is_not_a_name_makes_nothing(made: Path, arguments: tuple[str, ...]) -> None:
    before = {file.name for file in made.iterdir()}
    assert _run(*(argument.format(made=made) for argument in arguments)).returncode == 2
    assert {file.name for file in made.iterdir()} == before


def test_without_an_authority_nothing_is_signed(tmp_path: Path) -> None:
    done = _run("server", tmp_path, "edge", "localhost")
    assert done.returncode == 1
    assert f"scripts/certificates authority {tmp_path}" in done.stderr


def test_help_shows_examples() -> None:
    done = _run("--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout
