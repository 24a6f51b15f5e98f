"""Random kills under load, with what happened on disk as the oracle. Long by environment variables:

    MPENGINE_STRESS_KILLS=300 MPENGINE_STRESS_JOBS=200000 MPENGINE_STRESS_SEED=1 scripts/test -m stress

The unmarked tests are a short seeded slice of the same.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpengine import Engine, Job
from tests.faults import jobs
from tests.faults.oracle import Diary
from tests.runtime.fixtures import wait_ready
from tests.support import WAIT_S, thread_tracebacks

KILLS = int(os.environ.get("MPENGINE_STRESS_KILLS", "300"))
JOBS = int(os.environ.get("MPENGINE_STRESS_JOBS", "200000"))
SEED = int(os.environ.get("MPENGINE_STRESS_SEED", "1"))
HANG_S = 60.0  # without a single outcome


class Killer:
    """Kills a random worker, or all of them, at random moments, spread over the run of all jobs."""

    def __init__(self, engine: Engine, kills: int, chance: random.Random, progress: Callable[[], float]) -> None:
        self.kills = 0
        self._engine = engine
        self._most = kills
        self._chance = chance
        self._progress = progress
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while self.kills < self._most and not self._end.is_set():
            # The n-th kill comes when about that share of the work is done, at a random microsecond.
            self._end.wait(self._chance.uniform(0, 0.002))
            if self._progress() * self._most < self.kills:
                continue
            spin(self._chance.uniform(0, 0.001))
            rows = [row for row in self._engine.workers() if row.state != "starting"]
            if rows:
                for row in rows if self._chance.random() < 0.05 else [self._chance.choice(rows)]:
                    try:
                        os.kill(row.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                    self.kills += 1


def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def run_with_kills(tmp_path: Path, method: str, count: int, kills: int, seed: int) -> None:
    chance = random.Random(f"{method} {seed}")
    diary = Diary(tmp_path / "diary")
    outcomes: dict[int, Any] = {}
    last = time.monotonic()

    def given() -> Iterator[Job]:
        for n in range(count):
            micros = 0 if chance.random() < 0.9 else chance.choice([20, 200, 1000])
            yield Job(jobs.note, (str(diary.path), n, micros), meta=n)

    hung: list[str] = []
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(1.0):
            if time.monotonic() - last > HANG_S and not hung:
                hung.append(thread_tracebacks())
                engine.shutdown(wait=False, timeout=0.0)

    engine = Engine(2, method)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wait_ready(engine)
        with Killer(engine, kills, chance, lambda: len(outcomes) / count) as killer:
            for outcome in engine.run(given()):
                last = time.monotonic()
                assert outcome.job.meta not in outcomes, "two outcomes for one job"
                outcomes[outcome.job.meta] = outcome
        assert not hung, f"seed {seed}: no outcome for {HANG_S:g} s\n{hung[0]}"
        assert len(outcomes) == count
        assert killer.kills >= min(kills, 1)
        diary.check(outcomes, killer.kills)
        wait_ready(engine)
        assert [engine.submit(jobs.echo, n).result(WAIT_S) for n in range(20)] == list(range(20))
    finally:
        finished.set()
        watcher.join()
        engine.shutdown(cancel_futures=True, timeout=5.0)
    lost = sum(outcome.status == "lost" for outcome in outcomes.values())
    print(f"{method}, seed {seed}: {count} jobs, {killer.kills} kills, {lost} lost")


def test_a_slice_of_random_kills(tmp_path: Path, start_method: str) -> None:
    run_with_kills(tmp_path, start_method, 2_000, 8, 7)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_random_kills(tmp_path: Path, start_method: str) -> None:
    run_with_kills(tmp_path, start_method, JOBS, KILLS, SEED)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_engines_that_come_and_go(start_method: str) -> None:
    """Starts and shutdowns at random moments, with work in every stage."""
    chance = random.Random(f"{start_method} {SEED}")
    for _ in range(100 if start_method != "spawn" else 30):
        engine = Engine(chance.randrange(1, 4), start_method)
        futures = [engine.submit(jobs.echo, n) for n in range(chance.randrange(200))]
        values = engine.map(jobs.echo, range(1000))
        spin(chance.uniform(0, 0.02))
        if chance.random() < 0.5:
            next(values, None)
        report = engine.shutdown(cancel_futures=chance.random() < 0.5, timeout=chance.choice([None, 0.0, 0.05, 5.0]))
        assert report.complete
        assert all(future.done() for future in futures)
        values.close()


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_cancels_timeouts_and_kills_together(tmp_path: Path, start_method: str) -> None:
    """One outcome per job and nothing hangs, whatever comes together."""
    chance = random.Random(f"{start_method} {SEED} together")
    count = JOBS // 20
    futures = []
    engine = Engine(2, start_method, stop_grace=0.05, max_tasks_per_child=500)
    told: list[Any] = []
    diary = Diary(tmp_path / "diary")
    try:
        with Killer(engine, KILLS // 10, chance, lambda: len(told) / count):
            for n in range(count):
                micros = chance.choice([0, 0, 0, 100, 3000])
                timeout = chance.choice([None, None, 0.001, 1.0])
                job = Job(jobs.note, (str(diary.path), n, micros), timeout=timeout, meta=n)
                future = engine.dispatch(job)
                future.add_done_callback(told.append)
                futures.append(future)
                if chance.random() < 0.1:
                    chance.choice(futures[-50:]).cancel(running=chance.random() < 0.5)
                while len(futures) - len(told) > 500:
                    spin(0.0002)
            statuses = [future.outcome(HANG_S).status for future in futures]
        assert engine.join(WAIT_S)
        assert len(told) == count
        assert set(statuses) <= {"succeeded", "lost", "cancelled", "expired"}
        begun, ended = diary.read()
        assert not begun or max(begun.values()) == 1
        for n, status in enumerate(statuses):
            if status == "succeeded":
                assert ended[str(n)] == 1
    finally:
        engine.shutdown(cancel_futures=True, timeout=5.0)
