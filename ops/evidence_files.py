"""The files that evidence is signed with: made where missing on one machine, read everywhere."""

import secrets
from pathlib import Path
from typing import NamedTuple

from ops.clock import SystemClock
from schemas.checkpoint import SECRET_BYTES
from sinks import keyring
from sinks.durable_file import write_new
from sinks.signing import Signer, create_key

ROOT_KEY = "root-key.pem"
SIGNING_KEY = "signing-key.pem"
KEYRING = "keyring.json"
CHECKPOINT_SECRET = "checkpoint-secret"  # noqa: S105  (the name of its file)
RING_MODE = 0o644
_SECRET_MODE = 0o600


class CheckpointSecretError(Exception):
    """The secret of the checkpoints cannot be used; the text names the file and never its content."""


class EvidenceFiles(NamedTuple):
    """Where they are."""

    root_key: Path
    signing_key: Path
    keyring: Path
    checkpoint_secret: Path

    @classmethod
    def of(cls, directory: Path) -> "EvidenceFiles":
        return cls(*(directory / name for name in (ROOT_KEY, SIGNING_KEY, KEYRING, CHECKPOINT_SECRET)))

    def ensure(self) -> None:
        """On return all of them are there; what was there is as it was. The key ring is the last to be made.

        The root key lies beside the others here, which is good enough for one machine to try things on.
        Raises CheckpointSecretError when the secret is gone: with another one every tree would begin anew.
        """
        if self.keyring.exists() and not self.checkpoint_secret.exists():
            raise CheckpointSecretError(f"{self.checkpoint_secret} is gone and is never replaced: put its copy back")
        make_checkpoint_secret(self.checkpoint_secret)
        if not self.signing_key.exists():
            create_key(self.signing_key)
        if not self.keyring.exists():
            if not self.root_key.exists():
                create_key(self.root_key)
            signing = Signer.load(self.signing_key).public_key
            ring = keyring.first(Signer.load(self.root_key), signing, SystemClock().now_ms())
            write_new(self.keyring, ring.envelope, RING_MODE)


def make_checkpoint_secret(file: Path) -> bool:
    """On return the secret is there; returns whether it is new. A secret that is there is never replaced."""
    if file.exists():
        return False
    write_new(file, secrets.token_bytes(SECRET_BYTES), _SECRET_MODE)
    return True


def read_checkpoint_secret(file: Path) -> bytes:
    """The 32 bytes. Raises CheckpointSecretError when they are not there or not as many."""
    try:
        data = file.read_bytes()
    except OSError as cause:
        raise CheckpointSecretError(f"{file} holds no checkpoint secret: {type(cause).__name__}") from cause
    if len(data) != SECRET_BYTES:
        raise CheckpointSecretError(f"{file} must hold {SECRET_BYTES} bytes")
    return data
