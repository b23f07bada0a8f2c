"""A new version of the envelope goes live (docs/schema-versions.md): two edges, readers first, writers last.

2.0 stands for a version to come: published here with the fields of 1.0.
"""

import copy
import dataclasses
from typing import Any

import pytest

from schemas import registry
from tests.contract.conftest import RunEdge, Sender
from tests.contract.running import SETTINGS
from tests.contract.wire import Answer

OLD = SETTINGS
BOTH = dataclasses.replace(SETTINGS, schema_versions=("1.0", "2.0"))
NEW = dataclasses.replace(SETTINGS, schema_versions=("2.0",))


@pytest.fixture(autouse=True)
def _published(monkeypatch: pytest.MonkeyPatch) -> None:
    schema: Any = copy.deepcopy(registry.PUBLISHED["1.0"])
    schema["$id"] = "urn:frostgate:envelope:2.0"
    schema["properties"]["schema_version"]["pattern"] = r"^2\.(0|[1-9][0-9]{0,5})$"
    monkeypatch.setitem(registry.PUBLISHED, "2.0", schema)
    assert [settings.faults() for settings in (OLD, BOTH, NEW)] == [[], [], []]


async def offered(sender: Sender, version: str, event_id: str) -> Answer:
    return await sender.client.ingest(sender.body(schema_version=version, event_id=event_id))


async def verdicts(sender: Sender, event_id: str) -> list[str]:
    """How an edge takes an event of each version: its status or its code."""
    answers = [await offered(sender, version, f"{event_id}-{version}") for version in ("1.0", "2.0")]
    return ["202" if answer.status == 202 else answer.code for answer in answers]


async def test_while_edges_learn_to_read_writers_of_the_old_version_notice_nothing(
    sender: Sender, run_edge: RunEdge
) -> None:
    async with run_edge(settings=OLD) as old, run_edge(settings=BOTH) as both:
        at_old, at_both = sender.at(old), sender.at(both)
        assert await verdicts(at_old, "early") == ["202", "SCHEMA_VERSION_UNSUPPORTED"]
        assert await verdicts(at_both, "late") == ["202", "202"]
        body = sender.body(event_id="either-edge")
        first = await at_old.client.ingest(body)
        again = await at_both.client.ingest(body)
        assert (again.status, again.body) == (first.status, first.body) == (202, first.body)
        assert again.headers["idempotency-replayed"] == "true"


async def test_a_writer_switched_too_early_loses_nothing(sender: Sender, run_edge: RunEdge) -> None:
    async with run_edge(settings=OLD) as old, run_edge(settings=BOTH) as both:
        body = sender.body(schema_version="2.0")
        assert (await sender.at(old).client.ingest(body)).code == "SCHEMA_VERSION_UNSUPPORTED"
        accepted = await sender.at(both).client.ingest(body)
        assert accepted.status == 202
        assert "idempotency-replayed" not in accepted.headers, "the refusal had no effect"


async def test_once_every_edge_reads_both_the_writers_switch_and_may_switch_back(
    sender: Sender, run_edge: RunEdge
) -> None:
    async with run_edge(settings=BOTH) as one, run_edge(settings=BOTH) as other:
        for number, version in enumerate(("1.0", "2.0", "1.0", "2.0")):
            for edge in (one, other):
                assert (await offered(sender.at(edge), version, f"evt-{number}-{edge.port}")).status == 202
        listed = (await sender.at(one).client.ask("GET", "/v1/limits")).document["schema_versions"]
        assert listed == ["1.0", "2.0"]


async def test_at_last_the_old_version_is_read_by_nobody(sender: Sender, run_edge: RunEdge) -> None:
    async with run_edge(settings=NEW) as edge:
        assert await verdicts(sender.at(edge), "evt") == ["SCHEMA_VERSION_UNSUPPORTED", "202"]


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.9"])
async def test_a_later_minor_needs_no_roll_out_at_all(sender: Sender, run_edge: RunEdge, version: str) -> None:
    async with run_edge(settings=OLD) as old:
        here = sender.at(old)
        answer = await here.client.ingest(here.body(schema_version=version, added={"by": ["a", "minor"]}))
        assert answer.status == 202
