"""The settings: one frozen tree, read once from the environment and judged as a whole before any socket opens.

This module is the only reader of the process's environment.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ops.settings_table import TABLE
from ops.settings_tree import Settings, tree
from ops.settings_types import SecretText, Service, Variable, shown, verifies_server
from ops.tls import plain_http_fault
from schemas.canonical import canonical_any, sha256_hex
from schemas.registry import PUBLISHED, readable
from streams.budgets import unspendable

__all__ = ["Service", "Settings", "SettingsError", "environment", "load", "settings_hash", "unknown_variables"]

_PACKAGED_POLICIES = Path(__file__).resolve().parent.parent / "policies"
_PLACES = {"http_host", "http_port", "admin_host", "admin_port", "edge_workers", "embedded_user", "log_level"} | {
    *("worm_s3", "witness_public_key_file"),
    *("tls", "ca_file", "client_cert_file", "agent_key_file", "break_glass_public_key_file"),
}

_IN_DATA_DIR = {
    "FG_BREAK_GLASS_FILE": "break-glass.json",
    "FG_WORM_DIR": "worm",
    "FG_SIGNING_KEY_FILE": "signing-key.pem",
    "FG_KEYRING_FILE": "keyring.json",
    "FG_CHECKPOINT_SECRET_FILE": "checkpoint-secret",
}


class SettingsError(Exception):
    """The environment does not describe a configuration. The message lists every fault, one a line."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("the configuration is not usable:\n" + "\n".join(f"  - {fault}" for fault in faults))
        self.faults = tuple(faults)


def environment() -> Mapping[str, str]:
    """The process's own environment."""
    return os.environ  # noqa: TID251  (the one reader)


def load(environ: Mapping[str, str], need: Service | None = None) -> Settings:
    """Return the settings `environ` describes, with everything `need` cannot do without.

    An absent or empty variable takes its default. Raises SettingsError listing every fault.
    """
    values, faults = _values(environ)
    faults += _missing(values, need)
    settings = tree(values)
    # A value that did not parse has been replaced by its default: only what did parse is judged together.
    found = [fault for part in _judged(settings) for fault in part.faults()]
    found += _unread(settings) + unspendable(settings.retry)
    if settings.env == "prod":
        found += _unproven(settings, need)
    plain_http = plain_http_fault(settings.http_host, settings.tls) if need in {Service.EDGE, Service.UP} else None
    if plain_http:
        found.append(plain_http)
    faults += found
    if faults:
        raise SettingsError(faults)
    return settings


def settings_hash(settings: Settings) -> str:
    """The `config_hash`: sha256 hex over every effective value that says how, not where, events are handled.

    Secrets, URLs, paths and addresses are left out, so that two hosts set alike have the same hash.
    """
    return sha256_hex(canonical_any(_behaviour(asdict(settings))))


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """One warning for each `FG_` variable nobody reads, with the nearest name somebody does."""
    return [_unknown(name) for name in sorted(environ) if name.startswith("FG_") and name not in TABLE]


def effective(environ: Mapping[str, str]) -> list[tuple[Variable, str, str]]:
    """Each variable with its effective value as a person may see it, and where the value comes from."""
    values, _faults = _values(environ)
    return [
        (variable, shown(variable, values[name]), "environment" if environ.get(name) else "default")
        for name, variable in TABLE.items()
    ]


def _values(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, variable in TABLE.items():
        raw = environ.get(name) or ""
        try:
            values[name] = variable.parse(raw) if raw else _default(variable)
        except ValueError as problem:
            faults.append(f"{name} {problem}")
            values[name] = _default(variable)
    values["FG_POLICY_DIR"] = values["FG_POLICY_DIR"] or _PACKAGED_POLICIES
    for name, file in _IN_DATA_DIR.items():
        values[name] = values[name] or values["FG_DATA_DIR"] / file
    return values, faults


def _default(variable: Variable) -> Any:
    return SecretText() if variable.default is None else variable.parse(variable.default)


def _missing(values: Mapping[str, Any], need: Service | None) -> list[str]:
    return [
        f"{name} is required by `{need}`: {variable.description}"
        for name, variable in TABLE.items()
        if need in variable.required_by and not values[name]
    ]


def _judged(settings: Settings) -> tuple[Any, ...]:
    return (
        settings.edge,
        settings.streams,
        settings.postgres,
        settings.evidence,
        settings.rates,
        settings.queues,
        settings.tls,
    )


def _unread(settings: Settings) -> list[str]:
    """A writer may only write what is published and every reader's edge takes."""
    writer = settings.schema_writer
    if writer in PUBLISHED and readable(writer, settings.edge.schema_versions):
        return []
    return [f"FG_DP_SCHEMA_WRITER is {writer}, which none of FG_DP_SCHEMA_READERS reads"]


def _unproven(settings: Settings, need: Service | None) -> list[str]:
    """What `prod` refuses: every default that is good enough for one machine only."""
    wanted = [("FG_OPA_ENFORCE must be 1", settings.opa_enforce)]
    if need is Service.EDGE:
        wanted += [
            ("FG_TLS_CERT_FILE and FG_TLS_KEY_FILE must be set", settings.tls.served),
            ("FG_TLS_CLIENT_CA_FILE must be set", bool(settings.tls.client_ca_file)),
            ("FG_DP_SIGNATURE_MODE must be required", settings.edge.signature_required),
            ("FG_REDIS_URL must begin with rediss://", settings.redis_url.startswith("rediss://")),
            ("FG_REDIS_URL must leave the server's certificate verified", verifies_server(settings.redis_url)),
        ]
    return [f"{words} when FG_ENV is prod" for words, holds in wanted if not holds]


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, TABLE, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"nothing reads {name}{hint}"


def _behaviour(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: _behaviour(value)
        for key, value in node.items()
        if key not in _PLACES and not isinstance(value, SecretText | Path)
    }
