"""The key of an agent: the file it is kept in, and the requests it signs (docs/signing.md)."""

import base64
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.signature_profile import ALGORITHM, BATCH, SINGLE, content_digest, signature_base, target_components
from schemas.units import Clock
from sinks.agent_keys import key_id_of
from sinks.durable_file import write_new

NONCE_BYTES = 16
_FILE_MODE = 0o600
_WIDER_MODES = 0o177


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds, as JSON. `private_key` is the 32-byte seed in base64."""

    key_id: str
    tenant_id: str
    agent_id: str
    private_key: str

    def __repr__(self) -> str:
        return f"_KeyFile({self.key_id})"


class AgentKey:
    """A private key and whose it is."""

    def __init__(self, tenant_id: str, agent_id: str, private: Ed25519PrivateKey) -> None:
        self.tenant_id = tenant_id
        self.agent_id = agent_id
        self._private = private
        self.public_key = private.public_key().public_bytes_raw()
        self.key_id = key_id_of(self.public_key)

    @contextmanager
    def kept_in(self, file: Path) -> Iterator[None]:
        """Within the block the key is on disk in a new file of mode 0600; after it too, unless the block raised.

        Raises click.ClickException when the file is there already or cannot be written.
        """
        seed = base64.b64encode(self._private.private_bytes_raw()).decode()
        content = msgspec.json.encode(_KeyFile(self.key_id, self.tenant_id, self.agent_id, seed))
        try:
            write_new(file, content + b"\n", _FILE_MODE)
        except FileExistsError as problem:
            raise click.ClickException(f"{file} is there already, and a key is never written over") from problem
        except OSError as problem:
            raise click.ClickException(f"{file} cannot be written: {problem.strerror}") from problem
        with ExitStack() as undo:
            undo.callback(file.unlink)
            yield
            undo.pop_all()

    def sign(self, authority: str, path: str, body: bytes, fields: Mapping[str, str], clock: Clock) -> dict[str, str]:
        """The fields of a POST with all that the edge wants of a signed one, under a nonce of its own.

        `fields` names `content-type` and `x-request-id`, and for a single event `x-event-id` and
        `x-trace-id`; without these it is a batch.
        """
        sent = dict(fields) | {"x-tenant-id": self.tenant_id, "content-digest": content_digest(body).decode()}
        profile = SINGLE if "x-event-id" in fields else BATCH
        target = target_components("POST", authority.encode(), path.encode(), b"")
        values = target | {name.encode(): value.encode() for name, value in sent.items()}
        nonce = secrets.token_urlsafe(NONCE_BYTES)
        parameters = b'%b;created=%d;keyid="%b";alg="%b";nonce="%b";tag="%b"' % (
            *(profile.covered, clock.now_ms() // 1_000, self.key_id.encode(), ALGORITHM, nonce.encode(), profile.tag),
        )
        signature = self._private.sign(signature_base(profile.components, values, parameters))
        return sent | {
            "signature-input": f"sig1={parameters.decode()}",
            "signature": f"sig1=:{base64.b64encode(signature).decode()}:",
        }


def new_agent_key(tenant_id: str, agent_id: str) -> AgentKey:
    return AgentKey(tenant_id, agent_id, Ed25519PrivateKey.generate())


def read_agent_key(file: Path) -> AgentKey:
    """The key in a file that `kept_in` wrote.

    Raises click.UsageError when there is none, when anybody but its owner may do anything with the
    file, or when its parts do not belong together. The text names the file and never its content.
    """
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if not stat.S_ISREG(mode) or mode & _WIDER_MODES:
                raise click.UsageError(f"{file} must be a file of mode 0600 or less: chmod 600 {file}")
            content = opened.read()
        kept = msgspec.json.decode(content, type=_KeyFile)
        private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(kept.private_key, validate=True))
    except OSError as problem:
        raise click.UsageError(f"{file} cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise click.UsageError(f"{file} is no key of `frostgate keys issue --ed25519`") from problem
    key = AgentKey(kept.tenant_id, kept.agent_id, private)
    if key.key_id != kept.key_id:
        raise click.UsageError(f"{file} is no key of `frostgate keys issue --ed25519`")
    return key
