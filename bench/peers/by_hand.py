"""multiprocessing.shared_memory as a careful program uses it: segments made beforehand, arrays copied in and out.

Nothing about it is safe: one array at a time, whose place is overwritten by the next.
"""

from collections.abc import Iterable
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.peers.base import Function, Function2

Array = NDArray[np.float64]
METHODS = ("attach", "keep")  # a job attaches to the segments each time, or its worker keeps them
INTO, OUT_OF = 0, 1  # the job: two segments
BYTES = 1 << 26  # of each

_kept: dict[str, SharedMemory] = {}


class ByHandPeer:
    """Two segments beside a ProcessPoolExecutor, through which names and lengths go."""

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        del chunk
        context = get_context(start_method)
        self._executor = ProcessPoolExecutor(workers, context)
        self._segments = [SharedMemory(create=True, size=BYTES) for _ in (INTO, OUT_OF)]
        self._names = [segment.name for segment in self._segments]
        self.start_method = str(context.get_start_method())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._executor.shutdown()
        for segment in self._segments:
            segment.close()
            segment.unlink()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        for value in values:
            about = self._send(value) if isinstance(value, np.ndarray) else value
            found = self._executor.submit(run, method == "keep", self._names, fn, about).result()
            yield self._received(found)

    def each_with(self, method: str, fn: Function2, shared: Any, values: Iterable[Any]) -> Iterable[Any]:
        about = self._send(shared)
        jobs = [partial(applied, fn, value) for value in values]
        futures = [self._executor.submit(run, method == "keep", self._names, job, about) for job in jobs]
        return (future.result() for future in futures)

    def call(self, fn: Function, value: Any) -> Any:
        return next(iter(self.each("keep", fn, [value])))

    def _send(self, array: Array) -> tuple[int, int]:
        np.copyto(view(self._segments[INTO], len(array)), array)
        return INTO, len(array)

    def _received(self, found: Any) -> Any:
        return view(self._segments[found[0]], found[1]) if type(found) is tuple else found


def run(keep: bool, names: list[str], fn: Function, about: Any) -> Any:
    """The job around the job: an array is where it says, and goes back in the other segment if it is another."""
    segments = [attached(name, keep) for name in names]
    try:
        return run_in(segments, fn, about)
    finally:
        if not keep:
            for segment in segments:
                segment.close()


def run_in(segments: list[SharedMemory], fn: Function, about: Any) -> Any:
    array = view(segments[about[0]], about[1]) if type(about) is tuple else None
    found = fn(about if array is None else array)
    if not isinstance(found, np.ndarray):
        return found
    if array is not None and np.shares_memory(found, array):
        return about
    np.copyto(view(segments[OUT_OF], len(found)), found)
    return OUT_OF, len(found)


def attached(name: str, keep: bool) -> SharedMemory:
    if not keep:
        return SharedMemory(name)
    if name not in _kept:
        _kept[name] = SharedMemory(name)
    return _kept[name]


def applied(fn: Function2, value: Any, shared: Any) -> Any:
    return fn(shared, value)


def view(segment: SharedMemory, length: int) -> Array:
    return np.ndarray(length, np.float64, segment.buf)
