"""Where there is room in a segment: a buddy allocator that knows which of its free room is warm. Pure.

A block has the size of a power of two, and lies at a multiple of it (Knowlton, 1965). Its *warm* bytes, a prefix, have
been written before: the system holds memory for them, and to write them again costs a tenth of the first time. So warm
room is taken first, the last freed before others, a larger warm block is split before a cold one is taken, and only
then does the segment grow. Neighbours are merged when there is nothing that fits, not before.
"""

from __future__ import annotations

Block = tuple[int, int, int]
"""A block that was taken: its offset; its bytes, a power of two; how many of these, at its beginning, have memory."""


class Blocks:
    """The room of one segment, from 0 on. Not thread-safe.

    Args:
        smallest_bits: Logarithm of the size of the smallest block.

    Attributes:
        top: Bytes of the segment that were ever taken.
    """

    def __init__(self, smallest_bits: int) -> None:
        self.top = 0
        self._smallest_bits = smallest_bits
        self._used: dict[int, int] = {}  # offset -> bits
        self._warm: dict[int, dict[int, int]] = {}  # bits -> offset -> warm bytes; the last freed is the last
        self._cold: dict[int, dict[int, None]] = {}  # bits -> offsets

    def __len__(self) -> int:
        return len(self._used)

    def take(self, length: int) -> Block:
        """Room for so many bytes."""
        bits = max(self._smallest_bits, (length - 1).bit_length())
        block = self._take_free(bits)
        if block is None and self._merge():
            block = self._take_free(bits)
        if block is None:
            block = self._grow(bits)
        self._used[block[0]] = bits
        return block

    def give_back(self, offset: int, written: int) -> None:
        """A block is free.

        Args:
            written: How many bytes at its beginning have memory by now.
        """
        bits = self._used.pop(offset)
        self._put(bits, offset, written)

    def take_warm(self, most_bits: int) -> Block | None:
        """A free block that has memory, of a size up to that of so many bits, to be made cold; None: there is none."""
        self._merge()
        sizes = [bits for bits, free in self._warm.items() if free]
        if not sizes:
            return None
        size = max(sizes)
        block = self._pop(self._warm[size], size, min(size, most_bits))
        self._used[block[0]] = min(size, most_bits)
        return block

    def reset(self) -> None:
        """If no block is taken: begin at 0 again. None may be warm."""
        if not self._used:
            self._cold.clear()
            self.top = 0

    @property
    def is_warm(self) -> bool:
        """Whether a free block has memory."""
        return any(self._warm.values())

    def _put(self, bits: int, offset: int, warm: int) -> None:
        if warm > 0:
            self._warm.setdefault(bits, {})[offset] = warm
        else:
            self._cold.setdefault(bits, {})[offset] = None

    def _take_free(self, bits: int) -> Block | None:
        for kind in (self._warm, self._cold):
            sizes = [size for size, free in kind.items() if size >= bits and free]
            if sizes:
                return self._pop(kind[min(sizes)], min(sizes), bits)
        return None

    def _pop(self, free: dict[int, int] | dict[int, None], size: int, bits: int) -> Block:
        """The last of these blocks of a size, or the lower part of it."""
        offset = next(reversed(free))
        warm = free.pop(offset) or 0
        while size > bits:  # the upper half goes back
            size -= 1
            half = 1 << size
            self._put(size, offset + half, warm - half)
            warm = min(warm, half)
        return offset, 1 << bits, warm

    def _grow(self, bits: int) -> Block:
        size = 1 << bits
        while self.top % size:  # up to a multiple of its size, in blocks as large as they may be
            start, gap = self.top, (self.top & -self.top).bit_length() - 1
            self.top += 1 << gap  # first: an exception from a signal handler may lose it, but not give it out twice
            self._put(gap, start, 0)
        offset = self.top
        self.top += size
        return offset, size, 0

    def _merge(self) -> bool:
        """Put free neighbours together; whether there were any."""
        merged = False
        largest = max([*self._warm, *self._cold], default=0)
        bits = self._smallest_bits
        while bits <= largest:
            warm, cold = self._warm.get(bits, {}), self._cold.get(bits, {})
            for offset in sorted([*warm, *cold]):
                buddy = offset ^ (1 << bits)
                if buddy < offset or not (buddy in warm or buddy in cold):
                    continue
                low, high = warm.get(offset, 0), warm.get(buddy, 0)
                if high and low < 1 << bits:
                    continue  # what is warm is a prefix
                for free in (warm, cold):
                    free.pop(offset, None)
                    free.pop(buddy, None)
                self._put(bits + 1, offset, low + high)
                largest = max(largest, bits + 1)
                merged = True
            bits += 1
        return merged
