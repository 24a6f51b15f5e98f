"""Arrays that are kept, dropped, sliced, returned, changed, shared and mapped, by a seed, while workers are killed.

Every array equals its checksum whenever somebody looks at it; in the end all of the memory is back. A short slice runs
with every test run; five minutes for each of 20 seeds:

    MPENGINE_ARRAYS_SECONDS=300 MPENGINE_ARRAYS_SEEDS=20 scripts/test -m stress tests/stress/test_arrays.py
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpengine import Engine, Job, JobFuture, JobLost
from tests.runtime.fixtures import wait_ready
from tests.stress import array_jobs as jobs
from tests.support import wait_for

SECONDS = float(os.environ.get("MPENGINE_ARRAYS_SECONDS", "60"))
SEEDS = int(os.environ.get("MPENGINE_ARRAYS_SEEDS", "1"))
HANG_S = 60.0  # for one outcome
WORKERS = 3
MOST_KEPT = 40
MOST_OPEN = 30
MOST_SHARED = 20
MIB = 1 << 20
SMALL = 4096  # pickles of functions, which the engine knows
LOG_BYTES = 2 * MIB  # of a worker; part of `size`
SLACK = 12 * MIB


class Crowd:
    """One run. One thread works, another one kills."""

    def __init__(self, complaints: Path, method: str, seed: int, seconds: float) -> None:
        self.name = f"{method}, seed {seed}"
        self.engine = Engine(WORKERS, method, jobs.begin, (str(complaints),))
        self.kills = self.deaths = self.steps = 0
        self.kept: list[tuple[Any, int]] = []  # arrays of ours, with their checksums
        self.shared: list[tuple[Any, int]] = []
        self.open: list[JobFuture] = []
        self._chance = random.Random(self.name)
        self._seconds = seconds
        self._end = threading.Event()
        self._seed = 0

    def run(self) -> None:
        killer = threading.Thread(target=self.kill, args=(random.Random(f"{self.name} kills"),))
        killer.start()
        try:
            until = time.monotonic() + self._seconds
            while time.monotonic() < until:
                self.steps += 1
                step, weight = zip(
                    (self.submit, 10), (self.dispatch, 4), (self.take, 12), (self.go_round, 4), (self.map, 2),
                    (self.map_bound, 2), (self.batch, 2), (self.share, 2), (self.drop, 8), (self.slice, 3),
                    (self.change, 3), (self.look, 6), strict=True,
                )  # fmt: skip
                self._chance.choices(step, weight)[0]()
        finally:
            self._end.set()
            killer.join()

    # ---- what is done ------------------------------------------------------------------------------------------------

    def new_seed(self) -> int:
        self._seed += 1
        return self._seed

    def size(self) -> int:
        most = self._chance.choice([1000, 200_000, 200_000, 600_000, 600_000, 3 * MIB, 20 * MIB])
        return self._chance.randrange(1000, most + 1000)

    def array(self) -> tuple[Any, int]:
        """Something to be sent: new, or one that we have."""
        if self.kept and self._chance.random() < 0.3:
            return self._chance.choice(self.kept)
        if self.shared and self._chance.random() < 0.3:
            return self._chance.choice(self.shared)
        array = jobs.made(self.size(), self.new_seed())
        return array, jobs.checksum(array)

    def how(self) -> str:
        ways, weights = zip(("return", 6), ("change", 6), ("keep", 3), ("part", 3), ("new", 4), ("drop", 1),
                            ("fork", 0.3), ("die", 0.3), strict=True)  # fmt: skip
        how: str = self._chance.choices(ways, weights)[0]
        self.deaths += how == "die"
        return how

    def keep(self, result: tuple[Any, int]) -> None:
        array, wanted = result
        jobs.check(array, wanted, "a result")
        if array.flags.writeable and self._chance.random() < 0.7:
            self.kept.append(result)
        while len(self.kept) > MOST_KEPT:
            self.drop()

    def receive(self, future: JobFuture) -> None:
        with self.may_be_lost():
            self.keep(future.result(HANG_S))

    @contextlib.contextmanager
    def may_be_lost(self) -> Any:
        try:
            yield
        except JobLost:
            assert self.kills + self.deaths, "a job was lost, and nobody killed its worker"

    def submit(self) -> None:
        array, wanted = self.array()
        self.open.append(self.engine.submit(jobs.look, array, wanted, self.how(), self.new_seed()))
        if type(array) is np.ndarray and self._chance.random() < 0.3 and not self.is_kept(array):
            array[:] = 0  # after it was submitted: nothing to the job
        while len(self.open) > MOST_OPEN:
            self.take()

    def is_kept(self, array: Any) -> bool:
        return any(array is kept for kept, _ in self.kept)

    def dispatch(self) -> None:
        """A job that may run again finds its argument as it was."""
        array, wanted = self.array()
        call = (array, wanted, self.how(), self.new_seed())
        self.open.append(self.engine.dispatch(Job(jobs.look, call, retries=self._chance.randrange(3))))

    def take(self) -> None:
        if self.open:
            self.receive(self.open.pop(self._chance.randrange(len(self.open))))

    def go_round(self) -> None:
        array, wanted = self.array()
        self.receive(self.engine.submit(jobs.look, array, wanted, self.how(), self.new_seed()))

    def map(self) -> None:
        items = [(*self.array(), self.how(), self.new_seed()) for _ in range(self._chance.randrange(1, 20))]
        map = self._chance.choice([self.engine.map, self.engine.map_unordered])
        if self._chance.random() < 0.5:
            values = map(jobs.look_at_one, items)
        else:
            values = map(jobs.look, *zip(*items, strict=True))
        stop = self._chance.choice([1, 5, 100])
        del items
        with self.may_be_lost():
            for _, value in zip(range(stop), values, strict=False):
                self.keep(value)
        values.close()

    def map_bound(self) -> None:
        array, wanted = self.array()
        values = self.engine.map(functools.partial(jobs.look_at_bound, array, wanted), range(200))
        with self.may_be_lost():
            for number, value in zip(range(self._chance.choice([20, 200])), values, strict=False):
                assert value == number
        values.close()

    def batch(self) -> None:
        def given() -> Any:
            for _ in range(self._chance.randrange(1, 20)):
                array, wanted = self.array()
                yield Job(jobs.look, (array, wanted, self.how(), self.new_seed()), retries=self._chance.choice([0, 1]))

        for outcome in self.engine.run(list(given())):
            with self.may_be_lost():
                self.keep(outcome.unwrap())

    def share(self) -> None:
        array, wanted = self.array()
        self.shared.append((self.engine.share(array), wanted))
        if len(self.shared) > MOST_SHARED:
            del self.shared[self._chance.randrange(len(self.shared))]

    def drop(self) -> None:
        if self.kept:
            jobs.check(*self.kept.pop(self._chance.randrange(len(self.kept))), "what is dropped")

    def slice(self) -> None:
        if self.kept:
            at = self._chance.randrange(len(self.kept))
            array, wanted = self.kept[at]
            jobs.check(array, wanted, "what is sliced")
            array = array[self._chance.randrange(20) :: self._chance.randrange(1, 3)]
            if all(not np.shares_memory(array, other) for n, (other, _) in enumerate(self.kept) if n != at):
                self.kept[at] = array, jobs.checksum(array)

    def change(self) -> None:
        if self.kept:
            at = self._chance.randrange(len(self.kept))
            array, wanted = self.kept[at]
            jobs.check(array, wanted, "what is changed")
            array += np.uint32(self.new_seed())
            self.kept[at] = array, jobs.checksum(array)

    def look(self) -> None:
        for array, wanted in self.kept:
            jobs.check(array, wanted, "what is kept")

    # ---- the harm ----------------------------------------------------------------------------------------------------

    def kill(self, chance: random.Random) -> None:
        while not self._end.wait(chance.choice([0.01, 0.1, 0.5]) * chance.random()):
            rows = [row for row in self.engine.workers() if row.state != "starting"]
            if rows and chance.random() < 0.5:
                self.kills += 1  # before: whoever loses a job to it may look at once
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(rows).pid, signal.SIGKILL)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def drop_all(self) -> None:
        self.look()
        while self.open:
            self.take()
        self.look()
        self.kept.clear()
        self.shared.clear()
        pids: set[int] = set()
        while not pids.issuperset(wait_ready(self.engine)):
            futures = [self.engine.submit(jobs.drop) for _ in range(10 * WORKERS)]
            pids |= {future.result(HANG_S) for future in futures}
        del futures
        gc.collect()
        wait_for(lambda: self.engine.stats().memory.in_use < SMALL, about="nothing to be in use")
        wait_for(lambda: self.engine.stats().memory.size < WORKERS * LOG_BYTES, about="the memory to go back")


def resident() -> dict[str, int]:
    """Bytes of this process by kind: its own, and those that it shares.

    Without what is free and malloc keeps: up to 64 MiB at the end of each heap, once large pieces were freed.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    figures = dict(line.split(":", 1) for line in lines)
    return {name: int(figures[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem")}


def run_crowd(complaints: Path, method: str, seed: int, seconds: float) -> None:
    complaints.touch()
    before = resident()
    crowd = Crowd(complaints, method, seed, seconds)
    try:
        crowd.run()
        crowd.drop_all()
        assert not complaints.read_text(), complaints.read_text()
        after = resident()
        print(f"{crowd.name}: {crowd.steps} steps, {crowd.kills} kills, {crowd.engine.stats()}, {before}, {after}")
        for kind, size in after.items():
            assert size < before[kind] + SLACK, f"{kind}: {before[kind]:,} bytes before, {size:,} after"
    except BaseException:
        print(f"{crowd.name}: step {crowd.steps}, {crowd.kills} kills, {crowd.engine.stats()}")
        raise
    finally:
        crowd.engine.shutdown(cancel_futures=True, timeout=5.0)


def test_a_slice_of_arrays(tmp_path: Path, start_method: str) -> None:
    run_crowd(tmp_path / "complaints", start_method, 7, 3.0)


@pytest.mark.stress
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_arrays(tmp_path: Path, start_method: str, seed: int) -> None:
    run_crowd(tmp_path / "complaints", start_method, seed, SECONDS)
