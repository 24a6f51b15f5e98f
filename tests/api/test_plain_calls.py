"""Plain calls: `submit` of functions that cross once, with plain arguments. They travel together."""

import concurrent.futures
import contextlib
import gc
import logging
import os
import threading
import weakref
from types import FunctionType
from typing import Any, cast

import pytest

from mpengine import Engine, EngineBroken, EngineClosed, Job, JobCancelled, JobFuture, JobLost
from mpengine import futures as futures_module
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for

FACTOR = 1


def occupy(engine: Engine, gate: Gate) -> list[JobFuture]:
    """A held job on each worker, so that whatever comes next waits."""
    held = [engine.submit(jobs.enter, gate.door) for _ in range(engine._max_workers)]
    gate.arrivals(len(held))
    return held


def is_plain(future: JobFuture) -> bool:
    return future._function is not None


def test_each_future_has_its_own_result(engine: Engine) -> None:
    futures = [engine.submit(jobs.square, x) for x in range(5000)]
    assert [future.result(WAIT_S) for future in futures] == [x * x for x in range(5000)]
    assert engine.join(WAIT_S)
    assert not engine._dispatcher.ids


def test_while_anything_is_open_they_travel_together(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    occupy(engine, gate)
    futures = [engine.submit(jobs.square, x) for x in range(500)]
    assert all(map(is_plain, futures))
    gate.open()
    assert [future.result(WAIT_S) for future in futures] == [x * x for x in range(500)]


def test_each_has_its_own_job_and_outcome(engine: Engine) -> None:
    futures = [engine.submit(jobs.add, x, 1) for x in range(500)]
    outcomes = [future.outcome(WAIT_S) for future in futures]
    assert [outcome.value for outcome in outcomes] == [x + 1 for x in range(500)]
    assert len({future.job.id for future in futures}) == 500
    for future, outcome in zip(futures, outcomes, strict=True):
        assert outcome.job is future.job
        assert (future.job.fn, future.job.args[1], future.job.kwargs) == (jobs.add, 1, {})
        assert (outcome.attempts, outcome.errors, outcome.error) == (1, (), None)
        assert outcome.worker_pid in [row.pid for row in engine.workers()]
        assert outcome.waited >= 0
        assert outcome.duration >= 0


def test_a_job_knows_its_id(engine: Engine) -> None:
    futures = [engine.submit(jobs.my_id, x) for x in range(300)]
    assert [future.result(WAIT_S) for future in futures] == [future.job.id for future in futures]


def test_an_error_is_that_calls_own(engine: Engine) -> None:
    futures = [engine.submit(jobs.fail_at, 70, x) for x in range(200)]
    assert [x for x, future in enumerate(futures) if future.exception(WAIT_S) is not None] == [70]
    outcome = futures[70].outcome()
    assert outcome.error is futures[70].exception()
    assert outcome.attempts == 1
    assert any(futures[70].job.id in note for note in getattr(outcome.error, "__notes__", ()))


@pytest.mark.parametrize("fn", [jobs.unpicklable_at, jobs.unloadable_at])
def test_a_result_that_cannot_cross_is_that_calls_failure(engine: Engine, fn: Any) -> None:
    futures = [engine.submit(fn, 70, x) for x in range(200)]
    assert [x for x, future in enumerate(futures) if future.exception(WAIT_S) is not None] == [70]
    assert futures[70].outcome().status == "failed"
    assert futures[71].result() in (71, [71])


def test_a_crash_costs_the_call_that_ran(make_engine: MakeEngine) -> None:
    engine = make_engine()
    futures = [engine.submit(jobs.exit_at, 1000, x) for x in range(2000)]
    lost = [x for x, future in enumerate(futures) if isinstance(future.exception(WAIT_S), JobLost)]
    assert lost == [1000]
    assert futures[1000].job.id in str(futures[1000].exception())
    assert [future.result() for x, future in enumerate(futures) if x != 1000] == [
        x * x for x in range(2000) if x != 1000
    ]


# ---- giving up -------------------------------------------------------------------------------------------------------


def test_what_waits_can_be_cancelled_one_by_one(make_engine: MakeEngine, gate: Gate) -> None:
    """And who waits for it is told while the workers are still busy."""
    engine = make_engine()
    occupy(engine, gate)
    futures = [engine.submit(jobs.square, x) for x in range(100)]
    assert all(map(is_plain, futures))
    given_up = [future for future in futures[::2] if future.cancel()]
    assert len(given_up) >= 48  # two may be in the queue
    done, _ = concurrent.futures.wait(given_up, WAIT_S)
    assert len(done) == len(given_up)
    assert all(future.outcome(WAIT_S).status == "cancelled" for future in given_up)
    wait_for(lambda: engine.stats().cancelled == len(given_up), about="the books to know")
    gate.open()
    assert [future.result(WAIT_S) for future in futures[1::2]] == [x * x for x in range(1, 100, 2)]
    with pytest.raises(concurrent.futures.CancelledError):
        given_up[0].result()
    assert not engine._dispatcher.books.dooms


def test_very_many_can_be_cancelled(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    occupy(engine, gate)
    futures = [engine.submit(jobs.square, x) for x in range(20_000)]
    given_up = [future for future in futures if future.cancel()]
    gate.open()
    assert engine.join(WAIT_S)
    assert engine.stats().cancelled == len(given_up) >= 19_998


def test_what_runs_can_be_broken_off(make_engine: MakeEngine, make_gate: Any) -> None:
    engine = make_engine(1)
    gate, start = make_gate(), make_gate()
    occupied = occupy(engine, start)
    stuck = engine.submit(jobs.enter_at, gate.door.path)
    others = [engine.submit(jobs.square, x) for x in range(50)]
    start.open()
    gate.arrival()
    assert not stuck.cancel()
    assert stuck.cancel(running=True)
    outcome = stuck.outcome(WAIT_S)
    assert outcome.status == "cancelled"
    assert isinstance(outcome.error, JobCancelled)
    assert "enter" in outcome.error.__dict__["stack"]
    assert [future.result(WAIT_S) for future in others] == [x * x for x in range(50)]
    assert occupied[0].result() is None


def test_of_those_that_wait_behind_one_that_runs_some_can_be_given_up(make_engine: MakeEngine, make_gate: Any) -> None:
    """All are calls of one function, of which it is known that they take no time: they are in the worker's hand."""
    engine = make_engine(1)
    gate, start, through = make_gate(), make_gate(), make_gate()
    through.open()
    for _ in range(3):
        engine.submit(jobs.enter_at, through.door.path).result(WAIT_S)
    occupy(engine, start)
    futures = [engine.submit(jobs.enter_at, (gate if x == 0 else through).door.path, "", x) for x in range(20)]
    start.open()
    gate.arrival()
    wanted = [future.cancel(running=True) for future in futures[5:10]]
    assert all(wanted)
    wait_for(lambda: engine.stats().cancelled == 5, about="the books to know")
    gate.open()
    statuses = [future.outcome(WAIT_S).status for future in futures]
    assert statuses == ["succeeded"] * 5 + ["cancelled"] * 5 + ["succeeded"] * 10


def test_cancel_is_told_once_to_callbacks(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    occupy(engine, gate)
    told: list[JobFuture] = []
    future = [engine.submit(jobs.square, x) for x in range(20)][-1]  # the first of them may be in the queue
    future.add_done_callback(cast(Any, told.append))
    assert future.cancel()
    assert told == [future]
    gate.open()
    assert engine.join(WAIT_S)
    assert told == [future]


# ---- waiting ---------------------------------------------------------------------------------------------------------


def test_all_ways_of_waiting(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    occupy(engine, gate)
    futures = [engine.submit(jobs.square, x) for x in range(100)]
    called: list[Any] = []
    futures[3].add_done_callback(lambda future: called.append(future.result()))
    with pytest.raises(TimeoutError):
        futures[5].result(0.01)
    with pytest.raises(TimeoutError):
        futures[5].outcome(0.01)
    gate.open()
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures, WAIT_S)) == [
        x * x for x in range(100)
    ]
    assert concurrent.futures.wait(futures, WAIT_S).not_done == set()
    wait_for(lambda: called == [9], about="the callback")
    assert futures[5].outcome(WAIT_S).value == 25


def test_a_callback_that_raises_costs_nobody_anything(
    make_engine: MakeEngine, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    occupy(engine, gate)
    futures = [engine.submit(jobs.square, x) for x in range(10)]
    futures[2].add_done_callback(lambda future: jobs.fail("in a callback"))
    with caplog.at_level(logging.ERROR):
        gate.open()
        assert [future.result(WAIT_S) for future in futures] == [x * x for x in range(10)]
        assert engine.join(WAIT_S)
    assert "in a callback" in caplog.text


def test_a_future_that_its_user_has_resolved(
    make_engine: MakeEngine, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Who hears of it in the log may use futures there."""
    engine = make_engine()
    occupy(engine, gate)
    futures = [engine.submit(jobs.square, x) for x in range(10)]
    futures[4].set_result("mine")
    heard = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            other = JobFuture(Job(max))
            asker = threading.Thread(target=other.cancel)
            asker.start()
            asker.join(WAIT_S)
            if other.cancelled():
                heard.set()

    handler = Handler()
    logging.getLogger("mpengine").addHandler(handler)
    try:
        gate.open()
        assert [future.result(WAIT_S) for future in futures] == [0, 1, 4, 9, "mine", 25, 36, 49, 64, 81]
        assert engine.join(WAIT_S)
    finally:
        logging.getLogger("mpengine").removeHandler(handler)
    assert "had been resolved by someone else" in caplog.text
    assert heard.is_set()


def test_a_signal_handler_may_use_futures_wherever_it_comes(engine: Engine) -> None:
    done: list[bool] = []

    def come_in_between() -> None:
        with futures_module._deciding:
            done.append(JobFuture(Job(max)).cancel())

    thread = threading.Thread(target=come_in_between, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert done == [True]


def test_nothing_is_kept_of_what_was_dropped(engine: Engine) -> None:
    futures = [engine.submit(jobs.square, x) for x in range(1000)]
    assert engine.join(WAIT_S)
    watched = [weakref.ref(future) for future in futures]
    del futures
    gc.collect()
    assert not any(ref() for ref in watched)


# ---- ids and order ---------------------------------------------------------------------------------------------------


def test_an_id_that_was_made_for_a_plain_call_is_taken_while_it_is_open(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    occupy(engine, gate)
    future = engine.submit(jobs.square, 3)
    with pytest.raises(ValueError, match="taken by an open job"):
        engine.dispatch(Job(jobs.square, (1,), id=future.job.id))
    gate.open()
    assert future.result(WAIT_S) == 9
    assert engine.join(WAIT_S)
    assert engine.dispatch(Job(jobs.square, (1,), id=future.job.id)).result(WAIT_S) == 1


def test_an_id_that_somebody_has_chosen_is_not_made_for_a_plain_call(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    occupy(engine, gate)
    number = engine.submit(jobs.square, 3).label
    chosen = [engine.dispatch(Job(jobs.echo, ([],), id=f"job-{number + ahead}")) for ahead in range(1, 20)]
    futures = [engine.submit(jobs.square, x) for x in range(20)]
    assert len({future.job.id for future in [*chosen, *futures]}) == 39
    gate.open()
    assert [future.result(WAIT_S) for future in futures] == [x * x for x in range(20)]


def test_plain_calls_and_others_keep_their_order(make_engine: MakeEngine, gate: Gate, make_gate: Any) -> None:
    engine = make_engine(1)
    occupy(engine, gate)
    way = make_gate()
    way.open()
    futures = []
    for x in range(0, 40, 2):
        futures.append(engine.submit(jobs.enter_at, way.door.path, x))
        futures.append(engine.submit(jobs.enter, way.door, x + 1))
    gate.open()
    for future in futures:
        future.result(WAIT_S)
    assert [arrival.token for arrival in way.arrivals(40)] == [str(x) for x in range(40)]


def test_more_urgent_jobs_overtake_plain_calls(make_engine: MakeEngine, gate: Gate, make_gate: Any) -> None:
    engine = make_engine(1)
    occupy(engine, gate)
    way = make_gate()
    way.open()
    futures = [engine.submit(jobs.enter_at, way.door.path, x) for x in range(10)]
    futures.append(engine.dispatch(Job(jobs.enter, (way.door, "urgent"), priority=1)))
    gate.open()
    for future in futures:
        future.result(WAIT_S)
    tokens = [arrival.token for arrival in way.arrivals(11)]
    assert "urgent" in tokens[:3]  # one batch was on its way before it


# ---- what a function refers to ---------------------------------------------------------------------------------------


def by_value(fn: FunctionType) -> FunctionType:
    """As a function of a script is: not found by its name."""
    again = FunctionType(fn.__code__, globals(), "of_a_script", fn.__defaults__, fn.__closure__)
    again.__qualname__ = "of_a_script"
    return again


def scaled(x: int) -> int:
    return x * FACTOR


def test_a_function_of_a_script_crosses_once(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    occupy(engine, gate)
    fn = by_value(cast(FunctionType, jobs.square))
    futures = [engine.submit(fn, x) for x in range(100)]
    assert all(map(is_plain, futures))
    gate.open()
    assert [future.result(WAIT_S) for future in futures] == [x * x for x in range(100)]


def test_each_call_sees_what_its_function_referred_to_at_that_moment(
    make_engine: MakeEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    occupy(engine, gate)
    fn = by_value(cast(FunctionType, scaled))
    futures = []
    for factor in range(1, 60):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        futures += [engine.submit(fn, 1) for _ in range(2)]
    gate.open()
    assert [future.result(WAIT_S) for future in futures[::2]] == [*range(1, 60)]
    assert [future.result(WAIT_S) for future in futures[1::2]] == [*range(1, 60)]


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_shutdown_cancels_what_waits(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    held = occupy(engine, gate)
    futures = [engine.submit(jobs.square, x) for x in range(100)]
    engine.shutdown(wait=False, cancel_futures=True)
    assert concurrent.futures.wait(futures, WAIT_S).not_done == set()
    assert all(future.cancelled() for future in futures)
    gate.open()
    assert [future.result(WAIT_S) for future in held] == [None, None]
    assert engine.shutdown().cancelled == 100


def test_shutdown_finishes_what_was_accepted(make_engine: MakeEngine) -> None:
    engine = make_engine()
    futures = [engine.submit(jobs.square, x) for x in range(3000)]
    report = engine.shutdown()
    assert [future.result(0) for future in futures] == [x * x for x in range(3000)]
    assert report.finished == 3000
    with pytest.raises(EngineClosed):
        engine.submit(jobs.square, 1)


def test_whoever_submits_while_the_engine_closes_is_let_in_or_refused(make_engine: MakeEngine) -> None:
    for _ in range(5):
        engine = make_engine()
        futures: list[JobFuture] = []
        begun = threading.Event()

        def submit_until_closed(engine: Engine = engine, futures: Any = futures, begun: Any = begun) -> None:
            with contextlib.suppress(EngineClosed):
                while True:
                    futures.append(engine.submit(jobs.square, len(futures)))
                    if len(futures) == 200:
                        begun.set()

        thread = threading.Thread(target=submit_until_closed)
        thread.start()
        assert begun.wait(WAIT_S)
        report = engine.shutdown()
        thread.join(WAIT_S)
        assert [future.result(0) for future in futures] == [x * x for x in range(len(futures))]
        assert report.finished == len(futures)


def test_a_call_that_comes_behind_the_closing_is_refused(engine: Engine) -> None:
    """It was appended in the moment in which the lane was closed, and nobody has seen it."""
    lane = engine._dispatcher.lane

    class Closing(type(lane.calls)):  # type: ignore[misc]
        def append(self, call: Any) -> None:
            super().append(call)
            lane.closed = True

    before, lane.calls = lane.calls, Closing([cast(Any, None)])
    try:
        assert lane.submit(jobs.square, (1,)) is None
        assert list(lane.calls) == [None]
        assert not engine._dispatcher.ids
    finally:
        lane.calls, lane.closed = before, False


def test_a_broken_engine_fails_them_all(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(2, None, jobs.initialize_behind, (gate.door, "no way"))
    futures = [engine.submit(jobs.square, x) for x in range(100)]
    gate.open()
    assert all(isinstance(future.exception(WAIT_S), EngineBroken) for future in futures)
    with pytest.raises(EngineBroken):
        engine.submit(jobs.square, 1)


def test_join_waits_for_them(engine: Engine) -> None:
    futures = [engine.submit(jobs.square, x) for x in range(2000)]
    assert engine.join(WAIT_S)
    assert all(future.done() for future in futures)


def test_a_forked_copy_refuses_them(engine: Engine) -> None:
    futures = [engine.submit(jobs.square, x) for x in range(100)]
    assert engine.join(WAIT_S)  # so that the short way is open
    pid = os.fork()
    if not pid:
        try:
            engine.submit(jobs.square, 1)
        except EngineClosed:
            os._exit(17)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
    assert [future.result(WAIT_S) for future in futures] == [x * x for x in range(100)]
