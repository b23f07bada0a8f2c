"""Metrics stay bounded and true; a log line has every key and no secret."""

import io
import json
import logging

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ops.telemetry import OTHER_TENANTS, TENANT_SLOTS, JsonFormatter, PrometheusMeter
from schemas.logkeys import REQUIRED
from schemas.metrics import ALL, DLQ_EVENTS, INGEST_LATENCY_MS, INGEST_REQUESTS, PUBLISH_BATCH_EVENTS, STAGE_PAUSED


def samples(meter: PrometheusMeter) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, content_type = meter.exposition()
    assert content_type.startswith("application/openmetrics-text")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]  # not annotated
        for sample in family.samples
    }


def labelled(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def test_fifty_tenants_have_their_own_series_for_ever_and_the_others_share_one() -> None:
    meter = PrometheusMeter("edge")
    for _round in range(3):
        for number in range(TENANT_SLOTS + 30):
            meter.add(INGEST_REQUESTS, 1, f"tenant-{number}", "free", "accepted")
    meter.add(INGEST_LATENCY_MS, 3, "total", "tenant-70")
    seen = samples(meter)
    counts = {dict(labels)["tenant_id"]: value for (name, labels), value in seen.items() if name.endswith("_total")}
    assert len(counts) == TENANT_SLOTS + 1
    assert counts[OTHER_TENANTS] == 90
    assert {counts[f"tenant-{number}"] for number in range(TENANT_SLOTS)} == {3}
    assert seen["frostgate_ingest_latency_ms_count", labelled(phase="total", tenant_id=OTHER_TENANTS)] == 1


def test_a_text_that_is_no_tenant_id_never_takes_a_slot() -> None:
    meter = PrometheusMeter("worker")
    for text in ("", "a.b", "*", "x" * 64, OTHER_TENANTS):
        meter.add(DLQ_EVENTS, 1, text, "poison")
    labels = labelled(tenant_id=OTHER_TENANTS, reason="poison")
    assert {key: value for key, value in samples(meter).items() if "dlq" in key[0]} == {
        ("frostgate_dlq_events_total", labels): 5
    }


def test_a_histogram_in_milliseconds_has_a_twin_in_seconds() -> None:
    meter = PrometheusMeter("edge")
    for value in (0.1, 40, 40.001, 119, 350, 99_999):
        meter.add(INGEST_LATENCY_MS, value, "total", "t1")
    seen = samples(meter)
    for bound_ms, count in {40: 2, 80: 3, 90: 3, 120: 4, 150: 4, 200: 4, 350: 5}.items():
        for name, bound in (("ms", float(bound_ms)), ("seconds", bound_ms / 1_000)):
            key = f"frostgate_ingest_latency_{name}_bucket", labelled(phase="total", tenant_id="t1", le=str(bound))
            assert seen[key] == count
    total = labelled(phase="total", tenant_id="t1")
    assert seen["frostgate_ingest_latency_ms_sum", total] == pytest.approx(100_548.101)
    assert seen["frostgate_ingest_latency_seconds_sum", total] == pytest.approx(100.548101)
    assert seen["frostgate_ingest_latency_seconds_count", total] == 6


def test_a_gauge_holds_its_last_value_and_a_count_of_events_has_buckets_of_events() -> None:
    worker, edge = PrometheusMeter("worker"), PrometheusMeter("edge")
    for value in (1, 0):
        worker.add(STAGE_PAUSED, value, "dedupe")
    edge.add(PUBLISH_BATCH_EVENTS, 200, "FG_INGEST_0")
    assert samples(worker)["frostgate_stage_paused", labelled(stage="dedupe")] == 0
    seen = samples(edge)
    assert seen["frostgate_publish_batch_events_bucket", labelled(stream="FG_INGEST_0", le="128.0")] == 0
    assert seen["frostgate_publish_batch_events_bucket", labelled(stream="FG_INGEST_0", le="256.0")] == 1


def test_a_meter_refuses_what_would_make_a_metric_lie() -> None:
    meter = PrometheusMeter("edge")
    with pytest.raises(ValueError, match="does not belong here"):
        meter.add(STAGE_PAUSED, 1, "dedupe")
    with pytest.raises(ValueError, match="other labels"):
        meter.add(INGEST_REQUESTS, 1, "t1", "free")
    with pytest.raises(ValueError, match="never goes back"):
        meter.add(INGEST_REQUESTS, -1, "t1", "free", "accepted")


def test_two_meters_share_nothing() -> None:
    first, second = PrometheusMeter("edge"), PrometheusMeter("edge")
    first.add(INGEST_REQUESTS, 1, "t1", "free", "accepted")
    assert samples(first)
    assert not samples(second)


@pytest.mark.parametrize("service", ["edge", "worker"])
def test_every_metric_of_a_service_is_announced_before_it_is_used(service: str) -> None:
    text = PrometheusMeter(service).exposition()[0].decode()
    announced = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {metric.name.removesuffix("_total") for metric in ALL if metric.service == service} <= announced
    assert text.endswith("# EOF\n")


def log_line(message: str, *arguments: object, **extra: object) -> dict[str, object]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("edge", "c0ffee"))
    logger = logging.getLogger("edge.app")
    logger.addHandler(handler)
    failure = ConnectionError("nats://edge:canary@127.0.0.1 is away")
    logger.error(message, *arguments, exc_info=failure, extra=extra)
    logger.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    parsed = json.loads(lines[0])
    assert isinstance(parsed, dict)
    return parsed


def test_a_log_line_has_every_required_key_null_where_unknown() -> None:
    line = log_line("refused\nnow", tenant_id="t1", status_code=429, latency_ms=1.5, stage="dedupe")
    assert set(REQUIRED) <= set(line)
    assert (line["service"], line["module"], line["level"]) == ("edge", "edge.app", "error")
    assert (line["tenant_id"], line["status_code"], line["latency_ms"], line["config_hash"]) == (
        "t1",
        429,
        1.5,
        "c0ffee",
    )
    assert (line["trace_id"], line["message"], line["stage"]) == (None, "refused\nnow", "dedupe")
    assert str(line["ts"]).endswith("Z")
    assert "ConnectionError" in str(line["exception"])


def test_a_log_line_shows_no_credential() -> None:
    line = log_line(
        "to %s with %s", "postgresql://fg_edge:canary@h/db", "Authorization: Bearer canary",
        api_key="canary", url="redis://:canary@h", dsn="canary",
    )  # fmt: skip
    assert "canary" not in json.dumps(line)
    assert line["url"] == "redis://***@h"
