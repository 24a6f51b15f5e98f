"""SIGKILL of workers: idle, busy, all of them, at any microsecond."""

import contextlib
import errno
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mpengine import Engine, Job, JobLost
from tests.faults import jobs
from tests.faults.oracle import Diary
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for, wait_gone


def kill(*pids: int) -> int:
    """How many of them were there to be killed."""
    killed = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has died before, and the engine is about to notice
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


def assert_works(engine: Engine, *, without: set[int] | frozenset[int] = frozenset()) -> None:
    """Full size, none of the dead among them, and jobs are run."""
    pids = wait_for(lambda: set(pids_of(engine)) if not set(pids_of(engine)) & without else None)
    wait_ready(engine)
    assert pids
    assert [f.result(WAIT_S) for f in [engine.submit(jobs.echo, n) for n in range(10)]] == list(range(10))


def pids_of(engine: Engine) -> list[int]:
    pids = [row.pid for row in engine.workers() if row.state != "starting"]
    return pids if len(pids) == engine._max_workers else []


def test_an_idle_worker_is_replaced_and_nobody_notices(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method)
    for _ in range(3):
        pids = wait_ready(engine)
        kill(pids[0])
        futures = [engine.submit(jobs.echo, n) for n in range(20)]
        assert [f.result(WAIT_S) for f in futures] == list(range(20))
        assert_works(engine, without={pids[0]})
    assert engine.stats().lost == 0


def test_all_idle_workers_at_once(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(3, start_method)
    pids = wait_ready(engine)
    kill(*pids)
    futures = [engine.submit(jobs.echo, n) for n in range(50)]
    assert [f.result(WAIT_S) for f in futures] == list(range(50))
    assert_works(engine, without=set(pids))
    assert engine.stats().lost == 0


def test_only_the_running_job_is_lost(make_engine: MakeEngine, gate: Gate, start_method: str) -> None:
    engine = make_engine(2, start_method)
    victim = engine.dispatch(Job(jobs.enter, (gate.door, "victim"), id="victim"))
    pid = gate.arrival().pid
    other = engine.submit(jobs.enter, gate.door, "other", "other")
    gate.arrival()
    waiting = [engine.submit(jobs.echo, n) for n in range(200)]
    kill(pid)
    outcome = victim.outcome(WAIT_S)
    assert (outcome.status, outcome.attempts, outcome.worker_pid) == ("lost", 1, pid)
    error = outcome.error
    assert isinstance(error, JobLost)
    assert (error.exitcode, error.worker_pid) == (-signal.SIGKILL, pid)
    for part in ("'victim'", "`enter`", "attempt 1 of 1", str(pid), "SIGKILL", "OOM"):
        assert part in str(error)
    gate.open()
    assert other.result(WAIT_S) == "other"
    assert [f.result(WAIT_S) for f in waiting] == list(range(200))
    assert_works(engine, without={pid})


def test_all_busy_workers_at_once(make_engine: MakeEngine, gate: Gate, start_method: str) -> None:
    engine = make_engine(3, start_method)
    victims = [engine.submit(jobs.enter, gate.door) for _ in range(3)]
    pids = [arrival.pid for arrival in gate.arrivals(3)]
    waiting = [engine.submit(jobs.echo, n) for n in range(100)]
    kill(*pids)
    assert [f.outcome(WAIT_S).status for f in victims] == ["lost"] * 3
    assert [f.result(WAIT_S) for f in waiting] == list(range(100))
    assert_works(engine, without=set(pids))


def test_a_lost_call_of_a_map_is_heard_in_its_place(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2)

    def body(door: Any, n: int) -> int:
        if n == 3:
            door.enter(n)
        return n

    values = engine.map(body, [gate.door] * 100, range(100))
    pid = gate.arrival().pid
    kill(pid)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(JobLost, match="call 3 of map") as caught:
        next(values)
    assert caught.value.worker_pid == pid
    assert_works(engine, without={pid})


def test_workers_that_are_still_starting(make_engine: MakeEngine, gate: Gate, start_method: str) -> None:
    engine = make_engine(2, start_method, initializer=jobs.enter, initargs=(gate.door,))
    futures = [engine.submit(jobs.echo, n) for n in range(10)]
    kill(*(arrival.pid for arrival in gate.arrivals(2)))
    gate.arrivals(2)  # their replacements
    gate.open()
    assert [f.result(WAIT_S) for f in futures] == list(range(10))
    assert engine.stats().lost == 0


def test_a_stopped_worker_can_be_killed_and_its_batch_runs_elsewhere(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2)
    pids = wait_ready(engine)
    os.kill(pids[0], signal.SIGSTOP)
    futures = [engine.submit(jobs.echo, n) for n in range(20)]
    kill(pids[0])
    assert [f.result(WAIT_S) for f in futures] == list(range(20))
    assert_works(engine, without={pids[0]})


@pytest.mark.parametrize("way", ["argument", "result"])
def test_in_the_middle_of_a_large_body(make_engine: MakeEngine, way: str) -> None:
    """A kill while tens of megabytes are on their way, at several moments of it."""
    engine = make_engine(2)
    blob = os.urandom(1 << 20) * 24
    chance = random.Random(11)
    for _ in range(6):
        pids = wait_ready(engine)
        future = engine.submit(len, blob) if way == "argument" else engine.submit(bytes, len(blob))
        others = [engine.submit(jobs.echo, n) for n in range(10)]
        spin(chance.uniform(0, 0.03))
        kill(*pids)
        outcome = future.outcome(WAIT_S)
        assert outcome.status in ("lost", "succeeded")
        if outcome.ok:
            assert outcome.value == (len(blob) if way == "argument" else bytes(len(blob)))
        statuses = [f.outcome(WAIT_S).status for f in others]
        assert set(statuses) <= {"succeeded", "lost"}
        assert statuses.count("lost") + (outcome.status == "lost") <= 2  # type: ignore[arg-type]
    assert_works(engine)


def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_at_any_microsecond_nothing_is_lost_but_what_ran(
    make_engine: MakeEngine, tmp_path: Path, start_method: str
) -> None:
    """Seeded kills of one or all workers; what happened on disk is the oracle."""
    engine = make_engine(2, start_method)
    wait_ready(engine)
    chance = random.Random(start_method)
    diary = Diary(tmp_path / "diary")
    kills = 0
    futures: dict[int, Any] = {}
    rounds = 12 if start_method == "spawn" else 25
    for round_ in range(rounds):
        for n in range(round_ * 40, round_ * 40 + 40):
            futures[n] = engine.submit(jobs.note, str(diary.path), n, chance.choice([0, 0, 50, 500]))
        spin(chance.uniform(0, 0.004))
        pids = [row.pid for row in engine.workers() if row.state != "starting"]
        victims = pids if round_ % 5 == 0 else pids[: chance.randrange(2)]
        kills += kill(*victims)
    outcomes = {n: future.outcome(2 * WAIT_S) for n, future in futures.items()}
    diary.check(outcomes, kills)
    assert kills
    wait_ready(engine)
    assert_works(engine)


@pytest.mark.parametrize("bad", [700, 701, 760, 999])
def test_plain_jobs_that_had_finished_are_not_run_again(make_engine: MakeEngine, tmp_path: Path, bad: int) -> None:
    """They are logged many at a time; what was not logged yet lies in the worker's row."""
    engine = make_engine(1)
    wait_ready(engine)
    diary = Diary(tmp_path / "diary")
    given = (Job(jobs.note_or_exit, (str(diary.path), n, bad)) for n in range(1000))
    outcomes = {outcome.job.args[1]: outcome for outcome in engine.run(given)}
    assert [n for n, outcome in outcomes.items() if not outcome.ok] == [bad]
    assert outcomes[bad].attempts == 1
    assert isinstance(outcomes[bad].error, JobLost)
    diary.check(outcomes, 1)


def test_map_delivers_every_other_call_when_workers_die(make_engine: MakeEngine) -> None:
    """Values that were logged outlive their worker; finished calls of microseconds may run again, never be lost."""
    engine = make_engine(2)
    chance = random.Random(3)
    done = 0
    for _ in range(12):
        pids = wait_ready(engine)
        values = engine.map(jobs.echo, range(3000))
        got: list[int] = []
        killed = False
        try:
            for value in values:
                got.append(value)
                if not killed and len(got) >= 200:
                    killed = True
                    spin(chance.uniform(0, 0.001))
                    kill(chance.choice(pids))
        except JobLost:
            pass
        assert got == list(range(len(got)))
        done += len(got) == 3000
    assert_works(engine)


def test_map_runs_no_call_of_some_length_twice_when_workers_die(make_engine: MakeEngine, tmp_path: Path) -> None:
    """Their values lie in the workers' rows until they are logged, many at a time."""
    engine = make_engine(2)
    chance = random.Random(5)
    for number in range(12):
        pids = wait_ready(engine)
        diary = Diary(tmp_path / f"diary-{number}")
        values = engine.map(jobs.note, itertools.repeat(str(diary.path)), range(2000), itertools.repeat(60))
        got: list[int] = []
        with contextlib.suppress(JobLost):
            for value in values:
                got.append(value)
                if len(got) == 100:
                    spin(chance.uniform(0, 0.003))
                    kill(chance.choice(pids))
        assert engine.join(WAIT_S)
        begun, ended = diary.read()
        assert max(begun.values()) == 1
        # What the killed worker was in; and what the other was in when the error ended the map, and with it the rest.
        assert sum(begun.values()) - sum(ended.values()) <= 2
        assert got == list(range(len(got)))
    assert_works(engine)


def test_killed_workers_leave_no_zombie(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method)
    pids = wait_ready(engine)
    kill(*pids)
    wait_gone(*pids)
    engine.submit(jobs.echo).result(WAIT_S)
    # the leak check that follows every test looks for zombies


def after_its_end(then: Callable[[int], int], most_s: float) -> Callable[[int], int]:
    """In the place of `os.pidfd_open`: the thread that has started a worker is late, and comes after its end."""

    def open_late(pid: int) -> int:
        if threading.current_thread() is threading.main_thread():
            return pidfd_open(pid)
        clock = threading.Event()
        until = time.monotonic() + most_s
        while psutil.pid_exists(pid) and time.monotonic() < until:
            clock.wait(0.001)
        return then(pid)

    pidfd_open = os.pidfd_open
    return open_late


def test_a_worker_that_dies_before_it_was_heard_to_be_ready_loses_only_what_it_ran(
    make_engine: MakeEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(2)
    pids = wait_ready(engine)
    holder = engine.submit(jobs.enter, gate.door)
    pids.remove(gate.arrival().pid)
    workforce = engine._dispatcher.workforce
    hear = workforce._bell
    known = {row.pid for row in engine.workers()}
    unheard: set[int] = set()  # the next worker; not the one that replaces it, whose bell would be lost for good

    def bell(handle: Any, patient: bool) -> None:
        if not unheard and handle.pid not in known:
            unheard.add(handle.pid)
        if handle.pid in unheard:
            os.read(handle.bell_fd, 1)
        else:
            hear(handle, patient)

    monkeypatch.setattr(workforce, "_bell", bell)
    kill(*pids)
    wait_gone(*pids)
    outcome = engine.submit(jobs.exit_with, 3).outcome(WAIT_S)
    assert outcome.status == "lost"
    gate.open()
    assert holder.result(WAIT_S) is None
    monkeypatch.undo()
    assert_works(engine)


def test_a_worker_whose_start_fails_late_takes_no_job_with_it(
    make_engine: MakeEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could become ready, take a job from the queue and die of it, and nobody would know that it had it."""
    engine = make_engine(2)
    pids = wait_ready(engine)
    holder = engine.submit(jobs.enter, gate.door)
    pids.remove(gate.arrival().pid)

    def fail(pid: int) -> int:
        monkeypatch.undo()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", after_its_end(fail, 0.5))
    kill(*pids)
    wait_gone(*pids)
    outcome = engine.submit(jobs.exit_with, 3).outcome(WAIT_S)
    assert outcome.status == "lost"
    assert isinstance(outcome.error, JobLost)
    assert outcome.error.exitcode == 3
    gate.open()
    assert holder.result(WAIT_S) is None
    assert_works(engine)
