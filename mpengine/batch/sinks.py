"""OUT: takes entries in the order they are to have, says where they went, and how it looked then.

A position is where something is in OUT as a reader of records sees it: bytes of text, decompressed and without the
header, or rows of Parquet. Compressed files are made of frames, and Parquet of groups of rows, that end after so many
bytes or results whatever the timing: so a run that was cut off ten times gives the same file as one that was not.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from mpengine.batch.formats import Compression, Format
from mpengine.batch.order import Entry
from mpengine.batch.reading import open_stream, zstandard
from mpengine.batch.work import UnfitResult

FRAME_BYTES = 1 << 20
NEW = ".new"  # the ending of what is to take OUT's place
_GZIP_LEVEL = 6
_COPIED_BYTES = 1 << 18


class Pieces(Protocol):
    """An open file that is written piece by piece, each whole or not at all."""

    def write(self, data: bytes, /, *, records: int) -> None: ...


@dataclass(slots=True)
class Taken:
    """What became of the entries that were offered: the first `count` are in OUT.

    Attributes:
        places: Number, position and size of those that did not succeed.
        refused: Those whose result does not fit, with the reason; nothing of them is in OUT.
    """

    count: int = 0
    places: list[tuple[int, int, int]] = field(default_factory=list)
    refused: list[tuple[Entry, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Late:
    """A result for a place that OUT has passed: it takes the room of `size` there."""

    at: int
    size: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class FileNote:
    """What the journal is to know of a file of OUT: once its first job is known, and once it is finished.

    Attributes:
        number: Of the file.
        first: The number of its first job.
        state: Of the finished file; None: it is not.
    """

    number: int
    first: int
    state: dict[str, Any] | None = None


class Sink(ABC):
    """One OUT, of one file or, in a folder, of several. Its `state` is enough to go on from where it was.

    Positions are counted within a file.
    """

    def wants(self, entries: Sequence[Entry], size: int) -> bool:
        """Whether it might take some of these, of so many bytes."""
        return len(entries) > 0

    @abstractmethod
    def take(self, entries: Sequence[Entry], *, final: bool) -> Taken:
        """Write as many of these as OUT takes now; all of them if it is the end. Raises what writing raises."""

    @abstractmethod
    def sync(self) -> None:
        """Wait until all that was taken is on the disk."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """JSON."""

    @abstractmethod
    def finish(self) -> None:
        """After the last entry: OUT is what it should be."""

    def clean(self) -> None:  # noqa: B027 (most have nothing to clean)
        """When the journal has the `state`, and what was in `notes`: remove what is not needed any more."""

    @abstractmethod
    def notes(self) -> list[FileNote]:
        """What is new, since the last `clean`, about files that have no part in `state`."""

    @abstractmethod
    def file_of(self, number: int) -> int:
        """In which of its files a job's result is."""

    @abstractmethod
    def path_of(self, file: int) -> str:
        """Of one of its files."""

    @abstractmethod
    def opened(self, file: int) -> AbstractContextManager[OneFile]:
        """A finished file, to put late results in."""

    @abstractmethod
    def mended(self, states: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        """`state`, once these files have been replaced; `notes` has what is not in it."""


class OneFile(Sink):
    """An OUT that is a file, or one file of it."""

    def notes(self) -> list[FileNote]:
        return []

    def file_of(self, number: int) -> int:
        return 0

    @contextmanager
    def opened(self, file: int) -> Iterator[OneFile]:
        yield self

    def mended(self, states: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        return states.get(0) or self.state()

    @abstractmethod
    def size_of(self, blob: bytes) -> int:
        """What a result takes of the positions. Raises `UnfitResult` if it has no place in OUT."""

    @abstractmethod
    def rewrite(self, late: Sequence[Late]) -> dict[str, Any]:
        """Make a new OUT beside the finished one, with these in their places. Returns the state of the new."""


class FileSink(OneFile):
    """Records one after the other: text, JSON lines, CSV.

    Args:
        path: None: it cannot be written anew, such as stdout.
        file: The same, at its end.
        fd: Its descriptor.
        state: Of an earlier run; {}: a new one.
    """

    def __init__(
        self, path: str | None, file: Pieces, fd: int, format: Format, compression: Compression, state: dict[str, Any]
    ) -> None:
        self._path = path
        self._file = file
        self._fd = fd
        self._compression = compression
        self._columns = _Columns(state.get("header") or "") if format is Format.CSV else None
        self._position = int(state.get("position", 0))
        self._begun = bool(state.get("begun", False))  # there is something in the file

    def wants(self, entries: Sequence[Entry], size: int) -> bool:
        return len(entries) > 0 and (self._compression is Compression.NONE or size >= FRAME_BYTES)

    def take(self, entries: Sequence[Entry], *, final: bool) -> Taken:
        taken = Taken()
        frame = _Frame()
        whole = self._compression is Compression.NONE
        if whole and self._columns is None and not any(entry.failed for entry in entries):  # most of them, by far
            frame.blobs = [entry.blob for entry in entries]
            frame.size = sum(map(len, frame.blobs))
            self._write(frame)
            taken.count = len(entries)
            return taken
        for at, entry in enumerate(entries, 1):
            blob, failed = entry.blob, entry.failed
            if self._columns is not None and blob:
                try:
                    blob = self._columns.fit(blob)
                except UnfitResult as error:
                    frame.refused.append((entry, str(error)))
                    blob, failed = b"", True
            if failed:
                frame.places.append((entry.number, self._position + frame.size, len(blob)))
            frame.blobs.append(blob)
            frame.size += len(blob)
            if at == len(entries) if whole else frame.size >= FRAME_BYTES or (final and at == len(entries)):
                self._write(frame)
                taken.count = at
                taken.places += frame.places
                taken.refused += frame.refused
                frame = _Frame()
        return taken

    def _write(self, frame: _Frame) -> None:
        data = b"".join(frame.blobs)
        if not data:
            return
        if self._columns is not None and not self._begun:
            data = self._columns.header + data
        self._file.write(compress(data, self._compression), records=len(frame.blobs) - frame.blobs.count(b""))
        self._begun = True
        self._position += frame.size

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def state(self) -> dict[str, Any]:
        size = os.lseek(self._fd, 0, os.SEEK_CUR) if self._path is not None else 0
        return self._state(self._position, size)

    def _state(self, position: int, size: int) -> dict[str, Any]:
        header = self._columns.header.decode("utf-8", "surrogateescape") if self._columns and self._begun else ""
        return {"position": position, "size": size, "header": header, "begun": self._begun}

    def finish(self) -> None:
        """A compressed file without records is a frame with nothing in it, as other tools want it."""
        if self._compression is not Compression.NONE and not self._begun:
            self._file.write(compress(b"", self._compression), records=0)
            self._begun = True

    def path_of(self, file: int) -> str:
        assert self._path is not None
        return self._path

    def size_of(self, blob: bytes) -> int:
        return len(blob) if self._columns is None or not blob else len(self._columns.fit(blob))

    def rewrite(self, late: Sequence[Late]) -> dict[str, Any]:
        assert self._path is not None
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        new = os.open(self._path + NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(self._path, "rb") as old, open(new, "wb", buffering=0) as file:
            plain = open_stream(old.fileno(), self._compression, lambda fd, event: True)
            reader = io.BufferedReader(plain, _COPIED_BYTES)
            copy = _Copy(file, self._compression)
            position = 0
            grown = 0
            for one in late:
                blob = one.blob if self._columns is None or not one.blob else self._columns.fit(one.blob)
                if self._columns is not None and position == 0 and copy.size == 0:
                    reader.read(len(self._columns.header) if self._begun else 0)
                    copy.add(self._columns.header)
                copy.take(reader, one.at - position)
                reader.read(one.size)
                position = one.at + one.size
                copy.add(blob)
                grown += len(blob) - one.size
            copy.take(reader, None)
            copy.end()
            os.fsync(new)
            self._begun = self._begun or copy.size > 0
            return self._state(self._position + grown, os.fstat(new).st_size)


@dataclass(slots=True)
class _Frame:
    blobs: list[bytes] = field(default_factory=list)
    size: int = 0
    places: list[tuple[int, int, int]] = field(default_factory=list)
    refused: list[tuple[Entry, str]] = field(default_factory=list)


class _Columns:
    """The columns of a CSV file: those of its first row."""

    def __init__(self, header: str) -> None:
        self.header = header.encode("utf-8", "surrogateescape")  # a line, with its ending
        self._names = _row_of(self.header) if header else []

    def fit(self, blob: bytes) -> bytes:
        """The rows of a blob, which begins with its own header, as this file has them."""
        header, _, rows = blob.partition(b"\n")
        header += b"\n"
        if not self.header:
            self.header, self._names = header, _row_of(header)
        if header == self.header:
            return rows
        names = _row_of(header)
        if sorted(names) != sorted(self._names):
            raise UnfitResult(
                f"the result's columns are {', '.join(names)}, and those of OUT, after its first row, "
                f"{', '.join(self._names)}; return the same for all records"
            )
        file = io.StringIO()
        writer = csv.DictWriter(file, self._names, lineterminator="\n")
        text = io.StringIO(rows.decode("utf-8", "surrogateescape"), newline="")
        writer.writerows(csv.DictReader(text, names))
        return file.getvalue().encode("utf-8", "surrogateescape")


class _Copy:
    """Writes what it is given as frames."""

    def __init__(self, file: io.RawIOBase | Any, compression: Compression) -> None:
        self._file = file
        self._compression = compression
        self._frame: list[bytes] = []
        self._gathered = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        self._frame.append(data)
        self._gathered += len(data)
        self.size += len(data)
        if self._gathered >= FRAME_BYTES:
            self.end()

    def take(self, reader: io.BufferedIOBase, size: int | None) -> None:
        """So many bytes of another file; None: the rest of it."""
        while size is None or size > 0:
            data = reader.read(_COPIED_BYTES if size is None else min(size, _COPIED_BYTES))
            if not data:
                return
            self.add(data)
            if size is not None:
                size -= len(data)

    def end(self) -> None:
        if self._gathered:
            data = memoryview(compress(b"".join(self._frame), self._compression))
            while data:
                data = data[self._file.write(data) :]
        self._frame, self._gathered = [], 0


def compress(data: bytes, compression: Compression) -> bytes:
    """As one frame, which depends on the data alone; frames one after the other are a file."""
    if compression is Compression.GZIP:
        return gzip.compress(data, _GZIP_LEVEL, mtime=0)
    if compression is Compression.ZSTD:
        frame: bytes = zstandard().ZstdCompressor().compress(data)
        return frame
    return data


def sync_folder(path: str) -> None:
    """Wait until the names in it are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _row_of(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8", "surrogateescape")]))
