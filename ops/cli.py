"""`frostgate`: the command line. Each command has its own module in `ops/commands`, loaded when it is called.

Exit status of every command: 0 done, 1 not everything accepted, not found, refused or wrong,
2 usage or configuration.
"""

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from ops.settings import SettingsError


class Entry(NamedTuple):
    """Where a command lives and what the list of commands says about it, so that listing imports none of them."""

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "up": Entry("ops.commands.up", "up", "Start the whole data plane on this machine."),
    "send": Entry("ops.commands.send", "send", "Publish the events of an NDJSON file."),
    "agent": Entry("ops.commands.agent", "agent", "Follow a log file and publish each of its lines."),
    "why": Entry("ops.commands.why", "why", "Tell the whole life of one event."),
    "doctor": Entry("ops.commands.doctor", "doctor", "Show the effective configuration and what is wrong with it."),
    "tenants": Entry("ops.commands.tenants", "tenants", "Add and list tenants."),
    "keys": Entry("ops.commands.keys", "keys", "Issue, revoke and list API keys."),
    "limits": Entry("ops.commands.limits", "limits", "Set, show and clear limits of single tenants."),
    "policy": Entry("ops.commands.policy", "policy", "Test and rehearse the rules; keep what tenants add to them."),
    "break-glass": Entry(
        "ops.commands.break_glass", "break_glass", "Arm the emergency override for the loss of Redis."
    ),
    "stages": Entry("ops.commands.stages", "stages", "Show what each stage may take, hold and try."),
    "dlq": Entry("ops.commands.dlq", "dlq", "List and take dead letters."),
    "retention": Entry("ops.commands.retention", "retention", "Let go of what no plan keeps any longer."),
    "meters": Entry("ops.commands.meters", "meters", "Hold what tenants are billed against the evidence."),
    "export": Entry("ops.commands.export", "export", "Write a tenant's evidence to a file that anybody can verify."),
    "keyring": Entry("ops.commands.keyring", "keyring", "Make, rotate and show the key ring of evidence."),
    "witness": Entry("ops.commands.witness", "witness", "Countersign the rounds of somebody else's evidence."),
    "migrate": Entry("ops.commands.migrate", "migrate", "Bring Postgres and JetStream to this version's layout."),
    "edge": Entry("ops.commands.services", "edge", "Run one ingest edge."),
    "worker": Entry("ops.commands.services", "worker", "Run one worker."),
    "bench": Entry("ops.commands.bench", "bench", "Measure this machine against the figures to hold."),
}


class Misconfigured(click.ClickException):
    """What is configured cannot work. Exit status 2, like a wrong option."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as problem:
            raise Misconfigured(f"{problem}\nSee docs/configuration.md, or run `frostgate doctor`.") from problem


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="frostgate", message="frostgate %(version)s")
def cli() -> None:
    """FrostGate data plane: events in, decisions and tamper-evident evidence out.

    \b
    Example:
      frostgate up
      frostgate send events.ndjson
      frostgate why EVENT_ID

    Exit status: 0 done; 1 not everything accepted, not found, refused or wrong;
    2 usage or configuration.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of this process and exit."""
    cli.main(args=None if arguments is None else list(arguments), prog_name="frostgate")
