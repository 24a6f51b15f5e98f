"""`submit` and its futures, as users of ProcessPoolExecutor know them, with each start method."""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError
from typing import Any

import pytest

import mpengine
from mpengine import Engine, Job, JobFuture, current_job
from tests.api import jobs
from tests.runtime.fixtures import open_engine
from tests.runtime.gates import Gate
from tests.support import START_METHODS, WAIT_S, wait_for


@pytest.fixture(scope="module", params=START_METHODS)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    yield from open_engine(request.param)


def test_a_call_returns_its_value_from_another_process(engine: Engine) -> None:
    future = engine.submit(jobs.add, 2, y=3)
    assert isinstance(future, concurrent.futures.Future)
    assert isinstance(future, JobFuture)
    assert future.result(WAIT_S) == 5
    assert future.done()
    assert future.exception() is None
    assert engine.submit(jobs.pid).result(WAIT_S) in {row.pid for row in engine.workers()} - {os.getpid()}


def test_lambdas_closures_and_local_classes_are_calls_as_any_other(engine: Engine) -> None:
    offset = 10

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    result = engine.submit(lambda x: Local(x + offset), 5).result(WAIT_S)
    assert type(result) is Local
    assert result.x == 15


def test_fn_and_self_are_names_like_any_other(engine: Engine) -> None:
    assert engine.submit(jobs.call_of, 1, fn=2, self=3, job=4).result(WAIT_S) == ((1,), {"fn": 2, "self": 3, "job": 4})
    assert dict(Job(jobs.call_of, (), {"fn": 1}).kwargs) == {"fn": 1}


def test_wait_and_as_completed_take_its_futures(engine: Engine, gate: Gate) -> None:
    held = engine.submit(jobs.enter, gate.door, value="held")
    gate.arrival()
    free = engine.submit(jobs.echo, "free")
    done, open_ = concurrent.futures.wait([held, free], WAIT_S, FIRST_COMPLETED)
    assert (done, open_) == ({free}, {held})
    gate.open()
    assert {f.result() for f in concurrent.futures.as_completed([held, free], WAIT_S)} == {"held", "free"}


def test_as_completed_and_wait_see_cancelled_futures(engine: Engine, gate: Gate) -> None:
    held = [engine.submit(jobs.enter, gate.door) for _ in range(2)]
    gate.arrivals(2)
    waiting = [engine.submit(jobs.echo, n) for n in range(8)]
    assert waiting[-1].cancel()
    assert held[0].cancel(running=True)
    done, open_ = concurrent.futures.wait([held[0], waiting[-1]], WAIT_S)
    assert not open_
    assert all(f.cancelled() for f in done)
    gate.open()
    assert len(list(concurrent.futures.as_completed([*held, *waiting], WAIT_S))) == 10
    assert [f.result() for f in waiting[:-1]] == list(range(7))


def test_a_running_job_cannot_be_cancelled_for_free(engine: Engine, gate: Gate) -> None:
    future = engine.submit(jobs.enter, gate.door, value=1)
    gate.arrival()
    wait_for(future.running, about="the future to be running")
    assert not future.cancel()
    gate.open()
    assert future.result(WAIT_S) == 1
    assert not future.cancel()
    assert not future.cancel(running=True)


def test_cancel_running_interrupts_and_the_worker_stays(
    engine: Engine, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    ends = make_gate()
    pids = {row.pid for row in engine.workers()}
    future = engine.submit(jobs.enter_finally, gate.door, ends.door)
    gate.arrival()
    assert future.cancel(running=True)
    assert ends.arrival().token == "finally"
    outcome = future.outcome(WAIT_S)
    assert outcome.status == "cancelled"
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result()
    assert {row.pid for row in engine.workers()} == pids


def test_run_in_executor_and_wrap_future(engine: Engine) -> None:
    async def main() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(engine, jobs.add, 1, 2)
        second = asyncio.wrap_future(engine.submit(jobs.fail, "seen"))
        return await first, await asyncio.gather(second, return_exceptions=True)

    value, (error,) = asyncio.run(asyncio.wait_for(main(), WAIT_S))
    assert value == 3
    assert type(error) is jobs.CustomError


def test_callbacks_see_the_outcome_and_may_submit(engine: Engine) -> None:
    called = threading.Event()
    seen: list[Any] = []

    def follow(future: Any) -> None:
        seen.append(future.outcome(0).value)
        engine.submit(jobs.echo, "second").add_done_callback(lambda f: (seen.append(f.result()), called.set()))  # type: ignore[func-returns-value]

    engine.submit(jobs.echo, "first").add_done_callback(follow)
    wait_for(called)
    assert seen == ["first", "second"]


def test_a_callback_that_raises_harms_nobody(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    future = engine.submit(jobs.echo, 1)
    future.add_done_callback(jobs.throw)  # type: ignore[arg-type]  # raises a TypeError: a future is no exception
    assert future.result(WAIT_S) == 1
    assert engine.submit(jobs.echo, 2).result(WAIT_S) == 2


def test_a_future_that_the_user_has_resolved_keeps_that_result(
    engine: Engine, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    future = engine.submit(jobs.enter, gate.door, value="ours")
    gate.arrival()
    future.set_result("theirs")
    gate.open()
    assert engine.join(WAIT_S)
    assert future.result() == "theirs"
    assert future.job.id in caplog.text
    assert engine.submit(jobs.echo, "next").result(WAIT_S) == "next"


@pytest.mark.parametrize(
    "value",
    [None, ValueError("returned, not raised"), ValueError, b"PILL", ("READY", 1), {"kind": 3}, NotImplemented, ...],
    ids=repr,
)
def test_what_looks_like_a_message_arrives_unchanged(engine: Engine, value: Any) -> None:
    results = [engine.submit(jobs.echo, value).result(WAIT_S), *engine.map(jobs.echo, [value])]
    assert len(results) == 2
    for result in results:
        if isinstance(value, Exception):
            assert type(result) is type(value)
            assert result.args == value.args
        else:
            assert result == value


def test_an_argument_is_what_it_was_at_submit(engine: Engine, gate: Gate) -> None:
    held = [engine.submit(jobs.enter, gate.door) for _ in range(2)]
    gate.arrivals(2)
    argument = [1, 2]
    future = engine.submit(jobs.echo, argument)
    argument.append(3)
    gate.open()
    assert future.result(WAIT_S) == [1, 2]
    concurrent.futures.wait(held, WAIT_S)


def test_large_arguments_and_results(engine: Engine) -> None:
    for size in (3_000, 4_096, 70_000, 200_000, 5_000_000):
        blob = os.urandom(size)
        assert engine.submit(jobs.echo, blob).result(WAIT_S) == blob
        assert next(engine.map(jobs.echo, [blob])) == blob


def test_a_worker_drops_the_arguments_of_a_job_that_is_done(engine: Engine) -> None:
    for _ in range(2):
        engine.submit(jobs.watch, jobs.Big()).result(WAIT_S)
        list(engine.map(jobs.watch, [jobs.Big()]))
    gone: list[bool] = []
    for _ in range(20):
        gone += engine.submit(jobs.watched_are_gone).result(WAIT_S)
    assert gone
    assert all(gone)


def test_outcome_waits_no_longer_than_it_is_told(engine: Engine, gate: Gate) -> None:
    future = engine.submit(jobs.enter, gate.door, value=4)
    gate.arrival()
    with pytest.raises(TimeoutError, match=future.job.id):
        future.outcome(0.01)
    gate.open()
    outcome = future.outcome(WAIT_S)
    assert (outcome.ok, outcome.value, outcome.status, outcome.attempts) == (True, 4, "succeeded", 1)
    assert outcome is future.outcome()
    assert outcome.job is future.job


def test_many_threads_submit_at_once(engine: Engine) -> None:
    results: list[int] = []

    def work(base: int) -> None:
        futures = [engine.submit(jobs.square, base + n) for n in range(100)]
        results.extend(f.result(WAIT_S) for f in futures)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(results) == [n * n for n in range(600)]


def test_join_waits_for_every_accepted_job_and_no_longer(engine: Engine, gate: Gate) -> None:
    assert engine.join(WAIT_S)
    future = engine.submit(jobs.enter, gate.door)
    gate.arrival()
    assert not engine.join(0.01)
    gate.open()
    assert engine.join(WAIT_S)
    assert future.done()
    assert engine.submit(jobs.echo, "open").result(WAIT_S) == "open"


def test_join_inside_a_callback_is_refused(engine: Engine, gate: Gate) -> None:
    caught: list[BaseException] = []
    called = threading.Event()

    def wait(_: object) -> None:
        try:
            engine.join()
        except RuntimeError as error:
            caught.append(error)
        called.set()

    engine.submit(jobs.enter, gate.door).add_done_callback(wait)  # not done yet: it is not called here
    gate.open()
    wait_for(called)
    assert "callback" in str(caught[0])


def test_outside_a_job_there_is_no_current_job() -> None:
    assert current_job() is None


def test_every_public_name_is_there() -> None:
    for name in mpengine.__all__:
        assert getattr(mpengine, name) is not None
    assert {"Engine", "Job", "Context", "Outcome", "current_job", "cpu_count"} <= set(dir(mpengine))
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = mpengine.nothing_of_ours
