"""The example events are what their script writes, and the shipped policies decide them as it says."""

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from schemas.ids import is_event_id
from streams.features import KINDS, features_of
from streams.policy import EmbeddedPolicy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make_events() -> ModuleType:
    spec = spec_from_file_location("make_events", ROOT / "examples" / "make_events.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_its_script_writes(make_events: ModuleType) -> None:
    assert (ROOT / "examples" / "events.ndjson").read_text() == make_events.ndjson()


async def test_every_example_is_decided_as_its_script_says(make_events: ModuleType) -> None:
    policy = EmbeddedPolicy.load(ROOT / "policies")
    for example in make_events.examples():
        answer = await policy.evaluate({"event": example.event, "features": features_of(example.event)})
        assert answer == (example.policy_code, example.reasons), example.event


def test_every_rule_that_ships_denies_an_example_and_every_kind_allows_one(make_events: ModuleType) -> None:
    rules = {
        name
        for path in (ROOT / "policies").glob("*.rego")
        if not path.name.endswith("_test.rego")
        for name in re.findall(r'^denials contains "([a-z_.]+)"', path.read_text(), flags=re.MULTILINE)
    }
    patterns = json.loads((ROOT / "policies" / "data.json").read_text())["fg"]["patterns"]["suspicious_lines"]
    examples = make_events.examples()
    assert {reason for example in examples for reason in example.reasons} == rules | {
        f"log.{name}" for name in patterns
    }
    assert {e.event["payload"]["kind"] for e in examples if e.policy_code == "POLICY_ALLOW"} == KINDS


def test_the_lines_leave_to_send_what_send_fills_in(make_events: ModuleType) -> None:
    for example in make_events.examples():
        assert set(example.event) - {"event_id"} == {"agent_id", "schema_version", "source", "payload"}
        assert is_event_id(example.event["agent_id"])
        assert is_event_id(example.event.get("event_id", "unnamed"))


def test_the_walk_through_tells_the_truth(make_events: ModuleType) -> None:
    text = (ROOT / "examples" / "README.md").read_text()
    examples = make_events.examples()
    named = {example.event["event_id"]: example for example in examples if "event_id" in example.event}
    told = dict(re.findall(r"^\| `(demo-\w+)` \| deny \| (?:`([a-z_.]+)`)?", text, flags=re.MULTILINE))
    assert {name: (told[name],) if told[name] else () for name in told} == {
        name: example.reasons for name, example in named.items()
    }
    allowed = sum(example.policy_code == "POLICY_ALLOW" for example in examples)
    assert f"{len(examples)} events of seven agents" in text
    assert len({example.event["agent_id"] for example in examples}) == 7
    assert f"{allowed} events are\nallowed, {len(examples) - allowed} denied" in text
