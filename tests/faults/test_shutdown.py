"""Shutdown: twice, concurrent, from anywhere, in time, and what it reports."""

import gc
import threading
import time
import weakref
from typing import Any

import pytest

from mpengine import Engine, EngineClosed, Job, JobLost
from tests.faults import jobs
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for, wait_gone

MARGIN_S = 1.5


def test_accepted_jobs_finish_and_every_worker_leaves_by_its_pill(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method)
    pids = wait_ready(engine)
    futures = [engine.submit(jobs.echo, n) for n in range(300)]
    report = engine.shutdown()
    assert all(f.done() for f in futures)
    assert [f.result(0) for f in futures] == list(range(300))
    wait_gone(*pids, timeout=0.5)
    assert report.complete
    assert (report.finished, report.cancelled, report.lost) == (300, 0, 0)
    assert {(end.pid, end.rung, end.exitcode, end.job) for end in report.workers} == {
        (pid, "pill", 0, None) for pid in pids
    }
    assert "300 jobs finished" in str(report)
    assert "every worker is gone" in str(report)


def test_twice_and_after_with(make_engine: MakeEngine) -> None:
    with make_engine() as engine:
        assert engine.submit(jobs.echo, 1).result(WAIT_S) == 1
    first = engine.shutdown()
    assert first is engine.shutdown(cancel_futures=True, timeout=0)
    assert first.complete


def test_from_several_threads_at_once(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    futures = [engine.submit(jobs.enter, gate.door, n, n) for n in range(2)]
    gate.arrivals(2)
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.append(engine.shutdown())) for _ in range(5)]
    for thread in threads:
        thread.start()
    with pytest.raises(EngineClosed):
        wait_for(lambda: engine.submit(jobs.echo) and None)  # type: ignore[truthy-bool]
    assert not reports
    gate.open()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(reports) == 5
    assert all(report is reports[0] for report in reports)
    assert [f.result(0) for f in futures] == [0, 1]


def test_from_a_done_callback(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    reports: list[Any] = []
    first = engine.submit(jobs.enter, gate.door)
    first.add_done_callback(lambda _: reports.append(engine.shutdown()))
    rest = [engine.submit(jobs.echo, n) for n in range(50)]
    gate.open()
    assert [f.result(WAIT_S) for f in rest] == list(range(50))
    wait_for(lambda: reports)
    assert not reports[0].complete  # it could not wait there
    assert engine.shutdown().complete
    with pytest.raises(EngineClosed):
        engine.submit(jobs.echo)


def test_from_a_done_callback_that_would_wait_while_others_wait(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    first = engine.submit(jobs.enter, gate.door)
    first.add_done_callback(lambda _: engine.shutdown(wait=True))
    gate.arrival()
    reports: list[Any] = []
    thread = threading.Thread(target=lambda: reports.append(engine.shutdown()))
    thread.start()
    gate.open()
    thread.join(WAIT_S)
    assert reports[0].complete


def test_the_shortest_of_several_timeouts_counts_for_all(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    engine.submit(jobs.hang, gate.door)
    gate.arrival()
    reports: list[Any] = []
    started = time.monotonic()
    threads = [
        threading.Thread(target=lambda timeout=timeout: reports.append(engine.shutdown(timeout=timeout)))
        for timeout in (None, 30.0, 0.3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert 0.3 <= time.monotonic() - started < 0.3 + MARGIN_S
    assert len(reports) == 3
    assert all(report is reports[0] and report.complete for report in reports)


@pytest.mark.parametrize("timeout", [None, 0.1])
def test_while_large_results_are_on_their_way(
    make_engine: MakeEngine, start_method: str, timeout: float | None
) -> None:
    engine = make_engine(2, start_method)
    wait_ready(engine)
    futures = [engine.submit(bytes, 100 << 20) for _ in range(4)]
    started = time.monotonic()
    report = engine.shutdown(timeout=timeout)
    assert report.complete
    statuses = [future.outcome(0).status for future in futures]
    if timeout is None:
        assert statuses == ["succeeded"] * 4
    else:
        assert time.monotonic() - started < timeout + 2 * MARGIN_S
        assert set(statuses) <= {"succeeded", "lost", "cancelled"}
    assert all(len(future.result(0)) == 100 << 20 for future in futures if future.outcome(0).ok)


def test_without_waiting(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    future = engine.submit(jobs.enter, gate.door, value="done")
    gate.arrival()
    report = engine.shutdown(wait=False)
    assert not report.complete
    assert not future.done()
    gate.open()
    assert future.result(WAIT_S) == "done"
    assert engine.shutdown().complete


def test_cancel_futures_cancels_what_has_not_started(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    running = [engine.submit(jobs.enter, gate.door, value=n) for n in range(2)]
    gate.arrivals(2)
    waiting = [engine.submit(jobs.enter, gate.door) for _ in range(30)]
    engine.shutdown(wait=False, cancel_futures=True)
    for future in waiting:
        assert future.outcome(WAIT_S).status == "cancelled"
        assert future.cancelled()
    assert not any(f.done() for f in running)
    gate.open()
    report = engine.shutdown()
    assert [f.result(0) for f in running] == [0, 1]
    assert (report.finished, report.cancelled) == (2, 30)
    assert gate.arrival_or_none(0.0) is None


def test_leaving_with_by_an_exception_cancels_what_has_not_started(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    futures: list[Any] = []

    def work() -> None:
        with engine:
            futures.extend(engine.submit(jobs.enter, gate.door) for _ in range(20))
            gate.arrivals(2)
            threading.Timer(0.1, gate.open).start()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()
    statuses = [f.outcome(0).status for f in futures]
    assert statuses.count("succeeded") == 2
    assert statuses.count("cancelled") == 18


def test_leaving_with_by_ctrl_c_ends_what_runs(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    futures: list[Any] = []

    def work() -> None:
        with engine:
            futures.extend(engine.submit(jobs.hang, gate.door) for _ in range(5))
            gate.arrivals(2)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - started < MARGIN_S
    assert sorted(f.outcome(0).status for f in futures) == ["cancelled"] * 3 + ["lost"] * 2


# ---- in time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "rung"),
    [(jobs.hang, "terminated"), (jobs.ignore_sigterm, "killed"), (jobs.hold_the_gil, "terminated"),
     (jobs.stop_myself, "terminated"), (jobs.ignore_every_exception, "terminated")],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_a_timeout_bounds_it_whatever_a_job_does(make_engine: MakeEngine, gate: Gate, body: Any, rung: str) -> None:
    engine = make_engine(2)
    stuck = engine.dispatch(Job(body, (gate.door,), id="stuck"))
    arrival = gate.arrival()
    started = time.monotonic()
    report = engine.shutdown(timeout=0.5)
    took = time.monotonic() - started
    assert 0.5 <= took < 0.5 + MARGIN_S
    assert report.complete
    outcome = stuck.outcome(0)
    assert outcome.status == "lost"
    assert isinstance(outcome.error, JobLost)
    ends = {end.pid: end for end in report.workers}
    assert len(ends) == 2
    end = ends.pop(arrival.pid)
    assert (end.rung, end.job) == (rung, "stuck")
    assert end.exitcode is not None
    assert end.exitcode < 0
    if body is not jobs.stop_myself:  # which cannot say where it is
        assert f"in {body.__name__}" in end.stack
    (other,) = ends.values()
    assert (other.job, other.stack) == (None, "")
    assert (report.finished, report.lost) == (0, 1)
    assert "'stuck'" in str(report)
    wait_gone(arrival.pid, timeout=0.5)


def test_a_timeout_cancels_what_waits(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    engine.submit(jobs.hang, gate.door)
    gate.arrival()
    waiting = [engine.submit(jobs.echo, n) for n in range(40)]
    report = engine.shutdown(timeout=0.2)
    assert {f.outcome(0).status for f in waiting} == {"cancelled"}
    assert (report.lost, report.cancelled) == (1, 40)


def test_a_timeout_that_is_not_needed_costs_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine()
    futures = [engine.submit(jobs.echo, n) for n in range(100)]
    started = time.monotonic()
    report = engine.shutdown(timeout=30)
    assert time.monotonic() - started < 5
    assert [f.result(0) for f in futures] == list(range(100))
    assert {end.rung for end in report.workers} <= {"pill"}


def test_a_later_and_shorter_timeout_counts(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    engine.submit(jobs.hang, gate.door)
    gate.arrival()
    engine.shutdown(wait=False)
    started = time.monotonic()
    assert engine.shutdown(timeout=0.2).complete
    assert time.monotonic() - started < 0.2 + MARGIN_S


def test_a_job_with_a_timeout_of_its_own_never_holds_it_up_longer(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1, stop_grace=0.2)
    future = engine.dispatch(Job(jobs.ignore_every_exception, (gate.door,), timeout=0.3))
    gate.arrival()
    started = time.monotonic()
    assert engine.shutdown().complete
    assert time.monotonic() - started < 0.5 + MARGIN_S
    assert future.outcome(0).status == "expired"


def test_while_workers_are_still_starting(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2, initializer=jobs.enter, initargs=(gate.door,))
    gate.arrivals(2)
    started = time.monotonic()
    report = engine.shutdown(timeout=0.2)
    assert time.monotonic() - started < 0.2 + MARGIN_S
    assert report.complete
    assert len(report.workers) == 2


def test_at_once_after_the_start(make_engine: MakeEngine, start_method: str) -> None:
    assert make_engine(2, start_method).shutdown().complete
    engine = make_engine(2, start_method)
    future = engine.submit(jobs.echo, "accepted")
    engine.shutdown()
    assert future.result(0) == "accepted"


def test_a_family_of_a_job_goes_too(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    engine.submit(jobs.start_family, gate.door, leave_group=True, hang_on=True)
    family = [int(pid) for pid in gate.arrival().token.split()]
    engine.shutdown(timeout=0.2)
    wait_gone(*family, timeout=2.0)


def test_retries_do_not_go_on_after_the_time(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    future = engine.dispatch(Job(jobs.hang, (gate.door,), retries=10))
    gate.arrival()
    engine.shutdown(timeout=0.2)
    assert (future.outcome(0).status, future.outcome(0).attempts) == ("lost", 1)


# ---- dropped engines -------------------------------------------------------------------------------------


def test_a_dropped_engine_finishes_what_it_accepted_and_goes() -> None:
    engine = Engine(2)
    pids = wait_ready(engine)
    futures = [engine.submit(jobs.echo, n) for n in range(100)]
    ref = weakref.ref(engine)
    closed = engine._dispatcher.closed
    del engine
    gc.collect()
    assert ref() is None
    assert [f.result(WAIT_S) for f in futures] == list(range(100))
    wait_for(closed)
    wait_gone(*pids, timeout=2.0)


def test_a_dropped_engine_goes_although_a_future_is_kept(gate: Gate) -> None:
    engine = Engine(1)
    (pid,) = wait_ready(engine)
    future = engine.submit(jobs.enter, gate.door, value="kept")
    gate.arrival()
    ref = weakref.ref(engine)
    closed = engine._dispatcher.closed
    del engine
    gc.collect()
    assert ref() is None
    gate.open()
    assert future.result(WAIT_S) == "kept"
    wait_for(closed)
    wait_gone(pid, timeout=2.0)


def test_an_engine_that_was_used_in_every_way_is_collected() -> None:
    engine = Engine(2)
    list(engine.map(jobs.echo, range(100)))
    list(engine.run(Job(jobs.echo, (n,)) for n in range(100)))
    future = engine.dispatch(Job(jobs.exit_with, (1,), retries=1))
    future.outcome(WAIT_S)
    engine.stats()
    engine.workers()
    ref = weakref.ref(engine)
    closed = engine._dispatcher.closed
    del engine
    gc.collect()
    assert ref() is None
    wait_for(closed)


def test_an_engine_lives_as_long_as_its_iterator_needs_it() -> None:
    values = Engine(2).map(jobs.echo, range(1000))
    gc.collect()
    assert list(values) == list(range(1000))
    gc.collect()
