"""What is noted about every event before it is decided: a small, closed set of facts.

A feature is a bool or one of a few short words, never a number of the event's own and never its
text, so that features can be counted, hashed into the evidence and shown to anybody.
docs/decisions.md lists them. Payload fields may hold any JSON value; a value of the wrong type
counts as absent.
"""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from schemas.decision import Features

KINDS = frozenset({"auth.login", "process.exec", "network.flow", "file.change", "log.line"})
SOURCE_CLASSES = {
    "identity": frozenset({"active-directory", "login", "okta", "pam", "sshd", "sudo", "vpn", "winlogon"}),
    "endpoint": frozenset({"auditd", "edr", "falco", "fim", "osquery", "sysmon"}),
    "network": frozenset({"firewall", "netflow", "suricata", "zeek"}),
    "log": frozenset({"journald", "log", "syslog"}),
}
PRIVILEGED_USERS = frozenset({"admin", "administrator", "root", "system"})
TEMPORARY_PLACES = ("/tmp/", "/var/tmp/", "/dev/shm/", "c:/windows/temp/", "c:/users/public/")  # noqa: S108  (names)
SYSTEM_PLACES = ("/bin/", "/boot/", "/etc/", "/lib/", "/lib64/", "/sbin/", "/usr/", "c:/windows/", "c:/program files/")
HOME_PLACES = ("/home/", "/root/", "/users/", "c:/users/")
PACKAGE_MANAGERS = frozenset(
    f"/usr/bin/{name}" for name in ("apk", "apt", "apt-get", "dnf", "dpkg", "pacman", "rpm", "yum", "zypper")
)
KNOWN_TOOLS = frozenset(
    {
        "bloodhound",
        "chisel",
        "cobaltstrike",
        "hydra",
        "lazagne",
        "mimikatz",
        "psexec",
        "rubeus",
        "sharphound",
        "sliver",
        "xmrig",
    }
)
SUSPICIOUS_WORDS = ("${jndi:", "../../../", "/dev/tcp/", "/etc/shadow", "break-in attempt", "union select")
ENCODED_COMMAND = re.compile(
    r"(?i)(^|\s)-e[a-z]*\s+[a-z0-9+/=]{16,}(\s|$)|base64\s+(-d|--decode)|b64decode|frombase64string"
)
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
REMOTE_ACCESS_PORTS = frozenset({23, 135, 139, 445, 3389, 4444, 5900, 6667})
INTERNAL_RANGES = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
)
ADDRESS_CHARACTERS_MAX = 45
WORK_HOURS = range(6, 22)
LARGE_EGRESS_BYTES = 100 * 1024 * 1024
HUGE_EGRESS_BYTES = 1024 * 1024 * 1024

_internal_networks = tuple(ipaddress.ip_network(text) for text in INTERNAL_RANGES)
_class_of_source = {source: name for name, sources in SOURCE_CLASSES.items() for source in sources}


def features_of(event: Mapping[str, Any]) -> Features:
    """The features of an envelope, all of them for every event. Never raises for any JSON value."""
    found = event.get("payload")
    payload: Mapping[str, Any] = found if isinstance(found, dict) else {}
    kind = _text(payload, "kind")
    path = _text(payload, "path").lower().replace("\\", "/")
    place = _place(path)
    leaves = _leaves(_text(payload, "source_ip"), _text(payload, "destination_ip"))
    return {
        "kind": kind if kind in KINDS else "other",
        "source_class": _source_class(_text(event, "source")),
        "off_hours": _is_off_hours(_text(event, "created_at")),
        "outcome": _outcome(_text(payload, "outcome")),
        "failed_count": _failed_count(_count(payload, "failed_count")),
        "several_countries": len(set(_texts(payload, "countries"))) > 1,
        "privileged_user": _is_privileged(_text(payload, "user")),
        "path_class": place,
        "known_tool": path.rpartition("/")[2].removesuffix(".exe") in KNOWN_TOOLS,
        "encoded_command": ENCODED_COMMAND.search(" ".join(_texts(payload, "args"))) is not None,
        "system_file_changed": kind == "file.change" and place == "system" and not _is_expected_change(payload),
        "private_to_public": leaves,
        "remote_access": leaves and _count(payload, "destination_port") in REMOTE_ACCESS_PORTS,
        "egress": _egress(_count(payload, "bytes_out")),
        "suspicious_words": _has_suspicious_words(_text(payload, "line").lower()),
    }


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _texts(values: Mapping[str, Any], name: str) -> list[str]:
    found = values.get(name)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _count(values: Mapping[str, Any], name: str) -> int:
    """A count, 0 for anything else: JSON has no integers of its own, so 5.0 counts as well as 5."""
    value = values.get(name)
    if isinstance(value, float) and value.is_integer():
        return max(int(value), 0)
    return max(value, 0) if type(value) is int else 0


def _source_class(source: str) -> str:
    """By the source's first word: `sshd`, `sshd/web-1` and `SSHD:22` are one."""
    word = source.lower().partition("/")[0].partition(":")[0]
    return _class_of_source.get(word, "other")


def _is_off_hours(created_at: str) -> bool:
    """By the clock on the agent's wall: the hour as written, whatever its zone."""
    hour = created_at[11:13]
    return len(hour) == 2 and hour.isascii() and hour.isdigit() and int(hour) not in WORK_HOURS


def _outcome(outcome: str) -> str:
    return outcome if outcome in {"success", "failure"} else "none"


def _failed_count(count: int) -> str:
    if count == 0:
        return "none"
    if count < 5:
        return "few"
    return "many" if count < 10 else "burst"


def _is_privileged(user: str) -> bool:
    """Also as `DOMAIN\\administrator`."""
    return user.lower().rpartition("\\")[2] in PRIVILEGED_USERS


def _place(path: str) -> str:
    if not path:
        return "none"
    if path.startswith(TEMPORARY_PLACES):
        return "temporary"
    if path.startswith(HOME_PLACES):
        return "home"
    return "system" if path.startswith(SYSTEM_PLACES) else "other"


def _is_expected_change(payload: Mapping[str, Any]) -> bool:
    """A package manager did it, or two equal hashes prove that the content stayed."""
    before = _text(payload, "sha256_before")
    stayed = SHA256.fullmatch(before) is not None and before == _text(payload, "sha256_after")
    return _text(payload, "actor") in PACKAGE_MANAGERS or stayed


def _has_suspicious_words(line: str) -> bool:
    return any(words in line for words in SUSPICIOUS_WORDS)


def _leaves(source: str, destination: str) -> bool:
    """From an internal address to one that is not."""
    # The length bounds what the cache below can hold.
    if max(len(source), len(destination)) > ADDRESS_CHARACTERS_MAX:
        return False
    return _is_internal(source) is True and _is_internal(destination) is False


@lru_cache(maxsize=8_192)
def _is_internal(text: str) -> bool | None:
    """None for what is no plain address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return any(address in network for network in _internal_networks if network.version == address.version)


def _egress(count_bytes: int) -> str:
    if count_bytes == 0:
        return "none"
    if count_bytes < LARGE_EGRESS_BYTES:
        return "small"
    return "large" if count_bytes <= HUGE_EGRESS_BYTES else "huge"
