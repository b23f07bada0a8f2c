"""What the drill's tests share."""

import functools
import hashlib
import io
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.evidence import bundle_maker as make
from tests.evidence.loading import verifier

Verify = Callable[..., Any]
"""Takes a bundle and what is known from elsewhere: the root's fingerprint, the tenant key's, a key ring."""


@pytest.fixture(scope="session")
def root() -> str:
    """The fingerprint of the root key that every correct bundle has."""
    return hashlib.sha256(make.ROOT.public).hexdigest()


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, signatures: Callable[..., bool]) -> Verify:
    """Verifies a bundle in memory."""
    monkeypatch.setattr(verifier, "ed25519_verifies", signatures)

    def verified(data: bytes, pinned: str | None, tenant_key: str | None = None, ring: bytes = b"") -> Any:
        given = verifier.read_ring(ring, pinned) if ring else None
        return verifier.verify_file(io.BytesIO(data), pinned, tenant_key, given)

    return verified


@pytest.fixture(scope="session")
def signatures() -> Callable[..., bool]:
    """The verifier's own check of a signature, which remembers: thousands of bundles hold the same few."""
    return functools.lru_cache(1 << 16)(verifier.ed25519_verifies)


@pytest.fixture(scope="session")
def seed() -> str:
    """The seed of everything random here; FG_TEST_SEED repeats a run."""
    return os.environ.get("FG_TEST_SEED") or os.urandom(4).hex()
