"""`Context` and `current_job`: deadlines and cancellations from outside and inside of jobs."""

import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from mpengine import Context, Engine, Job, JobCancelled, JobExpired, current_job
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Door, Gate
from tests.support import WAIT_S, wait_for

# ---- contexts alone ----------------------------------------


def test_the_earliest_deadline_counts() -> None:
    parent = Context(10)
    assert parent.child(100).deadline == parent.deadline
    assert parent.child().deadline == parent.deadline
    assert parent.child(deadline=1.0).deadline == 1.0
    assert Context(deadline=1.0).remaining() == 0.0
    assert Context().remaining() is None
    assert Context().deadline is None
    left = Context(10).remaining()
    assert left is not None
    assert 9 < left <= 10
    with pytest.raises(ValueError, match="timeout"):
        Context(-1)
    with pytest.raises(ValueError, match="timeout"):
        Context(float("nan"))


def test_cancelling_reaches_all_below_and_nothing_above() -> None:
    root = Context()
    child, sibling = root.child(), root.child()
    leaf = child.child()
    child.cancel("enough")
    child.cancel("again")
    assert [c.cancelled for c in (root, child, leaf, sibling)] == [False, True, True, False]
    assert leaf.reason == "enough"
    assert child.child().reason == "enough"  # born below a cancelled one


def test_leaving_the_block_cancels() -> None:
    with Context() as context:
        child = context.child()
        assert not child.cancelled
    assert child.cancelled
    with pytest.raises(KeyError), Context() as context:  # type: ignore[unreachable]
        raise KeyError
    assert context.cancelled


def test_a_context_does_not_keep_its_children_and_stays_at_home() -> None:
    context = Context()
    ref = weakref.ref(context.child())
    gc.collect()
    assert ref() is None
    with pytest.raises(TypeError, match="Context"):
        pickle.dumps(context)


# ---- jobs below a context ----------------------------------------


def test_cancel_ends_waiting_and_running_jobs_below_and_no_others(
    engine: Engine, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    ends, pids = make_gate(), {row.pid for row in engine.workers()}
    root = Context()
    context = root.child()
    running = engine.dispatch(Job(jobs.enter_finally, (gate.door, ends.door), context=context))
    other = engine.dispatch(Job(jobs.enter, (gate.door, "", "other"), context=root.child()))
    gate.arrivals(2)
    waiting = [engine.dispatch(Job(jobs.enter, (gate.door,), context=context.child())) for _ in range(20)]
    context.cancel("not needed any more")
    assert ends.arrival().token == "finally"
    for future in (running, *waiting):
        outcome = future.outcome(WAIT_S)
        assert outcome.status == "cancelled"
        assert isinstance(outcome.error, JobCancelled)
        assert outcome.error.reason == "not needed any more"
        assert future.cancelled()
    assert running.outcome().attempts == 1
    assert {future.outcome().attempts for future in waiting} == {0}
    assert not other.done()
    gate.open()
    assert other.result(WAIT_S) == "other"
    assert {row.pid for row in engine.workers()} == pids
    assert gate.arrival_or_none(0.0) is None


def test_jobs_given_to_a_cancelled_context_do_not_run(engine: Engine, gate: Gate) -> None:
    context = Context()
    context.cancel("too late")
    outcome = engine.dispatch(Job(jobs.announce, (gate.door,), context=context)).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts) == ("cancelled", 0)
    assert [o.status for o in engine.run(Job(jobs.announce, (gate.door,), context=context) for _ in range(5))] == [
        "cancelled"
    ] * 5
    assert gate.arrival_or_none(0.0) is None


def test_a_passed_deadline_expires_without_a_run(engine: Engine, gate: Gate) -> None:
    job = Job(jobs.announce, (gate.door,), context=Context(0), retries=3)
    outcome = engine.dispatch(job).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts) == ("expired", 0)
    assert isinstance(outcome.error, JobExpired)
    assert job.id in str(outcome.error)
    assert gate.arrival_or_none(0.0) is None


def test_a_deadline_that_passes_while_the_job_waits(engine: Engine, gate: Gate) -> None:
    held = [engine.submit(jobs.enter, gate.door) for _ in range(2)]
    gate.arrivals(2)
    context = Context(0.15)
    waiting = [engine.dispatch(Job(jobs.announce, (gate.door,), context=context)) for _ in range(10)]
    for future in waiting:  # told in time, though no worker is free
        outcome = future.outcome(WAIT_S)
        assert (outcome.status, outcome.attempts) == ("expired", 0)
    assert not any(future.done() for future in held)
    gate.open()
    assert engine.join(WAIT_S)
    assert gate.arrival_or_none(0.0) is None


def test_a_deadline_that_passes_while_the_job_runs(engine: Engine, gate: Gate, make_gate: Callable[[], Gate]) -> None:
    ends, pids = make_gate(), {row.pid for row in engine.workers()}
    job = Job(jobs.enter_finally, (gate.door, ends.door), context=Context(0.3), retries=3)
    outcome = engine.dispatch(job).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts) == ("expired", 1)
    assert ends.arrival().token == "finally"
    assert isinstance(outcome.error, JobExpired)
    assert "enter_finally" in outcome.error.stack
    assert {row.pid for row in engine.workers()} == pids


def test_a_context_is_for_several_engines(make_engine: MakeEngine, gate: Gate) -> None:
    context = Context()
    futures = [make_engine(1).dispatch(Job(jobs.enter, (gate.door,), context=context)) for _ in range(2)]
    gate.arrivals(2)
    context.cancel()
    assert [f.outcome(WAIT_S).status for f in futures] == ["cancelled"] * 2


def test_a_cancel_races_with_the_end_and_one_outcome_is_told(engine: Engine) -> None:
    statuses = []
    for n in range(150):
        context = Context()
        told: list[Any] = []
        future = engine.dispatch(Job(jobs.square, (n,), context=context))
        future.add_done_callback(told.append)
        if n % 3:
            threading.Event().wait(0.0001 * (n % 7))
        context.cancel()
        statuses.append(future.outcome(WAIT_S).status)
        wait_for(lambda told=told: told)  # type: ignore[misc]
        assert len(told) == 1
    assert set(statuses) <= {"succeeded", "cancelled"}
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9


# ---- the clock of a timeout ----------------------------------------


def test_the_clock_of_a_timeout_starts_with_the_attempt(engine: Engine, gate: Gate) -> None:
    held = [engine.submit(jobs.enter, gate.door) for _ in range(2)]
    gate.arrivals(2)
    future = engine.dispatch(Job(jobs.echo, ("in time",), timeout=0.1))
    waited = threading.Event()
    timer = threading.Timer(0.25, waited.set)
    timer.start()
    wait_for(waited)
    assert not future.done()
    gate.open()
    assert future.result(WAIT_S) == "in time"
    timer.join()
    assert all(f.result(WAIT_S) is None for f in held)


def test_a_timeout_interrupts_and_says_where(engine: Engine, gate: Gate, make_gate: Callable[[], Gate]) -> None:
    ends, pids = make_gate(), {row.pid for row in engine.workers()}
    future = engine.dispatch(Job(jobs.enter_finally, (gate.door, ends.door), id="slow", timeout=0.2))
    gate.arrival()
    outcome = future.outcome(WAIT_S)
    assert outcome.status == "expired"
    error = outcome.error
    assert isinstance(error, JobExpired)
    assert isinstance(error, TimeoutError)
    assert "'slow'" in str(error)
    assert "0.2 s" in str(error)
    assert "door.enter()" in error.stack
    assert ends.arrival().token == "finally"
    assert {row.pid for row in engine.workers()} == pids
    with pytest.raises(JobExpired):
        future.result()


def test_a_job_that_ends_in_the_neighbourhood_of_its_timeout_has_one_outcome(engine: Engine) -> None:
    futures = [engine.dispatch(Job(jobs.take, (0.02, n), timeout=0.02)) for n in range(40)]
    for n, future in enumerate(futures):
        outcome = future.outcome(WAIT_S)
        assert outcome.status in ("succeeded", "expired")
        assert outcome.value == (n if outcome.ok else None)
    assert engine.submit(jobs.square, 4).result(WAIT_S) == 16


# ---- current_job ----------------------------------------


def test_a_job_knows_itself(engine: Engine) -> None:
    id, attempt, remaining, cancelled = engine.dispatch(Job(jobs.about_me, id="me")).result(WAIT_S)
    assert (id, attempt, remaining, cancelled) == ("me", 1, None, False)
    _, _, remaining, _ = engine.dispatch(Job(jobs.about_me, timeout=50)).result(WAIT_S)
    assert 40 < remaining <= 50
    _, _, remaining, _ = engine.dispatch(Job(jobs.about_me, timeout=50, context=Context(20))).result(WAIT_S)
    assert 10 < remaining <= 20


def test_calls_of_map_have_ids_of_their_own(engine: Engine) -> None:
    ids = list(engine.map(jobs.my_id, range(300)))
    assert len(set(ids)) == 300
    assert None not in ids


def test_there_is_no_current_job_in_an_initializer_or_in_a_thread_after_the_job(
    make_engine: MakeEngine, gate: Gate
) -> None:
    def spy(door: Door) -> None:
        job = current_job()
        door.announce(None if job is None else job.id)

    make_engine(1, initializer=spy, initargs=(gate.door,))
    assert gate.arrival().token == "None"


def test_a_thread_of_a_job_sees_that_it_was_asked_to_end(engine: Engine, gate: Gate) -> None:
    future = engine.submit(jobs.watch_from_a_thread, gate.door)
    assert gate.arrival().token == "started"
    future.cancel(running=True)
    assert gate.arrival().token == "seen"
    assert future.outcome(WAIT_S).status == "cancelled"


def test_a_job_past_its_time_may_swallow_the_interrupt_but_is_expired(engine: Engine, gate: Gate) -> None:
    outcome = engine.dispatch(Job(jobs.swallow_the_interrupt, (gate.door,), timeout=0.1)).outcome(WAIT_S)
    assert (outcome.status, outcome.value) == ("expired", None)
    assert gate.arrival().token == "True 0.0"


def test_a_job_is_seen_running_before_the_dispatcher_has_heard_of_it(
    engine: Engine, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    # It took the short way while the dispatcher thread was busy in a callback.
    busy, go_on = threading.Event(), threading.Event()

    def keep_busy(future: Any) -> None:
        busy.set()
        assert go_on.wait(WAIT_S)

    before = make_gate()
    first = engine.submit(jobs.enter, before.door)
    before.arrival()
    first.add_done_callback(keep_busy)
    before.open()
    assert busy.wait(WAIT_S)
    future = engine.dispatch(Job(jobs.enter, (gate.door,), id="walker"))
    gate.arrival()
    assert [row.job for row in engine.workers() if row.state == "busy"] == ["walker"]
    assert engine.stats().running == 1
    go_on.set()
    gate.open()
    assert future.outcome(WAIT_S).ok


def test_progress_is_seen_from_outside(engine: Engine, gate: Gate) -> None:
    future = engine.dispatch(Job(jobs.tell_progress, (gate.door, 3, 8), id="walker"))
    gate.arrival()
    row = next(row for row in engine.workers() if row.job == "walker")
    assert (row.state, row.done, row.total) == ("busy", 3.0, 8.0)
    gate.open()
    future.result(WAIT_S)
    assert all(row.done == 0 for row in engine.workers())


def test_the_progress_of_one_job_is_not_that_of_the_next(engine: Engine, gate: Gate) -> None:
    def quick(done: float) -> None:
        job = current_job()
        assert job is not None
        job.progress(done, 9)

    for future in [engine.submit(quick, 5.0) for _ in range(8)]:
        future.result(WAIT_S)
    held = [engine.submit(jobs.enter, gate.door) for _ in range(2)]
    gate.arrivals(2)
    assert [(row.done, row.total) for row in engine.workers()] == [(0.0, 0.0)] * 2
    gate.open()
    assert [f.result(WAIT_S) for f in held] == [None, None]
