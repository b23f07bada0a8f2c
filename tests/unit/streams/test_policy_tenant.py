"""What a tenant adds to the shipped rules can only deny more."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import regorus
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codes import PolicyCode
from streams.policy import ENTRY_POINT, NO_RULE, EmbeddedPolicy, read_answer
from streams.policy_files import read_policy
from tests.unit.streams.test_policy import json_value, payload

SHIPPED = Path(__file__).parents[3] / "policies"
NAMES = (
    *("denied_program_directories", "denied_programs", "protected_directories", "protected_files"),
    *("denied_egress_ports", "denied_ranges", "limits"),
    *("allowed_egress_ports", "internal_ranges", "package_managers", "patterns", "denials", "faults"),
)
LIMITS = ("failed_logins", "logins_per_minute", "egress_bytes")
MALFORMED: tuple[object, ...] = (
    *(None, [], "text", 1, True, False),
    {"denied_programs": "nmap"},
    {"denied_programs": [1]},
    {"denied_programs": {"a": "b"}},
    {"denied_programs": [""]},
    {"denied_programs": ["a"] * 251},
    {"denied_egress_ports": ["22"]},
    {"denied_egress_ports": {"22": 22}},
    {"denied_egress_ports": [1.5]},
    {"denied_egress_ports": [1] * 251},
    {"denied_ranges": ["the internet"]},
    {"denied_ranges": "10.0.0.0/8"},
    {"denied_ranges": [1]},
    {"limits": 1},
    {"limits": []},
    {"limits": {"egress_bytes": "none"}},
    {"limits": {"egress_bytes": -1}},
    {"limits": {"nobody_knows": 1}},
)
some_text = st.sampled_from(["/usr/", "bash", "10.0.0.0/8", "203.0.113.0/24", "/etc/passwd", "", "C:\\Windows\\"])
own_data = st.dictionaries(
    st.sampled_from(NAMES),
    st.lists(some_text | st.integers(0, 70_000), max_size=4)
    | st.dictionaries(st.sampled_from((*LIMITS, "nobody_knows")), st.integers(-5, 2**40) | json_value, max_size=3)
    | json_value,
    max_size=6,
)


@pytest.fixture(scope="module")
def shipped() -> EmbeddedPolicy:
    return EmbeddedPolicy.load(SHIPPED)


@pytest.fixture(scope="module")
def interpreter() -> "regorus.Engine":
    files = read_policy(SHIPPED)
    engine = regorus.Engine()
    for name, text in files.modules:
        engine.add_policy(name, text)
    engine.add_data_json(files.data)
    return engine


@settings(max_examples=80, deadline=None)
@given(fields=payload, data=own_data)
def test_no_data_of_a_tenant_lets_an_event_pass_that_was_denied_without_it(
    shipped: EmbeddedPolicy, fields: dict[str, Any], data: dict[str, Any]
) -> None:
    event = {"event": {"payload": fields}}
    without = asyncio.run(shipped.evaluate(event))
    with_it = asyncio.run(shipped.evaluate(event | {"tenant": data}))
    if without.code is not PolicyCode.POLICY_ALLOW:
        assert with_it.code is not PolicyCode.POLICY_ALLOW
    if with_it.code is PolicyCode.POLICY_DENY:
        assert set(without.reasons) <= set(with_it.reasons)


@settings(max_examples=80, deadline=None)
@given(fields=payload, data=own_data)
def test_the_compiled_rules_agree_with_the_interpreted_ones_about_data_of_a_tenant(
    shipped: EmbeddedPolicy, interpreter: "regorus.Engine", fields: dict[str, Any], data: dict[str, Any]
) -> None:
    document = {"event": {"payload": fields}, "tenant": data}
    interpreter.set_input_json(json.dumps(document))
    result = interpreter.eval_rule(ENTRY_POINT)
    expected = NO_RULE if result is None else read_answer(json.dumps(result))
    assert asyncio.run(shipped.evaluate(document)) == expected


@pytest.mark.parametrize("data", MALFORMED)
async def test_data_that_cannot_be_meant_denies_every_event(shipped: EmbeddedPolicy, data: object) -> None:
    answer = await shipped.evaluate({"event": {"payload": {"kind": "log.line", "line": ""}}, "tenant": data})
    assert answer == (PolicyCode.POLICY_DENY, ("tenant.malformed_data",))


async def test_no_data_and_an_empty_object_are_the_same(shipped: EmbeddedPolicy) -> None:
    event = {"event": {"payload": {"kind": "log.line", "line": ""}}}
    assert await shipped.evaluate(event) == await shipped.evaluate(event | {"tenant": {}})


async def test_lists_as_long_as_they_may_be_are_within_an_evaluation(shipped: EmbeddedPolicy) -> None:
    texts = ("denied_programs", "denied_program_directories", "protected_files", "protected_directories")
    data = {name: [f"C:\\Place {number}\\" for number in range(250)] for name in texts} | {
        "denied_ranges": [f"100.{number}.0.0/16" for number in range(250)],
        "denied_egress_ports": list(range(10_000, 10_250)),
        "limits": dict.fromkeys(LIMITS, 10**9),
    }
    for fields in (
        {"kind": "process.exec", "path": "/usr/bin/ls"},
        {"kind": "file.change", "path": "/srv/x"},
        {"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "203.0.113.1", "destination_port": 443},
        {"kind": "auth.login", "user": "ana"},
    ):
        answer = await shipped.evaluate({"event": {"payload": fields}, "tenant": data})
        assert answer.code is PolicyCode.POLICY_ALLOW, fields
