"""Round trips that are answered directly: what else a user sees is as it would be without that."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mpengine import Engine, Job, JobFuture
from mpengine.core.job import Status
from mpengine.errors import JobLost
from mpengine.runtime import dispatcher
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for

ROUNDS = 40


@pytest.fixture
def quiet(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine in round trips, whose dispatcher would sleep for ever if nobody called it."""
    monkeypatch.setattr(dispatcher, "_LIGHT_SLEEP_S", 3600.0)
    engine = make_engine()
    settle_down(engine)
    return engine


def settle_down(engine: Engine) -> None:
    for _ in range(100):
        for x in range(ROUNDS):
            assert engine.submit(jobs.square, x).result(WAIT_S) == x * x
        if engine._dispatcher._express.unhurried:
            return
    raise AssertionError("its dispatcher was never in a light sleep")


def called_back(future: JobFuture) -> Any:
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())
    wait_for(called)
    return future.result(0)


@pytest.mark.parametrize(
    "wait",
    [
        called_back,
        lambda future: future.outcome(WAIT_S).unwrap(),
        lambda future: concurrent.futures.wait([future], WAIT_S).done.pop().result(0),
        lambda future: next(concurrent.futures.as_completed([future], WAIT_S)).result(0),
        lambda future: future.result(WAIT_S),
    ],
    ids=["callback", "outcome", "wait", "as_completed", "result"],
)
def test_whoever_waits_is_told(quiet: Engine, wait: Callable[[JobFuture], Any]) -> None:
    for x in range(ROUNDS):
        settle_down(quiet)
        assert wait(quiet.submit(jobs.square, x)) == x * x
        if x % 8 == 0:
            assert wait(quiet.submit(jobs.echo, b"." * 10_000)) == b"." * 10_000  # does not fit into an answer
    assert quiet.join(WAIT_S)


def test_errors_come_back(quiet: Engine) -> None:
    for number in range(ROUNDS):
        with pytest.raises(ValueError, match=f"error {number}"):
            quiet.submit(jobs.throw, ValueError(f"error {number}")).result(WAIT_S)
        with pytest.raises(TypeError):
            quiet.submit(jobs.return_unpicklable).result(WAIT_S)


def test_a_worker_that_dies_is_missed(quiet: Engine) -> None:
    settle_down(quiet)
    with pytest.raises(JobLost):
        quiet.submit(signal.raise_signal, signal.SIGKILL).result(WAIT_S)
    settle_down(quiet)


def test_a_running_job_is_cancelled(quiet: Engine, gate: Gate) -> None:
    settle_down(quiet)
    future = quiet.submit(jobs.enter, gate.door)
    gate.arrival()
    assert future.cancel(running=True)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(WAIT_S)


def test_a_time_limit_holds(quiet: Engine, gate: Gate) -> None:
    settle_down(quiet)
    with pytest.raises(TimeoutError):
        quiet.dispatch(Job(jobs.enter, (gate.door,), timeout=0.01)).result(WAIT_S)


def test_counts_and_ids_know_of_what_its_owner_has(quiet: Engine) -> None:
    before = quiet.stats().succeeded
    for number in range(1, ROUNDS):
        assert quiet.dispatch(Job(jobs.square, (3,), id="the same")).result() == 9
        stats = quiet.stats()
        assert stats.succeeded == before + number
        assert (stats.pending, stats.queued, stats.running) == (0, 0, 0)
        assert all(row.job is None for row in quiet.workers())
    assert quiet.shutdown().finished == before + ROUNDS - 1


def test_what_is_taken_directly_is_counted_there_and_nowhere_else(quiet: Engine) -> None:
    # So that no snapshot, taken between two counts, shows it twice or not at all.
    for number in range(1, ROUNDS):
        books = quiet._dispatcher.books
        before = books.counts[Status.SUCCEEDED], quiet._dispatcher.answers.taken
        assert quiet.submit(jobs.square, number).result() == number**2
        quiet._dispatcher.catch_up()
        counted, taken = books.counts[Status.SUCCEEDED] - before[0], quiet._dispatcher.answers.taken - before[1]
        assert (counted, taken) in {(1, 0), (0, 1)}
        assert books.handed_over == quiet._dispatcher.answers.taken


def test_what_its_owner_has_is_the_outcome_though_the_engine_breaks_before_it_hears_of_it(
    quiet: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_down(quiet)
    monkeypatch.setattr(quiet._dispatcher.workforce, "collect", lambda handle, patient=False: None)
    future = quiet.submit(jobs.square, 3)
    assert future.result() == 9
    quiet._dispatcher.post(lambda: quiet._dispatcher._break("for a test", ValueError("it must")))
    outcome = future.outcome(WAIT_S)
    assert (outcome.status, outcome.value) == ("succeeded", 9)
    assert quiet.stats().succeeded == quiet.shutdown().finished


def test_threads_that_each_wait_for_their_own(make_engine: MakeEngine) -> None:
    engine = make_engine()
    wrong: list[Any] = []

    def go_round(start: int) -> None:
        for x in range(start, start + 200):
            future = engine.submit(jobs.square, x)
            if future.result(WAIT_S) != x * x or future.outcome(WAIT_S).value != x * x:
                wrong.append(future)

    threads = [threading.Thread(target=go_round, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not wrong
    assert engine.stats().succeeded == 800


def test_one_future_that_many_threads_wait_for(quiet: Engine, gate: Gate) -> None:
    for token in range(10):
        settle_down(quiet)
        future = quiet.submit(jobs.enter, gate.door, token, "seen")
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(future.result, WAIT_S) for _ in range(8)]
            gate.arrival()
            gate.open()
            assert [one.result(WAIT_S) for one in waiting] == ["seen"] * 8
