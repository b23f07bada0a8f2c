"""Reading percentiles out of a worker's own histograms: what happened between two looks at `/metrics`."""

import re
import urllib.request
from collections.abc import Mapping

_BUCKET = re.compile(r"^(?P<name>\w+)_bucket\{(?P<labels>[^}]*)\} (?P<count>[0-9.e+]+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Buckets = dict[float, float]
"""Upper bound to the number of values up to it, over every series that was asked for."""


def buckets(text: str, name: str, wanted: Mapping[str, str]) -> Buckets:
    """The histogram's cumulated counts, added up over all series whose labels are as wanted."""
    found: Buckets = {}
    for line in text.splitlines():
        match = _BUCKET.match(line)
        if match is None or match["name"] != name:
            continue
        labels = dict(_LABEL.findall(match["labels"]))
        if all(labels.get(label) == value for label, value in wanted.items()):
            bound = float(labels["le"])
            found[bound] = found.get(bound, 0.0) + float(match["count"])
    return found


def p95(before: Buckets, after: Buckets) -> float | None:
    """The bound below which 95 of 100 of the values in between lie, None when there were none."""
    counts = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    total = max(counts.values(), default=0.0)
    if total == 0:
        return None
    return min(bound for bound, count in counts.items() if count >= 0.95 * total)


def scraped(admin_url: str) -> str:
    with urllib.request.urlopen(f"{admin_url}/metrics", timeout=5) as answer:  # noqa: S310  (the stack's own address)
        text: str = answer.read().decode()
    return text
