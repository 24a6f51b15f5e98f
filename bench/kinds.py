"""The kinds of measurement: each opens a contender, asks it something and returns its figures.

Those of whole streams are in streams.py.
"""

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from bench import limits, streams
from bench.measurement import Answer, Measurement
from bench.work import busy, increment

__all__ = ["IMPORTS", "KINDS", "Measurement"]

# What a program that uses the peer begins with; mpengine's names are only loaded when they are used.
IMPORTS = {
    "engine.package": "import mpengine",
    "engine.names": "from mpengine import Engine, Job",
    "executor.names": "from concurrent.futures import ProcessPoolExecutor",
    "pool.names": "import multiprocessing.pool",
    "loky.names": "from loky import ProcessPoolExecutor",
    "joblib.names": "from joblib import Parallel, delayed",
    "mpire.names": "from mpire import WorkerPool",
    "pebble.names": "from pebble import ProcessPool",
    "ray.names": "import ray",
    "dask.names": "from distributed import Client, LocalCluster",
}
TAIL_SEED = 4
TAIL_SIGMA = 1.0  # of the log-normal distribution: the longest of 400 is about eleven times their mean
LONGEST = 100  # times the mean: the one job that stands first or last


def rate(wanted: Measurement) -> Answer:
    """Jobs per second of many tiny ones; the sum of the results says that none was lost or doubled."""
    with wanted.open() as peer:
        wanted.warm_up(peer)
        start = time.perf_counter()
        total = sum(peer.each(wanted.method, increment, range(wanted.n)))
        seconds = time.perf_counter() - start
    if total != wanted.n * (wanted.n + 1) // 2:
        raise AssertionError(f"wrong results: their sum is {total}")
    return {"rate": wanted.n / seconds}, peer.start_method


def round_trips(wanted: Measurement) -> Answer:
    """Median and 99th percentile of single trips, in microseconds."""
    if wanted.peer == "bare":
        trips, start_method = limits.ping_pong(wanted.n), "fork"
    else:
        trips = []
        with wanted.open() as peer:
            start_method = peer.start_method
            for number in range(-100, wanted.n):  # the negative ones warm up
                start = time.perf_counter()
                peer.call(increment, number)
                if number >= 0:
                    trips.append(time.perf_counter() - start)
    cuts = statistics.quantiles(trips, n=100)
    return {"p50": cuts[49] * 1e6, "p99": cuts[98] * 1e6}, start_method


def wall_time(wanted: Measurement) -> Answer:
    """Microseconds of wall time for each of n CPU-bound jobs of the same length."""
    seconds, start_method = seconds_for(wanted, [wanted.seconds] * wanted.n)
    return {"wall per job": seconds / wanted.n * 1e6}, start_method


def tail_first(wanted: Measurement) -> Answer:
    """Seconds of wall time for jobs of very different lengths, the longest of which comes first."""
    seconds, start_method = seconds_for(wanted, [wanted.seconds * LONGEST, *tail(wanted)])
    return {"wall": seconds}, start_method


def tail_last(wanted: Measurement) -> Answer:
    """The same, but for the longest one, which comes last."""
    seconds, start_method = seconds_for(wanted, [*tail(wanted), wanted.seconds * LONGEST])
    return {"wall": seconds}, start_method


def tail(wanted: Measurement) -> list[float]:
    """The same lengths in every run, about `seconds` in the mean."""
    source = random.Random(TAIL_SEED)
    mean = -(TAIL_SIGMA**2) / 2  # of the logarithm, so that the mean of what is drawn is one
    return [wanted.seconds * source.lognormvariate(mean, TAIL_SIGMA) for _ in range(wanted.n - 1)]


def seconds_for(wanted: Measurement, lengths: list[float]) -> tuple[float, str]:
    """Wall time until the last of the jobs has its result, and the peer's start method."""
    with wanted.open() as peer:
        wanted.warm_up(peer)
        start = time.perf_counter()
        for _ in peer.each(wanted.method, busy, lengths):
            pass
        return time.perf_counter() - start, peer.start_method


def start_up(wanted: Measurement) -> Answer:
    """Milliseconds to the first result, for a life of n tiny jobs with the shutdown, and to a second one's result."""
    exec(IMPORTS[f"{wanted.peer}.names"])
    start = time.perf_counter()
    with wanted.open() as peer:
        peer.call(increment, 0)
        first = time.perf_counter() - start
        for _ in peer.each(wanted.method, increment, range(wanted.n)):
            pass
    life = time.perf_counter() - start
    start = time.perf_counter()
    with wanted.open() as peer:
        peer.call(increment, 0)
        second = time.perf_counter() - start
    return {"life": life * 1e3, "first": first * 1e3, "second": second * 1e3}, peer.start_method


def import_time(wanted: Measurement) -> Answer:
    """Milliseconds of the import in a Python that has imported nothing else."""
    statement = IMPORTS[f"{wanted.peer}.{wanted.method}"]
    code = f"from time import perf_counter as now; t = now(); {statement}; print((now() - t) * 1e3)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return {"time": float(done.stdout)}, ""


HERE: tuple[Callable[[Measurement], Any], ...] = (
    *(rate, round_trips, wall_time, tail_first, tail_last, start_up, import_time),
    *(streams.first_results, streams.stream_memory, streams.cost_per_job),
)
KINDS: dict[str, Callable[[Measurement], Answer]] = {function.__name__: function for function in HERE}
