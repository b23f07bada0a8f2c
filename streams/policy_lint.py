"""What no rule may do, found in the syntax tree before a rule is run.

A decision must follow from the rules and the event alone, so that it can be reached again from the
evidence: built-ins that look at the world are refused. So is a rule that depends on itself, which
Rego forbids and the compiled form would follow until the process dies.
"""

from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]

IMPURE = frozenset({"http.send", "net.lookup_ip_addr", "opa.runtime", "rand.intn", "time.now_ns", "uuid.rfc4122"})
_RULE_HEADS = ("Compr", "Set", "Func")
_CHAINS = ("RefDot", "RefBrack")


def faults_of(modules: list[dict[str, Any]]) -> list[str]:
    """Each fault of the parsed modules as a sentence; empty means none was found."""
    rules: dict[Path, set[Path]] = {}
    calls: set[str] = set()
    for module in modules:
        tree = module["ast"]
        package = _static_path(tree["package"]["refr"])
        aliases = dict(_alias(one, module["source"]["contents"]) for one in tree["imports"])
        for rule in tree["rules"]:
            mentions = rules.setdefault((*package, _rule_name(rule)), set())
            for kind, path in _references(rule):
                calls |= {".".join(path)} if kind == "Call" else set()
                root, *rest = path
                mentions.add(tuple(rest) if root == "data" else (*aliases.get(root, (*package, root)), *rest))
    found = [f"the built-in {name} is not allowed: a decision depends on the event alone" for name in calls & IMPURE]
    return sorted(found + [f"the rule data.{'.'.join(name)} depends on itself" for name in _cyclic(rules)])


def _static_path(node: dict[str, Any]) -> Path:
    """The names of a reference up to its first part that is not a literal; empty when it does not begin with a name."""
    (kind, value), *_ = node.items()
    if kind == "Var":
        return (value["value"],)
    if kind not in _CHAINS:
        return ()
    before = _static_path(value["refr"])
    if kind == "RefDot":
        return (*before, value["field"][1])
    literal = value["index"].get("String") or value["index"].get("RawString")
    return (*before, literal["value"]) if literal else before


def _alias(imported: dict[str, Any], text: str) -> tuple[str, Path]:
    """The name an import gives, and what it stands for below `data`."""
    path = _static_path(imported["refr"])
    span = imported.get("as")
    name = text.encode()[span["start"] : span["end"]].decode() if span else path[-1]
    return name, path[1:] if path[0] == "data" else path


def _rule_name(rule: dict[str, Any]) -> str:
    body = rule.get("Default") or next(
        rule["Spec"]["head"][head] for head in _RULE_HEADS if head in rule["Spec"]["head"]
    )
    return _static_path(body["refr"])[0]


def _references(node: Any) -> Iterator[tuple[str, Path]]:
    """Every reference below a node as ("Call" or "", path); the rule's own head is left out."""
    if isinstance(node, list):
        for item in node:
            yield from _references(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in _RULE_HEADS and "refr" in value:
                yield from _references({name: part for name, part in value.items() if name != "refr"})
            elif key == "Call":
                yield "Call", _static_path(value["fcn"])
                yield from _references(value["params"])
            elif key == "Var" or key in _CHAINS:
                yield "", _static_path({key: value})
                yield from _indexes(value)
            else:
                yield from _references(value)


def _indexes(chain: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """The references inside the brackets of a reference."""
    while "refr" in chain:
        yield from _references(chain.get("index"))
        (chain,) = chain["refr"].values()


def _cyclic(rules: dict[Path, set[Path]]) -> set[Path]:
    """The rules that reach themselves. A reference with an open end reaches everything below what it spells out."""
    edges = {
        name: {other for other in rules for path in mentions if other[: len(path)] == path[: len(other)]}
        for name, mentions in rules.items()
    }
    found = set()
    for start in edges:
        reached: set[Path] = set()
        todo = list(edges[start])
        while todo:
            name = todo.pop()
            if name not in reached:
                reached.add(name)
                todo += edges[name]
        if start in reached:
            found.add(start)
    return found
