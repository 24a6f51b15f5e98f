"""`python -m bench.recovery`: what is left of an engine's speed after its workers were killed or its jobs timed out.

An engine that was disturbed is measured beside one that was not, in turns, so that other load falls on both alike.
"""

import argparse
import contextlib
import itertools
import os
import queue
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench import machine
from bench.work import increment, spin
from mpengine import Engine, Job

KILLS = 100
TIMEOUTS = 1_000
RECYCLED_JOBS = 10_000
RECYCLE_AFTER = 7
ROUNDS = 9
JOBS = 2_000_000  # in one measurement
LONGEST_S = 60.0


def replacements(start_method: str, times: int) -> list[float]:
    """Kill an idle worker so many times; seconds from each death to its replacement's readiness."""
    ready: queue.SimpleQueue[float] = queue.SimpleQueue()

    def hear(event: Any) -> None:
        if type(event).__name__ == "WorkerReady":
            ready.put(event.at)

    waits = []
    with Engine(2, start_method, observers=[hear]) as engine:
        for _ in range(2):
            ready.get(timeout=LONGEST_S)
        for _ in range(times):
            killed_at = time.monotonic()
            os.kill(engine.workers()[0].pid, signal.SIGKILL)
            waits.append(ready.get(timeout=LONGEST_S) - killed_at)
            engine.submit(increment, 0).result()  # or it would take them for workers that cannot live
    return waits


def kill(engine: Engine) -> None:
    """Kill one worker after another; the engine does a job in between."""
    killed: set[int] = set()
    while len(killed) < KILLS:
        engine.submit(increment, 0).result()
        pid = engine.workers()[0].pid
        if pid not in killed:
            killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def let_time_out(engine: Engine) -> None:
    """Give it jobs that run past their time; each heeds that, so that its worker stays."""
    jobs = (Job(spin, (1 << 40,), timeout=0.001) for _ in range(TIMEOUTS))
    statuses = {outcome.status for outcome in engine.run(jobs)}
    assert statuses == {"expired"}, statuses


def rate(engine: Engine) -> float:
    """Jobs a second now."""
    start = time.perf_counter()
    assert sum(engine.map(increment, range(JOBS))) == JOBS * (JOBS + 1) // 2
    return JOBS / (time.perf_counter() - start)


def compare(start_method: str, disturb: Callable[[Engine], None]) -> str:
    """The disturbed engine's rate over the other's: median, and the lowest and highest of the rounds."""
    with Engine(2, start_method) as fresh, Engine(2, start_method) as disturbed:
        for engine in (fresh, disturbed):
            rate(engine)  # warm
        disturb(disturbed)
        rate(disturbed)  # its workers are new
        ratios = []
        for number in range(ROUNDS):
            rates = {engine: rate(engine) for engine in ((fresh, disturbed), (disturbed, fresh))[number % 2]}
            ratios.append(rates[disturbed] / rates[fresh])
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f} … {max(ratios):.2f})"


def recycle(start_method: str) -> str:
    """Jobs a second while every worker is replaced after a few, and that none is lost."""
    with Engine(2, start_method, max_tasks_per_child=RECYCLE_AFTER) as engine:
        start = time.perf_counter()
        outcomes = [outcome.value for outcome in engine.run(Job(increment, (n,)) for n in range(RECYCLED_JOBS))]
        seconds = time.perf_counter() - start
    assert sorted(outcomes) == list(range(1, RECYCLED_JOBS + 1))
    return f"{RECYCLED_JOBS / seconds:,.0f}"


def row(start_method: str) -> list[str]:
    waits = [wait * 1e3 for wait in replacements(start_method, KILLS)]
    return [
        start_method,
        f"{statistics.median(waits):.1f} ({min(waits):.1f} … {max(waits):.1f})",
        compare(start_method, kill),
        compare(start_method, let_time_out),
        recycle(start_method),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--start-method", action="append", choices=["forkserver", "spawn", "fork"])
    methods = parser.parse_args(arguments).start_method or ["forkserver", "spawn", "fork"]
    facts = machine.facts()
    print(f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['system']}, {facts['python']}. Load: {facts['load']}.\n")
    heading = [
        "start method", "replacement ready after, ms", f"rate after {KILLS} kills", f"rate after {TIMEOUTS:,} timeouts",
        f"jobs/s, recycled every {RECYCLE_AFTER}",
    ]  # fmt: skip
    lines = itertools.chain([heading, ["---", *["---:"] * (len(heading) - 1)]], map(row, methods))
    for cells in lines:
        print("| " + " | ".join(cells) + " |", flush=True)
    print("\nMedian (lowest … highest). Rates are over those of an engine that nobody disturbed, measured in turns.")


if __name__ == "__main__":
    main()
