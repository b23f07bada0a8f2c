"""What one edge knows of one partition's depths: the last ten seconds of samples, and what follows from them. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edge.ports import Depth
from schemas.depth import LaneDepth
from schemas.units import UnixMs

SERIES_MS = 10_000
AGE_MS_MAX = 2_000
"""An older view says nothing: unknown means no."""
NO_DEPTH = Depth(0, 0.0)


class Sample(NamedTuple):
    """The depths of a partition's tenants at one moment, by this edge's clock; who is not named has none."""

    taken_ms: UnixMs
    depths: Mapping[str, LaneDepth]


class PartitionSeries:
    """Samples in the order of their times."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._known: dict[str, Depth] = {}

    def add(self, sample: Sample, now_ms: UnixMs) -> None:
        """Take the sample in, unless a later one is known. What lies in the future was taken before the clock was set
        back, and goes.
        """
        while self._samples and self._samples[-1].taken_ms > now_ms:
            self._samples.pop()
        if self._samples and sample.taken_ms <= self._samples[-1].taken_ms:
            return
        self._samples.append(sample)
        while sample.taken_ms - self._samples[0].taken_ms > SERIES_MS:
            self._samples.popleft()
        self._known = {}

    def fresh(self, now_ms: UnixMs) -> bool:
        return bool(self._samples) and 0 <= now_ms - self._samples[-1].taken_ms <= AGE_MS_MAX

    def of(self, tenant_id: str, now_ms: UnixMs) -> Depth | None:
        """The tenant's depth and its slope, None while the last sample is too old."""
        if not self.fresh(now_ms):
            return None
        if tenant_id not in self._samples[-1].depths:
            return NO_DEPTH
        depth = self._known.get(tenant_id)
        if depth is None:
            points = [(one.taken_ms, _messages(one, tenant_id)) for one in self._samples]
            depth = self._known[tenant_id] = Depth(points[-1][1], slope_per_s(points))
        return depth

    @property
    def last(self) -> Mapping[str, LaneDepth]:
        """The depths of the last sample, whatever its age."""
        return self._samples[-1].depths if self._samples else {}


def slope_per_s(points: Iterable[tuple[int, int]]) -> float:
    """Messages a second by least squares over (milliseconds, messages); 0 where one moment is all there is."""
    given = list(points)
    begin_ms = given[0][0]
    count = len(given)
    # In whole numbers up to the last division: the same points give the same slope on every machine.
    times = [time_ms - begin_ms for time_ms, _ in given]
    total_ms, total = sum(times), sum(messages for _, messages in given)
    spread = count * sum(time_ms * time_ms for time_ms in times) - total_ms * total_ms
    if spread == 0:
        return 0.0
    together = count * sum(time_ms * messages for time_ms, (_, messages) in zip(times, given, strict=True))
    return 1_000 * (together - total_ms * total) / spread


def _messages(sample: Sample, tenant_id: str) -> int:
    depth = sample.depths.get(tenant_id)
    return 0 if depth is None else depth.messages
