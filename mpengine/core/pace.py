"""How long calls of a function take, and so how many of them make a batch.

The dispatcher thread writes, any thread may read: an estimate is one float in a dict.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

# Work in one batch, in seconds. Long enough that the parent's 50 us a batch are nothing, and that two a worker outlast
# the 5 ms for which a busy thread may keep the GIL. With longer ones little more is won, and more must be given back
# when a worker has nothing to do.
TARGET_S = 0.010
MAX_ITEMS = 1 << 14  # bounds the memory a batch of free calls takes
MAX_KEYS = 4096
_LEAST_S = 1e-9

_WEIGHT = 0.75  # of a new measurement, in the logarithm


class Pace:
    """Seconds a call, per function key: a geometric mean of the estimate before and each new measurement.

    So a change by a factor of a thousand is known after three measurements, up or down, and an outlier, such as a
    worker that did not get the processor for a while, is forgotten after as many. It need not foresee the slowest call:
    what stands behind that is given to others (`patrol`).
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def observe(self, key: int, calls: int, seconds: float) -> None:
        """`calls` calls of the function took `seconds` in all."""
        sample = seconds / calls
        old = self._seconds.get(key)
        if old is None and len(self._seconds) >= MAX_KEYS:
            self._seconds.clear()  # estimates only: they come back with the next measurement
        sample = max(sample, _LEAST_S)
        self._seconds[key] = sample if old is None else old ** (1 - _WEIGHT) * sample**_WEIGHT

    def seconds(self, key: int) -> float | None:
        """The estimate for one call, or None if none was measured yet."""
        return self._seconds.get(key)

    def calls(self, key: int, *, at_most: int = MAX_ITEMS) -> int:
        """How many calls make one batch: 1 as long as nothing is known."""
        seconds = self._seconds.get(key)
        if seconds is None:
            return 1
        return max(1, min(at_most, int(TARGET_S / max(seconds, _LEAST_S))))


def pace_key(fn: Any) -> int:
    """What functions have in common whose calls take the same time: their code."""
    if type(fn) is FunctionType:
        return id(fn.__code__)
    inner = getattr(fn, "func", fn)  # functools.partial
    code = getattr(inner, "__code__", None) or getattr(getattr(inner, "__func__", None), "__code__", None)
    return id(inner) if code is None else id(code)
