"""The owner's side of a file in memory: takes blocks of it, writes them, and has them back.

    put ─▶ Lease ──handed over──▶ whoever holds one ──the last is gone──▶ free, warm ──cool──▶ the system's

Room that has memory is written through a mapping, at the speed of a copy. New room is written by the kernel: a machine
that is full then says so, where a write through a mapping would end the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from mpengine.arrays.blocks import Blocks

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mpengine.arrays.mapping import Mapping

PIECE_BYTES = 1 << 26  # see `arrays.mapping`; the file ends with a whole one

ALIGNMENT = 64  # of the parts in a block: what numpy and the vector units like
_MAPPED_FROM = 1 << 16  # bytes; less is written by a call to the kernel, which takes no page of ours
_STEP = 1 << 20  # bytes copied between two chances for other threads
_COOLED_BITS = 26  # of memory given back at a time
_MOST_IOV = 512  # buffers a call; IOV_MAX is 1024
_MOST_BYTES = 1 << 30  # a call; the kernel stops at 2 GiB


class Lease:
    """Who holds it can look at a block. When it is gone, its `Mark` says so to who made it.

    Attributes:
        number: Its own, for ever, in its segment.
        offset, length: Where the block is, and how much of it is used.
        keeps: What has to be there as long as it is.
    """

    __slots__ = ("__weakref__", "keeps", "length", "number", "offset")

    def __init__(self, number: int, offset: int, length: int, keeps: object = None) -> None:
        self.number = number
        self.offset = offset
        self.length = length
        self.keeps = keeps

    @property
    def place(self) -> tuple[int, int, int]:
        """Number, offset and length: all that the other side needs."""
        return self.number, self.offset, self.length


class Mark(weakref.ref[Lease]):
    """What is left of a lease when that is gone.

    A weak reference, and not a `__del__`: while that runs, other weak references still lead to the lease, and another
    thread could get hold of a block that is being given back.

    Args:
        gone: Called with this when the lease is gone, in whatever thread, between any two steps of it. A deque's
            `append` is one step, in which no signal handler and no other thread can come.

    Attributes:
        number, offset, length: The lease's.
        warm: How many bytes at the beginning of its block have memory.
    """

    __slots__ = ("length", "number", "offset", "warm")

    def __new__(cls, lease: Lease, gone: Callable[[Mark], None]) -> Mark:
        return super().__new__(cls, lease, gone)

    def __init__(self, lease: Lease, gone: Callable[[Mark], None]) -> None:
        super().__init__(lease, gone)  # type: ignore[call-arg]
        self.number, self.offset, self.length = lease.place
        self.warm = 0


class Segment:
    """See the module's text. Any thread.

    Args:
        fd: Of the file, to read and write; it stays the caller's.
        base: Where in the file the blocks begin.
        smallest_bits: Logarithm of the size of the smallest block.
        most: As many of the smallest blocks have room; None: no bound.
        look: Called before a block is taken, with the lock: to drop leases that were held for others.

    Attributes:
        key: Of the segment, among all of all processes.
        shield: Entered while a block is taken and written, which no exception from a signal handler may cut short.
        maps: Whether what has memory is written through a mapping, whose pages count as this process's.
        dropped: Called with the number of a block that was let stay, when it has no lease. In any thread, between any
            two steps of it.
        peak: Bytes in use, at most.
        taken: Blocks that were taken, ever.
    """

    def __init__(
        self, fd: int, base: int, smallest_bits: int, *, most: int | None = None, look: Callable[[], None] | None = None
    ) -> None:  # fmt: skip
        self.key = int.from_bytes(os.urandom(8), "little")
        self.shield: AbstractContextManager[Any] = contextlib.nullcontext()
        self.maps = True
        self.dropped: Callable[[int], None] | None = None
        self.peak = self.taken = 0
        self._pid = os.getpid()
        self._fd = fd
        self._base = base
        self._end = 0  # of the file, from `base`
        self._in_use = 0
        self._most = None if most is None else most << smallest_bits
        self._look = look
        self._lock = threading.Lock()
        self._blocks = Blocks(smallest_bits)
        self._mapping: Mapping | None = None
        self._numbers = itertools.count(1)
        self._marks: dict[int, Mark] = {}  # by number
        self._gone: deque[Mark] = deque()
        self._pins: dict[int, int] = {}  # by number: how many
        self._pinned: dict[int, Mark] = {}  # of these, the blocks without a lease
        self._staying: dict[int, weakref.ref[Lease]] = {}
        self._writers = 0
        self._close_file: Callable[[], None] | None = None  # set: it is closed

    def put(self, parts: Sequence[Any], alignment: int = 1) -> Lease:
        """Write bytes-like parts into a block, one after another.

        Args:
            alignment: Of each part in the block.

        Raises:
            MemoryError: There is no room.
            RuntimeError: It is closed, or another process's.
        """
        places = positions([len(part) for part in parts], alignment)
        length = places[-1] + len(parts[-1])
        with self.shield:
            lease: Lease | None = None
            try:
                lease, mark = self._take(length)
                try:
                    self._fill(mark, parts, places)
                finally:
                    self._written()
            except BaseException as error:
                lease = None  # not as long as somebody keeps the error, and with it this frame
                if isinstance(error, (OSError, MemoryError)):
                    raise MemoryError(f"no room for {length:,} bytes in shared memory: {error}") from error
                raise
        return lease

    def _fill(self, mark: Mark, parts: Sequence[Any], places: Sequence[int]) -> None:
        length = mark.length
        try:
            target = self._view(mark) if self.maps and _MAPPED_FROM <= length <= mark.warm else None
            if target is None:
                self._write(zip(places, parts, strict=True), mark.offset)
            else:
                _copy(zip(places, parts, strict=True), target)
        except BaseException:
            if mark.warm < length:  # what was written has memory, and nobody would know
                with contextlib.suppress(OSError, MemoryError):
                    self._map().remove(mark.offset, length)
                mark.warm = 0
            raise
        mark.warm = max(mark.warm, length)

    def pin(self, number: int) -> bool:
        """The block is not free before it was unpinned as often; False: there is none of this number."""
        with self._lock:
            self._take_back()
            if number not in self._marks and number not in self._pinned:
                return False
            self._pins[number] = self._pins.get(number, 0) + 1
            return True

    def unpin(self, number: int) -> None:
        """See `pin`."""
        with self._lock:
            self._take_back()
            self._pins[number] -= 1
            if not self._pins[number]:
                del self._pins[number]
                mark = self._pinned.pop(number, None)
                if mark is not None:
                    self._free(mark)

    def let_stay(self, lease: Lease) -> None:
        """The other side keeps what it makes of the block for those who come, until it is told that it is gone."""
        self._staying[lease.number] = weakref.ref(lease, functools.partial(self._drop, lease.number))

    def _drop(self, number: int, _: object) -> None:
        self._staying.pop(number, None)
        if self.dropped is not None:
            self.dropped(number)

    def cool(self) -> bool:
        """Give some of the memory of free blocks back to the system; False: there is no more. Takes milliseconds."""
        with self._lock:
            self._take_back()
            block = self._blocks.take_warm(_COOLED_BITS)
            if block is None:
                if not len(self._blocks):
                    self._blocks.reset()
                return False
            offset, size, warm = block
        try:
            self._map().remove(offset, size)
            warm = 0
        except (OSError, MemoryError):
            return False
        finally:
            with self._lock:
                self._blocks.give_back(offset, warm)
        return True

    def unmap(self) -> None:
        """What is written next is mapped anew. What is looked at elsewhere stays."""
        self._mapping = None

    def close(self, close_file: Callable[[], None]) -> None:
        """Take no more blocks.

        The file's descriptor may be somebody else's file as soon as it is closed, and other threads may be writing.

        Args:
            close_file: Called when nobody writes any more: at once, or by the last who does.
        """
        with self._lock:
            self._close_file = close_file
            is_last = not self._writers
        self.unmap()
        if is_last:
            close_file()

    def _written(self) -> None:
        with self._lock:
            self._writers -= 1
            is_last = not self._writers
        if is_last and self._close_file is not None:
            self._close_file()

    @property
    def is_warm(self) -> bool:
        """Whether `cool` would give anything back."""
        return self._blocks.is_warm or bool(self._gone)

    @property
    def top(self) -> int:
        """Where the last block ends that was ever taken, or further."""
        return self._blocks.top

    @property
    def in_use(self) -> int:
        """Bytes that are looked at, or may be. Takes no lock: a signal handler may ask."""
        return self._in_use - sum([mark.length for mark in list(self._gone) if mark.number not in self._pins])

    def _take(self, length: int) -> tuple[Lease, Mark]:
        if os.getpid() != self._pid:
            raise RuntimeError(f"shared memory of process {self._pid} cannot be written by a forked copy of it")
        with self._lock:
            if self._close_file is not None:
                raise RuntimeError("the engine whose shared memory this is was shut down")
            self._take_back()
            offset, size, warm = self._blocks.take(length)
            try:
                self._make_room(offset + size)
            except BaseException:
                self._blocks.give_back(offset, warm)
                raise
            lease = Lease(next(self._numbers), offset, length)
            mark = self._marks[lease.number] = Mark(lease, self._gone.append)
            mark.warm = warm
            self._in_use += length
            self.taken += 1
            self.peak = max(self.peak, self._in_use)
            self._writers += 1
        return lease, mark

    def _make_room(self, end: int) -> None:
        """The file is to have a block that ends there."""
        if self._most is not None and end > self._most:
            raise MemoryError(f"a worker's results may hold {self._most >> 30} GiB")
        end = -(-end // PIECE_BYTES) * PIECE_BYTES
        if end > self._end:
            os.ftruncate(self._fd, self._base + end)
            self._end = end

    def _take_back(self) -> None:
        """With the lock."""
        if self._look is not None:
            self._look()
        while self._gone:
            mark = self._gone.popleft()
            del self._marks[mark.number]
            if mark.number in self._pins:
                self._pinned[mark.number] = mark
            else:
                self._free(mark)

    def _free(self, mark: Mark) -> None:
        self._blocks.give_back(mark.offset, mark.warm)
        self._in_use -= mark.length

    def _view(self, mark: Mark) -> memoryview | None:
        """The block, to be written to; None: no address space is left for it."""
        try:
            piece, start = self._map().find(mark.offset, mark.length)
        except MemoryError:
            return None
        return piece.view(start, mark.length)

    def _map(self) -> Mapping:
        if self._mapping is None:
            from mpengine.arrays.mapping import Mapping  # with ctypes

            fd = self._fd
            self._mapping = Mapping(lambda: os.dup(fd), self._base)
        return self._mapping

    def _write(self, parts: Iterable[tuple[int, Any]], offset: int) -> None:
        at = self._base + offset
        run: list[memoryview] = []
        start = end = 0
        for place, part in parts:
            if run and (place != end or len(run) == _MOST_IOV or end + len(part) - start > _MOST_BYTES):
                self._write_run(run, at + start)
                run = []
            if not run:
                start = end = place
            if len(part):
                run.append(memoryview(part))
                end += len(part)
        self._write_run(run, at + start)

    def _write_run(self, views: list[memoryview], at: int) -> None:
        while views:
            done = os.pwritev(self._fd, [view[:_MOST_BYTES] for view in views], at)
            at += done
            while views and done >= len(views[0]):
                done -= len(views.pop(0))
            if done:
                views[0] = views[0][done:]


def _copy(parts: Iterable[tuple[int, Any]], target: memoryview) -> None:
    for at, part in parts:
        source = memoryview(part)
        for begin in range(0, len(source), _STEP):
            some = source[begin : begin + _STEP]
            target[at + begin : at + begin + len(some)] = some


def positions(lengths: Sequence[int], alignment: int) -> list[int]:
    """Where in a block parts of these lengths begin."""
    places = []
    at = 0
    for length in lengths:
        at = -(-at // alignment) * alignment
        places.append(at)
        at += length
    return places


def fetch(fd: int, offset: int, length: int) -> memoryview:
    """A copy of what lies there. Raises OSError if the descriptor is gone, EOFError if the file ends before.

    Of a file of which this process has no mapping: so nothing but this call depends on it.
    """
    buffer = bytearray(length)
    view = memoryview(buffer)
    done = 0
    while done < length:
        got = os.preadv(fd, [view[done : done + _MOST_BYTES]], offset + done)
        if not got:
            raise EOFError(f"a block of {length} bytes ends after {done}")
        done += got
    return view
