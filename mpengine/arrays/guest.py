"""In a worker: blocks of the parent's segment, and which of them it still looks at.

The parent takes a block back when the job it was for is over, unless it is told, before it hears of that job's end,
that something here still looks at it; then it waits until it is told that this is over. So blocks whose objects go with
their job, as most do, cost no word.
"""

from __future__ import annotations

import os
import threading
from collections import deque

from mpengine.arrays import parcel
from mpengine.arrays.segment import Lease, Mark

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mpengine.arrays.parcel import Place
    from mpengine.arrays.reader import Reader

_FAR = 1 << 43  # where stray writes to the descriptor land: nowhere; ext4 has files of 16 TiB


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
        self._marks: dict[int, Mark] = {}  # by number: the last that was made
        self._fresh: dict[int, Mark] = {}  # looked at, and the parent does not know
        self._told: dict[int, Mark] = {}
        self._gone: deque[Mark] = deque()
        self._opening = threading.RLock()  # two looks at a block have one lease, and only the last mark of it counts
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
        """Whether there may be something to tell."""
        return bool(self._fresh or self._gone)

    def news(self) -> tuple[list[int], list[int]]:
        """Numbers of blocks that are no longer looked at, and of those that were opened and are.

        A number in both was opened again: the parent is to hear of its release first. One may be said to be looked at
        twice, if it was opened again while this ran; its release is told once, when the last look is over.
        """
        released = []
        for _ in range(len(self._gone)):
            mark = self._gone.popleft()
            for marks in (self._marks, self._fresh, self._told):
                if marks.get(mark.number) is mark:
                    del marks[mark.number]
                    if marks is self._told:
                        released.append(mark.number)
        held = list(self._fresh)  # if one goes from here on, that is told next time
        for number in held:
            self._told[number] = self._fresh.pop(number)
        return released, held

    def looks_at_any(self) -> bool:
        """Whether any block is looked at."""
        return any(mark() is not None for mark in list(self._marks.values()))

    def forget(self) -> None:
        """Unmap what nobody looks at."""
        if self._reader is not None:
            self._reader.forget()

    def _lease_of(self, place: Place) -> Lease:
        number = place[0]
        with self._opening:
            mark = self._marks.get(number)
            lease = None if mark is None else mark()
            if lease is None:
                lease = Lease(*place)
                self._marks[number] = self._fresh[number] = Mark(lease, self._gone.append)
            return lease

    def _open_file(self) -> int:
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR | os.O_CLOEXEC)
        os.lseek(fd, _FAR, os.SEEK_SET)  # of all copies of it, too, and each mapping has one
        return fd
