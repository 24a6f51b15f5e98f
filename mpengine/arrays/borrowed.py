"""Blocks that another process has written and lent: their leases, and how it hears that they are gone.

By one byte for each smallest block, in memory that both have mapped, and one byte that says to look. A finalizer may
run in any thread, between any two of its steps, so all it does is to store these two.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable

from mpengine.arrays import parcel
from mpengine.arrays.segment import Lease, Mark

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mpengine.arrays.mapping import Mapping
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
        is_cold: The other process was asked to give back what is free.
        returned: Called when a block comes back while `is_cold`, which is false then. In any thread, between any two
            steps of it.
        kept: See `arrays.parcel.open_shared`; nothing shared comes from here.
    """

    def __init__(self, key: int, fd: int, base: int, table: memoryview, smallest_bits: int) -> None:
        self.is_cold = False
        self.returned: Callable[[], None] | None = None
        self.kept: dict[int, Any] = {}
        self._file = [fd]
        self._owns_file = False
        self._base = base
        self._table: memoryview | None = table
        self._bits = smallest_bits
        self._pid = os.getpid()
        self._reader: Reader | None = None
        self._marks: dict[int, Mark] = {}  # by number
        self._in_use = 0
        self._gone: deque[int] = deque()  # lengths
        self._mapping: Mapping | None = None  # to give memory back with, when the other process is dead
        parcel.sources[key] = self

    def take(self, place: Place) -> Lease:
        """A block was lent."""
        while self._gone:
            self._in_use -= self._gone.popleft()
        lease = Lease(*place, keeps=self)
        self._marks[lease.number] = Mark(lease, self._came_back)
        self._in_use += lease.length
        return lease

    def open(self, place: Place, mode: int) -> memoryview:
        """See `Reader.open`. Raises LookupError if nobody holds the block, or in a forked copy of this process."""
        if os.getpid() != self._pid:
            raise LookupError("a result that lies in shared memory cannot be opened in a forked copy of the program")
        reader = self._reader
        if reader is None:
            from mpengine.arrays.reader import Reader  # with ctypes, whose import takes a millisecond

            reader = self._reader = Reader(self._opener(), self._base)
        return reader.open(self._lease_of(place), mode)

    @property
    def in_use(self) -> int:
        """Bytes that are looked at here, or may be."""
        return self._in_use - sum(list(self._gone))

    def close(self, end: int) -> bool:
        """The other process is dead: from now on what is gone gives its memory back to the system.

        Args:
            end: Of its file.

        Returns:
            Whether the descriptor is this object's, from now on: something may still be looked at.
        """
        from mpengine.arrays.mapping import Mapping  # with ctypes; now, for a finalizer cannot import it at the end

        self._mapping = Mapping(self._opener(), self._base)
        self._table = self.returned = None
        found = [mark() for mark in list(self._marks.values())]
        leases = sorted((lease for lease in found if lease is not None), key=lambda lease: lease.offset)
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
        mark = self._marks.get(place[0])
        lease = None if mark is None else mark()
        if lease is None:
            raise LookupError("a block was opened that nobody holds")
        return lease

    def _came_back(
        self, mark: Mark, getpid: Callable[[], int] = os.getpid, is_ending: Callable[[], bool] = sys.is_finalizing
    ) -> None:  # fmt: skip
        self._marks.pop(mark.number, None)
        if getpid() != self._pid or is_ending():
            return  # a forked copy of it: the block is not ours to give; or all of it goes
        self._gone.append(mark.length)
        table = self._table
        if table is not None:
            with contextlib.suppress(ValueError):  # unmapped this moment
                table[FIRST + (mark.offset >> self._bits)] = 1
                table[LOOK] = 1  # last
                if self.is_cold and self.returned is not None:
                    self.is_cold = False
                    self.returned()
                return
        self._remove(mark.offset, mark.offset + self._whole(mark.length))

    def _whole(self, length: int) -> int:
        unit = 1 << self._bits
        return -(-length // unit) * unit

    def _remove(self, start: int, stop: int) -> None:
        if stop > start and self._mapping is not None:
            with contextlib.suppress(OSError, MemoryError):  # no memory or descriptor for it: then with the file
                self._mapping.remove(start, stop - start)

    def _opener(self) -> Callable[[], int]:
        file = self._file  # and not this, which would make a cycle
        return lambda: os.dup(file[0])

    def __del__(self, close: Callable[[int], None] = os.close, getpid: Callable[[], int] = os.getpid) -> None:
        if self._owns_file and getpid() == self._pid:  # in a forked copy the number may be another file's by now
            close(self._file[0])
