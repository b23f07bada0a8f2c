"""Canonical bytes are RFC 8785, chain hashes bind their entry, and a chain cannot change its tenant."""

import hashlib
import string
from typing import Any

import msgspec
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import canonical_any, canonical_plain
from schemas.envelope import AcceptedEvent, DecideTask, EventKey, receipt
from schemas.evidence import ChainEntry, genesis_hash, seal

INTEGERS = st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(string.ascii_letters + string.digits + string.punctuation + " ", min_size=1)
PLAIN = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_have_the_bytes_of_rfc_8785(value: Any) -> None:
    assert canonical_plain(value) == rfc8785.dumps(value)


@given(st.floats(allow_nan=False, allow_infinity=False), st.dictionaries(TEXT, INTEGERS, max_size=4))
def test_floats_and_foreign_keys_go_through_the_reference(number: float, table: dict[str, int]) -> None:
    assert canonical_any([number, table]) == rfc8785.dumps([number, table])


def _entry(**changes: object) -> ChainEntry:
    entry = ChainEntry(1, "acme", 1, "decision", "e1", "t", "tr", "r", "p", "c", "b", 10, "a", 20, genesis_hash("acme"))
    return msgspec.structs.replace(entry, **changes)


def test_the_chain_hash_is_the_leaf_hash_of_the_canonical_entry() -> None:
    data, chain_hash = seal(_entry())
    assert data == rfc8785.dumps(msgspec.to_builtins(_entry()))
    assert chain_hash == hashlib.sha256(b"\x00" + data).hexdigest()


def test_a_change_of_any_field_changes_the_hash() -> None:
    for field in msgspec.structs.fields(ChainEntry):
        changed = _entry(**{field.name: 99 if field.type is int else "other"})
        assert seal(changed)[1] != seal(_entry())[1], field.name


def test_an_entry_without_an_override_has_the_bytes_it_always_had() -> None:
    """Hashes that are stored and signed must not change with the program."""
    data, chain_hash = seal(_entry())
    assert data == (
        b'{"artifact_bytes":20,"artifact_sha256":"a","body_bytes":10,"body_sha256":"b","config_hash":"c",'
        b'"event_id":"e1","ingest_ts":"t","kind":"decision","policy_hash":"p",'
        b'"prev_hash":"426b2f1f18b994420a3e499801dce5a1a19e41144fc34bdfc1095664cf857eea","request_id":"r",'
        b'"seq":1,"tenant_id":"acme","trace_id":"tr","v":1}'
    )
    assert chain_hash == "e3af85b7e141d3b29aa7a40533b5ac90b8ed1dae105c385c2dd35118aca20058"


def test_an_override_is_bound_by_the_entry_and_by_nothing_else() -> None:
    assert b'"break_glass":"override-1"' in seal(_entry(break_glass="override-1"))[0]
    accepted = AcceptedEvent("acme", "e1", "tr", "r", "ag", "t", "s", "b", msgspec.Raw(b"{}"))
    assert "break_glass" not in msgspec.json.decode(msgspec.json.encode(accepted))
    bound = msgspec.structs.replace(accepted, break_glass="override-1")
    task = msgspec.json.decode(msgspec.json.encode(DecideTask("FG_INGEST_0", 1, bound)), type=DecideTask)
    assert task.accepted.break_glass == "override-1"


def test_two_tenants_never_share_a_genesis() -> None:
    assert genesis_hash("acme") != genesis_hash("acme-2")


def test_the_receipt_has_the_contracts_fields_in_the_contracts_order() -> None:
    key = EventKey("acme", "e1", "trace", "request", "2026-01-01T00:00:00.000Z", "FG_INGEST_0", 7, "00" * 32)
    assert list(msgspec.json.decode(receipt(key))) == [
        *("status", "tenant_id", "event_id", "trace_id", "request_id", "ingest_ts", "stream", "seq", "body_sha256")
    ]
