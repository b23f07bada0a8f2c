"""What a witness remembers, in one SQLite file: the last round of each partition and every tree it saw."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Self

from ops.witness.judge import Seen, Tree
from sinks.notes import text_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (
    partition INTEGER NOT NULL, number INTEGER NOT NULL, first_number INTEGER NOT NULL,
    note TEXT NOT NULL, cosignature TEXT NOT NULL, PRIMARY KEY (partition, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trees (
    partition INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, hashes BLOB NOT NULL,
    PRIMARY KEY (partition, name)
) STRICT, WITHOUT ROWID;
"""
ROUNDS_KEPT = 1_000
"""Of each partition: two workers may send the same rounds, one behind the other."""
_COLUMNS = "SELECT number, first_number, note, cosignature FROM rounds"
_LAST = f"{_COLUMNS} WHERE partition = ? ORDER BY number DESC LIMIT 1"
_ROUND = f"{_COLUMNS} WHERE partition = ? AND number = ?"
_TREE = "SELECT size, hashes FROM trees WHERE partition = ? AND name = ?"
_KEEP_TREE = "INSERT OR REPLACE INTO trees (partition, name, size, hashes) VALUES (?, ?, ?, ?)"
_KEEP_ROUND = "INSERT INTO rounds (partition, number, first_number, note, cosignature) VALUES (?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM rounds WHERE partition = ? AND number <= ?"


class Kept(NamedTuple):
    """A countersigned round: its note as it was sent, and the line that countersigned it."""

    number: int
    first_number: int
    note: str
    cosignature: str

    @property
    def seen(self) -> Seen:
        return Seen(text_of(self.note), self.number, self.first_number)


class WitnessStore:
    """The file. Every change is on disk before the call returns."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, file: Path) -> Self:
        """Make or open it, for this process alone. Raises sqlite3.Error when it is no such file or another's."""
        connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=0)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    def last(self, partition: int) -> Kept | None:
        return self._one(_LAST, (partition,))

    def round(self, partition: int, number: int) -> Kept | None:
        """One of the last rounds."""
        return self._one(_ROUND, (partition, number))

    def _one(self, query: str, parameters: tuple[int, ...]) -> Kept | None:
        with closing(self._connection.execute(query, parameters)) as cursor:
            row = cursor.fetchone()
        return Kept(*row) if row else None

    def trees(self, partition: int, names: Iterable[str]) -> dict[str, Tree]:
        """What was seen under those names."""
        found = {}
        for name in names:
            with closing(self._connection.execute(_TREE, (partition, name))) as cursor:
                row = cursor.fetchone()
            if row:
                found[name] = Tree(*row)
        return found

    def keep(self, partition: int, kept: Kept, trees: Mapping[str, Tree]) -> None:
        """Remember the round and its trees, or none of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(_KEEP_TREE, [(partition, name, *tree) for name, tree in trees.items()])
            self._connection.execute(_KEEP_ROUND, (partition, *kept))
            self._connection.execute(_FORGET, (partition, kept.number - ROUNDS_KEPT))
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
