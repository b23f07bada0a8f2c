"""Agents with keys of their own, who sign requests as they should or, where a test says so, otherwise."""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.signature_profile import BATCH, SINGLE, content_digest, signature_base, target_components
from schemas.canonical import sha256_hex
from schemas.principal import SigningKey
from schemas.units import UnixMs

TRACE_ID = "018f7e20-6d6f-7e20-a3f1-9eb6b7a1f112"


@dataclass(frozen=True)
class Agent:
    tenant_id: str = "acme"
    agent_id: str = "agent-7"
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public_key(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        return sha256_hex(self.public_key)[:16]

    def key(self, **changes: Any) -> SigningKey:
        """The public half as it is stored."""
        key = SigningKey(self.key_id, self.tenant_id, self.agent_id, self.public_key, UnixMs(0), None, None)
        return key._replace(**changes)

    def sign(
        self, fields: Mapping[bytes, bytes], target: Mapping[bytes, bytes], **parameters: Any
    ) -> dict[bytes, bytes]:
        """The fields with a signature over what they and the target are. A parameter of None is left out."""
        profile = SINGLE if b"x-event-id" in fields else BATCH
        given: dict[str, Any] = {
            "created": 0,
            "keyid": self.key_id,
            "alg": "ed25519",
            "nonce": secrets.token_urlsafe(16),
            "tag": profile.tag.decode(),
        } | parameters
        written = [f";{name}={_item(value)}" for name, value in given.items() if value is not None]
        signed = profile.covered + "".join(written).encode()
        base = signature_base(profile.components, {**fields, **target}, signed)
        signature = base64.b64encode(self.private.sign(base))
        return {**fields, b"signature-input": b"sig1=" + signed, b"signature": b"sig1=:%b:" % signature}


def _item(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'


def single_fields(body: bytes, tenant_id: str = "acme", event_id: str = "evt-1", **changes: str) -> dict[bytes, bytes]:
    """The covered fields of a single event's request."""
    return batch_fields(body, tenant_id, content_type="application/json", x_event_id=event_id, x_trace_id=TRACE_ID) | {
        name.replace("_", "-").encode(): value.encode() for name, value in changes.items()
    }


def batch_fields(body: bytes, tenant_id: str = "acme", **changes: str) -> dict[bytes, bytes]:
    """The covered fields of a batch."""
    fields = {
        b"host": b"edge",
        b"content-type": b"application/x-ndjson",
        b"content-digest": content_digest(body),
        b"x-tenant-id": tenant_id.encode(),
        b"x-request-id": b"req-1",
    }
    return fields | {name.replace("_", "-").encode(): value.encode() for name, value in changes.items()}


def target_of(path: str, authority: bytes = b"edge", query: bytes = b"") -> dict[bytes, bytes]:
    return target_components("POST", authority, path.encode(), query)
