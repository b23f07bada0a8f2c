"""What a variable of the environment is: its name, its parser, its default, and how it may be shown."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from schemas.ids import SCHEMA_VERSION

MASK = "***"


class SecretText(str):
    """A string whose repr is a mask, so that no settings slice shows it, whoever prints the slice."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK) if self else "''"


class Service(StrEnum):
    """Who reads a variable; `load(environ, need=...)` asks for everything that one of them cannot do without."""

    UP = "up"
    EDGE = "edge"
    WORKER = "worker"
    MIGRATE = "migrate"
    CLIENT = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable. `parse` returns the value or raises ValueError saying what the value must be.

    `default` is the text that stands for an absent or empty variable, None when it follows from
    another variable (`default_note` says which) or when there is none.
    """

    name: str
    parse: Callable[[str], Any]
    default: str | None
    description: str
    services: tuple[Service, ...]
    unit: str = ""
    required_by: tuple[Service, ...] = ()
    secret: bool = False
    default_note: str = ""
    acted_on: bool = True
    """False: read and checked, and nothing in this version follows it; the documentation says so."""


def text(raw: str) -> str:
    return raw


def secret(raw: str) -> SecretText:
    return SecretText(raw)


def path(raw: str) -> Path:
    return Path(raw).expanduser().absolute()


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`."""

    def parse(raw: str) -> int:
        if raw.isascii() and raw.isdecimal() and least <= int(raw) <= most:
            return int(raw)
        raise ValueError(f"must be a whole number from {least} to {most}")

    return parse


def rate(raw: str) -> float:
    """A share above 0 and up to 1."""
    try:
        value = float(raw)
    except ValueError:
        value = 0.0
    if 0.0 < value <= 1.0:
        return value
    raise ValueError("must be a number above 0 and up to 1")


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw in allowed:
            return raw
        raise ValueError(f"must be one of: {', '.join(allowed)}")

    return parse


def flag(raw: str) -> bool:
    if raw in {"0", "1"}:
        return raw == "1"
    raise ValueError("must be 0 or 1")


def url(*schemes: str) -> Callable[[str], SecretText]:
    """A parser of URLs, which may carry a password and are therefore secrets to every printer."""

    def parse(raw: str) -> SecretText:
        try:
            parts = urlsplit(raw)
            named = bool(parts.hostname or parts.query or (parts.scheme == "unix" and parts.path))
            in_range = parts.port is None or parts.port > 0
        except ValueError:
            named = in_range = False
        if named and in_range and parts.scheme in schemes:
            return SecretText(raw)
        raise ValueError(f"must be a URL with a host, beginning with {' or '.join(f'{each}://' for each in schemes)}")

    return parse


def urls(*schemes: str) -> Callable[[str], SecretText]:
    """A parser of one URL or several with commas between, as NATS clients take them."""
    one = url(*schemes)

    def parse(raw: str) -> SecretText:
        for part in raw.split(","):
            one(part)
        return SecretText(raw)

    return parse


def verifies_server(redis_url: str) -> bool:
    """Whether the client checks whose certificate it is shown, as it does unless told otherwise."""
    told = parse_qs(urlsplit(redis_url).query, keep_blank_values=True)
    return told.get("ssl_cert_reqs", ["required"]) == ["required"] and "ssl_check_hostname" not in told


def rates_by_tier(raw: str) -> tuple[tuple[str, int], ...]:
    """A JSON object of plan tier to a number of events, as pairs in the order of the tiers' names."""
    problem = "must be a JSON object of plan tier to a whole number of events, each at least 1"
    try:
        tiers = json.loads(raw)
    except ValueError:
        raise ValueError(problem) from None
    if not isinstance(tiers, dict) or not all(type(value) is int and value >= 1 for value in tiers.values()):
        raise ValueError(problem)
    return tuple(sorted(tiers.items()))


def versions(raw: str) -> tuple[str, ...]:
    """Schema versions with commas between, major.minor each."""
    named = tuple(raw.split(","))
    if all(SCHEMA_VERSION.fullmatch(each) for each in named) and len(set(named)) == len(named):
        return named
    raise ValueError("must be versions such as 1.0, with commas between")


def version(raw: str) -> str:
    """One schema version, major.minor."""
    if SCHEMA_VERSION.fullmatch(raw):
        return raw
    raise ValueError("must be a version such as 1.0")


def key_template(raw: str) -> str:
    """A key of the coordination store with both placeholders and no third."""
    rest = raw.replace("{tenant_id}", "", 1).replace("{lane}", "", 1)
    if "{tenant_id}" in raw and "{lane}" in raw and not set(rest) & set("{}"):
        return raw
    raise ValueError("must hold {tenant_id} and {lane} once each, and no other placeholder")


def shown(variable: Variable, value: object) -> str:
    """The value as a person may see it: a secret as a mask, a URL without its user and password."""
    if value in {"", None}:
        return ""
    if variable.secret:
        return MASK
    if isinstance(value, SecretText):
        return ",".join(_without_password(part) for part in value.split(","))
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return ",".join(value) if isinstance(value[0], str) else json.dumps(dict(value), separators=(",", ":"))
    return str(value)


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    user = f"{MASK}@" if "@" in parts.netloc else ""
    query = f"?{MASK}" if parts.query else ""
    return f"{parts.scheme}://{user}{host}{parts.path}{query}"
