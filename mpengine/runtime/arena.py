"""Bodies of batches, from the parent to the workers: a memory file without a name.

Only the parent writes and allocates (its dispatcher thread); workers hold a read-only descriptor and copy out with
`pread`. No mapping on either side: a full machine is an error of `pwrite`, never a SIGBUS, and a job that writes
rubbish to every descriptor cannot touch another job's body.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from mpengine.runtime import descriptors

_SMALLEST_BITS = 12
_KEEP_BYTES = 64 << 20  # when nothing is in use, memory beyond this goes back to the system
_IOV = 512  # buffers a call; IOV_MAX is 1024
_MOST_BYTES = 1 << 30  # a call; the kernel stops at 2 GiB


class Arena:
    """Blocks of a sparse memory file, in sizes of powers of two, re-used warm."""

    def __init__(self) -> None:
        with descriptors.no_fork:
            self._fd = os.memfd_create("mpengine-arena", os.MFD_CLOEXEC)
            self.read_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
            descriptors.own(self._fd, self.read_fd)
        self._top = 0
        self._free: dict[int, list[int]] = {}
        self._used: dict[int, int] = {}  # offset -> bits

    def store(self, parts: Sequence[bytes | memoryview]) -> tuple[int, int]:
        """Write the parts one after another; return (offset, length). Raises OSError if there is no room."""
        length = sum(len(part) for part in parts)
        bits = max(_SMALLEST_BITS, (length - 1).bit_length())
        free = self._free.get(bits)
        if free:
            offset = free.pop()
        else:
            offset = self._top
            self._top += 1 << bits
        self._used[offset] = bits
        try:
            self._write(parts, offset)
        except BaseException:
            self.free(offset)
            raise
        return offset, length

    def _write(self, parts: Sequence[bytes | memoryview], offset: int) -> None:
        for start in range(0, len(parts), _IOV):
            for views in _bounded([memoryview(part) for part in parts[start : start + _IOV] if len(part)]):
                while views:
                    done = os.pwritev(self._fd, views, offset)
                    offset += done
                    while views and done >= len(views[0]):
                        done -= len(views.pop(0))
                    if done:
                        views[0] = views[0][done:]

    def free(self, offset: int) -> None:
        """The block may be used again; no worker reads it any more."""
        bits = self._used.pop(offset)
        self._free.setdefault(bits, []).append(offset)
        if not self._used and self._top > _KEEP_BYTES:
            os.ftruncate(self._fd, 0)
            self._free.clear()
            self._top = 0

    @property
    def in_use(self) -> int:
        """Bytes in blocks that are in use."""
        return sum(1 << bits for bits in self._used.values())

    def close(self) -> None:
        """Give all of it back."""
        descriptors.close(self._fd, self.read_fd)


def _bounded(views: list[memoryview]) -> list[list[memoryview]]:
    """Groups of views of at most `_MOST_BYTES`, larger ones cut."""
    groups: list[list[memoryview]] = [[]]
    room = _MOST_BYTES
    for view in views:
        while len(view):
            if not room:
                groups.append([])
                room = _MOST_BYTES
            part = view[:room]
            groups[-1].append(part)
            room -= len(part)
            view = view[len(part) :]
    return groups


def fetch(fd: int, offset: int, length: int) -> memoryview:
    """In a worker: copy a body out. Raises OSError if the descriptor is gone, EOFError if the body is cut."""
    buffer = bytearray(length)
    view = memoryview(buffer)
    done = 0
    while done < length:
        got = os.preadv(fd, [view[done : done + _MOST_BYTES]], offset + done)
        if not got:
            raise EOFError(f"a body of {length} bytes ends after {done}")
        done += got
    return view
