"""Blocks that another process has written and lent: their leases, and how it hears that they are gone.

By one byte for each smallest block, in memory that both have mapped, and one byte that says to look. A finalizer may
run in any thread, between any two of its steps, so all it does is to store these two.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import deque
from collections.abc import Callable

from mpengine.arrays import parcel
from mpengine.arrays.segment import Lease

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mpengine.arrays.parcel import Place
    from mpengine.arrays.reader import Reader

LOOK = 0  # in the table: whether there is anything new in it
FIRST = 1  # the byte of the first block


class Borrowed:
    """The blocks of one other process. `take` and `close` by one thread, the rest by any.

    Args:
        key: Of its segment.
        fd: Of its file; it stays the caller's, until `close`.
        base: Where in the file the blocks begin.
        table: Where to say what is gone.
        smallest_bits: Logarithm of the size of the smallest block.

    Attributes:
        kept: See `arrays.parcel.open_shared`; nothing shared comes from here.
    """

    def __init__(self, key: int, fd: int, base: int, table: memoryview, smallest_bits: int) -> None:
        self.kept: dict[int, Any] = {}
        self._file = [fd]
        self._owns_file = False
        self._base = base
        self._table: memoryview | None = table
        self._bits = smallest_bits
        self._pid = os.getpid()
        self._reader: Reader | None = None
        self._leases: weakref.WeakValueDictionary[int, Lease] = weakref.WeakValueDictionary()
        self._in_use = 0
        self._gone: deque[int] = deque()  # lengths
        parcel.sources[key] = self

    def take(self, place: Place) -> Lease:
        """A block was lent."""
        lease = Lease(*place, self._came_back)
        self._leases[lease.number] = lease
        self._in_use += lease.length
        return lease

    def open(self, place: Place, mode: int) -> memoryview:
        """See `Reader.open`. Raises LookupError if nobody holds the block."""
        reader = self._reader
        if reader is None:
            from mpengine.arrays.reader import Reader  # with ctypes, whose import takes a millisecond

            reader = self._reader = Reader(self._opener(), self._base)
        return reader.open(self._lease_of(place), mode)

    @property
    def in_use(self) -> int:
        """Bytes that are looked at here, or may be."""
        while self._gone:
            self._in_use -= self._gone.popleft()
        return self._in_use

    def close(self, end: int) -> bool:
        """The other process is dead: from now on what is gone gives its memory back to the system.

        Args:
            end: Of its file.

        Returns:
            Whether the descriptor is this object's, from now on: something may still be looked at.
        """
        self._table = None
        leases = sorted(self._leases.values(), key=lambda lease: lease.offset)
        if leases:
            self._owns_file = True
            at = 0
            for lease in leases:
                self._remove(at, lease.offset)
                at = lease.offset + self._whole(lease.length)
            self._remove(at, end - self._base)
        if self._reader is not None:
            self._reader.forget()
        return self._owns_file

    def _lease_of(self, place: Place) -> Lease:
        lease = self._leases.get(place[0])
        if lease is None:
            raise LookupError("a block was opened that nobody holds")
        return lease

    def _came_back(self, lease: Lease) -> None:
        if os.getpid() != self._pid:
            return  # a forked copy of it: the block is not ours to give
        self._gone.append(lease.length)
        table = self._table
        if table is not None:
            with contextlib.suppress(ValueError):  # unmapped this moment
                table[FIRST + (lease.offset >> self._bits)] = 1
                table[LOOK] = 1  # last
                return
        self._remove(lease.offset, lease.offset + self._whole(lease.length))

    def _whole(self, length: int) -> int:
        unit = 1 << self._bits
        return -(-length // unit) * unit

    def _remove(self, start: int, stop: int) -> None:
        if stop > start:
            from mpengine.arrays.mapping import Mapping  # with ctypes

            with contextlib.suppress(OSError, MemoryError):  # no memory or descriptor for it: then with the file
                Mapping(self._opener(), self._base).remove(start, stop - start)

    def _opener(self) -> Callable[[], int]:
        file = self._file  # and not this, which would make a cycle
        return lambda: os.dup(file[0])

    def __del__(self) -> None:
        if self._owns_file:
            os.close(self._file[0])
