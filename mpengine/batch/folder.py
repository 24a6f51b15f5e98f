"""OUT as a folder: a file for each INPUT, written one after the other.

Results come in the order of the input, so one file is open at a time. When the first result of a later file comes, the
one before is finished and the next begun; an input without records has its file all the same. What was finished is made
safe before the journal is told so. The journal has the state of the file that is being written, and of those before it,
which are needed to put late results in. What a run that was cut off has left of later files is begun anew.
"""

from __future__ import annotations

import bisect
import contextlib
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpengine.batch.formats import Compression, Format
from mpengine.batch.order import Entry
from mpengine.batch.parquet import ParquetSink, remove_groups
from mpengine.batch.sinks import NEW, FileNote, FileSink, OneFile, Pieces, Sink, Taken, sync_folder

_number = operator.attrgetter("number")


@dataclass(frozen=True, slots=True)
class OutFile:
    """One file of a folder, by its absolute path."""

    path: str
    format: Format
    compression: Compression


class Boundaries:
    """Which file a job belongs to, told by the numbers of the first jobs of all files.

    They are known as far as the input was read: by this run, or by an earlier one, whose results may wait in the
    journal and are offered before the input is read again. So whoever has a job's outcome knows all boundaries before.
    `begin` is the reading thread's, the rest is for all.

    Args:
        known: From an earlier run.

    Attributes:
        reached: The last file to which this run has come; -1: none.
    """

    def __init__(self, known: Sequence[int] = ()) -> None:
        self.firsts = [*known]
        self.reached = -1

    def begin(self, number: int) -> bool:
        """The next file begins with this job. False: an earlier run has found another there."""
        file = self.reached + 1
        if file == len(self.firsts):
            self.firsts.append(number)
        self.reached = file
        return self.firsts[file] == number

    def file_of(self, number: int) -> int:
        """Of files that begin with the same job, all but the last are empty."""
        return bisect.bisect_right(self.firsts, number) - 1

    def end_of(self, file: int) -> int | None:
        """The number of the first job behind it; None: not known yet."""
        return self.firsts[file + 1] if file + 1 < len(self.firsts) else None


class FolderSink(Sink):
    """See the module. To be closed.

    Args:
        files: In the order of the input. Folders they are in are made.
        pieces: Of an open file and its path: what writes to its end.
        state: Of an earlier run; {}: a new one.
        state_of: Of a finished file, from the journal.
    """

    def __init__(
        self,
        files: Sequence[OutFile],
        boundaries: Boundaries,
        pieces: Callable[[int, str], Pieces],
        state: dict[str, Any],
        state_of: Callable[[int], dict[str, Any]],
    ) -> None:
        self._files = files
        self._boundaries = boundaries
        self._pieces = pieces
        self._state_of = state_of
        self._noted = self._noting = len(boundaries.firsts)  # so many boundaries are in the journal
        self._finished: dict[int, dict[str, Any]] = {}  # states that are not yet in the journal
        self._to_clean: list[OneFile] = []
        self._unsynced: list[str] = []  # finished files: together they take a fifth of the time of one by one
        self._new_in: set[str] = set()  # folders with names that may not be on the disk
        self._fd: int | None = None
        self._file = int(state.get("file", 0))
        for file in files[: self._file]:
            if file.format is Format.PARQUET:  # it was cut off between a commit and what that allowed
                remove_groups(file.path)
        self._sink, self._fd = self._open(self._file, state.get("state", {}))

    def close(self) -> None:
        """Of no more use, and nothing more is written."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    # ---- one file after the other ------------------------------------------------------------------------------------

    def _open(self, number: int, state: dict[str, Any]) -> tuple[OneFile, int | None]:
        """A file as it was in this state, and its descriptor, if it has one."""
        file = self._files[number]
        self._make(os.path.dirname(file.path))
        if file.format is Format.PARQUET:
            return ParquetSink(file.path, state), None
        fd = os.open(file.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            size = state.get("size", 0)
            if os.fstat(fd).st_size != size:  # else it was not written, and is not to look so
                os.ftruncate(fd, size)
            os.lseek(fd, 0, os.SEEK_END)
            return FileSink(file.path, self._pieces(fd, file.path), fd, file.format, file.compression, state), fd
        except BaseException:
            os.close(fd)
            raise

    def _make(self, folder: str) -> None:
        self._new_in.add(folder)
        if not os.path.isdir(folder):
            self._make(os.path.dirname(folder))
            os.mkdir(folder)

    def _next(self) -> None:
        """This file is finished; the next is begun."""
        self._sink.finish()
        if self._fd is not None:  # Parquet has waited for its own already
            self._unsynced.append(self.path_of(self._file))
        self._finished[self._file] = self._sink.state()
        self._to_clean.append(self._sink)
        self.close()
        self._file += 1
        self._sink, self._fd = self._open(self._file, {})

    def wants(self, entries: Sequence[Entry], size: int) -> bool:
        return len(entries) > 0 and (self.file_of(entries[-1].number) > self._file or self._sink.wants(entries, size))

    def take(self, entries: Sequence[Entry], *, final: bool) -> Taken:
        taken = Taken()
        while taken.count < len(entries):
            file = self.file_of(entries[taken.count].number)
            while self._file < file:
                self._next()
            behind = self._boundaries.end_of(file)
            end = len(entries) if behind is None else bisect.bisect_left(entries, behind, key=_number)
            ends = end < len(entries)  # for one behind it is there
            part = entries if end - taken.count == len(entries) else entries[taken.count : end]
            found = self._sink.take(part, final=final or ends)
            taken.count += found.count
            taken.places += found.places
            taken.refused += found.refused
            if not ends:
                break
        return taken

    def sync(self) -> None:
        self._sink.sync()
        for path in self._unsynced:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        self._unsynced.clear()
        for folder in self._new_in:
            sync_folder(folder)
        self._new_in.clear()

    def finish(self) -> None:
        """Also the files of inputs behind the last result. What `--limit` has kept from being read has none."""
        while self._file < self._boundaries.reached:
            self._next()
        self._sink.finish()

    # ---- the journal -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"file": self._file, "state": self._sink.state()}

    def notes(self) -> list[FileNote]:
        firsts = self._boundaries.firsts
        self._noting = len(firsts)
        new = [FileNote(number, firsts[number]) for number in range(self._noted, self._noting)]
        return new + [FileNote(number, firsts[number], state) for number, state in self._finished.items()]

    def clean(self) -> None:
        for sink in (*self._to_clean, self._sink):
            sink.clean()
        self._to_clean.clear()
        self._finished.clear()
        self._noted = self._noting

    # ---- late results ------------------------------------------------------------------------------------------------

    def file_of(self, number: int) -> int:
        return self._boundaries.file_of(number)

    def path_of(self, file: int) -> str:
        return self._files[file].path

    @contextlib.contextmanager
    def opened(self, file: int) -> Iterator[OneFile]:
        if file == self._file:
            yield self._sink
            return
        sink, fd = self._open(file, self._state_of(file))
        try:
            yield sink
        finally:
            if fd is not None:
                os.close(fd)

    def mended(self, states: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        self._finished.update({file: state for file, state in states.items() if file != self._file})
        return {"file": self._file, "state": states.get(self._file) or self._sink.state()}


def clear(files: Sequence[OutFile]) -> None:
    """Nothing that an earlier run has written is left."""
    for file in files:
        for path in (file.path, file.path + NEW):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
        if file.format is Format.PARQUET:
            remove_groups(file.path)
