"""Input files, cut into payloads: streamed, whatever their size, and not looked into more than it takes to cut them.

Each reader yields a payload with its place: the line or the row it begins at, 1-based. A record that cannot be cut out
is a `Bad` one in its place. An input that cannot be read any further raises `OSError`, `EOFError` or the library's own.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import importlib
import io
import os
import pickle
import select
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from mpengine.batch.formats import Compression, Format
from mpengine.batch.work import CsvRow, Decoder, json_of, text_of, text_of_line, unpickled

CHUNK_BYTES = 1 << 18
BATCH_ROWS = 1024  # of Parquet, read at once
_ZSTD_BYTES = 1 << 16  # compressed, at once: what comes of it may be many times that
_FIELD_BYTES = 1 << 26  # of one field of CSV

Wait = Callable[[int, int], bool]


class Bad(NamedTuple):
    """Stands for a record that could not be cut out, or is not what its format asks for.

    Attributes:
        payload: What it was, as that of a job; None: that could not be cut out.
    """

    message: str
    payload: bytes | None = None


class NoSuchLibrary(ImportError):
    """A format needs a library that is not installed. The message says which, and how to get it."""


Payloads = Iterator[tuple[Any, int]]


class WaitingFile(io.RawIOBase):
    """Reads a descriptor, which stays the caller's; ends as a file does when there is no more, or no more is wanted.

    Args:
        fd: To read.
        wait: Waits until a descriptor is ready for an event of poll (True), or nobody wants more (False).
    """

    def __init__(self, fd: int, wait: Wait) -> None:
        self._fd = fd
        self._wait = wait

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._wait(self._fd, select.POLLIN):
            return 0
        return os.readv(self._fd, [buffer])


class ZstdFile(io.RawIOBase):
    """Frames of zstd one after the other, decompressed.

    The library's own reader takes a file that was cut off for a whole one.

    Raises:
        EOFError: When the end is reached in the middle of a frame.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._open = zstandard().ZstdDecompressor()
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if not self._input:
                self._input = self._raw.read(_ZSTD_BYTES) or b""
                if not self._input:
                    if self._frame is not None:
                        raise EOFError("Compressed file ended before the end of a frame")
                    return 0
            if self._frame is None:
                self._frame = self._open.decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size


def open_stream(fd: int, compression: Compression, wait: Wait) -> io.BufferedIOBase:
    """The bytes of an input, decompressed."""
    raw = WaitingFile(fd, wait)
    if compression is Compression.GZIP:
        return cast(io.BufferedIOBase, gzip.GzipFile(fileobj=raw, mode="rb"))
    if compression is Compression.ZSTD:
        return cast(io.BufferedIOBase, ZstdFile(raw))
    return cast(io.BufferedIOBase, raw)


def lines(stream: io.BufferedIOBase, separator: bytes = b"\n") -> Payloads:
    """Each line without its separator."""
    number = 0
    unfinished: list[bytes] = []  # the pieces of a line longer than a chunk: joined once
    while chunk := stream.read(CHUNK_BYTES):
        *found, rest = chunk.split(separator)
        if found:
            found[0] = b"".join((*unfinished, found[0]))
            unfinished.clear()
        for line in found:
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            yield line, number
        if rest:
            unfinished.append(rest)
    if unfinished:
        yield b"".join(unfinished).removeprefix(codecs.BOM_UTF8 if not number else b""), number + 1


def json_lines(stream: io.BufferedIOBase) -> Payloads:
    """Without empty lines."""
    return ((line, number) for line, number in lines(stream) if line and not line.isspace())


class CsvFile:
    """Rows of CSV. The first has the names of the columns.

    Attributes:
        header: The names; [] where the file is empty.

    Raises:
        ValueError: The header makes no sense.
    """

    def __init__(self, stream: io.BufferedIOBase) -> None:
        csv.field_size_limit(_FIELD_BYTES)
        text = io.TextIOWrapper(
            io.BufferedReader(cast(io.RawIOBase, stream), CHUNK_BYTES), "utf-8-sig", "surrogateescape", newline=""
        )
        self._rows = csv.reader(text)
        try:
            self.header = next(self._rows, [])
        except csv.Error as error:
            raise ValueError(f"its header is not CSV: {error}") from None
        if len(set(self.header)) < len(self.header):
            twice = sorted({name for name in self.header if self.header.count(name) > 1})
            raise ValueError(f"its header has {', '.join(map(repr, twice[:5]))} more than once; rename the columns")

    def payloads(self) -> Payloads:
        rows = self._rows
        while True:
            number = rows.line_num + 1  # where the next row begins
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Bad(f"not CSV: {error}; put the row right"), number
                continue
            if row:
                yield pickle.dumps(row, 5), number


def parquet_rows(path: str) -> Payloads:
    """Each row as a pickled dict."""
    number = 0
    for batch in _parquet(path, BATCH_ROWS):
        for row in batch.to_pylist():
            number += 1
            yield pickle.dumps(row, 5), number


def parquet_tables(path: str, rows: int) -> Payloads:
    """So many rows each, as a stream of Arrow's."""
    pa = pyarrow()
    number = 1
    for batch in _parquet(path, rows):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield sink.getvalue().to_pybytes(), number
        number += batch.num_rows


def _parquet(path: str, rows: int) -> Iterator[Any]:
    pyarrow()
    pq = importlib.import_module("pyarrow.parquet")
    with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=rows, use_threads=False)


def decoder_of(format: Format, header: list[str]) -> Decoder:
    """Of the payloads of a format."""
    match format:
        case Format.TEXT:
            return text_of_line
        case Format.NUL:
            return text_of
        case Format.JSONL:
            return json_of
        case Format.CSV:
            return CsvRow(header)
        case _:
            return unpickled


def utf16(line: bytes) -> str | None:
    """Why the first line of a text shows that it is not UTF-8 at all."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is UTF-16, not UTF-8; convert it first, as with iconv -f UTF-16 -t UTF-8"
    return None


def pyarrow() -> Any:
    """The library."""
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError:
        raise NoSuchLibrary("Parquet and tables need pyarrow; pip install 'mpengine[parquet]'") from None
    return pa


def zstandard() -> Any:
    """The library."""
    try:
        import zstandard as found
    except ImportError:
        raise NoSuchLibrary("zstd needs zstandard; pip install 'mpengine[zstd]'") from None
    return found
