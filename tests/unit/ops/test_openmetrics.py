"""One exposition of several processes."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ops.openmetrics import joined, labelled

EDGE = b"""# HELP requests Requests
# TYPE requests counter
requests_total{tenant="a"} 3.0
# HELP latency_ms Time
# TYPE latency_ms histogram
latency_ms_bucket{le="+Inf"} 1.0
latency_ms_count 1.0
latency_ms_sum 2.0
# EOF
"""
WORKER = b"""# HELP requests Requests
# TYPE requests counter
requests_total{tenant="b"} 5.0
# EOF
"""


def test_samples_of_one_family_stand_together_under_one_description() -> None:
    text = joined([EDGE, WORKER]).decode()
    assert text.count("# TYPE requests counter") == 1
    assert text.index('tenant="b"') < text.index("# HELP latency_ms")


def test_the_joined_text_is_valid_and_keeps_every_sample() -> None:
    text = joined([EDGE, WORKER]).decode()
    parsed = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # not annotated there
    families = {family.name: family for family in parsed}
    assert [sample.value for sample in families["requests"].samples] == [3.0, 5.0]
    assert len(families["latency_ms"].samples) == 3


def test_a_process_without_an_answer_leaves_the_others_series() -> None:
    assert joined([EDGE, b""]) == joined([EDGE])
    assert joined([b"", b""]) == b"# EOF\n"


def test_a_label_on_every_sample_keeps_the_same_series_of_two_processes_apart() -> None:
    bare = b'# HELP up 1 if {so} "x"\n# TYPE up gauge\nup 1.0\n# EOF\n'
    texts = [labelled(text, "process", name) for name in ("1", "2") for text in (EDGE, bare)]
    parsed = text_string_to_metric_families(joined(texts).decode())  # type: ignore[no-untyped-call]  # as above
    families = {family.name: family for family in parsed}
    assert [sample.labels for sample in families["up"].samples] == [{"process": "1"}, {"process": "2"}]
    assert families["up"].documentation == '1 if {so} "x"'
    requests = [(sample.labels, sample.value) for sample in families["requests"].samples]
    assert requests == [({"process": name, "tenant": "a"}, 3.0) for name in ("1", "2")]
    assert len(families["latency_ms"].samples) == 6
