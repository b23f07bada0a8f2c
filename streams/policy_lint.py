"""What no rule may do, found in the syntax tree before a rule is run.

A decision must follow from the rules and the event alone, so that it can be reached again from the
evidence: built-ins that look at the world are refused. So is a rule that depends on itself, which
Rego forbids and the compiled form would follow until the process dies.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

Dotted = tuple[str, ...]

IMPURE = frozenset({"http.send", "net.lookup_ip_addr", "opa.runtime", "rand.intn", "time.now_ns", "uuid.rfc4122"})
_REFERENCES = ("Var", "RefDot", "RefBrack")


class Reference(NamedTuple):
    """The names a reference spells out from its root to its first computed part, and the parts that are computed."""

    path: Dotted
    computed: list[Any]


def faults_of(modules: list[dict[str, Any]]) -> list[str]:
    """Each fault of the parsed modules as a sentence; empty means none was found."""
    rules: dict[Dotted, set[Dotted]] = {}
    called: set[str] = set()
    for module in modules:
        tree = module["ast"]
        source = module["source"]["contents"].encode()
        package = reference_of(tree["package"]["refr"]).path
        roots = dict(_import(one, source) for one in tree["imports"]) | {"data": ()}
        for rule in tree["rules"]:
            head = head_of(rule)
            (name, *_), computed = reference_of(head["refr"])
            parts = [{**head, "refr": computed}, rule.get("Spec", {}).get("bodies")]
            local = set(_declared(parts, source)) | {path[0] for path in _mentions(head.get("args"))}
            mentioned = rules.setdefault((*package, name), set())
            for path in _mentions(parts):
                called.add(".".join(path))
                if path[0] not in local:
                    mentioned.add((*roots.get(path[0], (*package, path[0])), *path[1:]))
    found = [f"the built-in {name} is not allowed: a decision depends on the event alone" for name in called & IMPURE]
    return sorted(found + [f"the rule data.{'.'.join(name)} depends on itself" for name in _cyclic(rules)])


def head_of(rule: dict[str, Any]) -> dict[str, Any]:
    """Where the syntax tree of a rule says what it is called."""
    head: dict[str, Any] = rule.get("Default") or next(iter(rule["Spec"]["head"].values()))
    return head


def _import(node: dict[str, Any], source: bytes) -> tuple[str, Dotted]:
    """The name an import gives, and what it stands for below `data`."""
    path = reference_of(node["refr"]).path
    name = _spelled(node["as"], source) if node.get("as") else path[-1]
    return name, path[1:] if path[0] == "data" else path


def _spelled(span: dict[str, int], source: bytes) -> str:
    return source[span["start"] : span["end"]].decode()


def reference_of(node: dict[str, Any]) -> Reference:
    """Read a reference. Its path is empty when it begins with something computed."""
    kind, value = next(iter(node.items()))
    if kind == "Var":
        return Reference((value["value"],), [])
    if kind not in _REFERENCES:
        return Reference((), [node])
    path, computed = reference_of(value["refr"])
    index = {"String": {"value": value["field"][1]}} if kind == "RefDot" else value["index"]
    literal = index.get("String") or index.get("RawString")
    if literal is None:
        return Reference(path, [*computed, index])
    return Reference(path if computed else (*path, literal["value"]), computed)


def _mentions(node: Any) -> Iterator[Dotted]:
    """The path of every reference below a node, local names and calls included."""
    if isinstance(node, list):
        for item in node:
            yield from _mentions(item)
    elif isinstance(node, dict):
        for kind, value in node.items():
            if kind in _REFERENCES:
                path, computed = reference_of({kind: value})
                if path:
                    yield path
                yield from _mentions(computed)
            else:
                yield from _mentions(value)


def _declared(node: Any, source: bytes) -> Iterator[str]:
    """The names that `some`, `every` and `:=` make local somewhere below a node: rules of that name are not meant."""
    if isinstance(node, list):
        for item in node:
            yield from _declared(item, source)
    elif isinstance(node, dict):
        for kind, value in node.items():
            if kind == "SomeVars":
                yield from (_spelled(span, source) for span in value["vars"])
            elif kind == "Every":
                yield from (_spelled(span, source) for span in (value["key"], value["value"]) if span)
            elif kind == "AssignExpr" and value["op"] == "ColEq":
                yield from (path[0] for path in _mentions(value["lhs"]))
            yield from _declared(value, source)


def _cyclic(rules: dict[Dotted, set[Dotted]]) -> list[Dotted]:
    """The rules that reach themselves. A path that ends early reaches every rule below it."""
    edges = {
        name: {other for other in rules for path in mentioned if other[: len(path)] == path[: len(other)]}
        for name, mentioned in rules.items()
    }
    return [name for name in rules if name in _reached_from(name, edges)]


def _reached_from(start: Dotted, edges: dict[Dotted, set[Dotted]]) -> set[Dotted]:
    reached: set[Dotted] = set()
    todo = [start]
    while todo:
        fresh = edges[todo.pop()] - reached
        reached |= fresh
        todo += fresh
    return reached
