"""In a worker: blocks of the parent's segment, and which of them it still looks at.

The parent takes a block back when the job it was for is over, unless it is told, before it hears of that job's end,
that something here still looks at it; then it waits until it is told that this is over. So blocks whose objects go with
their job, as most do, cost no word.
"""

from __future__ import annotations

import os
import weakref
from collections import deque

from mpengine.arrays import parcel
from mpengine.arrays.segment import Lease

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mpengine.arrays.parcel import Place
    from mpengine.arrays.reader import Reader

_FAR = 1 << 46  # where stray writes to the descriptor land: nowhere


class Guest:
    """See the module's text. `news` by one thread, the rest by any.

    Args:
        key: Of the segment.
        fd: Of its file, which need not be writable; it stays the caller's.

    Attributes:
        kept: Shared objects that are rebuilt, by the number of their block.
    """

    def __init__(self, key: int, fd: int) -> None:
        self.kept: dict[int, Any] = {}
        self._fd = fd
        self._reader: Reader | None = None
        self._leases: weakref.WeakValueDictionary[int, Lease] = weakref.WeakValueDictionary()
        self._fresh: set[int] = set()  # looked at, and the parent does not know
        self._told: set[int] = set()
        self._gone: deque[int] = deque()  # of those told
        parcel.sources[key] = self

    def open(self, place: Place, mode: int) -> memoryview:
        """See `Reader.open`."""
        reader = self._reader
        if reader is None:
            from mpengine.arrays.reader import Reader  # with ctypes, whose import takes a millisecond

            reader = self._reader = Reader(self._open_file, 0)
        return reader.open(self._lease_of(place), mode)

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._fresh or self._gone)

    def news(self) -> tuple[list[int], list[int]]:
        """Numbers of the blocks that are looked at since they were opened, and of those that no longer are."""
        held = []
        for number in list(self._fresh):
            self._told.add(number)  # first: if it goes from here on, that is told
            if number in self._fresh:
                self._fresh.discard(number)
                held.append(number)
        return held, [self._gone.popleft() for _ in range(len(self._gone))]

    def looks_at_any(self) -> bool:
        """Whether any block is looked at."""
        return bool(self._leases)

    def forget(self) -> None:
        """Unmap what nobody looks at."""
        if self._reader is not None:
            self._reader.forget()

    def _lease_of(self, place: Place) -> Lease:
        lease = self._leases.get(place[0])
        if lease is None:
            lease = self._leases[place[0]] = Lease(*place, self._came_back)
            self._fresh.add(lease.number)
        return lease

    def _came_back(self, lease: Lease) -> None:
        self._fresh.discard(lease.number)
        if lease.number in self._told:
            self._told.discard(lease.number)
            self._gone.append(lease.number)

    def _open_file(self) -> int:
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR | os.O_CLOEXEC)
        os.lseek(fd, _FAR, os.SEEK_SET)  # of all copies of it, too, and each mapping has one
        return fd
