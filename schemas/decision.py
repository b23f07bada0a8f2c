"""What the decision stage computes, as plain values."""

from typing import Any, NamedTuple

import msgspec

from schemas.codes import PolicyCode


class Contribution(msgspec.Struct, frozen=True, gc=False):
    """One feature's share of the score, in points."""

    feature: str
    points: int


class PolicyAnswer(NamedTuple):
    """The policy's word on one event. `reasons` are rule names, sorted, empty when allowed."""

    code: PolicyCode
    reasons: tuple[str, ...]


class Score(NamedTuple):
    """0 to 100, the sum of the contributions, capped."""

    value: int
    contributions: tuple[Contribution, ...]


class Span(msgspec.Struct, frozen=True, gc=False):
    """One step of an event's way, in microseconds since the Unix epoch. The first one has no parent: empty."""

    end_us: int
    name: str
    parent_span_id: str
    span_id: str
    start_us: int


Features = dict[str, Any]
"""Feature name to bool, int or short string; never a float, so that it can be hashed (RFC 8785)."""


class DecisionRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The artifact's payload: everything decided about one event, without its place in the chain.

    Strings and ints below 2**53 only; `canonical_plain` of it is hashed into the chain entry.
    `break_glass` is a member only of events accepted under an emergency override,
    `policy_data_sha256` only where the rules were given data of the tenant. `spans` are sorted by
    (`start_us`, `span_id`); records of version 1 have none.
    """

    v: int
    tenant_id: str
    event_id: str
    trace_id: str
    request_id: str
    agent_id: str
    source: str
    schema_version: str
    created_at: str
    ingest_ts: str
    decided_at: str
    stream: str
    seq: int
    body_sha256: str
    body_bytes: int
    verdict: str
    policy_code: str
    policy_reasons: tuple[str, ...]
    policy_hash: str
    config_hash: str
    score: int
    features: Features
    contributions: tuple[Contribution, ...]
    break_glass: str = ""
    policy_data_sha256: str = ""
    spans: tuple[Span, ...] = ()
