"""Two readers of RFC 9421, this edge's and the library `http-message-signatures`, agree on what is signed."""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    algorithms,
)
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge.signature import Signed
from edge.signature_profile import BATCH, SINGLE, Profile
from ops.clock import SystemClock
from schemas.units import UnixMs
from tests.signing import Agent, batch_fields, single_fields
from tests.unit.edge.test_signature import Edge

COVERED = {
    "/ingest": SINGLE,
    "/ingest/batch": BATCH,
}
NONCE = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=22, max_size=64)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
AUTHORITY = st.from_regex(r"[a-zA-Z][a-zA-Z0-9]{0,9}(\.[a-z]{1,5})?(:[1-9]000)?", fullmatch=True)
QUERY = st.text("abcXYZ019=&%25", max_size=12).filter(lambda text: "%" not in text.replace("%25", ""))


@dataclass
class Sent:
    """A request as both readers see it."""

    path: str
    authority: str
    query: str
    headers: dict[str, str]
    body: bytes

    method = "POST"

    @property
    def url(self) -> str:
        return f"https://{self.authority}{self.path}" + (f"?{self.query}" if self.query else "")

    @property
    def fields(self) -> dict[bytes, bytes]:
        return {name.lower().encode(): value.encode() for name, value in self.headers.items()}


def as_headers(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


class Keys(HTTPSignatureKeyResolver):
    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey | None:
        return self.agent.private.public_key() if key_id == self.agent.key_id else None

    def resolve_private_key(self, _key_id: str) -> Ed25519PrivateKey:
        return self.agent.private


def components(profile: Profile) -> tuple[str, ...]:
    return tuple(one.decode() for one in profile.components)


def library_accepts(agent: Agent, sent: Sent) -> bool:
    profile = COVERED[sent.path]
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=Keys(agent))
    try:
        results = verifier.verify(
            sent,
            max_age=timedelta(seconds=120),
            expect_tag=profile.tag.decode(),
            require_components=components(profile),
            body=sent.body,
        )
    except (InvalidSignature, HTTPMessageSignaturesException):
        return False
    return len(results) == 1


def edge_accepts(agent: Agent, sent: Sent) -> bool:
    edge = Edge(agent.key())
    edge.clock.now = SystemClock().now_ms()
    answer = asyncio.run(edge.answer(sent.fields, sent.body, query=sent.query.encode(), path=sent.path))
    return isinstance(answer, Signed)


@st.composite
def signed_requests(draw: st.DrawFn) -> tuple[Agent, Sent]:
    """What the library signs by this edge's profile."""
    agent = Agent(private=Ed25519PrivateKey.from_private_bytes(draw(st.binary(min_size=32, max_size=32))))
    path = draw(st.sampled_from(list(COVERED)))
    body = draw(st.binary(min_size=1, max_size=64))
    names = {"host": draw(AUTHORITY), "x_request_id": draw(VALUE)}
    if path == "/ingest":
        fields = single_fields(body, event_id=draw(VALUE), x_trace_id=draw(VALUE), **names)
    else:
        fields = batch_fields(body, **names)
    sent = Sent(path, names["host"], draw(QUERY), as_headers(fields), body)
    created = datetime.fromtimestamp(SystemClock().now_ms() // 1_000, tz=UTC)
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Keys(agent)).sign(
        sent,
        key_id=agent.key_id,
        created=created,
        expires=draw(st.one_of(st.none(), st.just(created + timedelta(seconds=60)))),
        nonce=draw(NONCE),
        tag=COVERED[path].tag.decode(),
        include_alg=True,
        use_existing_digest=True,
        label=draw(st.sampled_from(["sig1", "a", "x-1.b"])),
        covered_component_ids=components(COVERED[path]),
    )
    return agent, sent


@settings(max_examples=60)
@given(signed_requests())
def test_what_the_library_signs_by_the_profile_both_accept(signed: tuple[Agent, Sent]) -> None:
    assert library_accepts(*signed)
    assert edge_accepts(*signed)


@settings(max_examples=150)
@given(signed_requests(), st.data())
def test_a_changed_octet_of_anything_covered_is_refused_by_both(
    signed: tuple[Agent, Sent], data: st.DataObject
) -> None:
    agent, sent = signed
    uncovered = {"host", "Signature-Input", "Signature"}
    part = data.draw(
        st.sampled_from([*sorted(sent.headers.keys() - uncovered), "body", "authority", "query", "signature"])
    )
    if part == "body":
        sent.body = _changed(data, sent.body, st.integers(0, 255))
    elif part == "authority":
        sent.authority += "x"
        sent.headers["host"] += "x"
    elif part == "query":
        sent.query += "a"
    elif part == "signature":
        _change_signature(data, sent)
    else:
        sent.headers[part] = _changed(data, sent.headers[part].encode(), st.integers(0x21, 0x7E)).decode()
    assert not library_accepts(agent, sent)
    assert not edge_accepts(agent, sent)


@settings(max_examples=150)
@given(signed_requests(), st.data())
def test_whatever_becomes_of_the_signature_fields_the_edge_accepts_nothing_the_library_refuses(
    signed: tuple[Agent, Sent], data: st.DataObject
) -> None:
    agent, sent = signed
    name = data.draw(st.sampled_from(["Signature-Input", "Signature"]))
    sent.headers[name] = _changed(data, sent.headers[name].encode(), st.integers(0x20, 0x7E)).decode()
    if edge_accepts(agent, sent):
        assert library_accepts(agent, sent)


def _changed(data: st.DataObject, value: bytes, octets: st.SearchStrategy[int]) -> bytes:
    """The value with one octet replaced, added or taken out."""
    place = data.draw(st.integers(0, len(value) - 1))
    octet = bytes([data.draw(octets)])
    kept = data.draw(st.sampled_from([value[place + 1 :], value[place:]]))
    changed = value[:place] + data.draw(st.sampled_from([octet, b""])) + kept
    assume(changed != value)
    return changed


def _change_signature(data: st.DataObject, sent: Sent) -> None:
    label, _, value = sent.headers["Signature"].partition("=:")
    mark = bytearray(base64.b64decode(value[:-1]))
    place = data.draw(st.integers(0, len(mark) - 1))
    mark[place] ^= 1 << data.draw(st.integers(0, 7))
    sent.headers["Signature"] = f"{label}=:{base64.b64encode(mark).decode()}:"


@pytest.mark.parametrize("path", COVERED)
async def test_the_library_accepts_what_agents_of_these_tests_sign(path: str) -> None:
    agent = Agent()
    fields = batch_fields(b"{}") if path.endswith("batch") else single_fields(b"{}")
    target = {b"@method": b"POST", b"@authority": b"edge", b"@path": path.encode(), b"@query": b"?"}
    created_s = UnixMs(SystemClock().now_ms()) // 1_000
    signed = agent.sign(fields, target, created=created_s)
    assert library_accepts(agent, Sent(path, "edge", "", as_headers(signed), b"{}"))
