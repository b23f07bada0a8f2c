"""Names of subjects, moments and ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import TENANT_ID
from schemas.subjects import PARTITIONS, Lane, fnv1a32, message_id, tenant_of
from schemas.units import UnixMs, format_rfc3339, parse_rfc3339


@pytest.mark.parametrize(("text", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_the_partition_function_is_fnv1a_32(text: str, value: int) -> None:
    assert fnv1a32(text) == value


@given(st.from_regex(TENANT_ID, fullmatch=True))
def test_a_lane_gives_back_its_tenant_and_stays_in_its_partition(tenant_id: str) -> None:
    lane = Lane(tenant_id)
    assert 0 <= lane.partition < PARTITIONS
    for subject in (lane.ingest, lane.decide, lane.events, lane.dlq):
        assert tenant_of(subject) == tenant_id
        assert subject.split(".")[2] == str(lane.partition)


@pytest.mark.parametrize("text", ["", "a.b", "*", ">", "a b", "-a", "a/b", "ä", "a" * 64, "a\n"])
def test_what_is_no_tenant_id_has_no_lane(text: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        Lane(text)


def test_ids_that_look_alike_when_joined_stay_apart() -> None:
    assert message_id("a", "b-c") != message_id("a-b", "c")


@given(st.integers(min_value=0, max_value=253402300799999))
def test_a_moment_survives_being_written(moment_ms: int) -> None:
    assert parse_rfc3339(format_rfc3339(UnixMs(moment_ms))) == moment_ms


@pytest.mark.parametrize(
    "text",
    ["2026-01-01", "2026-01-01T00:00:00", "2026-W01-1T00:00:00Z", "20260101T000000Z", "2026-01-01T00:00:00,5Z", "now"],
)
def test_a_moment_needs_date_time_and_zone(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)
