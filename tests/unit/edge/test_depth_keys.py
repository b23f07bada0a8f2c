"""A depth key is written when it changes or is about to expire, and not otherwise."""

from edge.depth_keys import REWRITE_MS, TenantKey, WrittenKeys, deepest_first
from schemas.depth import LaneDepth
from schemas.units import UnixMs

NOW_MS = UnixMs(1_767_225_600_000)


def test_only_what_changed_is_due() -> None:
    written = WrittenKeys()
    depths = {"acme": LaneDepth(3, 4, 0)}
    due = written.due(depths, NOW_MS)
    assert due == [TenantKey("acme", "ingest", 3), TenantKey("acme", "decide", 4)]
    written.note(due[0], NOW_MS)
    assert written.due(depths, NOW_MS) == [due[1]], "what was not written stays due"
    written.note(due[1], NOW_MS)
    assert written.due(depths, NOW_MS) == []
    assert written.due({"acme": LaneDepth(3, 5, 0)}, NOW_MS) == [TenantKey("acme", "decide", 5)]


def test_what_will_expire_is_due_again_and_so_is_what_another_edge_may_have_written() -> None:
    written = WrittenKeys()
    depths = {"acme": LaneDepth(3, 0, 0)}
    (key,) = written.due(depths, NOW_MS)
    written.note(key, NOW_MS)
    assert written.due(depths, UnixMs(NOW_MS + REWRITE_MS)) == [key]
    assert written.due(depths, UnixMs(NOW_MS - 1)) == [key], "a clock set back keeps nothing alive"
    written.forget()
    assert written.due(depths, NOW_MS) == [key]


def test_who_has_no_depth_any_more_gets_a_zero_once() -> None:
    written = WrittenKeys()
    written.note(TenantKey("acme", "ingest", 3), NOW_MS)
    zero = TenantKey("acme", "ingest", 0)
    assert written.due({}, NOW_MS) == [zero]
    written.note(zero, NOW_MS)
    assert written.due({}, NOW_MS) == []


def test_the_deepest_come_first_where_not_all_can() -> None:
    keys = [TenantKey(f"t{number}", "ingest", number) for number in range(10)]
    assert [key.messages for key in deepest_first(keys, 3)] == [9, 8, 7]
