"""A worker's way back: one memory file with its board row and its result log, shared with the parent alone.

    page 0              the row: claim, started item, how much is logged (worker), how much is read, requests (parent)
    the next LOG_BYTES  the log, a ring of records; a record never wraps
    the table           which blocks are free again (parent)
    behind              blocks: of parcels (`arrays.parcel`), and of blobs too large for the ring

A result outlives its worker: the record's bytes first, then one 64-bit store of `COMMITTED`. After a death the parent
reads what is committed. The log's only writer is the worker, its only reader the parent's dispatcher thread.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable, Iterator

from mpengine.arrays import files
from mpengine.arrays.borrowed import FIRST, Borrowed
from mpengine.arrays.parcel import Parcel
from mpengine.arrays.segment import Lease, Segment, fetch
from mpengine.runtime import descriptors
from mpengine.wire import messages as wire

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from mpengine.arrays.guest import Guest

_LARGEST_INLINE = wire.LOG_BYTES // 8
_NUMBERS = (wire.HELD, wire.RELEASED, wire.LENT)
_MOST_NUMBERS = 1 << 10  # of blocks in one record
_FAR = 1 << 43  # where stray writes to the descriptor land: nowhere; ext4 has files of 16 TiB


class BadFrame(Exception):
    """A log holds what no worker of ours writes."""


def _align(size: int) -> int:
    return (size + 7) & ~7


class _Mapped:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, wire.BLOCKS_AT)
        self._view = memoryview(self._map)
        self.words = self._view[: wire.ROW_BYTES].cast("Q")
        self.doubles = self._view[: wire.ROW_BYTES].cast("d")
        self.pending = self._view[wire.PENDING_AT : wire.ROW_BYTES]
        self.log = self._view[wire.ROW_BYTES : wire.TABLE_AT]
        self.table = self._view[wire.TABLE_AT : wire.BLOCKS_AT]

    def unmap(self) -> None:
        for view in (self.words, self.doubles, self.pending, self.log, self.table, self._view):
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
            fd = files.create("mpengine-channel")
            descriptors.own(fd)
        os.ftruncate(fd, wire.BLOCKS_AT)
        super().__init__(fd)
        self._read = 0
        self._lent: tuple[Lease, ...] = ()  # for the next record
        self.borrowed: Borrowed | None = None  # the worker's blocks, once there are any
        self.lent = 0  # blocks the worker has written, ever
        self.cooled = 0  # of these, when it was last asked to give back what is free

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
                    blob: bytes | bytearray = self._read_block(bulk, length)
                elif start + length > wire.LOG_BYTES:
                    raise BadFrame(f"a record of {length} bytes at {at}")
                else:
                    blob = bytes(self.log[start : start + length])
                size = wire.RECORD.size + (0 if bulk else _align(length))
                if kind in _NUMBERS and length % 8:
                    raise BadFrame(f"{length} bytes that name no blocks")
                if kind == wire.LENT:
                    self._borrow(blob)
                    self._consume(size, bulk)
                    continue
                if self._lent:
                    blob = Parcel(blob, self._lent)
                yield LogRecord(kind, index, count, batch, started_at, duration, peak, blob)
                self._lent = ()
                del blob
                self._consume(size, bulk)

    def _consume(self, size: int, bulk: int = 0) -> None:
        self._read += size
        self.words[wire.CONSUMED] = self._read
        if bulk:  # not before: a record that is left is read again
            self.lent += 1
            self.table[bulk] = 1
            self.table[0] = 1  # last: see `arrays.borrowed`

    def _borrow(self, blob: bytes | bytearray) -> None:
        try:
            key, *numbers = array("Q", blob)
            places = list(zip(*[iter(numbers)] * 3, strict=True))
        except ValueError as error:
            raise BadFrame(f"{len(blob)} bytes that name no blocks") from error
        size = os.fstat(self.fd).st_size
        for _, offset, length in places:
            if wire.BLOCKS_AT + offset + length > size or offset >> wire.BLOCK_BITS >= wire.MOST_BLOCKS:
                raise BadFrame(f"a block of {length} bytes at {offset}")
        if self.borrowed is None:
            self.borrowed = Borrowed(key, self.fd, wire.BLOCKS_AT, self.table, wire.BLOCK_BITS)
        self._lent = tuple(map(self.borrowed.take, places))
        self.lent += len(places)

    def _read_block(self, number: int, length: int) -> bytearray:
        """A copy of a large blob."""
        offset = (number - 1) << wire.BLOCK_BITS
        at = wire.BLOCKS_AT + offset
        if number > wire.MOST_BLOCKS or at + length > os.fstat(self.fd).st_size:
            raise BadFrame(f"a blob of {length} bytes at {offset}")
        try:
            blob = fetch(self.fd, at, length).obj  # may raise MemoryError: the caller's affair
        except EOFError as error:
            raise BadFrame(str(error)) from error
        return blob  # type: ignore[return-value]

    def close(self) -> None:
        """Give the memory back, but for what is looked at. The worker must be dead, or it loses the way back."""
        self._lent = ()
        borrowed, self.borrowed = self.borrowed, None
        if borrowed is not None and borrowed.close(os.fstat(self.fd).st_size):
            descriptors.forget(self.fd)
        else:
            descriptors.close(self.fd)
        self.unmap()


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
        self.segment = Segment(fd, wire.BLOCKS_AT, wire.BLOCK_BITS, most=wire.MOST_BLOCKS, look=self._look)
        self.guest: Guest | None = None  # has its news told before any end of a job
        self._lent: dict[int, Lease] = {}  # by offset

    def commit(
        self, kind: int, blob: bytes = b"", *, batch: int = 0, index: int = 0, count: int = 1,
        started_at: float = 0.0, duration: float = 0.0, peak_memory: int = 0,
    ) -> None:  # fmt: skip
        """Log a record; when this returns it outlives the worker. Blocks while the log is full.

        Raises:
            MemoryError: There is no room for a large blob. Nothing was logged.
        """
        length = len(blob)
        bulk = 0
        if length > _LARGEST_INLINE:
            lease = self.segment.put([blob])
            self._lent[lease.offset] = lease
            bulk = (lease.offset >> wire.BLOCK_BITS) + 1
        if self.guest is not None and self.guest.has_news:
            self.tell_news(self.guest)
        if type(blob) is Parcel:
            self._tell_lent(blob.leases)
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

    def tell_news(self, guest: Guest) -> None:
        """Which of the parent's blocks this worker looks at."""
        released, held = guest.news()
        for kind, numbers in ((wire.RELEASED, released), (wire.HELD, held)):  # the same may be in both
            for start in range(0, len(numbers), _MOST_NUMBERS):
                self.commit(kind, array("Q", numbers[start : start + _MOST_NUMBERS]).tobytes())

    def _tell_lent(self, leases: tuple[Lease, ...]) -> None:
        """The next record refers to these blocks: they are the parent's, from now on until it says otherwise."""
        numbers = [self.segment.key]
        for lease in leases:
            numbers += lease.place
        self.commit(wire.LENT, array("Q", numbers).tobytes())
        for lease in leases:
            self._lent[lease.offset] = lease

    def _look(self) -> None:
        """Take back what the parent has given back."""
        table = self._map
        if not table[wire.TABLE_AT]:
            return
        table[wire.TABLE_AT] = 0  # first: what is given back from here on is looked for next time
        first = wire.TABLE_AT + FIRST
        at = first
        end = first + (self.segment.top >> wire.BLOCK_BITS)
        while (at := table.find(b"\1", at, end)) >= 0:
            table[at] = 0
            self._lent.pop((at - first) << wire.BLOCK_BITS, None)
