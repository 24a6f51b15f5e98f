"""What is known of a run after it was cut off: an SQLite database in WAL mode beside OUT.

It is written after OUT, in one transaction each time, so that it never tells of more than is there; what OUT has beyond
it is cut off when the run goes on. All jobs below the *mark* have ended; the few above it that have are named. So its
size does not grow with the run, but for the failures, which are kept with what they were given.

    run        key, value (JSON): the plan (what shapes OUT), the state (mark, OUT's size, counts)
    entries    jobs whose result is not in OUT yet: it waits for those before it, or came late; or, without a blob,
               that is in OUT above the mark
    failures   jobs that did not succeed; `at`: where in their file of OUT the result would be, `size`: the bytes they
               have there
    files      of an OUT that is a folder: the number of each file's first job, as far as the input was read, and the
               state of those that are finished; each is written once, so a commit does not grow with their number
"""

from __future__ import annotations

import contextlib
import json
import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mpengine.batch.order import Entry
from mpengine.batch.sinks import FileNote

ENDING = ".journal"
_VERSION = 2
_TABLES = ("run", "entries", "failures", "files")
_SCHEMA = f"""
PRAGMA user_version = {_VERSION};
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, id TEXT, blob BLOB, failed INTEGER, payload BLOB);
CREATE TABLE IF NOT EXISTS failures (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, status TEXT NOT NULL, type TEXT, message TEXT, traceback TEXT,
    place TEXT, attempts INTEGER, duration REAL, payload BLOB, at INTEGER, size INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS files (number INTEGER PRIMARY KEY, first INTEGER NOT NULL, state TEXT);
"""


class NoJournal(ValueError):
    """The file is not a journal of ours, or of another version."""


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A job that did not succeed.

    Attributes:
        at: Its position in its file of OUT; None while the mark is below it.
        size: What it has there, in the unit of the position.
    """

    number: int
    id: str
    status: str
    type: str
    message: str
    traceback: str
    place: str
    attempts: int
    duration: float
    payload: Any = None
    at: int | None = None
    size: int = 0


class Journal:
    """One journal. To be used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @classmethod
    def open(cls, path: str, *, readonly: bool = False) -> Journal:
        """Opens or makes one.

        Raises:
            NoJournal: There is something else of that name.
            sqlite3.Error, OSError: It cannot be read or written.
        """
        if readonly:
            with open(path, "rb"):
                pass
            db = sqlite3.connect(f"file:{_quoted(path)}?mode=rw", uri=True, isolation_level=None)
        else:
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA busy_timeout = 10000")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            tables: set[str] = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if version != _VERSION and (version or tables or readonly):
                raise NoJournal(f"is of version {version}, and this mpengine reads version {_VERSION}")
            if not readonly:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")  # what a commit allows is done at once: a swap, a removal
                if not tables.issuperset(_TABLES):  # else nothing is changed by a look at it
                    db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            db.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise NoJournal("is not a journal of a run") from None
        except BaseException:
            db.close()
            raise
        return cls(db)

    def close(self) -> None:
        self._db.close()

    def get(self, key: str) -> Any:
        """A value of the run; None if there is none."""
        row = self._db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block, or nothing of it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def clear(self) -> None:
        """Forget everything."""
        for table in _TABLES:
            self._db.execute(f"DELETE FROM {table}")

    # ---- entries -----------------------------------------------------------------------------------------------------

    def entries(self) -> Iterator[Entry]:
        """Those whose result is here."""
        query = "SELECT number, id, blob, failed, payload FROM entries WHERE blob IS NOT NULL ORDER BY number"
        for number, id_, blob, failed, payload in self._db.execute(query):
            yield Entry(number, id_, blob, bool(failed), pickle.loads(payload))

    def gone(self) -> list[int]:
        """The numbers above the mark whose result is in OUT."""
        return [number for (number,) in self._db.execute("SELECT number FROM entries WHERE blob IS NULL")]

    def keep(self, entries: Iterable[Entry]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
            ((e.number, e.id, e.blob, e.failed, pickle.dumps(e.payload, 5)) for e in entries),
        )

    def keep_gone(self, numbers: Iterable[int]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, NULL, NULL, 0, NULL)", ((number,) for number in numbers)
        )

    def drop(self, numbers: Iterable[int]) -> None:
        self._db.executemany("DELETE FROM entries WHERE number = ?", ((number,) for number in numbers))

    # ---- failures ----------------------------------------------------------------------------------------------------

    def failed(self) -> dict[str, int]:
        """How many there are of each status."""
        return dict(self._db.execute("SELECT status, count(*) FROM failures GROUP BY status ORDER BY status"))

    def failures(self) -> Iterator[FailureRow]:
        query = (
            "SELECT number, id, status, type, message, traceback, place, attempts, duration, payload, at, size "
            "FROM failures ORDER BY number"
        )
        for row in self._db.execute(query):
            number, id_, status, kind, message, trace, place, attempts, duration, blob, at, size = row
            payload = pickle.loads(blob)
            yield FailureRow(
                number, id_, status, kind, message, trace, place, attempts, duration, payload, at, size
            )  # fmt: skip

    def add_failures(self, rows: Iterable[FailureRow]) -> None:
        """Those that are known keep their places."""
        self._db.executemany(
            "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
            "status = excluded.status, type = excluded.type, message = excluded.message, place = excluded.place, "
            "traceback = excluded.traceback, attempts = excluded.attempts, duration = excluded.duration",
            (
                (
                    row.number, row.id, row.status, row.type, row.message, row.traceback, row.place, row.attempts,
                    row.duration, pickle.dumps(row.payload, 5), row.at, row.size,
                )
                for row in rows
            ),
        )  # fmt: skip

    def place_failures(self, places: Iterable[tuple[int, int, int]]) -> None:
        """Number, position and size of each."""
        self._db.executemany(
            "UPDATE failures SET at = ?, size = ? WHERE number = ?", ((at, size, n) for n, at, size in places)
        )

    def drop_failures(self, numbers: Iterable[int]) -> None:
        self._db.executemany("DELETE FROM failures WHERE number = ?", ((number,) for number in numbers))

    # ---- files -------------------------------------------------------------------------------------------------------

    def firsts(self) -> list[int]:
        """The number of the first job of each file that is known of."""
        return [first for (first,) in self._db.execute("SELECT first FROM files ORDER BY number")]

    def finished(self) -> Iterator[FileNote]:
        """The files whose state is known."""
        query = "SELECT number, first, state FROM files WHERE state IS NOT NULL ORDER BY number"
        for number, first, state in self._db.execute(query):
            yield FileNote(number, first, json.loads(state))

    def file_state(self, number: int) -> dict[str, Any]:
        """Of a finished file."""
        (state,) = self._db.execute("SELECT state FROM files WHERE number = ?", (number,)).fetchone()
        found: dict[str, Any] = json.loads(state)
        return found

    def note_files(self, notes: Iterable[FileNote]) -> None:
        """What is known already stays, where a note has nothing newer."""
        self._db.executemany(
            "INSERT INTO files VALUES (?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
            "state = coalesce(excluded.state, state)",
            ((note.number, note.first, note.state and json.dumps(note.state)) for note in notes),
        )


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
