"""The kinds of measurement of `python -m bench arrays`: each opens a contender, sends arrays and returns its figures.

The first transfer stands for itself, and the others are the warm ones: their median, and the fastest.
"""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import psutil

from bench.array_work import Array, add_one, element, held, hold, identity, total
from bench.measurement import Answer, Measurement, Metrics
from bench.peers import Peer
from bench.peers.by_hand import ByHandPeer
from bench.thresholds import array_threshold

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE = 64 * MIB
ITEM = 8  # bytes
RATE_SIZES = (128 * KIB, 256 * KIB, 512 * KIB, MIB)
DIFFERENT = 16  # arrays that are sent in turn, where many are: together they fit into no core's cache
SAMPLE_S = 0.02
REST_S = 3.0  # the engine gives back after one second what nobody uses


def opened(wanted: Measurement) -> Peer:
    """The contender."""
    if wanted.peer == "by-hand":
        return ByHandPeer(wanted.workers, wanted.start_method, None)
    if wanted.peer == "joblib" and wanted.workers == 1:
        return Measurement("joblib", wanted.method, 0, 2, None, 0.0, None).open()  # with one it calls functions itself
    return wanted.open()


def get_ready(wanted: Measurement, peer: Peer) -> None:
    """The workers are there, and know numpy."""
    for _ in peer.each(wanted.method, total, [np.ones(8) for _ in range(8 * wanted.workers)]):
        pass


def speeds(seconds: Sequence[float], size: int) -> Metrics:
    """Gigabytes a second, of transfers of so many bytes that took so long each."""
    warm = seconds[1:]
    return {
        "warm": size / statistics.median(warm) / 1e9,
        "best": size / min(warm) / 1e9,
        "first": size / seconds[0] / 1e9,
    }


def times(seconds: Sequence[float]) -> Metrics:
    """The same in milliseconds."""
    warm = seconds[1:]
    return {"warm": statistics.median(warm) * 1e3, "best": min(warm) * 1e3, "first": seconds[0] * 1e3}


def array_in(wanted: Measurement) -> Answer:
    """Into a job, which reads all of it."""
    return transfers(wanted, total, lambda found: found == SIZE // ITEM)


def array_both(wanted: Measurement) -> Answer:
    """In, and out again."""
    return transfers(wanted, identity, lambda found: found[0] == found[-1] == 1)


def array_changed(wanted: Measurement) -> Answer:
    """In, changed in place, and out again."""
    return transfers(wanted, add_one, lambda found: found[0] == found[-1] == 2)


def transfers(wanted: Measurement, job: Callable[[Array], Any], is_right: Callable[[Any], bool]) -> Answer:
    if wanted.peer == "bare":
        return memcpy(wanted)
    with opened(wanted) as peer:
        get_ready(wanted, peer)
        array = np.ones(SIZE // ITEM)
        seconds = []
        for _ in range(wanted.n):
            start = time.perf_counter()
            (found,) = peer.each(wanted.method, job, [array])
            right = is_right(found)
            del found
            seconds.append(time.perf_counter() - start)
            if not right:
                raise AssertionError("a wrong result")
        start_method = peer.start_method
    return speeds(seconds, SIZE), start_method


def array_out(wanted: Measurement) -> Answer:
    """Out of a job, to one who drops it; and what it takes to read it, from one who does."""
    if wanted.peer == "bare":
        return memcpy(wanted)
    length = SIZE // ITEM
    with opened(wanted) as peer:
        for _ in peer.each(wanted.method, hold, [length] * 4 * wanted.workers):
            pass
        get_ready(wanted, peer)
        seconds, reading = [], []
        for number in range(wanted.n + max(2, wanted.n // 2)):
            start = time.perf_counter()
            (found,) = peer.each(wanted.method, held, [length])
            if number < wanted.n:
                del found
                seconds.append(time.perf_counter() - start)
                continue
            start = time.perf_counter()
            right = found.sum() == length
            reading.append(time.perf_counter() - start)
            del found
            if not right:
                raise AssertionError("a wrong result")
        start_method = peer.start_method
    return speeds(seconds, SIZE) | {"reading": statistics.median(reading[1:]) * 1e3}, start_method


def memcpy(wanted: Measurement) -> Answer:
    """One copy in memory."""
    source, target = np.ones(SIZE // ITEM), np.zeros(SIZE // ITEM)
    seconds = [timed(lambda: np.copyto(target, source)) for _ in range(wanted.n)]
    reading = [timed(target.sum) for _ in range(wanted.n)]
    return speeds(seconds, SIZE) | {"reading": statistics.median(reading) * 1e3}, ""


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


JOBS = 100  # with one array


def array_shared(wanted: Measurement) -> Answer:
    """Milliseconds until many jobs with the same array are over: the first time, and the next ones."""
    with opened(wanted) as peer:
        method = {"share": "map", "halves": "map"}.get(wanted.method, wanted.method)
        for _ in peer.each(method, total, [np.ones(8) for _ in range(8 * wanted.workers)]):
            pass
        array = np.ones(SIZE // ITEM)
        seconds = []
        for _ in range(wanted.n):
            start = time.perf_counter()
            found = sum(peer.each_with(wanted.method, element, array, range(JOBS)))
            seconds.append(time.perf_counter() - start)
            if found != JOBS:
                raise AssertionError("a wrong result")
        start_method = peer.start_method
    return times(seconds), start_method


def array_rates(wanted: Measurement) -> Answer:
    """Megabytes a second through `map`, by the size of the arrays; so many bytes each that n of 1 MiB have."""
    metrics = {}
    with opened(wanted) as peer:
        get_ready(wanted, peer)
        for size in RATE_SIZES:
            arrays = [np.ones(size // ITEM) for _ in range(DIFFERENT)]
            count = wanted.n * MIB // size
            rates = []
            for _ in range(4):
                start = time.perf_counter()
                received(peer, wanted.method, arrays, count)
                rates.append(count * size / (time.perf_counter() - start) / 1e6)
            metrics[size_text(size)] = statistics.median(rates[1:])
        start_method = peer.start_method
    return metrics, start_method


def received(peer: Peer, method: str, arrays: Sequence[Array], count: int) -> None:
    """Takes the results one after another, and drops them."""
    taken = 0
    for found in peer.each(method, identity, [arrays[number % len(arrays)] for number in range(count)]):
        taken += found.nbytes
    if taken != count * arrays[0].nbytes:
        raise AssertionError("a wrong result")


def size_text(size: int) -> str:
    """Whole KiB or MiB."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


# ---- memory --------------------------------------------------------------------------------------------------------

SUBJECTS = ("shared", "parent", "worker")


class Samples:
    """What an engine of one worker and both processes hold, looked at again and again; MiB."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._parent = psutil.Process()
        self._worker = psutil.Process(engine.workers()[0].pid)
        self.peaks = dict.fromkeys(SUBJECTS, 0.0)

    def look(self) -> dict[str, float]:
        """Now."""
        held = (
            self._engine.stats().memory.size,
            self._parent.memory_info().rss,
            self._worker.memory_info().rss,
        )
        now = {subject: size / MIB for subject, size in zip(SUBJECTS, held, strict=True)}
        self.peaks = {subject: max(self.peaks[subject], now[subject]) for subject in SUBJECTS}
        return now

    def while_open(self) -> AbstractContextManager[None]:
        """A thread that looks."""
        return _Looking(self)


class _Looking:
    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._samples.look()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *about: object) -> None:
        self._over.set()
        self._thread.join()


def array_memory(wanted: Measurement) -> Answer:
    """Gigabytes a second of n arrays of 1 GiB, one after another in and out; MiB that are held meanwhile."""
    from mpengine import Engine

    with Engine(wanted.workers, wanted.start_method) as engine:
        engine.submit(total, np.ones(8)).result()
        array = np.ones(GIB // ITEM)
        samples = Samples(engine)
        before = samples.look()
        seconds = []
        with samples.while_open():
            for number in range(wanted.n):
                start = time.perf_counter()
                found = engine.submit(identity, array).result()
                seconds.append(time.perf_counter() - start)
                if found[-1] != 1:
                    raise AssertionError("a wrong result")
                del found
                last = samples.look()
                if not number:
                    first = last
        threading.Event().wait(REST_S)
        at_rest = samples.look()
    figures = {"before": before, "first": first, "last": last, "peak": samples.peaks, "at rest": at_rest}
    held_then = {f"{subject} {when}": figures[when][subject] for subject in SUBJECTS for when in figures}
    return speeds(seconds, GIB) | held_then, wanted.start_method or "forkserver"


HERE: tuple[Callable[[Measurement], Answer], ...] = (
    *(array_in, array_out, array_both, array_changed, array_shared),
    *(array_threshold, array_memory, array_rates),
)
KINDS: dict[str, Callable[[Measurement], Answer]] = {function.__name__: function for function in HERE}
