"""Whether a request is signed by an agent that may send it: digest, signature, time, in this order.

Whatever is wrong with key or signature has one answer, and costs one verification, so nobody learns
from it which keys there are. The nonce is for the caller to spend, and only after all of this.
"""

import asyncio
import re
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge.ports import Nonce, Signatures
from edge.problem import Findings, finding
from edge.recall import Recall
from edge.settings import EdgeSettings
from edge.signature_profile import BATCH, SINGLE, Claim, content_digest, read_claim, signature_base, target_components
from edge.transport import Request
from schemas.codes import Code
from schemas.principal import Principal, SigningKey
from schemas.units import Clock, UnixMs

AGE_MS_MAX = 120_000
AHEAD_MS_MAX = 5_000
DIGEST_IN_TURN_BYTES_MAX = 256 * 1024
"""A longer body is digested in a thread, so that it delays nobody else."""
_KEY_ID = re.compile(r"[0-9a-f]{16}")


class Signed(NamedTuple):
    """A request that is truly from this agent; `nonce` has yet to be found new."""

    nonce: Nonce
    agent_id: str


class _Key(NamedTuple):
    """A key ready for use; `about` is None for the one that stands in for every key that is not there."""

    about: SigningKey | None
    public: Ed25519PublicKey


# The point is a public constant (RFC 8032, section 7.1, test 1); whatever it verifies is refused all the same.
_STAND_IN = _Key(
    None,
    Ed25519PublicKey.from_public_bytes(
        bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    ),
)


class SignatureCheck:
    """Signed requests to agents."""

    def __init__(self, signatures: Signatures, clock: Clock, settings: EdgeSettings) -> None:
        self._signatures = signatures
        self._clock = clock
        self._required = settings.signature_required
        self._keys: Recall[str, _Key] = Recall(clock, settings)

    async def verify(
        self, request: Request, body: bytes, sender: Principal, *, method: str, batch: bool
    ) -> Signed | Findings | None:
        """Who signed the request, or why it is refused; None for one that is not signed where that may be.

        A verification runs in the event loop: at about 100 us it is cheaper than the way to a thread
        and back. Raises NoAnswer(STORE_UNAVAILABLE) when Postgres does not answer and the key was not
        read within `key_stale_ms_max`.
        """
        profile = BATCH if batch else SINGLE
        fields = request.fields
        claim = read_claim(profile, fields)
        if claim is None:
            return finding(Code.SIGNATURE_INVALID) if self._required else None
        if isinstance(claim, Code):
            return finding(claim)
        if await _digest_of(body) != fields[b"content-digest"]:
            return finding(Code.SIGNATURE_INVALID, "Content-Digest")
        target = target_components(method, fields[b"host"], request.path, request.query)
        base = signature_base(profile.components, {**fields, **target}, claim.parameters)
        key = await self._key(claim.key_id)
        verified = _verified(key.public, claim.signature, base)
        now_ms = self._clock.now_ms()
        if key.about is None or not verified or not _may_sign(key.about, sender, now_ms):
            return finding(Code.SIGNATURE_INVALID)
        if not _in_window(claim, now_ms):
            return finding(Code.REPLAY_WINDOW_CLOSED)
        return Signed(Nonce(claim.key_id, claim.nonce, claim.created_s), key.about.agent_id)

    async def _key(self, key_id: str) -> _Key:
        if _KEY_ID.fullmatch(key_id) is None:
            return _STAND_IN
        return await self._keys.get(key_id, lambda: self._load(key_id)) or _STAND_IN

    async def _load(self, key_id: str) -> _Key | None:
        about = await self._signatures.public_key(key_id)
        return None if about is None else _Key(about, Ed25519PublicKey.from_public_bytes(about.public_key))


async def _digest_of(body: bytes) -> bytes:
    if len(body) > DIGEST_IN_TURN_BYTES_MAX:
        return await asyncio.to_thread(content_digest, body)
    return content_digest(body)


def _verified(key: Ed25519PublicKey, signature: bytes, base: bytes) -> bool:
    try:
        key.verify(signature, base)
    except InvalidSignature:
        return False
    return True


def _may_sign(key: SigningKey, sender: Principal, now_ms: UnixMs) -> bool:
    """Whether the key is valid now and speaks for no other tenant or agent than the credential."""
    begun = key.revoked_ms is None and key.not_before_ms <= now_ms
    ended = key.not_after_ms is not None and key.not_after_ms <= now_ms
    same_agent = sender.agent_id is None or sender.agent_id == key.agent_id
    return begun and not ended and same_agent and sender.tenant_id == key.tenant_id


def _in_window(claim: Claim, now_ms: UnixMs) -> bool:
    expired = claim.expires_s is not None and claim.expires_s * 1_000 <= now_ms
    return not expired and -AHEAD_MS_MAX <= now_ms - claim.created_s * 1_000 <= AGE_MS_MAX
