"""Sources -> jobs, lazily: a job per record, per chunk of records, or per path.

An input is read only as far as jobs are drawn. A record that is not what its format asks for becomes a job that fails:
one bad record does not stop the others. A file that cannot be read any further does: the reader then ends, as if the
input had, and says why in ``problem``, so that every job that runs already still has its outcome.
"""

from __future__ import annotations

import gzip
import os
import pickle
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mpengine import Job
from mpengine.batch import reading, work
from mpengine.batch.formats import Compression, Format
from mpengine.batch.reading import Bad, NoSuchLibrary, Payloads
from mpengine.batch.work import Decoder, Encoder, MalformedRecord, Work
from mpengine.cli.inputs import Source
from mpengine.cli.problems import Problem
from mpengine.cli.signals import Stop

TABLE_ROWS = 10_000  # of a table, unless something else is asked for


@dataclass(frozen=True, slots=True)
class Shape:
    """What a job is given.

    Attributes:
        kind: "records", "table" or "path".
        chunk: How many records; None: one, or as many as a table has.
    """

    kind: str = "records"
    chunk: int | None = None

    @property
    def many(self) -> bool:
        """Whether the function gets many records, and returns many results."""
        return self.kind == "table" or self.chunk is not None

    @property
    def size(self) -> int:
        return self.chunk or (TABLE_ROWS if self.kind == "table" else 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each job."""

    timeout: float | None = None
    retries: int = 0


class Reader:
    """Makes the jobs of a run. ``jobs`` may be consumed once; ``problem`` says why it ended early, if it did.

    Args:
        encode: What is done to a result in the worker, for the jobs of each source.
        skip: Numbers of jobs that are not made; they count.
        may_go_on: Asked before each job, or every so many: False: not yet.
        look_every: How many.
        on_source: Told the number of the first job of each source, before there is a job of it.

    Attributes:
        numbers: Filled with the numbers of the jobs that are made, by id; whoever has their outcomes removes them.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        function: Callable[[Any], Any],
        stop: Stop,
        *,
        encode: Callable[[Source], Encoder],
        shape: Shape,
        limits: Limits,
        stdin: int | None = None,
        limit: int | None = None,
        skip: Callable[[int], bool] | None = None,
        may_go_on: Callable[[], bool] = lambda: True,
        look_every: int = 1,
        on_source: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._sources = sources
        self._function = function
        self._stop = stop
        self._stdin = stdin
        self._encode = encode
        self._shape = shape
        self._limits = limits
        self._limit = limit
        self._skip = skip
        self._may_go_on = may_go_on
        self._look_every = look_every
        self._on_source = on_source
        self.numbers: dict[str, int] = {}
        self.header: list[str] = []  # of the CSV file that is read
        self.headers: list[list[str]] = []  # the different ones of all CSV files so far
        self.complete = False  # the input, or what was asked for of it, has been read to its end
        self.problem: Problem | None = None

    def jobs(self) -> Iterator[Job]:
        """Ends at the limit, at the end of the input, when a stop is requested, or with ``problem`` set."""
        number = 0
        stop, skip, limit, numbers = self._stop, self._skip, self._limit, self.numbers
        look_every, look_at = self._look_every, 0
        try:
            for source in self._sources:
                make = None
                self._on_source(number)
                for payload, place in self._payloads(source):
                    if stop.requested:
                        return
                    if skip is None or not skip(number):
                        if make is None:  # now the header is known
                            make = self._maker(source)
                        id_, job = make(payload, place)
                        numbers[id_] = number
                        if number >= look_at:
                            look_at = number + look_every
                            while not self._may_go_on():
                                if stop.wait_for_wish(0.05):
                                    return
                        yield job
                    number += 1
                    if number == limit:
                        break
                if number == limit:
                    break
            self.complete = not stop.requested
        except Problem as problem:
            self.problem = problem

    # ---- jobs --------------------------------------------------------------------------------------------------------

    def _maker(self, source: Source) -> Callable[[Any, int | str], tuple[str, Job]]:
        """Makes jobs of a source's payloads, with their ids."""
        packed = pickle.dumps(Work(self._function, self._decoder(source), self._encode(source)), 5)
        label, timeout, retries = source.label, self._limits.timeout, self._limits.retries
        retry_on = _may_be_mended if retries else None

        def make(payload: Any, place: int | str) -> tuple[str, Job]:
            id_ = f"{label}:{place}" if place else label
            if type(payload) is Bad:
                return id_, Job(work.reject, tuple(payload), id=id_)
            if timeout is None and not retries:
                return id_, Job(work.record, (packed, payload), id=id_)
            return id_, Job(work.record, (packed, payload), id=id_, timeout=timeout, retries=retries, retry_on=retry_on)

        return make

    def _decoder(self, source: Source) -> Decoder:
        if self._shape.kind == "path":
            return work.as_it_is
        one = reading.decoder_of(source.format, self.header)
        if self._shape.kind == "table":
            return work.Table(None if source.format is Format.PARQUET else one)
        return one if self._shape.chunk is None else work.Chunk(one)

    # ---- payloads ----------------------------------------------------------------------------------------------------

    def _payloads(self, source: Source) -> Iterator[tuple[Any, int | str]]:
        """Each with its place in the source, as it stands in ids."""
        if self._shape.kind == "path":
            yield source.path, ""
            return
        try:
            if source.format is Format.PARQUET:
                yield from self._of_parquet(source)
                return
            with self._opened(source) as fd:
                found = self._cut(source, reading.open_stream(fd, source.compression, self._stop.wait))
                if self._shape.many:
                    yield from self._chunks(source, found)
                else:
                    yield from found
        except (OSError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            if self._stop.requested:  # the end of the bytes was our own
                return
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise Problem(f"INPUT {source.path!r} can no longer be read: {reason}") from None
        except NoSuchLibrary as error:
            raise Problem(f"INPUT {source.path!r}: {error}") from None
        except Problem:
            raise
        except Exception as error:  # of a library, about the content of the file
            if type(error).__module__.partition(".")[0] not in ("pyarrow", "zstd", "zstandard", "builtins"):
                raise
            raise Problem(f"INPUT {source.path!r} can no longer be read: {_first_line(error)}") from None

    def _cut(self, source: Source, stream: Any) -> Payloads:
        if source.format is Format.CSV:
            try:
                file = reading.CsvFile(stream)
            except ValueError as error:
                raise Problem(f"INPUT {source.path!r}: {error}") from None
            self.header = file.header
            if self.header not in self.headers:
                self.headers.append(self.header)
            return file.payloads()
        if source.format is Format.NUL:
            return reading.lines(stream, b"\0")
        return self._checked(
            source, reading.json_lines(stream) if source.format is Format.JSONL else reading.lines(stream)
        )

    def _checked(self, source: Source, found: Payloads) -> Payloads:
        for payload, place in found:
            if place == 1 and (why := reading.utf16(payload)):
                raise Problem(f"INPUT {source.label}:1: {why}")
            yield payload, place
            break
        yield from found

    def _chunks(self, source: Source, found: Payloads) -> Iterator[tuple[Any, int | str]]:
        """Payloads of so many good records each. One that is not good is a job of its own."""
        decode = reading.decoder_of(source.format, self.header)
        size = self._shape.size
        gathered: list[bytes] = []
        first = last = 0
        for payload, place in found:
            bad = payload if type(payload) is Bad else _check(decode, payload)
            if bad is not None:
                yield bad, str(place)
                continue
            if not gathered:
                first = place
            gathered.append(payload)
            last = place
            if len(gathered) == size:
                yield pickle.dumps(gathered, 5), f"{first}-{last}"
                gathered = []
        if gathered:
            yield pickle.dumps(gathered, 5), f"{first}-{last}"

    def _of_parquet(self, source: Source) -> Iterator[tuple[Any, int | str]]:
        if self._shape.kind == "table":
            for payload, first in reading.parquet_tables(source.absolute, self._shape.size):
                yield payload, str(first)
        elif self._shape.many:
            yield from self._chunks(source, reading.parquet_rows(source.absolute))
        else:
            yield from reading.parquet_rows(source.absolute)

    @contextmanager
    def _opened(self, source: Source) -> Iterator[int]:
        if source.is_stdin:
            assert self._stdin is not None
            yield self._stdin
            return
        fd = os.open(source.absolute, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)


def _check(decode: Decoder, payload: bytes) -> Bad | None:
    try:
        decode(payload)
    except MalformedRecord as error:
        return Bad(str(error), pickle.dumps([payload], 5))
    return None


def _may_be_mended(error: BaseException) -> bool:
    """What is malformed stays so."""
    return not isinstance(error, MalformedRecord)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def count_lines(sources: Sequence[Source], *, at_most_bytes: int) -> int | None:
    """The number of lines of all sources, for a progress bar; None when that would cost more than a moment."""
    try:
        if any(
            source.is_stdin
            or not os.path.isfile(source.absolute)
            or source.compression is not Compression.NONE
            or source.format is Format.PARQUET
            for source in sources
        ):
            return None
        if sum(os.path.getsize(source.absolute) for source in sources) > at_most_bytes:
            return None
        return sum(_count(source) for source in sources)
    except OSError:
        return None


def _count(source: Source) -> int:
    separator = b"\0" if source.format is Format.NUL else b"\n"
    lines = 0
    last = separator
    with open(source.absolute, "rb") as file:
        while chunk := file.read(reading.CHUNK_BYTES):
            lines += chunk.count(separator)
            last = chunk[-1:]
    lines += last != separator
    return max(0, lines - (source.format is Format.CSV))
