"""Workers as users see them: initializers, recycling, engines that break, `stats` and `workers`."""

import contextlib
import gc
import logging.handlers
import os
import threading
import time
import weakref
from collections import Counter
from multiprocessing import get_context
from typing import Any

import pytest

from mpengine import Engine, EngineBroken, Job
from tests.api import jobs
from tests.api.support import keep
from tests.marks import needs_dev_shm
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.runtime.gates import Gate
from tests.support import WAIT_S, is_running, wait_for

# ---- initializers ----------------------------------------------------------------------------------------


def test_every_worker_runs_the_initializer_before_its_first_job(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method, jobs.remember, ("given",))
    pids = wait_ready(engine)
    seen = engine.map(lambda _: (os.getpid(), jobs.remembered()), range(200))
    assert {value for pid, value in seen if pid in pids} == {"given"}


def test_an_initializer_may_be_a_closure(make_engine: MakeEngine, start_method: str) -> None:
    value = ["closed over"]

    def initialize(more: list[str]) -> None:
        jobs.remember(value + more)

    engine = make_engine(1, start_method, initialize, (["and given"],))
    assert engine.submit(jobs.remembered).result(WAIT_S) == ["closed over", "and given"]


@needs_dev_shm
def test_initargs_may_hold_locks_and_queues_of_the_same_context(make_engine: MakeEngine, start_method: str) -> None:
    context = get_context(start_method)
    lock, queue = context.Lock(), context.Queue()
    engine = make_engine(2, context, jobs.remember, ("x", lock, queue))
    with lock:
        futures = [engine.submit(jobs.use_lock_and_queue, f"token {n}") for n in range(4)]
        assert not any(future.done() for future in futures)
    assert sorted(queue.get(timeout=WAIT_S) for _ in range(4)) == [f"token {n}" for n in range(4)]
    assert [future.result(WAIT_S) for future in futures] == [None] * 4
    engine.shutdown()
    queue.close()
    queue.join_thread()


@needs_dev_shm
def test_a_queue_is_flushed_before_its_worker_leaves(make_engine: MakeEngine, start_method: str) -> None:
    context = get_context(start_method)
    lock, queue = context.Lock(), context.Queue()
    engine = make_engine(1, context, jobs.remember, ("x", lock, queue))
    engine.submit(jobs.use_lock_and_queue, "x" * 30_000).result(WAIT_S)
    engine.shutdown(wait=False)
    assert queue.get(timeout=WAIT_S) == "x" * 30_000
    engine.shutdown()
    queue.close()
    queue.join_thread()


def test_an_initializer_that_raises_breaks_the_engine_with_its_cause(
    make_engine: MakeEngine, gate: Gate, start_method: str
) -> None:
    engine = make_engine(2, start_method, jobs.initialize_behind, (gate.door, "no licence"))
    futures = [engine.submit(jobs.echo, n) for n in range(5)]
    values = engine.map(jobs.echo, range(5))
    outcomes = engine.run(Job(jobs.echo, (n,)) for n in range(5))
    gate.arrival()
    gate.open()
    for future in futures:
        with pytest.raises(EngineBroken) as caught:
            future.result(WAIT_S)
        assert type(caught.value.__cause__) is LookupError
        assert "no licence" in str(caught.value)
        assert future.outcome().status == "failed"
    for iterator in (values, outcomes):
        with pytest.raises(EngineBroken, match="no licence"):
            next(iterator)
    for use in (lambda: engine.submit(jobs.echo), lambda: engine.map(jobs.echo, [1]), lambda: engine.run([])):
        with pytest.raises(EngineBroken, match="no licence") as caught:
            use()
        assert type(caught.value.__cause__) is LookupError
    assert engine._broken
    assert "broken" in repr(engine)
    report = engine.shutdown()
    assert report.complete


def log_to(queue: Any, text: str) -> None:
    handler = logging.handlers.QueueHandler(queue)
    logging.getLogger("concurrent.futures").addHandler(handler)
    raise LookupError(text)


def test_an_initializer_that_raises_is_logged_in_its_worker_as_in_executor(
    make_engine: MakeEngine, start_method: str
) -> None:
    queue = get_context(start_method).Queue()
    engine = make_engine(1, get_context(start_method), log_to, (queue, "no licence"))
    with pytest.raises(EngineBroken):
        engine.submit(jobs.echo, 1).result(WAIT_S)
    record = queue.get(timeout=WAIT_S)
    assert (record.name, record.levelname) == ("concurrent.futures", "CRITICAL")
    assert "LookupError: no licence" in record.getMessage()
    assert "runtime/worker.py" not in record.getMessage()
    queue.close()
    queue.join_thread()


def test_who_has_not_set_up_logging_has_no_second_traceback_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with Engine(1, "spawn", jobs.throw, (LookupError("no licence"),)) as engine:
        with pytest.raises(EngineBroken, match="no licence"):
            engine.submit(jobs.echo, 1).result(WAIT_S)
    assert capfd.readouterr().err == ""


def test_a_closed_engine_keeps_nothing_that_its_initializer_was_given(make_engine: MakeEngine) -> None:
    """A queue's name in the system lives as long as the queue, and the resource tracker tells of what is left."""
    queue = get_context("spawn").Queue()
    there = weakref.ref(queue)
    engine = Engine(1, get_context("spawn"), jobs.remember, (queue,))
    engine.submit(jobs.echo, 1).result(WAIT_S)
    engine.shutdown()
    gc.disable()
    try:
        del engine, queue
        assert there() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("which", ["dispatcher", "launcher", "output"])
def test_an_engine_for_which_there_are_no_threads_leaves_nothing_behind(
    which: str, start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture around all tests looks for workers, threads and descriptors."""
    start = threading.Thread.start
    has_none = start_method == "fork" and which == "launcher"  # there is none to begin with

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name.endswith(which):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    with contextlib.nullcontext() if has_none else pytest.raises(RuntimeError, match="can't start new thread"):
        with Engine(2, start_method, output=lambda output: None):
            pass


@pytest.mark.parametrize("how", [SystemExit, KeyboardInterrupt])
def test_an_initializer_that_exits_breaks_the_engine(make_engine: MakeEngine, how: type[BaseException]) -> None:
    engine = make_engine(1, initializer=jobs.throw, initargs=(how("leaving"),))
    with pytest.raises(EngineBroken) as caught:
        engine.submit(jobs.echo).result(WAIT_S)
    assert type(caught.value.__cause__) is how


def test_workers_that_die_at_their_start_break_the_engine(make_engine: MakeEngine) -> None:
    engine = make_engine(2, initializer=jobs.leave, initargs=(3,))
    with pytest.raises(EngineBroken, match="exit code 3") as caught:
        engine.submit(jobs.echo).result(WAIT_S)
    assert caught.value.__cause__ is not None


def test_an_initializer_that_hangs_breaks_the_engine_and_says_where(
    make_engine: MakeEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpengine.runtime.workforce.START_TIMEOUT_S", 1.0)
    engine = make_engine(1, initializer=jobs.enter, initargs=(gate.door,))
    future = engine.submit(jobs.echo)
    gate.arrival()
    with pytest.raises(EngineBroken, match="hangs while it starts") as caught:
        future.result(WAIT_S)
    assert "initializer" in str(caught.value)
    assert "in enter" in str(caught.value)


def test_an_initializer_that_cannot_be_pickled_breaks_the_engine(make_engine: MakeEngine) -> None:
    engine = make_engine(1, initializer=jobs.remember, initargs=(jobs.Unpicklable(),))
    with pytest.raises(EngineBroken, match="stays at home"):
        engine.submit(jobs.echo).result(WAIT_S)


def test_a_broken_engine_blocks_nobody_at_max_pending(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1, initializer=jobs.initialize_behind, initargs=(gate.door, "late"), max_pending=2)
    futures = [engine.submit(jobs.echo) for _ in range(2)]
    gate.arrival()
    gate.release()
    with pytest.raises(EngineBroken):
        keep(futures, (engine.submit(jobs.echo) for _ in range(3)))
    for future in futures:
        assert isinstance(future.exception(WAIT_S), EngineBroken)


# ---- recycling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_no_worker_ever_runs_more_jobs_than_it_may(make_engine: MakeEngine, limit: int) -> None:
    engine = make_engine(2, max_tasks_per_child=limit)
    count = 12 * limit
    by_submit = Counter(f.result(WAIT_S) for f in [engine.submit(jobs.pid) for _ in range(count)])
    engine.shutdown()
    assert sum(by_submit.values()) == count
    assert max(by_submit.values()) <= limit
    engine = make_engine(2, max_tasks_per_child=limit)
    by_map = Counter(engine.map(jobs.pid, range(count)))
    assert sum(by_map.values()) == count
    assert max(by_map.values()) <= limit


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_recycling_under_the_other_start_methods(make_engine: MakeEngine, method: str) -> None:
    engine = make_engine(2, method, max_tasks_per_child=4)
    pids = Counter(engine.map(jobs.pid, range(16)))
    assert sum(pids.values()) == 16
    assert max(pids.values()) <= 4


def test_failed_and_cancelled_jobs_count_as_well(make_engine: MakeEngine) -> None:
    engine = make_engine(1, max_tasks_per_child=2)
    outcomes = list(engine.run([Job(jobs.fail) for _ in range(8)]))
    pids = Counter(outcome.worker_pid for outcome in outcomes)
    assert sum(pids.values()) == 8
    assert max(pids.values()) <= 2


def test_recycling_loses_nothing_and_runs_nothing_twice(make_engine: MakeEngine, tmp_path: Any) -> None:
    engine = make_engine(2, max_tasks_per_child=7)
    path = tmp_path / "runs"
    assert sorted(engine.map(lambda n: (jobs.count_up(str(path)), n)[1], range(150))) == list(range(150))
    assert path.stat().st_size == 150


# ---- looking ---------------------------------------------------------------------------------------------


def test_stats_count_by_state(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2)
    wait_ready(engine)
    fresh = engine.stats()
    assert (fresh.pending, fresh.queued, fresh.running, fresh.succeeded) == (0, 0, 0, 0)
    held = [engine.submit(jobs.enter, gate.door) for _ in range(2)]
    gate.arrivals(2)
    waiting = [engine.submit(jobs.echo, n) for n in range(10)]
    stats = wait_for(lambda: engine.stats() if engine.stats().running == 2 else None)
    assert stats.running == 2  # type: ignore[union-attr]
    assert stats.pending + stats.queued == 12  # type: ignore[union-attr]
    assert waiting[-1].cancel()
    gate.open()
    engine.submit(jobs.fail)
    engine.dispatch(Job(jobs.take, (WAIT_S,), timeout=0.05))
    engine.dispatch(Job(jobs.fail, retries=2))
    engine.submit(jobs.leave, 1)
    assert engine.join(WAIT_S)
    list(engine.map(jobs.square, range(100)))
    after = engine.stats()
    assert (after.pending, after.queued, after.running) == (0, 0, 0)
    assert (after.succeeded, after.failed, after.expired, after.cancelled, after.lost) == (2 + 9 + 100, 2, 1, 1, 1)
    assert after.retried == 2
    assert after.uptime > 0
    assert after.throughput == pytest.approx(116 / after.uptime)
    assert len(held) == 2


def test_rows_of_workers(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2)
    pids = wait_ready(engine)
    assert all(row.state == "idle" and row.job is None and row.job_age is None for row in engine.workers())
    engine.dispatch(Job(jobs.enter, (gate.door,), id="busy bee"))
    pid = gate.arrival().pid
    rows = {row.pid: row for row in engine.workers()}
    assert set(rows) == set(pids)
    busy = rows.pop(pid)
    assert (busy.state, busy.job) == ("busy", "busy bee")
    assert busy.job_age is not None
    assert 0 <= busy.job_age <= busy.age
    (idle,) = rows.values()
    assert (idle.state, idle.job) == ("idle", None)
    for row in (busy, idle):
        assert 1 << 20 < row.memory < 1 << 30
    values = engine.map(jobs.enter, [gate.door])
    gate.arrival()
    assert any("map(`enter`)" in (row.job or "") for row in engine.workers())
    gate.open()
    assert next(values) is None


def test_looking_at_an_engine_that_is_closed(make_engine: MakeEngine) -> None:
    engine = make_engine()
    assert engine.submit(jobs.echo, 1).result(WAIT_S) == 1
    engine.shutdown()
    assert engine.workers() == []
    assert engine.stats().succeeded == 1
    assert "closed" in repr(engine)
    assert engine.join(0)


def test_looking_never_fails_while_workers_come_and_go(make_engine: MakeEngine) -> None:
    engine = make_engine(2, max_tasks_per_child=1)
    futures = [engine.submit(jobs.echo, n) for n in range(10)]
    until = time.monotonic() + WAIT_S
    while not all(future.done() for future in futures) and time.monotonic() < until:
        engine.stats()
        engine.workers()
    assert [future.result(0) for future in futures] == list(range(10))


def test_threads_of_numerical_libraries_are_limited(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def limits() -> tuple[str | None, str | None]:
        return os.environ.get("OMP_NUM_THREADS"), os.environ.get("OPENBLAS_NUM_THREADS")

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert make_engine(1, "spawn", threads_per_worker=3).submit(limits).result(WAIT_S) == ("3", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert make_engine(1, "spawn").submit(limits).result(WAIT_S) == ("5", "1")
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_a_worker_has_a_name_and_is_no_daemon(engine: Engine) -> None:
    def who() -> tuple[str, bool]:
        import multiprocessing

        me = multiprocessing.current_process()
        return me.name, bool(me.daemon)

    name, daemon = engine.submit(who).result(WAIT_S)
    assert name.startswith(engine._options.name)
    assert not daemon


def test_a_worker_does_nothing_before_the_engine_can_see_its_end(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ran its few jobs and was gone before that took them with it: nobody had read its log."""
    pidfd_open = os.pidfd_open

    def open_late(pid: int) -> int:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not is_running(pid), 0.3)  # in vain: it waits for us
        return pidfd_open(pid)

    monkeypatch.setattr(os, "pidfd_open", open_late)
    engine = make_engine(1, max_tasks_per_child=1)
    assert [future.result(WAIT_S) for future in [engine.submit(jobs.square, n) for n in range(4)]] == [0, 1, 4, 9]
    engine.shutdown()


@pytest.mark.slow
def test_many_jobs_through_workers_of_seven_each(make_engine: MakeEngine) -> None:
    engine = make_engine(2, max_tasks_per_child=7)
    values = [outcome.unwrap() for outcome in engine.run(Job(jobs.square, (n,)) for n in range(2_000))]
    assert sorted(values) == [n * n for n in range(2_000)]


def test_a_worker_that_has_done_something_is_among_the_workers(make_engine: MakeEngine) -> None:
    engine = make_engine(1, max_tasks_per_child=1)
    post = engine._dispatcher.supervisor._post
    early: list[bool] = []

    def post_late(handle: Any) -> None:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not is_running(handle.pid), 0.2)  # in vain: it waits until it is known
        early.append(not is_running(handle.pid))
        post(handle)

    engine._dispatcher.supervisor._post = post_late  # type: ignore[method-assign, unused-ignore]
    assert [future.result(WAIT_S) for future in [engine.submit(jobs.square, n) for n in range(4)]] == [0, 1, 4, 9]
    assert early[:3] == [False] * 3
