"""Following a log from file to file, shipping each of its lines once."""

import io
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from ops.clock import new_uuid7
from ops.commands.lines import Line, LineReader
from ops.commands.log_events import EVENT_BYTES_MAX, LINE_BYTES_MAX, Origin, log_event
from ops.commands.log_file import HEAD_BYTES_MAX, find, identify, is_still, successor
from ops.commands.position import Position, PositionError, PositionFile, Saved
from ops.commands.publish_client import LINES_MAX, REQUEST_BYTES_MAX, Outcome, Publisher
from ops.commands.tally import Tally
from schemas.units import Clock


class _Identified(msgspec.Struct):
    event_id: str


class GaveUpError(Exception):
    """No progress for too long. The unsettled lines are in the position file, and the next run sends them first."""


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


class Follower:
    """Ships the lines of one log from where the position file says, or from its beginning."""

    def __init__(
        self, origin: Origin, positions: PositionFile, publisher: Publisher, tally: Tally, clock: Clock
    ) -> None:
        self._origin = origin
        self._positions = positions
        self._publisher = publisher
        self._tally = tally
        self._clock = clock
        self._file: BinaryIO = io.BytesIO()
        self._pending_on_disk = False

    def run(self, *, once: bool, turn: Callable[[bool], None]) -> None:
        """Ship what is there and, unless `once`, what comes.

        `turn` is called after every request, with False, and whenever there is nothing to do, with
        True: it waits, or raises to end the run. With `once` the end of the last file counts as the
        end of its last line. Raises GaveUpError, PositionError, FileNotFoundError (only with `once`),
        and whatever the publisher raises; a later run goes on where this one ended.
        """
        saved = self._positions.read()
        try:
            while not once and not self._origin.path.exists():
                turn(True)
            if saved is None:
                self._start(self._origin.path.open("rb"))
            else:
                self._resume(saved)
            while self._step(once=once):
                turn(self._at_end)
        finally:
            self._file.close()

    def _resume(self, saved: Saved) -> None:
        position = saved.position
        if position.tenant_id != self._origin.tenant_id:
            raise PositionError(
                f"the position is of tenant {position.tenant_id}, not {self._origin.tenant_id}: pass --position-file"
            )
        self._pending_on_disk = bool(saved.pending)
        self._publish(saved.pending)
        place = find(self._origin.path, position.identity.device, position.identity.inode)
        if place is not None:
            self._open(place.open("rb"), position)
            if is_still(self._file, position.identity, position.offset):
                return
        _warn(f"the file read last is gone or was truncated; lines it held beyond byte {position.offset} are lost")
        self._start(self._origin.path.open("rb"))

    def _start(self, file: BinaryIO) -> None:
        """Go to the beginning of the open file, as a generation of its own."""
        identity = identify(file, 0)
        tenant_id, name = self._origin.tenant_id, str(self._origin.path)
        self._open(file, Position(1, tenant_id, name, identity, new_uuid7(), 0))
        self._save(())

    def _open(self, file: BinaryIO, position: Position) -> None:
        self._file.close()
        self._file = file
        self._position = position
        file.seek(position.offset)
        self._reader = LineReader(file, position.offset, LINE_BYTES_MAX)

    def _step(self, *, once: bool) -> bool:
        """One turn; False when there is nothing more to do."""
        self._at_end = False
        lines, bodies = self._read()
        identity = self._position.identity
        # Looked at after reading: what was read before a truncation was still the log's.
        if not is_still(self._file, identity, self._reader.read_bytes):
            _warn(f"{self._origin.path} was truncated; beginning again at its start")
            # Opened anew, because a buffer may hold what is no longer there.
            self._start(os.fdopen(os.dup(self._file.fileno()), "rb"))
            return True
        if lines:
            self._ship(lines, bodies)
            return True
        following = successor(self._origin.path, identity.device, identity.inode)
        if following is not None:
            self._move_on(following)
            return True
        if once:
            self._ship_rest()
        if self._pending_on_disk:
            self._save(())
        self._at_end = True
        return not once

    def _move_on(self, following: Path) -> None:
        """Finish this file and go to the next one. The writer has left it: what is there now is all there will be."""
        while True:
            lines, bodies = self._read()
            if not lines:
                break
            self._ship(lines, bodies)
        self._ship_rest()
        with suppress(FileNotFoundError):  # rotated this moment: it has another name at the next turn
            self._start(following.open("rb"))

    def _read(self) -> tuple[list[Line], list[bytes]]:
        """The complete lines that fit one request, each with its event; none when there are none yet."""
        lines: list[Line] = []
        bodies: list[bytes] = []
        size_bytes = 0
        while len(lines) < LINES_MAX and size_bytes < REQUEST_BYTES_MAX - EVENT_BYTES_MAX:
            line = self._reader.complete()
            if line is None:
                break
            lines.append(line)
            bodies.append(log_event(line, self._position.generation, self._origin, self._clock))
            size_bytes += len(bodies[-1]) + 1
        return lines, bodies

    def _ship_rest(self) -> None:
        line = self._reader.rest()
        if line is not None:
            self._ship([line], [log_event(line, self._position.generation, self._origin, self._clock)])

    def _ship(self, lines: Sequence[Line], bodies: Sequence[bytes]) -> None:
        identity = self._position.identity
        if identity.head_bytes == 0:
            identity = identify(self._file, min(lines[0].size_bytes, HEAD_BYTES_MAX))
        end = lines[-1].offset + lines[-1].size_bytes
        self._position = msgspec.structs.replace(self._position, identity=identity, offset=end)
        self._save(bodies)
        self._publish(bodies)

    def _publish(self, bodies: Sequence[bytes]) -> None:
        results = self._publisher.publish(bodies)
        for body, result in zip(bodies, results, strict=True):
            self._tally.add(msgspec.json.decode(body, type=_Identified).event_id, result)
        if any(result.outcome is Outcome.UNSETTLED for result in results):
            raise GaveUpError

    def _save(self, pending: Sequence[bytes]) -> None:
        self._positions.save(self._position, pending)
        self._pending_on_disk = bool(pending)
