"""The backends of telemetry: the metrics of `schemas/metrics.py` over prometheus_client, and JSON log lines.

Series are plain numbers that a collector reads at exposition, so that measuring costs a dictionary
look-up, and the twin in seconds of each `_ms` histogram costs nothing until somebody asks for it.
"""

import bisect
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from schemas.ids import is_tenant_id
from schemas.logkeys import REQUIRED
from schemas.metrics import ALL, ALL_TENANTS, EVERY_SERVICE, Metric
from schemas.units import UnixMs, format_rfc3339

TENANT_SLOTS = 50
OTHER_TENANTS = "_other"
"""Not a legal tenant id, so it never hides a tenant."""

BOUNDS_MS = (
    0.25, 0.5, 1, 2, 3, 5, 8, 10, 15, 20, 25, 30, 40, 60, 80, 90, 120, 150, 200, 350, 500, 1_000, 2_000, 5_000, 10_000,
)  # fmt: skip
"""Fine below the figures to hold, exact at every threshold somebody alerts on: 40, 80, 90, 120, 150, 200, 350."""
BOUNDS_COUNT = tuple(2**power for power in range(11))


class _Total:
    """A counter's series."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        if value < 0:
            raise ValueError("a counter never goes back")
        self.value += value


class _Level:
    """A gauge's series: the last value wins."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        self.value = value


class _Distribution:
    """A histogram's series: how many values fell up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self, divisor: float) -> list[tuple[str, float]]:
        """`(le, count of values up to le)` for every bound divided by `divisor`, the last `+Inf`."""
        count = 0
        pairs: list[tuple[str, float]] = []
        for bound, here in zip(self.bounds, self.counts[:-1], strict=True):
            count += here
            pairs.append((repr(bound / divisor), count))
        return [*pairs, ("+Inf", count + self.counts[-1])]


_Series = _Total | _Level | _Distribution


class PrometheusMeter(Collector):
    """Implements `schemas.meter.Meter` for the metrics of one service. For the thread of the event loop alone.

    A `tenant_id` label takes one of 50 slots on the tenant's first use, for the process's life;
    every later tenant is counted under `_other`, so no series ever moves or disappears.
    """

    def __init__(self, service: str) -> None:
        self._metrics = {metric.name: metric for metric in ALL if metric.service in {service, EVERY_SERVICE}}
        self._series: dict[str, dict[tuple[str, ...], _Series]] = {name: {} for name in self._metrics}
        self._adders: dict[tuple[str, ...], Callable[[float], None]] = {}
        self._tenants: set[str] = set()
        self._tenant_at = {
            name: metric.labels.index("tenant_id")
            for name, metric in self._metrics.items()
            if "tenant_id" in metric.labels
        }
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Count, observe or set, as the metric's kind says.

        Raises ValueError for a metric of another service, another number of labels, or a counter going back.
        """
        adder = self._adders.get((metric.name, *labels))
        if adder is None:
            adder = self._adder(metric, labels)
        adder(value)

    def exposition(self) -> tuple[bytes, str]:
        """Return the OpenMetrics text of every series and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]  # not annotated there

    def collect(self) -> Iterator[Family]:
        for name, metric in self._metrics.items():
            yield from _families(metric, self._series[name].items())

    def _adder(self, metric: Metric, labels: tuple[str, ...]) -> Callable[[float], None]:
        if metric.name not in self._metrics or len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name}{metric.labels} does not belong here or has other labels")
        at = self._tenant_at.get(metric.name)
        if at is not None:
            labels = (*labels[:at], self._bounded(labels[at]), *labels[at + 1 :])
        key = (metric.name, *labels)
        adder = self._adders.get(key)
        if adder is None:
            series = self._series[metric.name][labels] = _new_series(metric)
            adder = self._adders[key] = series.add
        return adder

    def _bounded(self, tenant_id: str) -> str:
        if tenant_id in self._tenants or tenant_id == ALL_TENANTS:
            return tenant_id
        if len(self._tenants) < TENANT_SLOTS and is_tenant_id(tenant_id):
            self._tenants.add(tenant_id)
            return tenant_id
        return OTHER_TENANTS


def _new_series(metric: Metric) -> _Series:
    match metric.kind:
        case "counter":
            return _Total()
        case "gauge":
            return _Level()
        case "histogram":
            return _Distribution(BOUNDS_MS if metric.name.endswith("_ms") else BOUNDS_COUNT)
        case _:
            raise ValueError(f"{metric.name} is of no known kind")


def _families(metric: Metric, series: Iterable[tuple[tuple[str, ...], _Series]]) -> Iterator[Family]:
    """The metric's family; for a histogram in milliseconds also its twin in seconds."""
    numbers = [(labels, one.value) for labels, one in series if not isinstance(one, _Distribution)]
    distributions = [(labels, one) for labels, one in series if isinstance(one, _Distribution)]
    match metric.kind:
        case "counter":
            counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, value in numbers:
                counter.add_metric(labels, value)
            yield counter
        case "gauge":
            gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, value in numbers:
                gauge.add_metric(labels, value)
            yield gauge
        case _:
            yield _histogram(metric, metric.name, metric.help, distributions, 1)
            if metric.name.endswith("_ms"):
                name = metric.name.removesuffix("_ms") + "_seconds"
                help_text = metric.help.replace("milliseconds", "seconds")
                yield _histogram(metric, name, help_text, distributions, 1_000)


def _histogram(
    metric: Metric,
    name: str,
    help_text: str,
    distributions: list[tuple[tuple[str, ...], _Distribution]],
    divisor: int,
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help_text, labels=metric.labels)
    for labels, one in distributions:
        family.add_metric(labels, buckets=one.cumulated(divisor), sum_value=one.total / divisor)
    return family


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
_SECRET_KEY = re.compile(r"password|secret|token|api_?key|authorization|credential|dsn", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"(?<=://)[^\s/@]+(?=@)|(?<=Bearer )\S+", re.IGNORECASE)
_MASK = "***"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: every key of `schemas/logkeys.py`, null where unknown, then `message` and other extras.

    What looks like a credential (a URL's user part, a bearer token, a value under a telling key) is masked.
    """

    def __init__(self, service: str, config_hash: str | None) -> None:
        super().__init__()
        self._constant: dict[str, Any] = dict.fromkeys(REQUIRED)
        self._constant |= {"service": service, "config_hash": config_hash}

    def format(self, record: logging.LogRecord) -> str:
        line = self._constant | {
            "ts": format_rfc3339(UnixMs(int(record.created * 1_000))),
            "level": record.levelname.lower(),
            "module": record.name,
        }
        line |= {key: _masked(key, value) for key, value in record.__dict__.items() if key not in _STANDARD}
        line["message"] = _masked("message", record.getMessage())
        if record.exc_info:
            line["exception"] = _masked("exception", self.formatException(record.exc_info))
        return msgspec.json.encode(line, enc_hook=str).decode()


def _masked(key: str, value: object) -> object:
    if _SECRET_KEY.search(key):
        return _MASK
    return _SECRET_TEXT.sub(_MASK, value) if isinstance(value, str) else value


def configure_logging(service: str, level: str, config_hash: str | None) -> None:
    """Send every log line of this process to stderr as JSON, and warnings with them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, config_hash))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
