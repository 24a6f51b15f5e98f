"""In a worker: what jobs print and log goes to the parent, each line whole and with the job's id.

`sys.stdout` and `sys.stderr` become streams that gather whole lines, for each thread by itself, and send them as frames
(see `wire.output`). Descriptors 1 and 2 lead to the same pipe (`WorkerEnds.lead_output`), for those who write past
Python. Records of logging for which the worker has no handler are sent as records: the parent's handlers are the ones
that count.

The pipe blocks: a job that prints faster than the parent reads waits, as it would for a terminal.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import sys
from threading import get_ident

from mpengine.wire import output as wire

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

_MOST_HELD = 1 << 16  # bytes of a line that has not ended
_PLAIN = (str, int, float, bool, type(None))


class Printer:
    """See the module's text.

    Args:
        fd: Write end of the pipe; this object's from now on.
        job_id: The id of the job that runs, asked from any thread.
        shield: A context in which the job is not broken off, so that a line does not end in the middle.
        level: Of the root logger, until the user's code sets another.
    """

    def __init__(
        self, fd: int, job_id: Callable[[], str | None], shield: Callable[[], AbstractContextManager[Any]], level: int
    ) -> None:
        self._fd = fd
        self._job_id = job_id
        self._shield = shield
        self._level = level
        self._begun: dict[tuple[int, int], tuple[str | None, bytes]] = {}  # lines that have not ended: by kind, thread

    def take_over(self) -> None:
        """From now on, all that is printed or logged here comes this way."""
        for name, kind in (("stdout", wire.STDOUT), ("stderr", wire.STDERR)):
            lines = _Lines(self, kind)
            setattr(sys, name, io.TextIOWrapper(lines, "utf-8", "backslashreplace", write_through=True))
        logging.root.setLevel(self._level)
        logging.lastResort = _Sender(self)

    def write(self, kind: int, data: bytes) -> None:
        """Send the lines of `data`, and keep what follows the last of them."""
        key = (kind, get_ident())
        id = self._job_id()
        with self._shield():
            owner, begun = self._begun.pop(key, (id, b""))
            if owner != id and begun:
                self.send(kind, owner, begun)
                begun = b""
            lines, end, rest = (begun + data).rpartition(b"\n")
            if end:
                self.send(kind, id, lines)
            if len(rest) > _MOST_HELD:
                rest = rest[rest.rfind(b"\r") + 1 :]  # as of a progress bar, whose line never ends: the last is seen
                if len(rest) > _MOST_HELD:
                    self.send(kind, id, rest)
                    rest = b""
            if rest:
                self._begun[key] = (id, rest)

    def flush(self) -> None:
        """Send the lines that have not ended: nobody is there to end them."""
        while self._begun:
            try:
                (kind, _), (owner, begun) = self._begun.popitem()
            except KeyError:  # another thread has ended it
                return
            self.send(kind, owner, begun)

    def send(self, kind: int, id: str | None, data: bytes) -> None:
        """Send a message. Blocks while the pipe is full."""
        with contextlib.suppress(OSError):  # the parent is gone, or a job has closed it
            for frame in wire.frames(kind, id, data, os.getpid() << 32 | get_ident() & 0xFFFF_FFFF):
                os.write(self._fd, frame)

    def send_record(self, record: logging.LogRecord) -> None:
        """Send a record of logging: what is plain in it, and its message and traceback as text."""
        about = {name: value for name, value in record.__dict__.items() if type(value) in _PLAIN}
        about["msg"] = record.getMessage()
        about["args"] = None
        if record.exc_info and not record.exc_text:
            about["exc_text"] = logging.Formatter().formatException(record.exc_info)
        about["exc_info"] = None
        with self._shield():
            self.send(wire.RECORD, self._job_id(), pickle.dumps(about, 5))


class _Lines(io.RawIOBase):
    """The bytes below `sys.stdout` or `sys.stderr`."""

    def __init__(self, printer: Printer, kind: int) -> None:
        self._printer = printer
        self._kind = kind

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._kind  # 1 or 2, as the descriptor

    def write(self, data: Any, /) -> int:
        data = bytes(data)
        self._printer.write(self._kind, data)
        return len(data)


class _Sender(logging.Handler):
    """The handler of last resort."""

    def __init__(self, printer: Printer) -> None:
        super().__init__()
        self._printer = printer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._printer.send_record(record)
        except Exception:
            self.handleError(record)
