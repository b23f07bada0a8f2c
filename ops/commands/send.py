"""`frostgate send`: publish the events of an NDJSON file, each until it has an answer that stands."""

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click
import msgspec

from ops.clock import SystemClock, new_uuid7
from ops.commands.edge_client import EdgeClient, EdgeRefusedError, identity_of
from ops.commands.lines import LineReader
from ops.commands.publish_client import (
    LINES_MAX,
    REQUEST_BYTES_MAX,
    LineResult,
    Outcome,
    Patience,
    Publisher,
    tenant_of,
)
from ops.commands.tally import Tally, finish
from ops.commands.target import agent_key_option, data_dir_option, edge_target, json_option, settings_of
from schemas.canonical import canonical_any, sha256_hex
from schemas.codes import Code
from schemas.units import Clock, format_rfc3339

LINE_BYTES_MAX = 1024 * 1024
"""Far above what an edge takes, so the edge refuses a long event itself; a line beyond this is not even read whole."""

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Event(NamedTuple):
    """One line ready to be sent, or, with a `problem`, not worth sending."""

    number: int
    body: bytes
    problem: str
    read_bytes: int


@click.command(
    epilog="""\b
Example:
  frostgate send events.ndjson
  zcat events.ndjson.gz | frostgate send --json --ids -

Exit status: 0 every line accepted; 1 not every line; 2 usage or configuration."""
)
@click.argument("file", type=click.File("rb"))
@click.option("--tenant", help="tenant_id for lines without one.  [default: the tenant of the key]")
@click.option(
    "--give-up-after",
    "give_up_seconds",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="Stop after this long without any progress.",
)
@click.option("--ids", is_flag=True, help="Print the ids of the accepted events too.")
@agent_key_option
@json_option
@data_dir_option
def send(  # noqa: PLR0913  (one parameter an option is how click hands them over)
    *,
    file: BinaryIO,
    tenant: str | None,
    give_up_seconds: float,
    ids: bool,
    agent_key_file: Path | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Publish the events of FILE, one JSON object a line ("-" reads standard input).

    Lines may lack tenant_id, event_id, trace_id and created_at: they are filled in once, before the
    first try, so that every further try is the same event. What the data plane is too busy for is
    sent again after the wait it asks for.
    """
    settings = settings_of(data_dir)
    target = edge_target(settings)
    identity = identity_of(settings, agent_key_file)
    client = EdgeClient(target.url, target.api_key, identity)
    patience = Patience(give_up_seconds)
    publisher = Publisher(client, patience)
    tally, accepted = Tally(), []
    problem = ""
    try:
        tenant_id = tenant or target.tenant_id or identity.tenant_id or tenant_of(client, patience)
        with _progress(file) as advance:
            for batch in _batches(_events(file, tenant_id, SystemClock())):
                for event, result in zip(batch, _publish(publisher, batch), strict=True):
                    tally.add(f"line {event.number}", result)
                    if ids and result.outcome in {Outcome.ACCEPTED, Outcome.REPLAYED}:
                        accepted.append(result.event_id)
                advance(sum(event.read_bytes for event in batch))
                if tally.unsettled:
                    problem = (
                        f"gave up after {give_up_seconds:g} s without progress; the lines after these were not sent"
                    )
                    break
    except EdgeRefusedError as refusal:
        problem = refusal.message
    except KeyboardInterrupt:
        problem = "interrupted"
    finally:
        client.close()
    if ids and not as_json:
        click.echo("\n".join(accepted))
    finish(tally, publisher.account, {"event_ids": accepted} if ids else {}, problem=problem, as_json=as_json)


def _publish(publisher: Publisher, batch: list[Event]) -> Iterator[LineResult]:
    """The result of each event of the batch, in order; a line that cannot be an event is refused here."""
    results = iter(publisher.publish([event.body for event in batch if not event.problem]))
    for event in batch:
        if event.problem:
            yield LineResult(Outcome.REFUSED, "", Code.MALFORMED_JSON, event.problem)
        else:
            yield next(results)


def _batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """The events in runs that one request can carry."""
    batch: list[Event] = []
    size_bytes = 0
    for event in events:
        if batch and (len(batch) == LINES_MAX or size_bytes + len(event.body) + 1 > REQUEST_BYTES_MAX):
            yield batch
            batch, size_bytes = [], 0
        batch.append(event)
        size_bytes += len(event.body) + 1
    if batch:
        yield batch


def _events(file: BinaryIO, tenant_id: str | None, clock: Clock) -> Iterator[Event]:
    """Every line of the file that is not blank, made complete."""
    reader = LineReader(file, 0, LINE_BYTES_MAX)
    number = 0
    while line := reader.complete() or reader.rest():
        number += 1
        if line.cut:
            yield Event(number, b"", f"longer than {LINE_BYTES_MAX:,} bytes", line.size_bytes)
        elif text := line.text.strip():
            yield _event(number, text, tenant_id, clock, line.size_bytes)


def _event(number: int, text: bytes, tenant_id: str | None, clock: Clock, size_bytes: int) -> Event:
    try:
        return Event(number, complete(text, tenant_id, clock), "", size_bytes)
    except ValueError as problem:
        return Event(number, b"", str(problem), size_bytes)


def complete(text: bytes, tenant_id: str | None, clock: Clock) -> bytes:
    """Return the object with the fields it lacks put in front; what it has keeps its bytes.

    What is completed here also gets its integrity hash here: nobody before could have known it.

    Raises ValueError when the text is not one JSON object.
    """
    try:
        present = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ValueError(f"not one JSON object: {problem}") from problem
    absent = {
        name: value
        for name, value in (
            ("tenant_id", tenant_id),
            ("event_id", new_uuid7()),
            ("trace_id", new_uuid7()),
            ("created_at", format_rfc3339(clock.now_ms())),
        )
        if name not in present and value is not None
    }
    if not absent:
        return text
    if "integrity_hash" not in present:
        whole = absent | msgspec.json.decode(text)
        absent["integrity_hash"] = f"sha256:{sha256_hex(canonical_any(whole))}"
    added = msgspec.json.encode(absent)
    return added[:-1] + b"," + text[1:] if present else added


@contextmanager
def _progress(file: BinaryIO) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of the file, on stderr; hidden unless that is a terminal and the size is known."""
    status = os.fstat(file.fileno())
    hidden = not stat.S_ISREG(status.st_mode) or not sys.stderr.isatty()
    with click.progressbar(length=status.st_size, label="sending", file=sys.stderr, hidden=hidden) as bar:
        yield bar.update
