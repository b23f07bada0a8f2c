"""The depth gates refuse what they must, and their Retry-After is a fact of the series alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.backpressure import refusal, retry_after_s
from edge.depth_series import PartitionSeries, Sample, slope_per_s
from edge.ports import Depth
from edge.settings import QueueSettings
from schemas.codes import Code
from schemas.depth import LaneDepth
from schemas.units import UnixMs
from streams.settings import StreamSettings

QUEUES = QueueSettings(
    depth_warn=5_000, depth_shed=8_000, depth_hardstop=12_000, key_template="fg:q:{tenant_id}:{lane}"
)
DEPTH_MAX = 10_000_000


def code_at(messages: int) -> Code | None:
    findings = refusal(Depth(messages, 0.0), QUEUES)
    return None if findings is None else findings[0].error_code


def test_each_threshold_refuses_from_its_very_message_on() -> None:
    assert code_at(7_999) is None
    assert code_at(8_000) is Code.INGEST_BACKPRESSURE_SHED
    assert code_at(11_999) is Code.INGEST_BACKPRESSURE_SHED
    assert code_at(12_000) is Code.INGEST_BACKPRESSURE_HARDSTOP


def test_an_unknown_depth_refuses() -> None:
    findings = refusal(None, QUEUES)
    assert findings is not None
    assert findings[0].error_code is Code.STREAM_UNAVAILABLE


@pytest.mark.parametrize(
    ("messages", "slope_per_s", "seconds"),
    [
        (8_000, -3_000.0, 1),
        (8_000, -300.0, 10),
        (8_000, -1.0, 30),
        (8_000, 0.0, 30),
        (9_000, 2_000.0, 165),
        (9_000, 1e9, 300),
    ],
)
def test_the_time_to_wait_follows_from_the_slope(messages: int, slope_per_s: float, seconds: int) -> None:
    assert retry_after_s(Depth(messages, slope_per_s), QUEUES) == seconds


@st.composite
def queues(draw: st.DrawFn) -> QueueSettings:
    warn, shed, hardstop = sorted(draw(st.sets(st.integers(1, DEPTH_MAX), min_size=3, max_size=3)))
    return QueueSettings(depth_warn=warn, depth_shed=shed, depth_hardstop=hardstop, key_template="")


slopes = st.floats(-1e7, 1e7)


@given(queues(), st.integers(0, DEPTH_MAX), slopes)
def test_every_refusal_says_1_to_300_whole_seconds_and_the_same_each_time(
    settings: QueueSettings, messages: int, slope: float
) -> None:
    findings = refusal(Depth(messages, slope), settings)
    assert (findings is None) == (messages < settings.depth_shed)
    assert findings == refusal(Depth(messages, slope), settings)
    if findings is not None:
        assert findings[0].retry_after_ms % 1_000 == 0
        assert 1_000 <= findings[0].retry_after_ms <= 300_000


@given(queues(), st.integers(0, DEPTH_MAX), st.integers(0, DEPTH_MAX), slopes, slopes)
def test_a_deeper_queue_and_a_steeper_one_never_wait_less(
    settings: QueueSettings, one: int, other: int, slope: float, other_slope: float
) -> None:
    shallow, deep = sorted((max(one, settings.depth_shed), max(other, settings.depth_shed)))
    falling, rising = sorted((slope, other_slope))
    assert retry_after_s(Depth(shallow, slope), settings) <= retry_after_s(Depth(deep, slope), settings)
    assert retry_after_s(Depth(deep, falling), settings) <= retry_after_s(Depth(deep, rising), settings)


def test_the_slope_is_the_line_of_least_squares() -> None:
    assert slope_per_s([(1_000, 10), (2_000, 20), (3_000, 30)]) == 10.0
    assert slope_per_s([(1_000, 30), (2_000, 20), (3_000, 10)]) == -10.0
    assert slope_per_s([(0, 0), (1_000, 0), (2_000, 6)]) == 3.0
    assert slope_per_s([(5_000, 7)]) == 0.0


def series_of(*samples: tuple[int, int]) -> PartitionSeries:
    series = PartitionSeries()
    for taken_ms, messages in samples:
        series.add(Sample(UnixMs(taken_ms), {"acme": LaneDepth(messages, 0, 0)}), UnixMs(taken_ms))
    return series


def test_a_view_is_known_for_two_seconds_and_then_says_nothing() -> None:
    series = series_of((10_000, 5))
    assert series.of("acme", UnixMs(12_000)) == Depth(5, 0.0)
    assert series.of("acme", UnixMs(12_001)) is None
    assert series.of("acme", UnixMs(9_999)) is None, "a clock set back makes nothing fresh"
    assert PartitionSeries().of("acme", UnixMs(0)) is None


def test_a_tenant_that_a_fresh_view_does_not_name_has_no_depth() -> None:
    assert series_of((10_000, 5)).of("other", UnixMs(10_000)) == Depth(0, 0.0)


def test_samples_older_than_ten_seconds_do_not_bend_the_slope() -> None:
    series = series_of((0, 90_000), (11_000, 10), (12_000, 20))
    assert series.of("acme", UnixMs(12_000)) == Depth(20, 10.0)


def test_after_the_clock_was_set_back_the_series_begins_anew() -> None:
    series = series_of((50_000, 90_000))
    series.add(Sample(UnixMs(10_000), {"acme": LaneDepth(1, 2, 3)}), UnixMs(10_000))
    assert series.of("acme", UnixMs(10_000)) == Depth(6, 0.0)


def test_an_older_sample_does_not_replace_a_later_one() -> None:
    series = series_of((50_000, 5))
    series.add(Sample(UnixMs(49_000), {}), UnixMs(50_000))
    assert series.of("acme", UnixMs(50_000)) == Depth(5, 0.0)


@pytest.mark.parametrize(
    ("hardstop", "window"), [(1, 2), (12_000, 24_000), (25_000, 50_000), (49_999, 50_000), (10_000_000, 50_000)]
)
def test_every_hardstop_up_to_ten_million_is_legal_and_the_window_exceeds_it_where_it_can(
    hardstop: int, window: int
) -> None:
    settings = StreamSettings(url="", system_url="", replicas=1, shards=1, tenant_messages_max=hardstop)
    assert settings.faults() == []
    assert settings.ack_pending_max == window
    assert StreamSettings(url="", system_url="", replicas=1, shards=1, tenant_messages_max=10_000_001).faults()
