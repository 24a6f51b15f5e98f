"""What the engine spends on a job, in a process of its own: `python -m bench.counting` prints a line of JSON.

Nothing here is wall time. CPU time is that of the parent and its workers together, as a ratio to a bare
loop's in the same run, each the least of some rounds: other load can only add to it. All of it is on one CPU:
to wake a process on another one costs more, and more the less that one has to do, so that the same trip takes
half as much CPU time on a busy machine. The rest is counted: calls of Python and C functions in the parent, and
blocks of memory that a future holds. `guard.py` holds it against what was accepted.
"""

import concurrent.futures
import gc
import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe, get_context
from types import FrameType
from typing import Any

import psutil

from bench.limits import BatchLoop, echo
from bench.work import increment
from mpengine import Engine, Job

WORKERS = 2
ROUNDS = 12
COUNTED = 3  # times each is counted; the fewest calls are those of a run in which nobody had to be waited for
CPUCLOCK_SCHED = 2  # in the id of another process's clock, see clock_getcpuclockid(3) and the kernel's posix-timers

Load = Callable[[int], object]  # puts so many jobs through


def loads_of(engine: Engine) -> dict[str, tuple[Load, int]]:
    """The ways through the engine, each with its number of jobs."""

    def round_trips(n: int) -> None:
        for value in range(n):
            engine.submit(increment, value).result()

    return {
        "map": (lambda n: sum(engine.map(increment, range(n))), 300_000),
        "run": (lambda n: [one.unwrap() for one in engine.run(Job(increment, (v,)) for v in range(n))], 50_000),
        # Not `concurrent.futures.wait`: what that costs depends on how many are over when it looks.
        "submit": (lambda n: [one.result() for one in [engine.submit(increment, v) for v in range(n)]], 10_000),
        "round trip": (round_trips, 1_000),
    }


def cpu_ratios() -> dict[str, float]:
    """CPU time per job over that of a bare loop with the same ingredients."""
    here, there = Pipe()
    echoing = get_context("fork").Process(target=echo, args=(there, here))
    echoing.start()
    loop = BatchLoop(increment, WORKERS)

    def ping_pong(n: int) -> None:
        for value in range(n):
            here.send(value)
            here.recv()

    bare: dict[str, tuple[Load, int]] = {
        "batches": (lambda n: sum(loop.map_unordered(range(n))), 500_000),
        "pickling": (lambda n: [pickle.loads(pickle.dumps((increment, (value,)))) for value in range(n)], 50_000),
        "ping-pong": (ping_pong, 3_000),
    }
    against = {"map": "batches", "run": "pickling", "submit": "pickling", "round trip": "ping-pong"}
    with Engine(WORKERS) as engine:
        loads = loads_of(engine) | bare
        for load, n in loads.values():
            load(n // 10)  # warm
        spent: dict[str, list[float]] = {name: [] for name in loads}
        for _ in range(ROUNDS):
            for name, (load, n) in loads.items():
                spent[name].append(cpu_seconds(load, n) / n)
    loop.close()
    echoing.terminate()  # the loop's processes have copies of this end, too: it would not see it closed
    echoing.join()
    return {f"{name}: CPU time": min(spent[name]) / min(spent[other]) for name, other in against.items()}


def cpu_seconds(load: Load, n: int) -> float:
    """What this process and all below it spend on a load."""
    this = psutil.Process()
    pids = [this.pid, *(process.pid for process in this.children(recursive=True))]
    before = sum(map(cpu_clock, pids))
    load(n)
    return sum(map(cpu_clock, pids)) - before


def cpu_clock(pid: int) -> float:
    """Seconds on a CPU, of all threads of a process; in nanoseconds, where /proc has ticks."""
    return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)


def calls_per_job() -> dict[str, float]:
    """Calls of functions in the parent's threads."""
    counted = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal counted
        if event in ("call", "c_call"):
            counted += 1

    calls = {}
    threading.setprofile(count)  # for the threads that the engine starts
    with Engine(WORKERS) as engine:
        for name, (load, most) in loads_of(engine).items():
            n = min(most, 2_000) if name != "map" else most // 3
            load(n)  # warm
            found = []
            for _ in range(COUNTED):
                before = counted
                sys.setprofile(count)
                load(n)
                sys.setprofile(None)
                found.append((counted - before) / n)
            calls[f"{name}: calls"] = min(found)
    threading.setprofile(None)
    return calls


def blocks_per_future(n: int = 5_000) -> dict[str, float]:
    """Blocks of memory that the parent holds for each future while its owner does."""
    with Engine(WORKERS) as engine:
        concurrent.futures.wait([engine.submit(increment, value) for value in range(n)])
        gc.collect()
        before = sys.getallocatedblocks()
        futures = [engine.submit(increment, value) for value in range(n)]
        concurrent.futures.wait(futures)
        gc.collect()
        return {"submit: blocks held": (sys.getallocatedblocks() - before) / len(futures)}


def only(name: str, n: int) -> None:
    """Puts so many jobs through, for somebody who counts from outside."""
    with Engine(WORKERS) as engine:
        loads_of(engine)[name][0](n)


def main(arguments: Sequence[str]) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if arguments:
        only(arguments[0], int(arguments[1]))
    else:
        print(json.dumps(cpu_ratios() | calls_per_job() | blocks_per_future()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
