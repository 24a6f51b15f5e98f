"""A worker's way back: one memory file with its board row and its result log, shared with the parent alone.

    page 0              the row: claim, started item, how much is logged (worker), how much is read, requests (parent)
    the next LOG_BYTES  the log, a ring of records; a record never wraps
    behind              bulk: blobs too large for the ring

A result outlives its worker: the record's bytes first, then one 64-bit store of `COMMITTED`. After a death the parent
reads what is committed. The log's only writer is the worker, its only reader the parent's dispatcher thread.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator

from mpengine.runtime import descriptors
from mpengine.wire import messages as wire

_BULK_LIMIT = 64 << 20  # of bulk that waits to be read or stays allocated; one blob may exceed it
_LARGEST_INLINE = wire.LOG_BYTES // 8
_MOST_BYTES = 1 << 30  # a call; the kernel stops at 2 GiB
_FAR = 1 << 46  # where stray writes to the descriptor land: nowhere


class BadFrame(Exception):
    """A log holds what no worker of ours writes."""


def _align(size: int) -> int:
    return (size + 7) & ~7


class _Mapped:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, wire.BULK_BASE)
        self._view = memoryview(self._map)
        self.words = self._view[: wire.ROW_BYTES].cast("Q")
        self.doubles = self._view[: wire.ROW_BYTES].cast("d")
        self.pending = self._view[wire.PENDING_AT : wire.ROW_BYTES]
        self.log = self._view[wire.ROW_BYTES : wire.BULK_BASE]

    def unmap(self) -> None:
        for view in (self.words, self.doubles, self.pending, self.log, self._view):
            view.release()
        self._map.close()


class LogRecord:
    """One record of a log as it stands there; `blob` is a copy. Not a dataclass, as workers import this."""

    __slots__ = ("batch", "blob", "count", "duration", "index", "kind", "peak_memory", "started_at")

    def __init__(
        self,
        kind: int,
        index: int,
        count: int,
        batch: int,
        started_at: float,
        duration: float,
        peak_memory: int,
        blob: bytes | bytearray,
    ) -> None:
        self.kind = kind
        self.index = index
        self.count = count
        self.batch = batch
        self.started_at = started_at
        self.duration = duration
        self.peak_memory = peak_memory
        self.blob = blob


class LogReader(_Mapped):
    """The parent's end; makes the file."""

    def __init__(self) -> None:
        with descriptors.no_fork:
            fd = os.memfd_create("mpengine-channel", os.MFD_CLOEXEC)
            descriptors.own(fd)
        os.ftruncate(fd, wire.BULK_BASE)
        super().__init__(fd)
        self._read = 0

    def claim(self) -> int:
        """The batch this worker claimed last; 0: none."""
        return self.words[wire.CLAIM]

    def started(self) -> tuple[int, int, float]:
        """Batch and item it started last, and when (0.0: not told)."""
        word = self.words[wire.STARTED]
        return (*wire.split_started(word), self.doubles[wire.STARTED_AT])

    def progress(self) -> tuple[float, float]:
        """What the running job said of its progress: done, total."""
        return self.doubles[wire.PROGRESS_DONE], self.doubles[wire.PROGRESS_TOTAL]

    def unlogged(self) -> tuple[int, int, list[tuple[int, bytes]]]:
        """Of a dead worker: what is not in its log but pending.

        Returns:
            A batch; the item whose value is the first; how many values (0: one, pickled) there are in which bytes.
        """
        end = self.words[wire.PENDING]
        batch, index = wire.split_started(self.words[wire.PENDING_FIRST])
        segments: list[tuple[int, bytes]] = []
        at = 0
        while at + wire.SEGMENT.size <= end <= wire.PENDING_BYTES:
            length, count = wire.SEGMENT.unpack_from(self.pending, at)
            at += wire.SEGMENT.size
            segments.append((count, bytes(self.pending[at : at + length])))
            at += length
        return batch, index, segments

    def records(self) -> Iterator[LogRecord]:
        """What was committed and not read yet. Raises BadFrame. Each record is given free as the next is asked for."""
        while True:
            committed = self.words[wire.COMMITTED]
            if committed == self._read:
                return
            if not 0 < committed - self._read <= wire.LOG_BYTES:
                raise BadFrame(f"{committed - self._read} bytes of log at once")
            while self._read < committed:
                at = self._read % wire.LOG_BYTES
                if wire.LOG_BYTES - at < wire.RECORD.size:
                    self._consume(wire.LOG_BYTES - at)
                    continue
                magic, kind, _, index, count, batch, started_at, duration, peak, length, bulk = wire.RECORD.unpack_from(
                    self.log, at
                )
                if magic != wire.RECORD_MAGIC:
                    raise BadFrame(f"magic {magic:#x}")
                if kind == wire.SKIP:
                    self._consume(wire.LOG_BYTES - at)
                    continue
                start = at + wire.RECORD.size
                if bulk:
                    blob: bytes | bytearray = self._read_bulk(bulk, length)
                elif start + length > wire.LOG_BYTES:
                    raise BadFrame(f"a record of {length} bytes at {at}")
                else:
                    blob = bytes(self.log[start : start + length])
                yield LogRecord(kind, index, count, batch, started_at, duration, peak, blob)
                self._consume(wire.RECORD.size + (0 if bulk else _align(length)))

    def _consume(self, size: int) -> None:
        self._read += size
        self.words[wire.CONSUMED] = self._read

    def _read_bulk(self, offset: int, length: int) -> bytearray:
        if offset < wire.BULK_BASE or offset + length > os.fstat(self.fd).st_size:
            raise BadFrame(f"a blob of {length} bytes at {offset}")
        buffer = bytearray(length)  # may raise MemoryError: the caller's affair
        view = memoryview(buffer)
        done = 0
        while done < length:
            got = os.preadv(self.fd, [view[done : done + _MOST_BYTES]], offset + done)
            if not got:
                raise BadFrame(f"a blob of {length} bytes ends after {done}")
            done += got
        return buffer

    def close(self) -> None:
        """Give the memory back. The worker must be dead, or it loses the way back."""
        self.unmap()
        descriptors.close(self.fd)


class LogWriter(_Mapped):
    """The worker's end.

    Args:
        ring: Tell the parent that there is something to read.
        wait: Pass a short time while the log is full; must not return when the parent is gone.
    """

    def __init__(self, fd: int, ring: Callable[[], None], wait: Callable[[], None]) -> None:
        super().__init__(fd)
        os.lseek(fd, _FAR, os.SEEK_SET)
        self.row = self._view[: wire.TICKET.size]
        self.cells = self._map  # single bytes of the row: cheaper to get at than words
        self._ring = ring
        self._wait = wait
        self._committed = self.words[wire.COMMITTED]
        self._bulk_next = wire.BULK_BASE

    def commit(
        self, kind: int, blob: bytes = b"", *, batch: int = 0, index: int = 0, count: int = 1,
        started_at: float = 0.0, duration: float = 0.0, peak_memory: int = 0,
    ) -> None:  # fmt: skip
        """Log a record; when this returns it outlives the worker. Blocks while the log is full."""
        length = len(blob)
        bulk = self._write_bulk(blob) if length > _LARGEST_INLINE else 0
        size = wire.RECORD.size + (0 if bulk else _align(length))
        at = self._room(size)
        if length and not bulk:
            start = at + wire.RECORD.size
            self.log[start : start + length] = blob
        wire.RECORD.pack_into(
            self.log,
            at,
            wire.RECORD_MAGIC,
            kind,
            0,
            index,
            count,
            batch,
            started_at,
            duration,
            peak_memory,
            length,
            bulk,
        )
        self._committed += size
        self.words[wire.COMMITTED] = self._committed  # last: from here on it counts

    def _room(self, size: int) -> int:
        """Wait until `size` bytes are free in one piece; return where."""
        at = self._committed % wire.LOG_BYTES
        left = wire.LOG_BYTES - at
        if left < size:
            self._wait_until_free(left)
            if left >= wire.RECORD.size:
                wire.RECORD.pack_into(
                    self.log, at, wire.RECORD_MAGIC, wire.SKIP, 0, 0, 0, 0, 0.0, 0.0, 0, 0, 0
                )  # fmt: skip
            self._committed += left
            self.words[wire.COMMITTED] = self._committed
            at = 0
        self._wait_until_free(size)
        return at

    def _wait_until_free(self, size: int) -> None:
        while wire.LOG_BYTES - (self._committed - self.words[wire.CONSUMED]) < size:
            self._ring()
            self._wait()

    def _write_bulk(self, blob: bytes) -> int:
        """Write a large blob behind the log, to be read in turn with its record. Raises OSError if there is no room."""
        if self.words[wire.CONSUMED] == self._committed:
            self._reset_bulk()
        elif self._bulk_next - wire.BULK_BASE >= _BULK_LIMIT:
            while self.words[wire.CONSUMED] != self._committed:
                self._ring()
                self._wait()
            self._reset_bulk()
        offset = self._bulk_next
        view = memoryview(blob)
        try:
            while len(view):
                view = view[os.pwrite(self.fd, view[:_MOST_BYTES], offset + len(blob) - len(view)) :]
        except BaseException:
            os.ftruncate(self.fd, offset)
            raise
        self._bulk_next = offset + _align(len(blob))
        return offset

    def _reset_bulk(self) -> None:
        """Everything was read: start over, and give back what is more than a usual amount."""
        if self._bulk_next - wire.BULK_BASE > _BULK_LIMIT:
            os.ftruncate(self.fd, wire.BULK_BASE)
        self._bulk_next = wire.BULK_BASE
