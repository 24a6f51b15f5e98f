"""Sources -> jobs, one per line or path, drawn only as the engine has room for them.

Text is UTF-8, lines end with ``\n`` or ``\r\n``; the job's argument is the line without its ending. In JSON
lines, empty lines are skipped, and a line that is not JSON becomes a job that fails: one bad record does
not stop the others. A file that cannot be read or decoded does: the reader then ends, as if the input had,
and says why in ``problem``, so that every job that runs already still has its outcome.
"""

from __future__ import annotations

import codecs
import json
import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mpengine import Context, Job
from mpengine.cli.inputs import Source
from mpengine.cli.problems import Problem
from mpengine.cli.signals import Stop
from mpengine.report.text import one_line

_CHUNK_BYTES = 1 << 18


class MalformedLine(ValueError):
    """A line of a JSON lines file that is not JSON. Raised by the line's own job."""


def reject(message: str) -> None:
    """The job of a line that is not JSON."""
    raise MalformedLine(message)


class Reader:
    """Makes the jobs of a run. ``jobs`` may be consumed once; ``problem`` says why it ended early, if it did."""

    def __init__(
        self,
        sources: Sequence[Source],
        function: Callable[[Any], Any],
        stop: Stop,
        *,
        stdin: int | None = None,
        as_paths: bool = False,
        limit: int | None = None,
        context: Context | None = None,
        timeout: float | None = None,
        retries: int = 0,
    ) -> None:
        self._sources = sources
        self._function = function
        self._stop = stop
        self._stdin = stdin
        self._as_paths = as_paths
        self._limit = limit
        self._context = context
        self._timeout = timeout
        self._retries = retries
        self.problem: Problem | None = None

    def jobs(self) -> Iterator[Job]:
        """Ends at the limit, at the end of the input, when a stop is requested, or with ``problem`` set."""
        made = 0
        try:
            for source in self._sources:
                for job in self._path(source) if self._as_paths else self._lines(source):
                    if self._stop.requested:
                        return
                    yield job
                    made += 1
                    if made == self._limit:
                        return
        except Problem as problem:
            self.problem = problem

    def _path(self, source: Source) -> Iterator[Job]:
        yield self._job(source.path, source.label)

    def _lines(self, source: Source) -> Iterator[Job]:
        with self._opened(source) as fd:
            number = 0
            offset = 0  # of the line's first byte
            for raw in _raw_lines(fd, self._stop):
                number += 1
                if number == 1 and raw.startswith(codecs.BOM_UTF8):
                    raw = raw[len(codecs.BOM_UTF8) :]
                    offset += len(codecs.BOM_UTF8)
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise _not_text(source, number, offset, raw, error) from None
                offset += len(raw)
                job = self._line_job(line.removesuffix("\n").removesuffix("\r"), source, number)
                if job is not None:
                    yield job

    def _line_job(self, line: str, source: Source, number: int) -> Job | None:
        id_ = f"{source.label}:{number}"
        if not source.is_json_lines:
            return self._job(line, id_)
        if not line.strip():
            return None
        try:
            return self._job(json.loads(line), id_)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)
            start = one_line(line, limit=60)
            message = f"{source.path}:{number}: not JSON: {reason}, in {start!r}; put the line right"
            return Job(reject, (message,), id=id_, context=self._context, retries=0)

    def _job(self, argument: Any, id_: str) -> Job:
        return Job(
            self._function,
            (argument,),
            id=id_,
            context=self._context,
            timeout=self._timeout,
            retries=self._retries,
        )

    @contextmanager
    def _opened(self, source: Source) -> Iterator[int]:
        if source.is_stdin:
            assert self._stdin is not None
            yield self._stdin
            return
        try:
            fd = os.open(source.absolute, os.O_RDONLY)
        except OSError as error:
            raise Problem(f"INPUT {source.path!r} can no longer be read: {error.strerror}") from None
        try:
            yield fd
        except OSError as error:
            raise Problem(f"INPUT {source.path!r} can no longer be read: {error.strerror}") from None
        finally:
            os.close(fd)


def count_lines(sources: Sequence[Source], *, at_most_bytes: int) -> int | None:
    """The number of lines of all sources, for a progress bar; None when that would cost more than a moment."""
    try:
        if any(source.is_stdin or not os.path.isfile(source.absolute) for source in sources):
            return None
        if sum(os.path.getsize(source.absolute) for source in sources) > at_most_bytes:
            return None
        return sum(_count(source.absolute) for source in sources)
    except OSError:
        return None


def _count(path: str) -> int:
    lines = 0
    last = b"\n"
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")


def _raw_lines(fd: int, stop: Stop) -> Iterator[bytes]:
    """Lines with their ending. Waits for input or for a wish to stop, which ends it."""
    unfinished: list[bytes] = []  # the pieces of a line longer than a chunk: joined once
    while True:
        stop.wait(fd, select.POLLIN)
        if stop.requested:
            return
        chunk = os.read(fd, _CHUNK_BYTES)
        if not chunk:
            break
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*unfinished, lines[0]])
            unfinished = []
        for line in lines:
            yield line + b"\n"
        if rest:
            unfinished.append(rest)
    if unfinished:
        yield b"".join(unfinished)


def _not_text(source: Source, number: int, offset: int, raw: bytes, error: UnicodeDecodeError) -> Problem:
    where = f"INPUT {source.label}:{number}"
    byte = raw[error.start]
    if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Problem(f"{where}: the file is UTF-16, not UTF-8; convert it first, as with iconv -f UTF-16 -t UTF-8")
    return Problem(
        f"{where}: not UTF-8: byte 0x{byte:02x} at offset {offset + error.start} of the file; "
        "convert it first, as with iconv -f LATIN1 -t UTF-8, or use --paths if the target reads the file itself"
    )
