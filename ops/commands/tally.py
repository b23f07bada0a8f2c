"""Counting what became of the lines of one run, and saying so at its end."""

import json
import sys
from collections import Counter
from typing import Any

import click

from ops.commands.publish_client import Account, LineResult, Outcome

REPORTED_MAX = 20


class Tally:
    """The outcomes of a run. Keeps the first refusals word for word and counts the others."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.refused: Counter[str] = Counter()
        self.unsettled: Counter[str] = Counter()
        self.reports: list[dict[str, str]] = []

    def add(self, where: str, result: LineResult) -> None:
        """Count one line; `where` is how a person finds it."""
        self.outcomes[result.outcome] += 1
        if result.outcome is Outcome.REFUSED:
            self.refused[result.code] += 1
        elif result.outcome is Outcome.UNSETTLED:
            self.unsettled[result.code] += 1
        else:
            return
        if len(self.reports) < REPORTED_MAX:
            self.reports.append({"where": where, "code": result.code, "detail": result.detail})

    @property
    def lines(self) -> int:
        return self.outcomes.total()

    @property
    def all_accepted(self) -> bool:
        return not self.refused and not self.unsettled

    def document(self) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "accepted": self.outcomes[Outcome.ACCEPTED],
            "replayed": self.outcomes[Outcome.REPLAYED],
            "refused": dict(self.refused),
            "unsettled": dict(self.unsettled),
            "reports": self.reports,
        }

    def summary(self) -> str:
        parts = [f"{self.lines:,} lines", f"{self.outcomes[Outcome.ACCEPTED]:,} accepted"]
        parts += [f"{self.outcomes[kind]:,} {kind}" for kind in list(Outcome)[1:] if self.outcomes[kind]]
        return f"{parts[0]}: {', '.join(parts[1:])}"

    def text(self) -> str:
        rows = [self.summary()]
        rows += [f"  refused {code}: {count:,}" for code, count in self.refused.most_common()]
        rows += [f"  unsettled, last answer {code}: {count:,}" for code, count in self.unsettled.most_common()]
        rows += [f"  {report['where']}: {report['code']} {report['detail']}".rstrip() for report in self.reports]
        return "\n".join(rows)


class Progress:
    """The tally so far, as one line on stderr that is written over; nothing where that is no terminal."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._visible = sys.stderr.isatty()

    def show(self) -> None:
        if self._visible:
            click.echo(f"\r{self._tally.summary()}\x1b[K", nl=False, err=True)

    def end(self) -> None:
        if self._visible:
            click.echo(err=True)


def finish(tally: Tally, account: Account, more: dict[str, Any], *, problem: str, as_json: bool) -> None:
    """Print the summary, as one JSON object or for a person. Ends with status 1 unless everything was accepted.

    `problem` is what ended the run early, empty when nothing did.
    """
    if problem:
        click.echo(f"Error: {problem}", err=True)
    if as_json:
        click.echo(json.dumps(tally.document() | {"sending": account.document(), "problem": problem or None} | more))
    else:
        click.echo("\n".join([tally.text(), *([account.text()] if account.lines_again else [])]))
    if problem or not tally.all_accepted:
        raise click.exceptions.Exit(1)
