"""One measurement of one contender, in a process of its own: `python -m bench.measure CASE PEER.METHOD N`.

Prints one line of JSON. The process is fresh, so that no contender inherits the other's heap, threads
or warm workers; what is measured begins when the peer's workers are up, unless start-up is the question.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import limits
from bench.cases import CASES
from bench.peers import PEERS, Peer
from bench.work import increment, spin, warm_up

Metrics = dict[str, float]

# What a program that uses the peer begins with; mpengine's names are only loaded when they are used.
IMPORTS = {
    "engine.package": "import mpengine",
    "engine.names": "from mpengine import Engine, Job",
    "executor.names": "from concurrent.futures import ProcessPoolExecutor",
    "pool.names": "import multiprocessing.pool",
    "loky.names": "from loky import ProcessPoolExecutor",
}


@dataclass(frozen=True)
class Measurement:
    """What is asked for."""

    peer: str
    method: str
    n: int
    workers: int
    start_method: str | None
    turns: int  # of `spin`, for the CPU-bound cases

    def open(self) -> Peer:
        return PEERS[self.peer](self.workers, self.start_method)

    def warm_up(self, peer: Peer) -> None:
        """Some jobs that are long enough for every worker to get one, so that all have been started.

        Not the jobs that are measured: nobody is to know beforehand how long those take.
        """
        if self.peer != "bare":
            for _ in peer.each(self.method, warm_up, range(self.workers * 4)):
                pass
        elif self.method == "batches":
            for _ in peer.each(self.method, increment, range(limits.BATCH * self.workers)):
                pass


Answer = tuple[Metrics, str]  # the metrics, and the start method that the peer had


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
    """Seconds for n CPU-bound jobs of the same length."""
    with wanted.open() as peer:
        wanted.warm_up(peer)
        values = [wanted.turns] * wanted.n
        start = time.perf_counter()
        for _ in peer.each(wanted.method, spin, values):
            pass
        return {"wall": time.perf_counter() - start}, peer.start_method


def start_up(wanted: Measurement) -> Answer:
    """Milliseconds to the first result, and for a life of n tiny jobs with the shutdown."""
    exec(IMPORTS[f"{wanted.peer}.names"])
    start = time.perf_counter()
    with wanted.open() as peer:
        peer.call(increment, 0)
        first = time.perf_counter() - start
        for _ in peer.each(wanted.method, increment, range(wanted.n)):
            pass
    life = time.perf_counter() - start
    return {"life": life * 1e3, "first": first * 1e3}, peer.start_method


def import_time(wanted: Measurement) -> Answer:
    """Milliseconds of the import in a Python that has imported nothing else."""
    statement = IMPORTS[f"{wanted.peer}.{wanted.method}"]
    code = f"from time import perf_counter as now; t = now(); {statement}; print((now() - t) * 1e3)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return {"time": float(done.stdout)}, ""


KINDS: dict[str, Callable[[Measurement], Answer]] = {
    function.__name__: function for function in (rate, round_trips, wall_time, start_up, import_time)
}


def main(arguments: Sequence[str] | None = None) -> None:
    cases = {case.name: case for case in CASES}
    parser = argparse.ArgumentParser(prog="python -m bench.measure", description=__doc__)
    parser.add_argument("case", choices=cases)
    parser.add_argument("contender", help="PEER.METHOD, as in engine.map")
    parser.add_argument("n", type=int, help="how many jobs")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--start-method", help="default: the peer's own")
    parser.add_argument("--turns", type=int, default=200_000, help="length of a CPU-bound job")
    parser.add_argument("--nice", type=int, default=0, help="added to the priority; negative needs privilege")
    asked = parser.parse_args(arguments)
    peer, _, method = asked.contender.partition(".")
    if asked.nice:
        os.nice(asked.nice)
    wanted = Measurement(peer, method, asked.n, asked.workers, asked.start_method, asked.turns)
    metrics, start_method = KINDS[cases[asked.case].kind](wanted)
    print(json.dumps({"metrics": metrics, "start_method": start_method}))


if __name__ == "__main__":
    main()
