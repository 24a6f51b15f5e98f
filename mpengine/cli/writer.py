"""OUT: opened with care, and written in pieces, each whole or, as far as it depends on us, not at all."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Sequence

from mpengine.cli.inputs import Source
from mpengine.cli.problems import EXIT_BROKEN_PIPE, Problem
from mpengine.cli.signals import Stop, is_ready

STDOUT_ARGUMENT = "-"

# What a reader that has stopped reading gets to take the rest of a line, once we are to stop.
_LAST_LINE_S = 1.0


class ReaderGone(Problem):
    """Whoever read our stdout has had enough, as `head` does. Not worth a word."""

    def __init__(self) -> None:
        super().__init__("", EXIT_BROKEN_PIPE)


class Writer:
    """Writes pieces of whole records to an open descriptor, which stays the caller's.

    Attributes:
        records: How many were written.
        again: How to go on after it failed.
    """

    def __init__(self, fd: int, name: str, stop: Stop) -> None:
        self._fd = fd
        self._stop = stop
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self.name = name
        self.records = 0
        self.again = "run it again"

    @property
    def is_terminal(self) -> bool:
        return os.isatty(self._fd)

    def start(self, size: int = 0) -> None:
        """Drops what a file held beyond this. Not for stdout: the shell has decided there."""
        if self._is_file:
            os.ftruncate(self._fd, size)
            os.lseek(self._fd, size, os.SEEK_SET)

    def write(self, data: bytes, *, records: int) -> None:
        """Raises `Problem` when there is no room, `ReaderGone` when nobody reads; OUT then ends with a whole piece."""
        written = 0
        try:
            while written < len(data):
                if self._is_file:
                    written += os.write(self._fd, memoryview(data)[written:])
                else:
                    self._wait_for_room()
                    # Not more than a pipe that says it has room takes without blocking.
                    written += os.write(self._fd, data[written : written + select.PIPE_BUF])
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            self._take_back(written)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise Problem(
                f"OUT {self.name!r} cannot be written: {error.strerror}, after {self.records:,} results, which are "
                f"kept; {'make room or name' if full else 'name'} another OUT, and {self.again}"
            ) from None
        self.records += records

    def _wait_for_room(self) -> None:
        if not self._stop.wait(self._fd, select.POLLOUT) and not is_ready(self._fd, select.POLLOUT, _LAST_LINE_S):
            raise ReaderGone

    def _take_back(self, written: int) -> None:
        """Removes the beginning of a piece from the end of a file."""
        if not written or not self._is_file:
            return
        end = os.lseek(self._fd, 0, os.SEEK_CUR)  # of what was written, also where the file was opened to append
        if os.fstat(self._fd).st_size == end:
            os.ftruncate(self._fd, end - written)


def open_out(name: str) -> int:
    """Opens OUT and leaves what is in it. Raises `Problem` if it cannot be written."""
    try:
        return os.open(name, os.O_RDWR | os.O_CREAT if _is_file_to_be(name) else os.O_WRONLY, 0o666)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise Problem(f"OUT {name!r} cannot be written: {_why_not(name, error)}") from None


def _is_file_to_be(name: str) -> bool:
    """Whether opening this gives a regular file. Others, such as a FIFO, may not be read for a look at them."""
    try:
        return stat.S_ISREG(os.stat(name).st_mode)
    except FileNotFoundError:
        return True


def refuse_input(fd: int, name: str, sources: Sequence[Source], stdin: int | None) -> None:
    """Raises `Problem` if what is behind ``fd`` is one of the sources: a run would eat its own results."""
    ours = os.fstat(fd)
    if not stat.S_ISREG(ours.st_mode):
        return
    for source in sources:
        try:
            theirs = os.fstat(stdin) if source.is_stdin and stdin is not None else os.stat(source.absolute)
        except OSError:  # gone since; the reader will say so
            continue
        if os.path.samestat(ours, theirs):
            raise Problem(f"OUT {name!r} is the same file as INPUT {source.path!r}; name another OUT")


def _why_not(name: str, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no folder {os.path.dirname(os.path.abspath(name))!r}; make it first"
    return f"{error.strerror if isinstance(error, OSError) else error}; name another file"
