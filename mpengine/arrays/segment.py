"""The owner's side of a file in memory: takes blocks of it, writes them, and has them back.

    put ─▶ Lease ──handed over──▶ whoever holds one ──the last is gone──▶ free, warm ──cool──▶ the system's

Room that has memory is written through a mapping, at the speed of a copy. New room is written by the kernel: a machine
that is full then says so, where a write through a mapping would end the process with SIGBUS.
"""

from __future__ import annotations

import contextlib
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
    """Who holds it can look at a block. The block is given back when it is gone.

    Attributes:
        number: Its own, for ever, in its segment.
        offset, length: Where the block is, and how much of it is used.
        warm: How many bytes at its beginning have memory.
        stays: The other side keeps what it makes of the block for those who come, until it is told that it is gone.
    """

    __slots__ = ("__weakref__", "_give_back", "length", "number", "offset", "stays", "warm")

    def __init__(self, number: int, offset: int, length: int, give_back: Callable[[Lease], None]) -> None:
        self.number = number
        self.offset = offset
        self.length = length
        self.warm = 0
        self.stays = False
        self._give_back: Callable[[Lease], None] | None = give_back

    @property
    def place(self) -> tuple[int, int, int]:
        """Number, offset and length: all that the other side needs."""
        return self.number, self.offset, self.length

    def let_go(self) -> None:
        """It is somebody else's to say when the block is free."""
        self._give_back = None

    def __del__(self) -> None:
        # In whatever thread, between any two steps of it: nothing here may wait, and `give_back` may not, either.
        give_back = self._give_back
        if give_back is not None:
            give_back(self)


class Segment:
    """See the module's text. Any thread.

    Args:
        fd: Of the file, to read and write; it stays the caller's.
        base: Where in the file the blocks begin.
        smallest_bits: Logarithm of the size of the smallest block.
        most: As many of the smallest blocks have room; None: no bound.
        look: Called before a block is taken, with the lock: for what others say is free (`give_back`).

    Attributes:
        key: Of the segment, among all of all processes.
        shield: Entered while a block is taken and written, which no exception from a signal handler may cut short.
        peak: Bytes in use, at most.
        taken: Blocks that were taken, ever.
        orphaned: Called with the number of a block that `stays`, when it has no lease and is pinned. In any thread,
            between any two steps of it.
    """

    def __init__(
        self, fd: int, base: int, smallest_bits: int, *, most: int | None = None, look: Callable[[], None] | None = None
    ) -> None:  # fmt: skip
        self.key = int.from_bytes(os.urandom(8), "little")
        self.shield: AbstractContextManager[Any] = contextlib.nullcontext()
        self.orphaned: Callable[[int], None] | None = None
        self.peak = self.taken = 0
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
        self._returned: deque[tuple[int, int, int, int]] = deque()  # number (0: none), offset, length, warm
        self._pins: dict[int, int] = {}  # by number: how many
        self._pinned: dict[int, tuple[int, int, int]] = {}  # of these, the blocks without a lease
        self._leases: weakref.WeakValueDictionary[int, Lease] = weakref.WeakValueDictionary()

    def put(self, parts: Sequence[Any], alignment: int = 1) -> Lease:
        """Write bytes-like parts into a block, one after another.

        Args:
            alignment: Of each part in the block.

        Raises:
            MemoryError: There is no room.
        """
        places = positions([len(part) for part in parts], alignment)
        length = places[-1] + len(parts[-1])
        with self.shield:
            return self._put(parts, places, length)

    def _put(self, parts: Sequence[Any], places: Sequence[int], length: int) -> Lease:
        lease: Lease | None = None
        try:
            lease = self._take(length)
            if length < _MAPPED_FROM or lease.warm < length:
                self._write(zip(places, parts, strict=True), lease.offset)
            else:
                self._copy(zip(places, parts, strict=True), lease.offset, length)
        except BaseException as error:
            if lease is not None and lease.warm < length:  # what was written has memory, and nobody would know
                with contextlib.suppress(OSError, MemoryError):
                    self._map().remove(lease.offset, length)
                lease.warm = 0
            lease = None  # not as long as somebody keeps the error, and with it this frame
            if isinstance(error, (OSError, MemoryError)):
                raise MemoryError(f"no room for {length:,} bytes in shared memory: {error}") from error
            raise
        lease.warm = max(lease.warm, length)
        return lease

    def pin(self, number: int) -> bool:
        """The block is not free before it was unpinned as often; False: there is none of this number."""
        with self._lock:
            self._take_returned()
            if number not in self._leases and number not in self._pinned:
                return False
            self._pins[number] = self._pins.get(number, 0) + 1
            return True

    def unpin(self, number: int) -> None:
        """See `pin`."""
        with self._lock:
            self._take_returned()
            self._pins[number] -= 1
            if not self._pins[number]:
                del self._pins[number]
                block = self._pinned.pop(number, None)
                if block is not None:
                    self.give_back(*block)

    def give_back(self, offset: int, length: int, warm: int) -> None:
        """A block is free whose lease was let go. In `look` only."""
        self._blocks.give_back(offset, warm)
        self._in_use -= length

    def cool(self) -> bool:
        """Give some of the memory of free blocks back to the system; False: there is no more. Takes milliseconds."""
        with self._lock:
            self._take_returned()
            block = self._blocks.take_warm(_COOLED_BITS)
            if block is None:
                if not len(self._blocks):
                    self._blocks.reset()
                return False
            offset, size, warm = block
        try:
            self._map().remove(offset, size)
        except (OSError, MemoryError):
            self._back(offset, 0, warm)
            return False
        self._back(offset, 0, 0)
        return True

    def unmap(self) -> None:
        """What is written next is mapped anew. What is looked at elsewhere stays."""
        self._mapping = None

    @property
    def is_warm(self) -> bool:
        """Whether `cool` would give anything back."""
        return self._blocks.is_warm or bool(self._returned)

    @property
    def top(self) -> int:
        """Where the last block ends that was ever taken, or further."""
        return self._blocks.top

    @property
    def in_use(self) -> int:
        """Bytes that are looked at, or may be."""
        with self._lock:
            self._take_returned()
            return self._in_use

    def _take(self, length: int) -> Lease:
        with self._lock:
            self._take_returned()
            offset, size, warm = self._blocks.take(length)
            try:
                self._make_room(offset + size)
            except BaseException:
                self._blocks.give_back(offset, warm)
                raise
            lease = Lease(next(self._numbers), offset, length, self._came_back)
            lease.warm = warm
            self._in_use += length
            self.taken += 1
            self.peak = max(self.peak, self._in_use)
        self._leases[lease.number] = lease
        return lease

    def _make_room(self, end: int) -> None:
        """The file is to have a block that ends there."""
        if self._most is not None and end > self._most:
            raise MemoryError(f"a worker's results may hold {self._most >> 30} GiB")
        end = -(-end // PIECE_BYTES) * PIECE_BYTES
        if end > self._end:
            os.ftruncate(self._fd, self._base + end)
            self._end = end

    def _came_back(self, lease: Lease) -> None:
        self._returned.append((lease.number, lease.offset, lease.length, lease.warm))
        if lease.stays and lease.number in self._pins and self.orphaned is not None:
            self.orphaned(lease.number)

    def _back(self, offset: int, length: int, warm: int) -> None:
        self._returned.append((0, offset, length, warm))

    def _take_returned(self) -> None:
        while self._returned:
            number, *block = self._returned.popleft()
            if number in self._pins:
                self._pinned[number] = (block[0], block[1], block[2])
            else:
                self.give_back(*block)
        if self._look is not None:
            self._look()

    def _copy(self, parts: Iterable[tuple[int, Any]], offset: int, length: int) -> None:
        piece, start = self._map().find(offset, length)
        target = piece.view(start, length)
        for at, part in parts:
            source = memoryview(part)
            for begin in range(0, len(source), _STEP):
                some = source[begin : begin + _STEP]
                target[at + begin : at + begin + len(some)] = some

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
