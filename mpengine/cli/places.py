"""What OUT is, where it has a journal beside it: a file, or something else that holds results."""

from __future__ import annotations

import contextlib
import fcntl
import os
from abc import ABC, abstractmethod
from typing import Any

from mpengine.batch.formats import Format, told_by
from mpengine.batch.journal import ENDING, Journal
from mpengine.batch.parquet import ParquetSink
from mpengine.batch.sinks import FileSink, Sink, sync_folder
from mpengine.cli.inputs import Source
from mpengine.cli.problems import Problem
from mpengine.cli.writer import Writer


class Place(ABC):
    """Where the results go that have a journal beside them.

    Attributes:
        name: As it was typed.
        path: Absolute; with ENDING behind it, the journal.
        writer: Of what is there.
        begun: It has been touched.
    """

    begun = False

    def __init__(self, name: str, writer: Writer) -> None:
        self.name = name
        self.path = os.path.abspath(name)
        self.writer = writer

    @property
    def journal(self) -> str:
        """Its name, as it would be typed."""
        return self.name + ENDING

    @abstractmethod
    def lock(self) -> None:
        """For as long as it is open. Raises `Problem` if another run has it."""

    @abstractmethod
    def holds(self) -> str | None:
        """The name of what has results already; None if nothing has."""

    @abstractmethod
    def check(self, journal: Journal, before: dict[str, Any]) -> None:
        """Raises `Problem` if less is there than the journal tells of."""

    @abstractmethod
    def path_of(self, file: int) -> str:
        """Of a file of it."""

    @abstractmethod
    def reopen(self) -> None:
        """What was open may be no more what is there."""

    @abstractmethod
    def clear(self) -> None:
        """Nothing of an earlier run is left."""

    @abstractmethod
    def sink(self, journal: Journal, before: dict[str, Any]) -> Sink:
        """That goes on from a state; {}: from nothing."""

    @abstractmethod
    def format_of(self, source: Source) -> Format:
        """Of the results of a source."""

    def on_source(self, number: int) -> None:  # noqa: B027 (most need not know)
        """In the thread that reads: it comes to the next source, with this job. May raise `Problem`."""


class FilePlace(Place):
    """One regular file, open for writing."""

    def __init__(self, name: str, fd: int, writer: Writer, format: Format) -> None:
        super().__init__(name, writer)
        self._fd = fd
        self._format = format

    def lock(self) -> None:
        lock(self._fd, self.name)

    def holds(self) -> str | None:
        return self.name if os.fstat(self._fd).st_size else None

    def check(self, journal: Journal, before: dict[str, Any]) -> None:
        check_size(self.name, os.fstat(self._fd).st_size, before, self.journal)

    def path_of(self, file: int) -> str:
        return self.path

    def reopen(self) -> None:
        new = os.open(self.path, os.O_RDWR)
        os.dup2(new, self._fd, inheritable=False)
        os.close(new)
        self.lock()

    def clear(self) -> None:
        self.writer.start()
        with contextlib.suppress(PermissionError):  # one may write in a folder that one may not look into
            sync_folder(os.path.dirname(self.path))  # OUT may be new

    def sink(self, journal: Journal, before: dict[str, Any]) -> Sink:
        if self._format is Format.PARQUET:
            return ParquetSink(self.path, before)
        self.writer.start(before.get("size", 0))
        return FileSink(self.path, self.writer, self._fd, self._format, told_by(self.name)[1], before)

    def format_of(self, source: Source) -> Format:
        return self._format


def lock(fd: int, name: str) -> None:
    """For as long as it is open."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Problem(f"OUT {name!r} is being written by another run; wait for its end, or name another") from None
    except OSError:  # a file system without locks
        pass


def check_size(name: str, size: int, state: dict[str, Any], journal: str) -> None:
    """Raises `Problem` if a file is smaller than when its state was noted."""
    least = state.get("size", int(state.get("whole", False)))
    if size < least:
        raise Problem(
            f"OUT {name!r} has {size:,} bytes, and its journal tells of {least:,} or more: it was changed; put "
            f"it back, or remove {journal!r} to begin anew"
        )
