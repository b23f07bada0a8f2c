"""One connection to an edge: TLS and signatures as configured, every answer read whole."""

import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click

from ops.clock import SystemClock
from ops.commands.agent_key import AgentKey, read_agent_key
from ops.settings import Settings

ANSWER_SECONDS_MAX = 30


class EdgeRefusedError(click.ClickException):
    """The edge refuses every request of this kind: the credential or the address is wrong. Nothing more can be sent."""


class Answer(NamedTuple):
    """One HTTP response, read whole."""

    status: int
    retry_after: str | None
    retry_budget: str | None
    """`X-Retry-Budget-Remaining`: what is left of it for the event that was tried most often."""
    body: bytes


class Identity(NamedTuple):
    """How a client proves who it is, beside its API key, and whom it believes."""

    tls: ssl.SSLContext | None = None
    """None: the system's authorities and no certificate."""
    agent_key: AgentKey | None = None
    """None: requests are not signed."""

    @property
    def tenant_id(self) -> str | None:
        return None if self.agent_key is None else self.agent_key.tenant_id

    @property
    def agent_id(self) -> str | None:
        return None if self.agent_key is None else self.agent_key.agent_id


def identity_of(settings: Settings, agent_key_file: Path | None = None) -> Identity:
    """What the settings say; the file given comes before theirs. Raises click.UsageError for files of no use."""
    tls = None
    if settings.ca_file or settings.client_cert_file:
        tls = _context(settings.ca_file, settings.client_cert_file)
    file = agent_key_file or (Path(settings.agent_key_file) if settings.agent_key_file else None)
    return Identity(tls, None if file is None else read_agent_key(file))


def _context(ca_file: str, client_cert_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as problem:
        raise click.UsageError(f"FG_CA_FILE holds no certificates: {ca_file}: {problem.strerror}") from problem
    try:
        if client_cert_file:
            # An encrypted key is refused instead of asked about: nobody may be there to answer.
            context.load_cert_chain(client_cert_file, password=b"")
    except OSError as problem:
        raise click.UsageError(
            f"FG_CLIENT_CERT_FILE holds no certificate with its private key: {client_cert_file}: {problem.strerror}"
        ) from problem
    return context


_NOBODY = Identity()


class EdgeClient:
    """One keep-alive connection to an edge, opened when first needed and again after any failure."""

    def __init__(
        self, url: str, api_key: str, identity: Identity = _NOBODY, answer_seconds_max: float = ANSWER_SECONDS_MAX
    ) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        self._connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=answer_seconds_max, context=identity.tls)
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=answer_seconds_max)
        )
        bracketed = f"[{host}]" if ":" in host else host
        usual = parts.port in {None, self._connection.default_port}
        self._authority = bracketed if usual else f"{bracketed}:{parts.port}"
        self._prefix = parts.path.rstrip("/")
        self._headers = {"host": self._authority, "authorization": f"Bearer {api_key}"}
        self._agent_key = identity.agent_key
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._prefix}"

    @property
    def signs(self) -> bool:
        return self._agent_key is not None

    def get(self, path: str) -> Answer:
        """Return the answer. Raises as `post`."""
        return self._request("GET", path, b"", {})

    def post(self, path: str, body: bytes, fields: Mapping[str, str]) -> Answer:
        """Send the body, signed anew each time where there is a key to sign with, and return the answer.

        `fields` as `AgentKey.sign` wants them. Raises ConnectionError when no answer came, and the
        edge may have acted or not; EdgeRefusedError when the edge's certificate does not prove who it is.
        """
        if self._agent_key is not None:
            fields = self._agent_key.sign(self._authority, self._prefix + path, body, fields, SystemClock())
        return self._request("POST", path, body, fields)

    def _request(self, method: str, path: str, body: bytes, fields: Mapping[str, str]) -> Answer:
        try:
            self._connection.request(method, self._prefix + path, body or None, {**fields, **self._headers})
            response = self._connection.getresponse()
            return Answer(
                response.status,
                response.getheader("Retry-After"),
                response.getheader("X-Retry-Budget-Remaining"),
                response.read(),
            )
        except ssl.SSLCertVerificationError as problem:
            raise EdgeRefusedError(f"{self.url} does not prove who it is: {problem.verify_message}") from problem
        except (OSError, http.client.HTTPException) as problem:
            self._connection.close()
            raise ConnectionError(str(problem) or type(problem).__name__) from problem

    def close(self) -> None:
        self._connection.close()
