"""The one form of a signed request: RFC 9421 and RFC 9530 with nothing left to choose.

Bytes in, claims out; nothing here is believed yet. What is covered, in which order and under which
tag is fixed, and only the canonical text of it is read, so no two readers can see two things in it.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from schemas.codes import Code

ALGORITHM = b"ed25519"
_PARAMETER = re.compile(rb';(?:(created|expires)=([1-9][0-9]{0,10})|(keyid|alg|nonce|tag)="([ !#-\[\]-~]*)")')
_SIGNATURE = re.compile(rb"([a-z*][a-z0-9_.*-]{0,63})=:([A-Za-z0-9+/]{85}[AQgw]==):")
_DIGEST = re.compile(rb"sha-256=:[A-Za-z0-9+/]{43}=:")
_QUOTED = re.compile(rb'"[^"]*"')
_NONCE = re.compile(rb"[A-Za-z0-9_-]{22,64}")


_TARGET = (b"@method", b"@authority", b"@path", b"@query")


class Profile(NamedTuple):
    """What a signature of this tag covers: the target, then these fields. `covered` is the list as it is written."""

    tag: bytes
    fields: tuple[bytes, ...]
    covered: bytes

    @property
    def components(self) -> tuple[bytes, ...]:
        return _TARGET + self.fields


def _profile(tag: bytes, *fields: bytes) -> Profile:
    return Profile(tag, fields, b"(" + b" ".join(b'"%b"' % one for one in _TARGET + fields) + b")")


SINGLE = _profile(
    b"fg-ingest-v1",
    b"content-type",
    b"content-digest",
    b"x-tenant-id",
    b"x-event-id",
    b"x-trace-id",
    b"x-request-id",
)
BATCH = _profile(b"fg-batch-v1", b"content-type", b"content-digest", b"x-tenant-id", b"x-request-id")


class Claim(NamedTuple):
    """What a request says of its signature. `parameters` is the text that was signed."""

    key_id: str
    nonce: str
    created_s: int
    expires_s: int | None
    parameters: bytes
    signature: bytes


def content_digest(body: bytes) -> bytes:
    """The value of `Content-Digest`."""
    return b"sha-256=:%b:" % base64.b64encode(hashlib.sha256(body).digest())


def target_components(method: str, authority: bytes, path: bytes, query: bytes) -> dict[bytes, bytes]:
    """Where a request goes, as components: `authority` is the value of `Host`, `query` comes without its `?`."""
    return dict(zip(_TARGET, (method.encode(), authority.lower(), path, b"?" + query), strict=True))


def signature_base(components: Sequence[bytes], values: Mapping[bytes, bytes], parameters: bytes) -> bytes:
    """The bytes that are signed (RFC 9421, section 2.5). There must be a value for every component."""
    lines = [b'"%b": %b' % (name, values[name].strip(b" \t")) for name in components]
    lines.append(b'"@signature-params": ' + parameters)
    return b"\n".join(lines)


def read_claim(profile: Profile, fields: Mapping[bytes, bytes]) -> Claim | Code | None:
    """The claim in the fields of a request, or why it is none; None for a request that is not signed at all."""
    declared, signed = fields.get(b"signature-input"), fields.get(b"signature")
    if declared is None and signed is None:
        return None
    if declared is None or signed is None:
        return Code.SIGNATURE_COMPONENTS_INVALID
    if b"," in signed or b"," in _QUOTED.sub(b"", declared):
        return Code.MALFORMED_REQUEST  # a second signature
    label, _, parameters = declared.partition(b"=")
    claim = _claim(profile, parameters) if all(one in fields for one in profile.fields) else None
    if claim is None or _DIGEST.fullmatch(fields[b"content-digest"]) is None:
        return Code.SIGNATURE_COMPONENTS_INVALID
    signature = _SIGNATURE.fullmatch(signed)
    if signature is None or signature[1] != label:
        return Code.SIGNATURE_INVALID
    return claim._replace(signature=base64.b64decode(signature[2]))


def _claim(profile: Profile, parameters: bytes) -> Claim | None:
    """The claim without its signature, None unless all that must be covered is, and each parameter is as it must be."""
    if not parameters.startswith(profile.covered):
        return None
    given: dict[bytes, bytes] = {}
    end = len(profile.covered)
    while end < len(parameters):
        match = _PARAMETER.match(parameters, end)
        name = b"" if match is None else match[1] or match[3]
        if match is None or name in given:
            return None
        given[name] = match[2] if match[1] else match[4]
        end = match.end()
    if given.keys() - {b"expires"} != {b"created", b"keyid", b"alg", b"nonce", b"tag"}:
        return None
    if given[b"alg"] != ALGORITHM or given[b"tag"] != profile.tag or _NONCE.fullmatch(given[b"nonce"]) is None:
        return None
    expires = given.get(b"expires")
    return Claim(
        key_id=given[b"keyid"].decode(),
        nonce=given[b"nonce"].decode(),
        created_s=int(given[b"created"]),
        expires_s=None if expires is None else int(expires),
        parameters=parameters,
        signature=b"",
    )
