"""The table of codes is whole and means what it says."""

from pathlib import Path

from schemas.codes import TABLE, Code, Retry

SPEC_REQUIRED = [
    "TENANT_ID_REQUIRED",
    "EVENT_ID_REQUIRED",
    "TRACE_ID_REQUIRED",
    "AGENT_ID_REQUIRED",
    "SCHEMA_VERSION_REQUIRED",
    "CREATED_AT_REQUIRED",
    "SOURCE_REQUIRED",
    "INTEGRITY_HASH_REQUIRED",
]


def test_every_code_has_exactly_one_row_and_no_row_is_orphaned() -> None:
    assert set(TABLE) == set(Code)


def test_the_specs_required_field_codes_are_400_under_their_exact_names() -> None:
    assert [TABLE[Code(name)].status for name in SPEC_REQUIRED] == [400] * len(SPEC_REQUIRED)


def test_only_what_may_succeed_unchanged_is_worth_sending_again() -> None:
    worth_it = {code for code, row in TABLE.items() if row.retry is Retry.SAME_BYTES}
    assert worth_it == {code for code, row in TABLE.items() if row.status in {408, 409, 429, 503}}


def test_no_other_module_joins_a_code_to_a_status() -> None:
    edge = Path(__file__).resolve().parents[3] / "edge"
    joined = [f.name for f in edge.glob("*.py") if "TABLE[" in f.read_text() and f.name != "problem.py"]
    assert set(joined) <= {"openapi.py", "refusals.py"}
