"""Everything at once, by a seed: jobs that end well or badly, by every way in, while workers are killed or stopped.

What really ran is on disk. A short slice runs with every test run; five minutes for each of 20 seeds:

    MPENGINE_CHAOS_SECONDS=300 MPENGINE_CHAOS_SEEDS=20 scripts/test -m stress tests/stress/test_chaos.py
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpengine import Engine, Job, JobFuture, JobLost, Outcome
from tests.stress import chaos_jobs as jobs
from tests.support import WAIT_S, thread_tracebacks

SECONDS = float(os.environ.get("MPENGINE_CHAOS_SECONDS", "60"))
SEEDS = int(os.environ.get("MPENGINE_CHAOS_SEEDS", "1"))
HANG_S = 60.0  # without a single outcome
MEMORY = 1 << 30
OPEN = 200  # dispatched and not ended, at most

# How a job of each kind may end when nobody disturbs it: alone, with a timeout.
ENDS = {
    "spin": ("succeeded", "expired"),
    "large": ("succeeded", "expired"),
    "fail": ("failed", "expired"),
    "lock": ("failed", "expired"),
    "exit": ("lost", "expired"),
    "crash": ("lost", "expired"),
    "hang": ("expired",),
    "deaf": ("expired",),
    "hog": ("lost", "expired"),
}


class Chaos:
    """One run. Threads of its own do the harm and the work; `check` compares."""

    def __init__(self, diary: Path, method: str, seed: int, seconds: float) -> None:
        self.name = f"{method}, seed {seed}"
        self.diary = diary
        diary.touch()
        self.engine = Engine(
            3, method, stop_grace=0.1, memory_limit=MEMORY, max_tasks_per_child=200, retries=0, timeout=30.0
        )  # fmt: skip
        self.until = time.monotonic() + seconds
        self.last = time.monotonic()
        self.jobs: dict[str, Job] = {}
        self.outcomes: dict[str, list[Outcome]] = collections.defaultdict(list)
        self.cancelled: set[str] = set()
        self.disturbed = 0  # workers that were killed
        self.problems: list[str] = []
        self._lock = threading.Lock()
        self._seed = f"{method} {seed}"

    def run(self) -> None:
        parts = [self.dispatch, self.dispatch, self.run_batches, self.map, self.go_round, self.harm]
        with concurrent.futures.ThreadPoolExecutor(len(parts)) as threads:
            begun = [
                threads.submit(part, random.Random(f"{self._seed} {number}")) for number, part in enumerate(parts)
            ]  # fmt: skip
            while not concurrent.futures.wait(begun, 1.0).not_done == set():
                if time.monotonic() - self.last > HANG_S and not self.problems:
                    self.problems.append(f"no outcome for {HANG_S:g} s\n{thread_tracebacks()}")
                    self.engine.shutdown(wait=False, timeout=0.0)
            for part in begun:
                part.result()

    # ---- the work --------------------------------------------------------------------------------------------------

    def make_job(self, chance: random.Random, way: str) -> Job:
        kinds, weights = zip(("spin", 60), ("large", 4), ("fail", 6), ("lock", 2), ("exit", 2), ("crash", 2),
                             ("hang", 2), ("deaf", 1), ("hog", 0.3), strict=True)  # fmt: skip
        kind = chance.choices(kinds, weights)[0]
        seconds = chance.choice([0.0, 0.0, 0.0, 1e-4, 1e-3, 0.05])
        limit = chance.choice([0.05, 0.3]) if kind in ("hang", "deaf") else chance.choice([None, None, None, 0.01])
        with self._lock:
            id = f"{way}-{kind}-{len(self.jobs)}"
            job = Job(
                jobs.work, (str(self.diary), id, kind, seconds), id=id, timeout=limit,
                retries=chance.choice([0, 0, 0, 1]), backoff=chance.choice([0.0, 0.01]), priority=chance.choice([0, 1]),
                meta=kind,
            )  # fmt: skip
            self.jobs[id] = job
        return job

    def told(self, outcome: Outcome) -> None:
        self.last = time.monotonic()
        self.outcomes[outcome.job.id].append(outcome)

    def dispatch(self, chance: random.Random) -> None:
        """Futures, some of which are cancelled."""
        futures: collections.deque[JobFuture] = collections.deque()
        while time.monotonic() < self.until:
            futures.append(self.engine.dispatch(self.make_job(chance, "dispatch")))
            if chance.random() < 0.05:
                future = chance.choice(futures)
                self.cancelled.add(future.job.id)
                future.cancel(running=chance.random() < 0.5)
            while len(futures) > OPEN:
                self.told(futures.popleft().outcome(HANG_S))
        for future in futures:
            self.told(future.outcome(HANG_S))

    def run_batches(self, chance: random.Random) -> None:
        """Iterators, some of which are closed early."""
        while time.monotonic() < self.until:
            count = chance.randrange(1, 200)
            stop = count if chance.random() < 0.8 else chance.randrange(count)
            drawn: list[str] = []

            def given(count: int = count, drawn: list[str] = drawn) -> Iterator[Job]:
                for _ in range(count):
                    job = self.make_job(chance, "run")
                    drawn.append(job.id)
                    yield job

            outcomes = self.engine.run(given(), ordered=chance.random() < 0.5)
            for _ in range(stop):
                self.told(next(outcomes))
            outcomes.close()
            self.cancelled.update(id for id in drawn if id not in self.outcomes)

    def map(self, chance: random.Random) -> None:
        """Calls whose values are right and in order, until a worker dies in one."""
        while time.monotonic() < self.until:
            count = chance.randrange(1, 20_000)
            values = self.engine.map(jobs.double, range(count), buffersize=chance.choice([None, 100]))
            got = 0
            try:
                for value in values:
                    assert value == 2 * got, f"{value} as value {got} of a map"
                    got += 1
                assert got == count, f"{got} of {count} values"
            except JobLost:
                assert self.disturbed, "a call of a map was lost, and nobody killed its worker"
            self.last = time.monotonic()

    def go_round(self, chance: random.Random) -> None:
        """One job at a time."""
        while time.monotonic() < self.until:
            number = chance.randrange(1 << 40)
            try:
                assert self.engine.submit(jobs.double, number).result(HANG_S) == 2 * number
            except JobLost:
                assert self.disturbed, "a call was lost, and nobody killed its worker"
            self.last = time.monotonic()

    # ---- the harm ----------------------------------------------------------------------------------------------------

    def harm(self, chance: random.Random) -> None:
        pause = threading.Event()
        while time.monotonic() < self.until:
            pause.wait(chance.uniform(0.0, 0.3))
            rows = [row for row in self.engine.workers() if row.state != "starting"]
            if not rows:
                continue
            pid = chance.choice(rows).pid
            try:
                if chance.random() < 0.4:
                    os.kill(pid, signal.SIGSTOP)
                    pause.wait(chance.uniform(0.0, 0.2))
                    os.kill(pid, signal.SIGCONT)
                else:
                    self.disturbed += 1  # before: whoever loses a job to it may look at once
                    os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGTERM]))
            except ProcessLookupError:
                continue

    # ---- the oracle --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What was told against what happened."""
        begun, ended = self.read_diary()
        by_others = 0
        for id, job in self.jobs.items():
            told = self.outcomes.get(id, [])
            if not told and id in self.cancelled and id.startswith("run-"):
                assert begun[id] <= (job.retries or 0) + 1, f"{id} was begun {begun[id]} times"
                continue  # its iterator was closed
            assert len(told) == 1, f"{id} has {len(told)} outcomes"
            (outcome,) = told
            status = str(outcome.status)
            assert begun[id] <= outcome.attempts <= (job.retries or 0) + 1, (
                f"{id}: begun {begun[id]} times, {outcome.attempts} attempts"
            )
            assert len(outcome.errors) == outcome.attempts - outcome.ok, f"{id}: {outcome.errors}"
            if outcome.ok:
                assert ended[id], f"{id} succeeded and did not end"
                assert id in (outcome.value, outcome.value[0]), f"{id}: {outcome.value!r}"
            if status == "cancelled":
                assert id in self.cancelled, f"nobody cancelled {id}"
            elif status not in ENDS[job.meta]:
                assert status == "lost", f"{id}: {outcome.error!r}"
                by_others += 1
        assert by_others <= self.disturbed, f"{by_others} jobs lost by {self.disturbed} kills"

    def read_diary(self) -> tuple[Counter[str], Counter[str]]:
        begun: Counter[str] = Counter()
        ended: Counter[str] = Counter()
        for line in self.diary.read_text().splitlines():
            what, id = line.split()
            (begun if what == "begin" else ended)[id] += 1
        return begun, ended


def run_chaos(diary: Path, method: str, seed: int, seconds: float) -> None:
    chaos = Chaos(diary, method, seed, seconds)
    try:
        chaos.run()
        assert not chaos.problems, f"{chaos.name}: {chaos.problems[0]}"
        assert chaos.engine.join(WAIT_S)
        chaos.check()
        assert [chaos.engine.submit(jobs.double, n).result(WAIT_S) for n in range(20)] == [2 * n for n in range(20)]
    finally:
        report = chaos.engine.shutdown(cancel_futures=True, timeout=5.0)
    assert report.complete
    statuses = Counter(str(told[0].status) for told in chaos.outcomes.values() if told)
    print(f"{chaos.name}: {len(chaos.jobs)} jobs, {chaos.disturbed} kills, {dict(statuses)}")


def test_a_slice_of_chaos(tmp_path: Path) -> None:
    run_chaos(tmp_path / "diary", "forkserver", 7, 10.0)


@pytest.mark.stress
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_chaos(tmp_path: Path, start_method: str, seed: int) -> None:
    run_chaos(tmp_path / "diary", start_method, seed, SECONDS)
