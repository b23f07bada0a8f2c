"""What `frostgate stages` prints is what the broker holds."""

import json

from click.testing import CliRunner

from ops.commands.stages import stages
from schemas.subjects import PARTITIONS
from streams.jetstream import JetStream
from streams.settings import StreamSettings
from streams.topology import NS_PER_MS, STAGE_SUBJECT, STAGES, stage_stream


async def test_the_printed_table_is_that_of_the_live_consumers(admin: JetStream) -> None:
    printed = json.loads(CliRunner().invoke(stages, ["--json"]).output)
    assert [row["stage"] for row in printed] == [*STAGES, "retry", "advisory"]
    found = 0
    for row in printed:
        assert len(row["consumers"]) == (PARTITIONS if row["stage"] in STAGES else 1)
        for consumer, subject in zip(row["consumers"], row["filter_subjects"], strict=True):
            (stream,) = row["streams"]
            live = (await admin.api(f"CONSUMER.INFO.{stream}.{consumer}", None, dict))["config"]
            assert live["max_ack_pending"] == row["window_messages"]
            assert live["ack_wait"] == row["ack_wait_ms"] * NS_PER_MS
            assert live.get("filter_subject", "") == subject
            assert live["max_deliver"] == -1
            found += 1
    live_consumers = 0
    for stream in {stream for row in printed for stream in row["streams"]}:
        live_consumers += (await admin.api(f"STREAM.INFO.{stream}", None, dict))["state"]["consumer_count"]
    assert found == live_consumers


def test_for_people_it_names_every_stage_and_what_each_failure_becomes() -> None:
    result = CliRunner().invoke(stages, [])
    assert result.exit_code == 0
    assert [line for line in result.output.splitlines() if line and not line.startswith(" ")] == [
        *STAGES,
        "retry",
        "advisory",
    ]
    assert "Dead(retry_budget_exhausted)" in result.output


def test_whoever_asks_what_a_stage_reads_is_told_by_the_same_table(stream_settings: StreamSettings) -> None:
    printed = {row["stage"]: row for row in json.loads(CliRunner().invoke(stages, ["--json"]).output)}
    for stage in STAGES:
        for partition, subject in enumerate(printed[stage]["filter_subjects"]):
            assert f"{STAGE_SUBJECT[stage]}.{partition}.*" == subject
            assert printed[stage]["streams"] == [stage_stream(stage, partition, stream_settings)]
