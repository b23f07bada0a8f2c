"""Signed requests: what is accepted, and each way to be refused."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from edge import recall, signature
from edge.ports import Nonce
from edge.settings import EdgeSettings
from edge.signature import SignatureCheck, Signed
from edge.signature_profile import SINGLE, content_digest, signature_base, target_components
from edge.transport import Message, Request
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.principal import Principal, SigningKey
from schemas.units import UnixMs
from tests.signing import Agent, batch_fields, single_fields, target_of

NOW_MS = UnixMs(1_767_225_600_400)
NOW_S = 1_767_225_600
BODY = b'{"hello": "world"}'
SETTINGS = EdgeSettings(integrity_required=False, event_age_ms_max=1)
SENDER = Principal("k1", "acme", None, frozenset({"ingest"}), "pro")
Fields = dict[bytes, bytes]


class Clock:
    now: int = NOW_MS

    def now_ms(self) -> UnixMs:
        return UnixMs(self.now)


class Ring:
    """Keys by id, as Postgres has them, while it is there."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = {key.key_id: key for key in keys}
        self.asked: list[str] = []
        self.away = False

    async def public_key(self, key_id: str) -> SigningKey | None:
        self.asked.append(key_id)
        if self.away:
            raise NoAnswer(Code.STORE_UNAVAILABLE)
        return self.keys.get(key_id)


class Edge:
    """A check with a ring of its own."""

    def __init__(self, *keys: SigningKey, required: bool = False) -> None:
        self.ring = Ring(*keys)
        self.clock = Clock()
        self.check = SignatureCheck(self.ring, self.clock, replace(SETTINGS, signature_required=required))

    async def answer(
        self,
        fields: Fields,
        body: bytes = BODY,
        sender: Principal = SENDER,
        *,
        query: bytes = b"",
        path: str = "/ingest",
    ) -> Signed | Code | None:
        async def receive() -> Message:
            raise AssertionError("the body was read before")

        request = Request(path, path.encode(), query, "req-1", fields, receive, 0.0)
        batch = path.endswith("/batch")
        answer = await self.check.verify(request, body, sender, method="POST", batch=batch)
        return answer if answer is None or isinstance(answer, Signed) else answer[0].error_code


@pytest.fixture
def agent() -> Agent:
    return Agent()


def sign(agent: Agent, **parameters: Any) -> Fields:
    return agent.sign(single_fields(BODY), target_of("/ingest"), **{"created": NOW_S} | parameters)


def resign(agent: Agent, fields: Fields) -> Fields:
    return agent.sign(fields, target_of("/ingest"), created=NOW_S)


async def test_a_signed_event_is_accepted_with_its_nonce_and_agent(agent: Agent) -> None:
    answer = await Edge(agent.key()).answer(sign(agent, nonce="n" * 22, expires=NOW_S + 60))
    assert answer == Signed(Nonce(agent.key_id, "n" * 22, NOW_S), "agent-7")


async def test_a_signed_batch_is_accepted_without_event_and_trace_id(agent: Agent) -> None:
    fields = agent.sign(batch_fields(BODY), target_of("/ingest/batch"), created=NOW_S)
    assert isinstance(await Edge(agent.key()).answer(fields, path="/ingest/batch"), Signed)


async def test_a_long_body_is_held_to_its_digest_too(agent: Agent) -> None:
    body = b"x" * (signature.DIGEST_IN_TURN_BYTES_MAX + 1)
    fields = agent.sign(batch_fields(body), target_of("/ingest/batch"), created=NOW_S)
    edge = Edge(agent.key())
    assert isinstance(await edge.answer(fields, body, path="/ingest/batch"), Signed)
    assert await edge.answer(fields, body + b"x", path="/ingest/batch") is Code.SIGNATURE_INVALID


async def test_the_parameters_may_come_in_any_order_under_any_label(agent: Agent) -> None:
    fields = sign(agent)
    before = fields[b"signature-input"]
    head, _, parameters = before.partition(b")")
    turned = b";".join([b"", *reversed(parameters[1:].split(b";"))])
    signed = head[len(b"sig1=") :] + b")" + turned
    base = signature_base(SINGLE.components, {**fields, **target_of("/ingest")}, signed)
    mark = base64.b64encode(agent.private.sign(base))
    fields |= {b"signature-input": b"*a-1.b_=" + signed, b"signature": b"*a-1.b_=:%b:" % mark}
    assert isinstance(await Edge(agent.key()).answer(fields), Signed)


async def test_an_unsigned_request_passes_only_where_signatures_are_not_required() -> None:
    assert await Edge().answer(single_fields(BODY)) is None
    assert await Edge(required=True).answer(single_fields(BODY)) is Code.SIGNATURE_INVALID


async def test_a_signature_that_is_there_is_verified_where_none_is_required(agent: Agent) -> None:
    assert await Edge().answer(sign(agent)) is Code.SIGNATURE_INVALID


def _with(name: str, change: Callable[[bytes], bytes]) -> Callable[[Fields], Fields]:
    return lambda fields: fields | {name.encode(): change(fields[name.encode()])}


def _without(name: str) -> Callable[[Fields], Fields]:
    return lambda fields: {key: value for key, value in fields.items() if key != name.encode()}


@pytest.mark.parametrize(
    "spoil",
    [
        _without("signature"),
        _without("signature-input"),
        *(_without(name) for name in ("content-type", "content-digest", "x-tenant-id", "x-event-id", "x-request-id")),
        _with("signature-input", lambda v: v.replace(b' "x-trace-id"', b"")),
        _with("signature-input", lambda v: v.replace(b'"@method" "@authority"', b'"@authority" "@method"')),
        _with("signature-input", lambda v: v.replace(b'"@query"', b'"@query" "date"')),
        _with("signature-input", lambda v: v.replace(b'"@method"', b'"@method";req')),
        _with("signature-input", lambda v: v.replace(b'("', b'( "')),
        _with("signature-input", lambda v: b"sig1=()" + v.partition(b")")[2]),
        _with("signature-input", lambda v: v + b';context="x"'),
        _with("signature-input", lambda v: v + b";created=1"),
        _with("signature-input", lambda v: v + b" "),
        _with("signature-input", lambda v: v.replace(b";created=", b"; created=")),
        _with("signature-input", lambda v: v.replace(b";created=", b";created=0")),
        _with("signature-input", lambda _: b""),
        _with("signature-input", lambda _: b"sig1"),
        _with("signature-input", lambda v: v.replace(b'"fg-ingest-v1"', b'"fg-batch-v1"')),
        _with("signature-input", lambda v: v.replace(b'"ed25519"', b'"hmac-sha256"')),
        _with("content-digest", lambda v: v.replace(b"sha-256", b"sha-512")),
        _with("content-digest", lambda v: v + b", " + v),
    ],
)
async def test_what_does_not_cover_exactly_what_it_must_is_refused(
    agent: Agent, spoil: Callable[[Fields], Fields]
) -> None:
    edge = Edge(agent.key())
    assert await edge.answer(spoil(sign(agent))) is Code.SIGNATURE_COMPONENTS_INVALID
    assert edge.ring.asked == []


@pytest.mark.parametrize(
    "parameters",
    [
        *({name: None} for name in ("created", "keyid", "alg", "nonce", "tag")),
        {"nonce": "n" * 21},
        {"nonce": "n" * 65},
        {"nonce": "n" * 21 + "+"},
        {"alg": "rsa-pss-sha512"},
        {"tag": "fg-batch-v1"},
        {"created": "1767225600"},
        {"created": -1},
        {"expires": "never"},
    ],
)
async def test_a_parameter_that_is_missing_or_wrong_is_refused_although_it_is_signed(
    agent: Agent, parameters: dict[str, Any]
) -> None:
    assert await Edge(agent.key()).answer(sign(agent, **parameters)) is Code.SIGNATURE_COMPONENTS_INVALID


@pytest.mark.parametrize("name", ["signature", "signature-input"])
@pytest.mark.parametrize("other", [b"sig2", b"sig1"])
async def test_a_second_signature_is_a_malformed_request(agent: Agent, name: str, other: bytes) -> None:
    spoil = _with(name, lambda value: value + b", " + value.replace(b"sig1", other))
    assert await Edge(agent.key()).answer(spoil(sign(agent))) is Code.MALFORMED_REQUEST


OTHER = Agent()


@pytest.mark.parametrize(
    "keys",
    [
        lambda _: [],
        lambda agent: [agent.key(revoked_ms=NOW_MS)],
        lambda agent: [agent.key(not_before_ms=NOW_MS + 1)],
        lambda agent: [agent.key(not_after_ms=NOW_MS)],
        lambda agent: [agent.key(tenant_id="rival")],
        lambda agent: [agent.key(agent_id="agent-8")],
        lambda agent: [agent.key(public_key=OTHER.public_key)],
    ],
)
async def test_a_key_that_may_not_sign_is_refused_like_one_that_is_not_there(
    agent: Agent, keys: Callable[[Agent], list[SigningKey]], monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[bool] = []
    real = signature._verified

    def counted(key: Ed25519PublicKey, mark: bytes, base: bytes) -> bool:
        verified.append(real(key, mark, base))
        return verified[-1]

    monkeypatch.setattr(signature, "_verified", counted)
    edge = Edge(*keys(agent))
    sender = replace(SENDER, agent_id="agent-7")
    assert await edge.answer(sign(agent), sender=sender) is Code.SIGNATURE_INVALID
    assert len(verified) == 1


async def test_the_bounds_of_a_keys_validity_are_its_own(agent: Agent) -> None:
    edge = Edge(agent.key(not_before_ms=NOW_MS, not_after_ms=NOW_MS + 1))
    assert isinstance(await edge.answer(sign(agent)), Signed)
    edge.clock.now += 1
    assert await edge.answer(sign(agent)) is Code.SIGNATURE_INVALID


@pytest.mark.parametrize("key_id", ["", "x", "0" * 17, "0123456789ABCDEF", "'; DROP TABLE"])
async def test_what_is_no_key_id_is_never_looked_up(agent: Agent, key_id: str) -> None:
    edge = Edge(agent.key())
    assert await edge.answer(sign(agent, keyid=key_id)) is Code.SIGNATURE_INVALID
    assert edge.ring.asked == []


@pytest.mark.parametrize(
    "spoil",
    [
        _with("signature", lambda v: v.replace(b"sig1", b"sig2")),
        _with("signature", lambda v: v[:-6] + b":"),
        _with("signature", lambda _: b"sig1=:" + base64.b64encode(b"s" * 64) + b":"),
        _with("signature", lambda v: v[:-4] + bytes([v[-4] + 1]) + v[-3:]),
        *(_with(name, lambda v: v + b"x") for name in ("host", "content-type", "x-tenant-id", "x-event-id")),
        *(_with(name, lambda v: v + b"x") for name in ("x-trace-id", "x-request-id")),
        _with("content-digest", lambda _: content_digest(b"another body")),
        _with("signature-input", lambda v: v.replace(b"created=17672256", b"created=17672255")),
    ],
)
async def test_whatever_is_covered_cannot_be_changed(agent: Agent, spoil: Callable[[Fields], Fields]) -> None:
    assert await Edge(agent.key()).answer(spoil(sign(agent))) is Code.SIGNATURE_INVALID


async def test_neither_body_nor_target_can_be_changed(agent: Agent) -> None:
    edge = Edge(agent.key())
    assert await edge.answer(sign(agent), b"another body") is Code.SIGNATURE_INVALID
    assert await edge.answer(sign(agent), query=b"a=1") is Code.SIGNATURE_INVALID
    assert await edge.answer(sign(agent), path="/Ingest") is Code.SIGNATURE_INVALID


async def test_the_digest_is_that_of_the_body_even_when_another_one_is_signed(agent: Agent) -> None:
    fields = resign(agent, single_fields(b"another body"))
    assert await Edge(agent.key()).answer(fields) is Code.SIGNATURE_INVALID


async def test_the_query_is_covered_and_the_authority_is_compared_in_lower_case(agent: Agent) -> None:
    fields = agent.sign(
        single_fields(BODY, host="EDGE:8080"), target_of("/ingest", b"edge:8080", b"a=1"), created=NOW_S
    )
    assert isinstance(await Edge(agent.key()).answer(fields, query=b"a=1"), Signed)


@pytest.mark.parametrize(
    ("created_s", "accepted"), [(NOW_S - 119, True), (NOW_S - 120, False), (NOW_S + 5, True), (NOW_S + 6, False)]
)
async def test_a_signature_counts_within_the_window_alone(agent: Agent, created_s: int, accepted: bool) -> None:
    answer = await Edge(agent.key()).answer(sign(agent, created=created_s))
    assert isinstance(answer, Signed) if accepted else answer is Code.REPLAY_WINDOW_CLOSED


async def test_an_expired_signature_is_outside_of_the_window(agent: Agent) -> None:
    edge = Edge(agent.key())
    assert await edge.answer(sign(agent, expires=NOW_S)) is Code.REPLAY_WINDOW_CLOSED
    assert isinstance(await edge.answer(sign(agent, expires=NOW_S + 1)), Signed)


async def test_a_wrong_signature_learns_nothing_of_the_window(agent: Agent) -> None:
    assert await Edge().answer(sign(agent, created=1)) is Code.SIGNATURE_INVALID


async def test_a_revocation_binds_once_the_key_is_no_longer_fresh(agent: Agent) -> None:
    edge = Edge(agent.key())
    assert isinstance(await edge.answer(sign(agent)), Signed)
    edge.ring.keys[agent.key_id] = agent.key(revoked_ms=NOW_MS)
    edge.clock.now += SETTINGS.key_fresh_ms
    assert isinstance(await edge.answer(sign(agent)), Signed)
    edge.clock.now += 1
    assert await edge.answer(sign(agent)) is Code.SIGNATURE_INVALID
    assert edge.ring.asked == [agent.key_id] * 2


async def test_with_postgres_away_a_key_stays_valid_for_its_time_and_an_unknown_one_has_no_answer(agent: Agent) -> None:
    edge = Edge(agent.key())
    assert isinstance(await edge.answer(sign(agent)), Signed)
    edge.ring.away = True
    with pytest.raises(NoAnswer):
        await edge.answer(sign(OTHER))
    edge.clock.now += SETTINGS.key_stale_ms_max
    assert isinstance(await edge.answer(sign(agent, created=edge.clock.now // 1_000)), Signed)
    edge.clock.now += 1
    with pytest.raises(NoAnswer):
        await edge.answer(sign(agent, created=edge.clock.now // 1_000))


async def test_a_key_is_asked_about_once_while_what_is_known_of_it_is_fresh(agent: Agent) -> None:
    edge = Edge(agent.key())
    answers = await asyncio.gather(*(edge.answer(sign(one)) for one in (agent, OTHER) for _ in range(5)))
    assert [isinstance(answer, Signed) for answer in answers] == [True] * 5 + [False] * 5
    assert sorted(edge.ring.asked) == sorted([agent.key_id, OTHER.key_id])


async def test_the_memory_of_keys_is_bounded_and_the_oldest_goes_first(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "ENTRIES_MAX", 2)
    agents = [agent, Agent(), Agent()]
    edge = Edge(*(one.key() for one in agents))
    for one in (*agents, agents[2], agents[1], agents[0]):
        assert isinstance(await edge.answer(sign(one)), Signed)
    assert edge.ring.asked == [*(one.key_id for one in agents), agent.key_id]


RFC_9421_KEY = base64.b64decode("MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=")
RFC_9421_SIGNATURE = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
RFC_9421_BASE = b"""\
"date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@authority": example.com
"content-type": application/json
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length")\
;created=1618884473;keyid="test-key-ed25519\""""


def test_the_signature_base_is_that_of_rfc_9421_appendix_b_2_6_and_its_signature_verifies() -> None:
    values = {
        b"date": b"Tue, 20 Apr 2021 02:07:55 GMT",
        b"content-type": b" application/json ",
        b"content-length": b"18",
        **target_components("POST", b"Example.COM", b"/foo", b"param=Value&Pet=dog"),
    }
    components = (b"date", b"@method", b"@path", b"@authority", b"content-type", b"content-length")
    parameters = RFC_9421_BASE.rpartition(b'"@signature-params": ')[2]
    assert signature_base(components, values, parameters) == RFC_9421_BASE
    assert values[b"@query"] == b"?param=Value&Pet=dog"
    key = load_der_public_key(RFC_9421_KEY)
    assert isinstance(key, Ed25519PublicKey)
    assert signature._verified(key, base64.b64decode(RFC_9421_SIGNATURE), RFC_9421_BASE)
    assert not signature._verified(key, base64.b64decode(RFC_9421_SIGNATURE), RFC_9421_BASE + b"\n")


def test_the_content_digest_is_that_of_rfc_9530() -> None:
    assert content_digest(BODY) == b"sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"


RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("public", "message", "mark"), RFC_8032)
def test_the_vectors_of_rfc_8032_verify_and_their_malleable_twins_do_not(public: str, message: str, mark: str) -> None:
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    signed, data = bytes.fromhex(mark), bytes.fromhex(message)
    assert signature._verified(key, signed, data)
    twin = signed[:32] + (int.from_bytes(signed[32:], "little") + ORDER).to_bytes(32, "little")
    for wrong in (twin, signed[:32] + bytes(32), bytes(32) + signed[32:], bytes([signed[0] ^ 1]) + signed[1:]):
        assert not signature._verified(key, wrong, data)
