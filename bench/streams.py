"""The kinds of measurement that look at a stream while it runs: its first results, its memory, its length."""

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import psutil

from bench.measurement import Answer, Measurement
from bench.work import increment, timed

FIRST = 100  # results that are looked at
PAUSE_S = 5.0
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
COMPARED = 100_000  # with the longest
REPEATED = 500_000  # jobs, in as many streams of a size: short ones are over too soon for one look
MOST_REPEATS = 20


def first_results(wanted: Measurement) -> Answer:
    """Milliseconds from the end of a job to the consumer's having its result: the first one, and the worst."""
    ordered = "unordered" not in wanted.method and wanted.method != "run"
    lags: list[float] = []
    with wanted.open() as peer:
        wanted.warm_up(peer)
        ended = 0.0
        for end in peer.each(wanted.method, timed, [wanted.seconds] * wanted.n):
            now = time.perf_counter()
            # In order, no result can come before those of all jobs in front of it.
            ended = max(ended, end) if ordered else end
            if len(lags) < FIRST:
                lags.append((now - ended) * 1e3)
    return {"first": lags[0], "worst": max(lags)}, peer.start_method


def stream_memory(wanted: Measurement) -> Answer:
    """What memory grows by while many tiny jobs pass through and their consumer pauses in the middle."""
    drawn = Counted(wanted.n)
    with wanted.open() as peer:
        wanted.warm_up(peer)
        parent, below = watch_growth(psutil.Process()), [*map(watch_growth, processes_below())]
        start = time.perf_counter()
        results = iter(peer.each(wanted.method, increment, drawn))
        total = sum(itertools.islice(results, wanted.n // 2))
        threading.Event().wait(PAUSE_S)
        ahead = drawn.count - wanted.n // 2
        total += sum(results)
        seconds = time.perf_counter() - start - PAUSE_S
        growth, workers = parent(), sum(grown() for grown in below)
    if total != wanted.n * (wanted.n + 1) // 2:
        raise AssertionError(f"wrong results: their sum is {total}")
    metrics = {"growth": growth, "workers": workers, "ahead": ahead, "per job": seconds / wanted.n * 1e6}
    return metrics, peer.start_method


class Counted:
    """The numbers from 0 to n, as a stream that nobody knows the length of; it counts what was drawn."""

    def __init__(self, n: int) -> None:
        self.count = 0
        self._numbers = self._draw(n)

    def _draw(self, n: int) -> Iterator[int]:
        for number in range(n):
            self.count = number + 1
            yield number

    def __iter__(self) -> Iterator[int]:
        return self._numbers


def processes_below() -> Iterable[psutil.Process]:
    return psutil.Process().children(recursive=True)


def watch_growth(process: psutil.Process) -> Callable[[], float]:
    """Takes down a process's resident memory; what is returned tells by how many MiB its peak has been above."""
    folder = Path(f"/proc/{process.pid}")
    folder.joinpath("clear_refs").write_text("5")  # the peak is that from here on, see proc(5)
    before = memory(folder, "VmRSS")
    return lambda: max(0.0, memory(folder, "VmHWM") - before)


def memory(folder: Path, field: str) -> float:
    """A field of /proc/PID/status in MiB; zero of a process that has gone."""
    try:
        lines = folder.joinpath("status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0.0)


def cost_per_job(wanted: Measurement) -> Answer:
    """Microseconds of wall time per job, for streams of more and more jobs through one pool."""
    costs: dict[int, float] = {}
    with wanted.open() as peer:
        wanted.warm_up(peer)
        for size in SIZES:
            if size <= max(wanted.n, SIZES[0]):
                repeats = max(1, min(MOST_REPEATS, REPEATED // size))
                costs[size] = statistics.median(
                    cost(partial(peer.each, wanted.method, increment), size) for _ in range(repeats)
                )
    metrics = {f"{size:,}": seconds * 1e6 for size, seconds in costs.items()}
    if max(costs) > COMPARED:
        metrics["longest / 100,000"] = costs[max(costs)] / costs[COMPARED]
    return metrics, peer.start_method


def cost(each: Callable[[Counted], Iterable[int]], size: int) -> float:
    """Seconds per job."""
    start = time.perf_counter()
    total = sum(each(Counted(size)))
    seconds = time.perf_counter() - start
    if total != size * (size + 1) // 2:
        raise AssertionError(f"wrong results: their sum is {total}")
    return seconds / size
