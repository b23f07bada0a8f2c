"""The embedded policy: what it decides, what it refuses to load, and that nothing makes it fail open."""

import asyncio
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import regorus
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codes import PolicyCode
from schemas.decision import PolicyAnswer
from streams.policy import ENTRY_POINT, NO_ANSWER, NO_RULE, EmbeddedPolicy, read_answer
from streams.policy_files import PolicyError, read_policy

SHIPPED = Path(__file__).parents[3] / "policies"
SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
FIELDS = {
    "auth.login": ("user", "outcome", "source_ip", "window_s", "failed_count", "login_count", "countries"),
    "process.exec": ("path", "args"),
    "network.flow": ("source_ip", "destination_ip", "destination_port", "bytes_out"),
    "file.change": ("path", "action", "actor", "sha256_before", "sha256_after"),
    "log.line": ("path", "offset", "line"),
    "nobody.knows": ("path",),
}
telling = st.sampled_from(
    [
        *(10, 31, 445, 2**40, 1e300, ["DE", "VN"], ["-enc", "QUJDREVGR0hJSktMTU5PUA=="]),
        *("10.0.0.1", "203.0.113.9", "198.51.100.2", "::ffff:198.51.100.2", "fe80::1", "success"),
        *("/tmp/x", "/usr/../tmp/x", "C:\\Windows\\Temp\\mimikatz.exe", "/bin/bash", "/etc/passwd", "${jndi:"),
    ]
)
json_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | telling,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
payload = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda kind: st.fixed_dictionaries({"kind": st.just(kind)}, optional=dict.fromkeys(FIELDS[kind], json_value))
)


@pytest.fixture(scope="module")
def shipped() -> EmbeddedPolicy:
    return EmbeddedPolicy.load(SHIPPED)


@pytest.fixture
def rules(tmp_path: Path) -> Callable[..., Path]:
    """Write modules, given as name="source", and a data document into a directory."""

    def write(data: Any = None, **modules: str) -> Path:
        for name, source in modules.items():
            (tmp_path / f"{name}.rego").write_text(source)
        if data is not None:
            (tmp_path / "data.json").write_text(json.dumps(data))
        return tmp_path

    return write


def event(**fields: Any) -> dict[str, Any]:
    return {"event": {"payload": fields}}


async def test_a_kind_without_a_rule_is_denied(shipped: EmbeddedPolicy) -> None:
    assert await shipped.evaluate(event(kind="usb.inserted")) == PolicyAnswer(PolicyCode.POLICY_NO_RULE_DENY, ())


@pytest.mark.parametrize(
    "document", [{}, {"event": None}, {"event": []}, {"event": {"payload": "auth.login"}}, event()]
)
async def test_an_event_without_a_kind_is_denied(shipped: EmbeddedPolicy, document: dict[str, Any]) -> None:
    assert await shipped.evaluate(document) == NO_RULE


@pytest.mark.parametrize(
    ("denied", "reasons"),
    [
        ({"kind": "auth.login", "user": "a", "failed_count": "99"}, ("auth.malformed",)),
        ({"kind": "auth.login", "user": "a", "login_count": 31, "window_s": 0}, ("auth.impossible_login_rate",)),
        ({"kind": "process.exec", "path": "//tmp/x"}, ("process.malformed",)),
        ({"kind": "process.exec", "path": "/usr/bin/../../tmp/x"}, ("process.malformed",)),
        ({"kind": "process.exec", "path": "C:/Users\\Public\\a.exe"}, ("process.denied_path",)),
        (
            {"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "::ffff:198.51.100.2"},
            ("network.malformed",),
        ),
        (
            {"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "0:0:0:0:0:ffff:c633:6402"},
            ("network.malformed",),
        ),
        ({"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "010.0.0.1"}, ("network.malformed",)),
        (
            {"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "2001:DB8:BAD::1"},
            ("network.denied_range", "network.private_to_public"),
        ),
        ({"kind": "file.change", "path": "/etc/passwd"}, ("file.tampered_system_file",)),
        ({"kind": "file.change", "path": "/ETC/passwd", "actor": "/tmp/dpkg"}, ("file.tampered_system_file",)),
        (
            {"kind": "file.change", "path": "/etc/passwd", "sha256_before": "", "sha256_after": ""},
            ("file.tampered_system_file",),
        ),
        ({"kind": "file.change", "path": "/etc/passwd/"}, ("file.tampered_system_file",)),
        ({"kind": "file.change", "path": "etc/passwd"}, ("file.malformed",)),
        ({"kind": "process.exec", "path": "/srv/hydra/"}, ("process.denied_tool",)),
        (
            {"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "64:ff9b::c633:6402"},
            ("network.malformed",),
        ),
        (
            {"kind": "network.flow", "source_ip": "0.0.0.0", "destination_ip": "203.0.113.9", "destination_port": 6881},
            ("network.private_to_public",),
        ),
        ({"kind": "log.line"}, ("log.malformed",)),
    ],
)
async def test_no_spelling_of_a_value_slips_past_its_rule(
    shipped: EmbeddedPolicy, denied: dict[str, Any], reasons: tuple[str, ...]
) -> None:
    assert await shipped.evaluate({"event": {"payload": denied}}) == PolicyAnswer(PolicyCode.POLICY_DENY, reasons)


@pytest.mark.parametrize(
    "allowed",
    [
        {"kind": "auth.login", "user": "a"},
        {"kind": "auth.login", "user": "a", "login_count": 31, "window_s": 120},
        {"kind": "auth.login", "user": "a", "countries": ["DE", "DE"]},
        {"kind": "process.exec", "path": "/srv/..data/run"},
        {"kind": "network.flow", "source_ip": "10.0.0.1", "destination_ip": "192.168.7.7", "destination_port": 445},
        {"kind": "file.change", "path": "/usr/bin/ls", "sha256_before": SHA256, "sha256_after": SHA256},
        {"kind": "log.line", "line": ""},
    ],
)
async def test_what_no_rule_objects_to_is_allowed(shipped: EmbeddedPolicy, allowed: dict[str, Any]) -> None:
    assert await shipped.evaluate({"event": {"payload": allowed}}) == PolicyAnswer(PolicyCode.POLICY_ALLOW, ())


@settings(max_examples=150, deadline=None)
@given(document=st.dictionaries(st.text(), json_value) | payload.map(lambda fields: {"event": {"payload": fields}}))
def test_every_document_gets_an_answer_that_only_an_allow_allows(
    shipped: EmbeddedPolicy, document: dict[str, Any]
) -> None:
    answer = asyncio.run(shipped.evaluate(document))
    assert isinstance(answer, PolicyAnswer)
    assert isinstance(answer.code, PolicyCode)
    assert answer.reasons == () or answer.code is PolicyCode.POLICY_DENY


@settings(max_examples=150, deadline=None)
@given(fields=payload)
def test_the_compiled_rules_agree_with_the_interpreted_ones(
    shipped: EmbeddedPolicy, interpreter: "regorus.Engine", fields: dict[str, Any]
) -> None:
    document = {"event": {"payload": fields}}
    interpreter.set_input_json(json.dumps(document))
    result = interpreter.eval_rule(ENTRY_POINT)
    expected = NO_RULE if result is None else read_answer(json.dumps(result))
    assert asyncio.run(shipped.evaluate(document)) == expected


@pytest.fixture(scope="module")
def interpreter() -> "regorus.Engine":
    files = read_policy(SHIPPED)
    engine = regorus.Engine()
    for name, text in files.modules:
        engine.add_policy(name, text)
    engine.add_data_json(files.data)
    return engine


@pytest.mark.parametrize(
    "result",
    [
        '"<undefined>"',
        "null",
        "true",
        "[]",
        "{}",
        '{"allow": 1}',
        '{"allow": "true"}',
        '{"reasons": []}',
        '{"allow": true, "reasons": ["contradiction"]}',
        '{"allow": true, "because": "extra"}',
        '{"allow": false, "reasons": "text"}',
        '{"allow": false, "reasons": [1]}',
        '{"allow": false, "reasons": [""]}',
        '{"allow": false, "reasons": ["\\ud800"]}',
        '{"allow": true',
        json.dumps({"allow": False, "reasons": ["x" * 129]}),
        json.dumps({"allow": False, "reasons": ["x"] * 65}),
    ],
)
def test_an_answer_of_another_shape_is_a_deny(result: str) -> None:
    assert read_answer(result) == NO_ANSWER


def test_reasons_come_sorted_and_once() -> None:
    assert read_answer('{"allow": false, "reasons": ["b", "a", "b"]}').reasons == ("a", "b")
    assert read_answer('{"allow": false}') == PolicyAnswer(PolicyCode.POLICY_DENY, ())
    assert read_answer('{"allow": true}') == PolicyAnswer(PolicyCode.POLICY_ALLOW, ())


async def test_an_engine_that_fails_denies_and_decides_the_next_event(rules: Callable[..., Path]) -> None:
    endless = (
        'decision := {"allow": count([1 | some x in input.items; some y in input.items; x == y]) >= 0} if input.items'
    )
    policy = EmbeddedPolicy.load(rules(main=f"package fg.decision\n{endless}"))
    assert await policy.evaluate({"items": list(range(10))}) == PolicyAnswer(PolicyCode.POLICY_ALLOW, ())
    assert await policy.evaluate({"items": list(range(1_000))}) == NO_ANSWER
    assert await policy.evaluate({"items": "\ud800"}) == NO_ANSWER
    assert await policy.evaluate({"items": object()}) == NO_ANSWER
    assert await policy.evaluate({"items": [1]}) == PolicyAnswer(PolicyCode.POLICY_ALLOW, ())


async def test_a_result_that_depends_on_the_event_is_held_to_the_shape(rules: Callable[..., Path]) -> None:
    policy = EmbeddedPolicy.load(rules(main="package fg.decision\ndecision := input.answer"))
    assert await policy.evaluate({"answer": {"allow": True}}) == PolicyAnswer(PolicyCode.POLICY_ALLOW, ())
    assert await policy.evaluate({"answer": True}) == NO_ANSWER


def test_another_thread_gets_a_deny(shipped: EmbeddedPolicy, capfd: pytest.CaptureFixture[str]) -> None:
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(asyncio.run(shipped.evaluate(event(kind="log.line", line=""))))
    )
    thread.start()
    thread.join()
    assert answers == [NO_ANSWER]
    assert "panicked" in capfd.readouterr().err


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_an_order_to_stop_is_not_taken_for_a_failure(
    rules: Callable[..., Path], signal: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def set_input_json(self, _document: str) -> NoReturn:
            raise signal

    policy = EmbeddedPolicy.load(rules(main='package fg.decision\ndecision := {"allow": true}'))
    monkeypatch.setattr(policy, "_machine", Interrupted())
    with pytest.raises(signal):
        await policy.evaluate({})


DECISION = 'package fg.decision\ndecision := {"allow": true} if input.ok\n'
NEEDS_X = 'package fg.decision\ndecision := {"allow": true} if x\n'


@pytest.mark.parametrize(
    ("modules", "data", "fault"),
    [
        ({}, None, "no .rego file"),
        ({"main": "package fg.decision\ndecision := {"}, None, "main.rego:2"),
        ({"main": "package fg.decision\nother := 1"}, None, "not a valid rule path"),
        ({"main": "package fg.elsewhere\ndecision := 1"}, None, "not a valid rule path"),
        ({"main": "package fg.decision\ndecision := true"}, None, "must be an object"),
        ({"main": NEEDS_X + 'x := crypto.sha256("a")'}, None, "crypto.sha256"),
        ({"main": NEEDS_X + 'x := io.jwt.decode("a")'}, None, "io.jwt.decode"),
        ({"main": NEEDS_X + "x if { false; nobody.knows(1) }"}, None, "nobody.knows"),
        ({"main": DECISION + 'x := http.send({"url": "http://127.0.0.1"})'}, None, "http.send is not allowed"),
        ({"main": DECISION + "x := [t | t := time.now_ns()][0]"}, None, "time.now_ns is not allowed"),
        ({"main": DECISION + 'x[uuid.rfc4122("a")] := 1'}, None, "uuid.rfc4122 is not allowed"),
        ({"main": DECISION + 'default x := 1\nx := rand.intn("a", 3) if opa.runtime().y'}, None, "opa.runtime"),
        ({"main": "package fg.decision\ndecision := x\nx := decision"}, None, "data.fg.decision.x depends on itself"),
        ({"main": DECISION + "f(a) := f(a)\ny := f(1) if input.y"}, None, "data.fg.decision.f depends on itself"),
        (
            {"main": DECISION + "a := data.fg.far.b", "far": "package fg.far\nimport data.fg.decision as d\nb := d.a"},
            None,
            "data.fg.far.b depends on itself",
        ),
        ({"main": DECISION + "a := data.fg[input.which]"}, None, "data.fg.decision.a depends on itself"),
        ({"main": DECISION}, {"fg": {"decision": {"decision": {"allow": True}}}}, "conflict"),
        ({"main": DECISION}, ["allow"], "cannot be read"),
    ],
)
def test_rules_that_cannot_be_trusted_are_refused_at_load(
    rules: Callable[..., Path], modules: dict[str, str], data: Any, fault: str
) -> None:
    directory = rules(data=data, **modules)
    with pytest.raises(PolicyError, match=re.escape(fault)) as refused:
        EmbeddedPolicy.load(directory)
    assert "Stack backtrace" not in str(refused.value)


@pytest.mark.parametrize("name", ["data.yaml", "lists.json", "deeper/data.json"])
def test_data_that_would_not_be_read_is_refused(rules: Callable[..., Path], name: str) -> None:
    directory = rules(main=DECISION)
    (directory / "deeper").mkdir()
    (directory / name).write_text("{}")
    with pytest.raises(PolicyError, match=r"data belongs into data\.json"):
        read_policy(directory)


def test_a_rule_file_that_is_no_text_and_an_absent_directory_are_refused(rules: Callable[..., Path]) -> None:
    directory = rules(main=DECISION)
    (directory / "main.rego").write_bytes(b"package fg.decision # \xff")
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(directory)
    with pytest.raises(PolicyError, match=r"no \.rego file"):
        read_policy(directory / "absent")


def test_a_local_name_is_not_taken_for_the_rule_of_that_name(rules: Callable[..., Path]) -> None:
    main = """package fg.decision
import data.fg.shapes as s
decision := {"allow": count(found) == 0} if found := data.fg.kinds[input.kind].denials
name := s.name(input.name)
"""
    kind = """package fg.kinds["a.b"]
denials contains key if some key, value in data.lists[input.list]
name if { place := input.place; place == "here" }
place := lower(name) if name := input.names[_]
number if { some place; input.numbers[place] == 1; every name in input.places { number_of(name) > 1 } }
number_of(number) := number + 1
"""
    shapes = "package fg.shapes\nname(name) := lower(name)"
    EmbeddedPolicy.load(rules(main=main, kind=kind, shapes=shapes, data={"lists": {"x": {"y": 1}}}))


def test_the_hash_names_exactly_the_files_read(rules: Callable[..., Path]) -> None:
    directory = rules(main=DECISION, other="package fg.other", data={"a": 1})
    first = read_policy(directory).policy_hash
    (directory / ".hidden.rego").write_text("package hidden")
    (directory / "notes.txt").write_text("nothing")
    assert read_policy(directory).policy_hash == first
    seen = {first}
    for change in (
        lambda: (directory / "data.json").write_text('{"a": 2}'),
        lambda: (directory / "other.rego").write_text("package fg.other "),
        lambda: (directory / "other.rego").rename(directory / "another.rego"),
        (directory / "data.json").unlink,
        (directory / "another.rego").unlink,
    ):
        change()
        seen.add(read_policy(directory).policy_hash)
    assert len(seen) == 6


def test_a_byte_moved_from_name_to_content_or_between_files_changes_the_hash(tmp_path: Path) -> None:
    seen = set()
    for number, files in enumerate(
        ({"a.rego": "bc", "d.rego": ""}, {"a.rego": "b", "d.rego": "c"}, {"a.rego": "bcd.rego"})
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        for name, text in files.items():
            (directory / name).write_text(text)
        seen.add(read_policy(directory).policy_hash)
    assert len(seen) == 3


async def test_rules_changed_on_disk_are_told_and_never_used_without_a_restart(rules: Callable[..., Path]) -> None:
    directory = rules(main='package fg.decision\ndecision := {"allow": true}\n')
    policy = EmbeddedPolicy.load(directory)
    policy.look()
    assert (policy.notices, policy.findings) == ((), ())
    before = policy.policy_hash
    for change in ('package fg.decision\ndecision := {"allow": false}\n', "no rego", None):
        if change is None:
            (directory / "main.rego").unlink()
        else:
            (directory / "main.rego").write_text(change)
        policy.look()
        assert "restart" in policy.notices[0]
        assert await policy.evaluate({}) == PolicyAnswer(PolicyCode.POLICY_ALLOW, ())
        assert policy.policy_hash == before
    rules(main='package fg.decision\ndecision := {"allow": true}\n', main_test="package fg_test.main\n")
    policy.look()
    assert policy.notices == ()
    stopping = asyncio.Event()
    stopping.set()
    await policy.run(stopping)
