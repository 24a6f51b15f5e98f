"""What a job leaves in its worker: its outcome stands, jobs after it are not lost to it, shutdown keeps its bound."""

import os
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from mpengine import Engine, Job, JobLost
from mpengine.core import policy
from tests.faults import jobs, leaving
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for


def assert_harmless(engine: Engine, gate: Gate, leavings: list[Callable[[], Any]]) -> None:
    """Jobs of all lengths and kinds after it, among them one that is interrupted."""
    for leave in leavings:
        assert engine.submit(leave).outcome(WAIT_S).status == "succeeded"
    after = [engine.submit(jobs.take, seconds, n) for n, seconds in enumerate([0.0] * 10 + [3 * leaving.SOON_S] * 2)]
    after.append(engine.submit(leaving.burn, 1.2 * leaving.SOON_S))
    large = engine.submit(bytes, 300_000)
    assert [future.result(WAIT_S) for future in after] == [*range(12), 1.2 * leaving.SOON_S]
    assert list(engine.map(jobs.echo, range(200))) == list(range(200))
    assert large.result(WAIT_S) == bytes(300_000)
    late = engine.dispatch(Job(jobs.hang_finally, (gate.door,), timeout=0.1))
    gate.arrival()
    assert late.outcome(WAIT_S).status == "expired"
    assert gate.arrival().token == "finally"  # interrupted, not killed
    started = time.monotonic()
    report = engine.shutdown()
    assert time.monotonic() - started < 2.0
    assert (report.lost, [end.rung for end in report.workers]) == (0, ["pill"])


@pytest.mark.parametrize("what", leaving.LEAVINGS)
def test_jobs_after_it_are_not_lost_to_it(make_engine: MakeEngine, gate: Gate, what: str) -> None:
    assert_harmless(make_engine(1), gate, leaving.LEAVINGS[what])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_the_same_under_the_other_start_methods(make_engine: MakeEngine, gate: Gate, method: str) -> None:
    def leave() -> None:
        for one in (
            leaving.a_timer_that_exits,
            leaving.an_alarm,
            leaving.all_handlers_as_at_birth,
            leaving.no_file_size,
        ):
            one()

    assert_harmless(make_engine(1, method), gate, [leave])


def test_a_thread_of_the_running_job_exits_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    engine.submit(leaving.a_thread).result(WAIT_S)
    for _ in range(2):
        error = engine.submit(leaving.exit_by_a_thread_of_mine).exception(WAIT_S)
        assert isinstance(error, JobLost)
        assert error.exitcode == 5
    assert engine.submit(leaving.what_exits).result(WAIT_S) == (os._exit, os._exit)


def test_a_timer_that_exits_an_idle_worker(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    pids = wait_ready(engine)
    engine.submit(leaving.a_timer_that_exits).result(WAIT_S)
    wait_for(lambda: not psutil.pid_exists(pids[0]))
    assert engine.submit(jobs.echo, 1).result(WAIT_S) == 1


def test_a_recycled_worker_does_not_wait_for_a_child_of_its_job(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpengine.runtime.workforce.PILL_GRACE_S", policy.PILL_GRACE_S / 20)
    engine = make_engine(1, max_tasks_per_child=1)
    left = [engine.submit(leaving.a_child_to_join).outcome(WAIT_S) for _ in range(3)]
    assert [outcome.status for outcome in left] == ["succeeded"] * 3
    for outcome in left:
        assert outcome.worker_pid
        wait_for(lambda pid=outcome.worker_pid: not psutil.pid_exists(pid))  # type: ignore[misc]
    assert {end.rung for end in engine.shutdown().workers} <= {"pill", "died"}
