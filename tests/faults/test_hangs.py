"""Jobs that do not end: interrupted first, killed after the grace, and the story of where they were."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from mpengine import Context, Job, JobExpired
from tests.faults import jobs
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.runtime.gates import Gate
from tests.support import WAIT_S, is_running, wait_for, wait_gone

GRACE_S = 0.3


def test_a_timeout_lets_finally_run_and_the_worker_stays(
    make_engine: MakeEngine, gate: Gate, start_method: str
) -> None:
    engine = make_engine(1, start_method)
    pids = wait_ready(engine)
    future = engine.dispatch(Job(jobs.hang_finally, (gate.door,), timeout=0.2))
    waiting = [engine.submit(jobs.echo, n) for n in range(10)]
    gate.arrival()
    outcome = future.outcome(WAIT_S)
    assert outcome.status == "expired"
    assert 0.2 <= outcome.duration < 0.2 + GRACE_S
    assert gate.arrival().token == "finally"
    assert [f.result(WAIT_S) for f in waiting] == list(range(10))
    assert wait_ready(engine) == pids


@pytest.mark.parametrize("body", [jobs.ignore_every_exception, jobs.hold_the_gil], ids=lambda body: body.__name__)
def test_a_job_that_does_not_heed_the_interrupt_is_killed_after_the_grace(
    make_engine: MakeEngine, gate: Gate, body: Callable[..., Any]
) -> None:
    engine = make_engine(1, stop_grace=GRACE_S)
    future = engine.dispatch(Job(body, (gate.door,), id="deaf", timeout=0.2))
    waiting = [engine.submit(jobs.echo, n) for n in range(10)]
    pid = gate.arrival().pid
    outcome = future.outcome(WAIT_S)
    assert outcome.status == "expired"
    error = outcome.error
    assert isinstance(error, JobExpired)
    assert "'deaf'" in str(error)
    assert f"in {body.__name__}" in error.stack
    assert "faults/jobs.py" in error.stack
    assert 0.2 + GRACE_S <= outcome.duration < 0.2 + GRACE_S + 3.0
    wait_gone(pid)
    assert [f.result(WAIT_S) for f in waiting] == list(range(10))
    assert wait_ready(engine) != [pid]


def test_a_hopeless_regular_expression_is_interrupted_where_it_is(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    pids = wait_ready(engine)
    outcome = engine.dispatch(Job(jobs.hopeless_regex, (gate.door,), timeout=0.2)).outcome(WAIT_S)
    assert outcome.status == "expired"
    assert "in hopeless_regex" in outcome.error.stack  # type: ignore[union-attr]
    assert wait_ready(engine) == pids


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_killed_after_the_grace_under_the_other_start_methods(make_engine: MakeEngine, gate: Gate, method: str) -> None:
    engine = make_engine(1, method, stop_grace=0.1)
    outcome = engine.dispatch(Job(jobs.hold_the_gil, (gate.door,), timeout=0.2)).outcome(WAIT_S)
    assert outcome.status == "expired"
    assert "in hold_the_gil" in outcome.error.stack  # type: ignore[union-attr]
    assert engine.submit(jobs.echo, 1).result(WAIT_S) == 1


@pytest.mark.parametrize(
    "body", [jobs.ignore_sigterm, jobs.stop_myself, jobs.wait_for_a_child], ids=lambda body: body.__name__
)
def test_other_ways_to_hang(make_engine: MakeEngine, gate: Gate, body: Callable[..., Any]) -> None:
    engine = make_engine(1, stop_grace=GRACE_S)
    future = engine.dispatch(Job(body, (gate.door,), timeout=0.2))
    gate.arrival()
    assert future.outcome(WAIT_S).status == "expired"
    assert engine.submit(jobs.echo, 1).result(WAIT_S) == 1


def test_jobs_behind_one_that_hangs_run_elsewhere(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2)
    for _ in range(3):  # the pace is known: what follows travels in batches
        [f.result(WAIT_S) for f in [engine.submit(jobs.echo, n) for n in range(200)]]

    def body(door: Any, n: int) -> int:
        if n == 5:
            door.enter()
        return n

    for f in [engine.submit(body, gate.door, 0) for _ in range(300)]:
        f.result(WAIT_S)
    futures = [engine.submit(body, gate.door, n) for n in range(400)]
    gate.arrival()
    assert [f.result(WAIT_S) for n, f in enumerate(futures) if n != 5] == [n for n in range(400) if n != 5]
    assert not futures[5].done()
    gate.open()
    assert futures[5].result(WAIT_S) == 5


def test_calls_of_a_map_behind_one_that_hangs_run_elsewhere(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2)

    def body(door: Any, n: int) -> int:
        if n == 2000:
            door.enter()
        return n

    items = list(range(4000))
    list(engine.map(body, [gate.door] * 1000, items))
    values = engine.map_unordered(body, [gate.door] * 4000, items)
    got = [next(values) for _ in range(3999)]
    assert sorted(got) == [n for n in items if n != 2000]
    gate.open()
    assert list(values) == [2000]


def test_cancelling_a_job_that_ignores_it(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1, stop_grace=GRACE_S)
    future = engine.submit(jobs.ignore_every_exception, gate.door)
    gate.arrival()
    assert future.cancel(running=True)
    assert gate.arrival().token == "ignored"
    assert future.outcome(WAIT_S).status == "cancelled"
    assert future.cancelled()
    assert engine.submit(jobs.echo, 1).result(WAIT_S) == 1


def test_a_deadline_over_many_jobs_waiting_and_running(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2, stop_grace=0.1)
    context = Context(0.5)
    futures = [engine.dispatch(Job(jobs.ignore_every_exception, (gate.door,), context=context)) for _ in range(30)]
    outcomes = [f.outcome(WAIT_S) for f in futures]
    assert {outcome.status for outcome in outcomes} == {"expired"}
    assert sum(outcome.attempts for outcome in outcomes) == 2
    assert all(context.deadline is not None and not f.cancelled() for f in futures)
    assert engine.submit(jobs.echo, 1).result(WAIT_S) == 1


def test_a_worker_that_is_stopped_while_idle_does_not_hold_up_jobs(make_engine: MakeEngine) -> None:
    engine = make_engine(2)
    pids = wait_ready(engine)
    os.kill(pids[0], signal.SIGSTOP)
    try:
        futures = [engine.submit(jobs.echo, n) for n in range(50)]
        assert [f.result(WAIT_S) for f in futures] == list(range(50))
    finally:
        if is_running(pids[0]):
            os.kill(pids[0], signal.SIGCONT)


def test_all_workers_stopped_while_idle_are_noticed_and_replaced(make_engine: MakeEngine) -> None:
    engine = make_engine(2)
    pids = wait_ready(engine)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    futures = [engine.submit(jobs.echo, n) for n in range(20)]
    assert [f.result(10.0) for f in futures] == list(range(20))
    wait_for(lambda: not any(map(is_running, pids)) or set(wait_ready(engine)) == set(pids))
