"""From what size on an array is better off in a block of shared memory: the same engine with and without.

The size is a constant of the package, which has no option for it; it is changed here in the parent, and in the workers
by their initializer. Both engines are open at once, and are asked in turns.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from bench.array_work import identity, total
from bench.measurement import Answer, Measurement

KIB, MIB = 1 << 10, 1 << 20
SIZES = tuple(KIB << power for power in range(11))
WAYS = {"in band": 1 << 40, "blocks": KIB}  # from how many bytes on there are blocks
TURNS = 8
DIFFERENT = 16  # arrays that are sent in turn
NAME = "LARGE"  # of the constant


def set_threshold(size: int) -> None:
    """In this process, from now on."""
    for name, module in [*sys.modules.items()]:
        if name.startswith("mpengine.") and NAME in vars(module):
            setattr(module, NAME, size)
    sys.modules["mpengine.arrays.parcel"].pack_in.__init__.__defaults__ = (size,)


@contextmanager
def threshold(size: int) -> Iterator[None]:
    """For a while."""
    before = getattr(sys.modules["mpengine.arrays.parcel"], NAME)
    set_threshold(size)
    try:
        yield
    finally:
        set_threshold(before)


def array_threshold(wanted: Measurement) -> Answer:
    """By way and size: microseconds of a round trip, and megabytes a second through `map`; n trips of each."""
    from mpengine import Engine

    metrics = {}
    with ExitStack() as stack:
        engines = {}
        for way, size in WAYS.items():
            engine = Engine(wanted.workers, wanted.start_method, set_threshold, (size,))
            engines[way] = stack.enter_context(engine)
            for _ in engine.map(total, [np.ones(8)] * 100):
                pass
        for size in SIZES:
            arrays = [np.ones(size // 8) for _ in range(DIFFERENT)]
            trips: dict[str, list[float]] = {way: [] for way in WAYS}
            rates: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(TURNS + 1):  # the first is to get warm
                for way, engine in engines.items():
                    with threshold(WAYS[way]):
                        trip = trip_seconds(engine, arrays, max(2, wanted.n // TURNS))
                        rate = bytes_a_second(engine, arrays, calls(size, wanted.n))
                    if turn:
                        trips[way] += trip
                        rates[way].append(rate)
            for way in WAYS:
                metrics[f"{way} trip {size}"] = statistics.median(trips[way]) * 1e6
                metrics[f"{way} rate {size}"] = statistics.median(rates[way]) / 1e6
    return metrics, wanted.start_method or "forkserver"


def calls(size: int, n: int) -> int:
    """Of one `map`: as many as take it a tenth of a second, or less."""
    return max(2 * DIFFERENT, min(10 * n, n * 160 * KIB // size))


def trip_seconds(engine: Any, arrays: list[Any], count: int) -> list[float]:
    seconds = []
    for number in range(count):
        array = arrays[number % len(arrays)]
        start = time.perf_counter()
        engine.submit(identity, array).result()
        seconds.append(time.perf_counter() - start)
    return seconds


def bytes_a_second(engine: Any, arrays: list[Any], count: int) -> float:
    sent = [arrays[number % len(arrays)] for number in range(count)]
    start = time.perf_counter()
    taken: int = sum(found.nbytes for found in engine.map(identity, sent))
    seconds = time.perf_counter() - start
    if taken != sum(array.nbytes for array in sent):
        raise AssertionError("a wrong result")
    return taken / seconds
