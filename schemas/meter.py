"""The one verb every part measures with, so that no package but `ops` knows a metrics library."""

from typing import Protocol

from schemas.metrics import Metric


class Meter(Protocol):
    """Adds to counters, observes histograms, sets gauges: which one is the metric's own kind."""

    def add(self, metric: Metric, value: float, *labels: str) -> None: ...
