"""A file in memory, mapped piece by piece; pieces stay mapped, for the page tables of a new one cost as much as a copy.

    file:  | base | piece 0 | piece 1 | ...           each of `PIECE_BYTES`; a larger block has a mapping of its own

By `mmap` itself: Python's own keeps a descriptor for each mapping, and there may be thousands. Imported when there is
something to map, for ctypes takes a millisecond.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from typing import Any

from mpengine.arrays.segment import PIECE_BYTES

_MOST = 8  # mappings kept for those who come
_MAP_FIXED = 0x10
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_FAILED = ctypes.c_void_p(-1).value
_PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

_blocks: dict[int, type[Any]] = {}  # types of ctypes arrays, by size: a power of two


class Piece:
    """A mapping; it is there as long as this is."""

    __slots__ = ("address", "length")

    def __init__(self, fd: int, length: int, flags: int, offset: int) -> None:
        self.length = length
        self.address = _map(0, length, flags, fd, offset)

    def block(self, at: int, length: int) -> Any:
        """An object that exports a part of it: a ctypes array, of at least so many bytes, which keeps this.

        It has room for attributes, and can be referred to weakly.
        """
        size = 1 << (length - 1).bit_length() if length > 1 else 1
        kind = _blocks.get(size)
        if kind is None:
            kind = _blocks[size] = type("Block", (ctypes.c_ubyte * size,), {})
        block = kind.from_address(self.address + at)
        block.piece = self
        return block

    def view(self, at: int, length: int) -> memoryview:
        """The bytes of a part of it."""
        return memoryview(self.block(at, length)).cast("B")[:length]

    def remove(self) -> None:
        """Give the memory of the file there back to the system; what is read there is zero from now on."""
        if _libc.madvise(self.address, self.length, mmap.MADV_REMOVE):
            raise OSError(ctypes.get_errno(), "memory cannot be given back")

    def __del__(self) -> None:
        if hasattr(self, "address"):
            _libc.munmap(self.address, self.length)


class Mapping:
    """The part of a file from `base` on. Any thread.

    Args:
        open_file: Gives a descriptor to read and write, which is the caller's to close.
    """

    def __init__(self, open_file: Callable[[], int], base: int) -> None:
        self._open_file = open_file
        self._base = base
        self._pieces: dict[tuple[int, int], Piece] = {}  # by place and length; the last used is the last

    def find(self, offset: int, length: int) -> tuple[Piece, int]:
        """A mapping that others may have, too, and where in it the block lies. Raises OSError, MemoryError."""
        start = offset - offset % PIECE_BYTES
        place = (start, PIECE_BYTES) if offset + length <= start + PIECE_BYTES else (offset, length)
        piece = self._pieces.pop(place, None)
        if piece is None:
            try:
                piece = self._map(*place, mmap.MAP_SHARED)
            except MemoryError:  # of addresses, as a rule: RLIMIT_AS
                self.forget()
                place = (offset - offset % mmap.PAGESIZE, length)
                piece = self._map(*place, mmap.MAP_SHARED)
            while len(self._pieces) >= _MOST:
                try:
                    del self._pieces[next(iter(self._pieces))]
                except (KeyError, RuntimeError, StopIteration):  # another thread was faster
                    break
        self._pieces[place] = piece
        return piece, offset - place[0]

    def copy_on_write(self, offset: int, length: int) -> Piece:
        """A mapping of its own, writes to which nobody else sees; its beginning is the block's. As `find`."""
        return self._map(offset, length, mmap.MAP_PRIVATE)

    def remove(self, offset: int, length: int) -> None:
        """See `Piece.remove`; of whole pages."""
        self._map(offset, length, mmap.MAP_SHARED).remove()

    def forget(self) -> None:
        """Unmap what nobody looks at."""
        self._pieces.clear()

    def make_private(self, address: int, offset: int, length: int, *, is_shared: bool) -> None:
        """Give what is mapped at an address memory of its own, there, with the same content."""
        length = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        if is_shared:
            fd = self._open_file()
            try:
                # One step for the kernel: a thread that writes there meanwhile writes into the file or into the copy.
                _map(address, length, mmap.MAP_PRIVATE | _MAP_FIXED, fd, self._base + offset)
            finally:
                os.close(fd)
        if _libc.madvise(address, length, _MADV_POPULATE_WRITE):
            for page in range(address, address + length, mmap.PAGESIZE):
                byte = ctypes.c_ubyte.from_address(page)
                byte.value = byte.value  # a write makes the copy

    def _map(self, offset: int, length: int, flags: int) -> Piece:
        fd = self._open_file()
        try:
            return Piece(fd, length, flags, self._base + offset)
        finally:
            os.close(fd)


def _map(address: int, length: int, flags: int, fd: int, offset: int) -> int:
    found = _libc.mmap(address, length, _PROTECTION, flags, fd, offset)
    if found == _FAILED:
        number = ctypes.get_errno()
        text = f"{os.strerror(number)}: {length:,} bytes of shared memory cannot be mapped"
        raise MemoryError(text) if number == errno.ENOMEM else OSError(number, text)
    return int(found)
