"""`frostgate stages`: what each stage may take, hold and try, and what each kind of failure becomes."""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from ops.commands.target import data_dir_option, json_option, settings_of
from schemas.subjects import PARTITIONS
from streams.budgets import StageBudget
from streams.budgets import stages as budgets_of
from streams.settings import StreamSettings

WIDTH = 33


@click.command(
    epilog="""\b
Example:
  frostgate stages
  frostgate stages --json | jq '.[] | select(.stage == "decision")'

Exit status: 0 shown; 2 usage or configuration."""
)
@json_option
@data_dir_option
def stages(as_json: bool, data_dir: Path | None) -> None:
    """Show every stage's budget, as this configuration sets it. Asks no server.

    What the stages do about failures is in docs/stages.md.
    """
    settings = settings_of(data_dir)
    documents = [_document(budget, settings.streams) for budget in budgets_of(settings.streams, settings.retry)]
    if as_json:
        click.echo(json.dumps(documents))
        return
    for document in documents:
        for line in _lines(document):
            click.echo(line)


def _document(budget: StageBudget, settings: StreamSettings) -> dict[str, object]:
    partitions = range(PARTITIONS) if budget.partitioned else range(1)
    return {
        "stage": budget.stage,
        "streams": sorted({budget.stream(partition, settings) for partition in partitions}),
        "consumers": [budget.consumer(partition) for partition in partitions],
        "filter_subjects": [budget.filter_subject(partition) for partition in partitions],
        "window_messages": budget.window,
        "batch_messages_max": budget.batch_messages_max,
        "linger_ms": budget.linger_ms,
        "ack_wait_ms": budget.ack_wait_ms,
        "lanes": budget.lanes,
        "attempts_max": budget.attempts_max,
        "attempts_window_s": budget.attempts_window_s,
        "backoff_ms": list(budget.backoff_ms),
        "errors": dict(budget.errors),
    }


def _lines(document: dict[str, object]) -> Iterator[str]:
    yield f"{document['stage']}"
    for key, value in document.items():
        if key not in {"stage", "errors"}:
            yield f"  {key:<{WIDTH}} {_text(value)}"
    errors = document["errors"]
    assert isinstance(errors, dict)
    for error, becomes in errors.items():
        yield f"  {error:<{WIDTH}} {becomes}"
    yield ""


def _text(value: object) -> str:
    """A list of partitions by its first and last."""
    if not isinstance(value, list):
        return str(value)
    if len(value) > 4:
        return f"{value[0]} .. {value[-1]} ({len(value)})"
    return ", ".join(str(item) for item in value) or "none"
