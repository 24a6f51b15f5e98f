"""What every engine promises, wherever its workers are. Runs over one kind of cluster in a process of its own.

`test_conformance.py` runs it for each kind; by hand: ``MPENGINE_CLUSTER=dask pytest tests/cluster/conformance.py``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import signal
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpengine
from mpengine import (
    Context,
    Engine,
    EngineBroken,
    EngineClosed,
    Job,
    JobCancelled,
    JobExpired,
    JobLost,
    MemoryLimitExceeded,
)
from mpengine.cluster import on_dask
from mpengine.engine import AnyEngine
from mpengine.errors import RemoteTraceback
from mpengine.observing import JobAccepted, JobFinished, JobStarted
from tests.cluster import jobs
from tests.cluster.clusters import KINDS, WAIT_S, WORKERS, Cluster
from tests.support import wait_for, wait_gone

KIND = os.environ.get("MPENGINE_CLUSTER", "local")
on_a_cluster = pytest.mark.skipif(KIND == "local", reason="about clusters")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """In place of the usual one: the cluster's client has threads and descriptors here, and keeps them."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    make: Any = KINDS[KIND]
    with make() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def shared_engine(cluster: Cluster) -> Iterator[AnyEngine]:
    engine = cluster.connect(stop_grace=0.5)
    yield engine
    report = engine.shutdown(cancel_futures=True, timeout=5.0)
    assert report.complete


@pytest.fixture
def engine(shared_engine: AnyEngine) -> AnyEngine:
    """One for all tests that leave it as it was: at work."""
    assert shared_engine.submit(jobs.square, 2).result(WAIT_S) == 4
    return shared_engine


_functions: list[Any] = []  # of gates: kept, so that none is taken for another


class Gate:
    """Jobs wait there until it is opened."""

    def __init__(self, folder: Path) -> None:
        self.started = str(folder / "started")
        self.path = str(folder / "gate")
        os.mkfifo(self.path)
        # Held for both ends, so that a job does not wait for somebody to write.
        self._letters = os.open(self.path, os.O_RDWR)
        # A function of its own: of this one the engine does not know how long it takes.
        code = jobs.wait_at.__code__.replace()
        self._function = types.FunctionType(code, jobs.wait_at.__globals__, "wait_at")
        _functions.append(self._function)

    def lines(self) -> list[str]:
        return lines_of(self.started)

    def job(self, **limits: Any) -> Job:
        return Job(self._function, (self.started, self.path), **limits)

    def wait_for(self, count: int) -> None:
        wait_for(lambda: len(self.lines()) >= count, about=f"{count} jobs at the gate")

    def open(self) -> None:
        """For all that are there now or come later: each takes a letter."""
        os.write(self._letters, b"x" * 1_000)

    def close(self) -> None:
        """When the test is over: who still comes finds a file, with a letter in it."""
        self.open()
        Path(f"{self.path}-opened").write_text("x")
        os.replace(f"{self.path}-opened", self.path)
        os.close(self._letters)


def lines_of(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.close()  # nobody is to wait there when the test has failed


# ---- values and errors -----------------------------------------------------------------------------------------------


def test_a_call_goes_there_and_its_value_comes_back(engine: AnyEngine) -> None:
    given = ((1, "two", None), {"fn": b"3", "self": [4.0]})
    assert engine.submit(jobs.describe, *given[0], **given[1]).result(WAIT_S) == given


def test_functions_and_classes_of_a_script_travel_by_value(engine: AnyEngine) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    class Odd(Exception):
        pass

    def double(point: Point) -> Point:
        if point.x % 2:
            raise Odd(point.x)
        return Point(2 * point.x)

    value = engine.submit(double, Point(4)).result(WAIT_S)
    assert type(value) is Point
    assert value.x == 8
    with pytest.raises(Odd, match="5"):
        engine.submit(double, Point(5)).result(WAIT_S)


def test_an_error_is_raised_as_itself_with_its_traceback_and_a_note(engine: AnyEngine) -> None:
    future = engine.dispatch(Job(jobs.fail, ("no such city",), id="oslo"))
    with pytest.raises(KeyError, match="no such city") as caught:
        future.result(WAIT_S)
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "raise KeyError(text)" in cause.text
    assert "cluster/call.py" not in cause.text
    (note,) = caught.value.__notes__
    assert "job 'oslo' (`fail`, attempt 1 of 1), in worker pid" in note
    assert future.outcome().status == "failed"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_job_may_raise_anything(engine: AnyEngine, error: BaseException) -> None:
    def raise_it() -> None:
        raise error

    assert type(engine.submit(raise_it).exception(WAIT_S)) is type(error)
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9


def test_what_cannot_be_pickled_fails_its_own_job(engine: AnyEngine) -> None:
    argument = engine.submit(jobs.square, threading.Lock())
    with pytest.raises(TypeError, match="pickle") as caught:
        argument.result(WAIT_S)
    assert "argument 1" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="pickle"):
        engine.submit(threading.Lock).result(WAIT_S)
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9


def test_a_result_that_looks_like_anything_arrives_unchanged(engine: AnyEngine) -> None:
    for value in (None, (True, b""), (False, b"x"), KeyError("k"), KeyError, b"x" * 200_000):
        arrived = engine.submit(jobs.describe, value).result(WAIT_S)[0][0]
        assert repr(arrived) == repr(value)


def test_arrays_arrive_writable_and_come_back(engine: AnyEngine) -> None:
    array = np.arange(100_000, dtype=np.float64)

    def double(given: Any) -> Any:
        given *= 2
        return given

    assert (engine.submit(double, array).result(WAIT_S) == array * 2).all()


def test_current_job_tells_id_attempt_and_time(engine: AnyEngine) -> None:
    id_, attempt, remaining = engine.dispatch(Job(jobs.about, id="this one", timeout=30)).result(WAIT_S)
    assert (id_, attempt) == ("this one", 1)
    assert 0 < remaining <= 30


# ---- many jobs -------------------------------------------------------------------------------------------------------


def test_map_keeps_the_order_and_map_unordered_loses_nothing(engine: AnyEngine) -> None:
    assert list(engine.map(jobs.square, range(500))) == [x * x for x in range(500)]
    assert sorted(engine.map_unordered(jobs.square, range(500))) == [x * x for x in range(500)]
    assert list(engine.map(pow, [2, 3], [5, 6])) == [32, 729]


def test_map_reads_endless_input_a_bounded_window_ahead(engine: AnyEngine) -> None:
    drawn = itertools.count()
    values = engine.map(jobs.square, (next(drawn) for _ in itertools.repeat(None)))
    assert list(itertools.islice(values, 100)) == [x * x for x in range(100)]
    values.close()
    assert next(drawn) < 100_000


def test_what_is_bound_to_a_mapped_function_crosses_once_a_worker(engine: AnyEngine, tmp_path: Path) -> None:
    class Model:
        def __init__(self, path: str) -> None:
            self.path = path

        def __setstate__(self, state: Any) -> None:
            self.__dict__.update(state)
            jobs.note(self.path, "unpickled")

        def predict(self, x: int) -> int:
            return x + 1

    model = Model(str(tmp_path / "unpickled"))
    assert list(engine.map(model.predict, range(100))) == list(range(1, 101))
    assert 1 <= len(lines_of(model.path)) <= WORKERS


def test_a_map_ends_with_its_first_error(engine: AnyEngine) -> None:
    values = engine.map(functools.partial(divmod, 10), [5, 2, 0, 1])
    assert [next(values), next(values)] == [(2, 0), (5, 0)]
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert list(values) == []


def test_run_gives_one_outcome_for_each_job_and_never_raises(engine: AnyEngine) -> None:
    def batch() -> Iterator[Job]:
        for number in range(60):
            if number == 17:
                yield Job(jobs.fail, ("x",), id="17", meta=17)
            elif number == 33:
                yield Job(jobs.leave, (3,), id="33", meta=33)
            else:
                yield Job(jobs.square, (number,), id=str(number), meta=number)

    outcomes = list(engine.run(batch()))
    assert Counter(outcome.job.meta for outcome in outcomes) == Counter(range(60))
    assert {o.job.id: o.status for o in outcomes if not o.ok} == {"17": "failed", "33": "lost"}
    assert all(o.value == o.job.meta**2 and o.attempts == 1 for o in outcomes if o.ok)


def test_run_in_order(engine: AnyEngine) -> None:
    outcomes = engine.run((Job(jobs.square, (x,), id=f"n{x}") for x in range(50)), ordered=True)
    assert [outcome.value for outcome in outcomes] == [x * x for x in range(50)]


def test_the_inputs_own_error_comes_after_what_it_gave(engine: AnyEngine) -> None:
    def batch() -> Iterator[Job]:
        yield Job(jobs.square, (3,))
        raise OSError("the disk is gone")

    outcomes = engine.run(batch())
    assert next(outcomes).value == 9
    with pytest.raises(OSError, match="the disk is gone"):
        next(outcomes)


def test_closing_the_iterator_cancels_its_jobs(engine: AnyEngine, gate: Gate) -> None:
    outcomes = engine.run(gate.job() for _ in range(10))
    gate.wait_for(1)
    outcomes.close()
    assert engine.join(WAIT_S)
    wait_for(lambda: "left" in gate.lines(), about="the job that ran was interrupted")


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_a_timeout_ends_its_job_and_tells_the_line(engine: AnyEngine) -> None:
    outcomes = {
        outcome.job.id: outcome
        for outcome in engine.run(
            [Job(jobs.sleep_for_ever, id="slow", timeout=0.3), *(Job(jobs.square, (x,)) for x in range(20))]
        )
    }
    slow = outcomes.pop("slow")
    assert slow.status == "expired"
    assert isinstance(slow.error, JobExpired)
    assert "job 'slow' (`sleep_for_ever`, attempt 1 of 1) ran past its timeout of 0.3 s" in str(slow.error)
    assert "time.sleep(1.0)" in slow.error.stack
    assert slow.duration >= 0.3
    assert all(outcome.ok for outcome in outcomes.values())


def test_retries_are_further_attempts_of_the_same_job(engine: AnyEngine) -> None:
    outcome = engine.dispatch(Job(jobs.fail_until, (3,), id="again", retries=4)).outcome(WAIT_S)
    assert (outcome.status, outcome.value, outcome.attempts) == ("succeeded", 3, 3)
    assert [str(error) for error in outcome.errors] == ["attempt 1", "attempt 2"]
    assert "attempt 2 of 5" in outcome.errors[1].__notes__[0]


def test_retries_end(engine: AnyEngine) -> None:
    outcome = engine.dispatch(Job(jobs.fail_until, (9,), retries=2, backoff=lambda attempt: 0.01)).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts, len(outcome.errors)) == ("failed", 3, 3)


def test_retry_on_is_asked_here(engine: AnyEngine) -> None:
    asked = []

    def may_again(error: BaseException) -> bool:
        asked.append(error)
        return len(asked) < 2

    assert engine.dispatch(Job(jobs.fail_until, (9,), retries=5, retry_on=may_again)).outcome(WAIT_S).attempts == 2
    assert [type(error) for error in asked] == [ConnectionError, ConnectionError]


def test_a_timeout_is_retried(engine: AnyEngine) -> None:
    outcome = engine.dispatch(Job(jobs.sleep_for_ever, timeout=0.1, retries=1)).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts) == ("expired", 2)


def test_without_retries_a_job_runs_once(engine: AnyEngine, tmp_path: Path) -> None:
    path = str(tmp_path / "ran")
    outcomes = list(engine.run(Job(jobs.noted, (path, str(x))) for x in range(200)))
    assert all(outcome.ok for outcome in outcomes)
    assert Counter(lines_of(path)) == Counter(str(x) for x in range(200))


def test_past_its_deadline_a_job_is_not_begun_and_a_running_one_ends(engine: AnyEngine, gate: Gate) -> None:
    context = Context(timeout=0.5)
    running = [engine.dispatch(gate.job(context=context)) for _ in range(WORKERS)]
    gate.wait_for(WORKERS)
    waiting = [engine.dispatch(Job(jobs.noted, (gate.started, "begun"), context=context)) for _ in range(5)]
    outcomes = [future.outcome(WAIT_S) for future in running + waiting]
    assert [outcome.status for outcome in outcomes] == ["expired"] * len(outcomes)
    assert [outcome.attempts for outcome in outcomes] == [1] * WORKERS + [0] * 5
    assert "begun" not in gate.lines()
    wait_for(lambda: gate.lines().count("left") >= WORKERS)


def test_cancelling_a_context_ends_all_below_it(engine: AnyEngine, gate: Gate) -> None:
    with Context() as night:
        child = night.child()
        running = [engine.dispatch(gate.job(context=child)) for _ in range(WORKERS)]
        gate.wait_for(WORKERS)
        waiting = [engine.dispatch(gate.job(context=night)) for _ in range(5)]
        night.cancel("the night is over")
        for future in running + waiting:
            outcome = future.outcome(WAIT_S)
            assert outcome.status == "cancelled"
            assert isinstance(outcome.error, JobCancelled)
            assert outcome.error.reason == "the night is over"
    wait_for(lambda: gate.lines().count("left") >= WORKERS)
    assert engine.dispatch(Job(jobs.square, (2,), context=night)).outcome(WAIT_S).status == "cancelled"


def test_cancel_of_a_future(engine: AnyEngine, gate: Gate) -> None:
    running = [engine.dispatch(gate.job()) for _ in range(WORKERS)]
    gate.wait_for(WORKERS)
    waiting = engine.submit(jobs.square, 2)
    assert waiting.cancel()
    assert waiting.cancelled()
    assert not running[0].cancel()
    assert running[0].cancel(running=True)
    assert running[0].outcome(WAIT_S).status == "cancelled"
    gate.open()
    assert running[1].result(WAIT_S) == "let through"


def test_priority(engine: AnyEngine, gate: Gate, tmp_path: Path) -> None:
    held = [engine.dispatch(gate.job()) for _ in range(WORKERS)]
    gate.wait_for(WORKERS)
    path = str(tmp_path / "order")
    futures = [engine.dispatch(Job(jobs.noted, (path, str(x)), priority=x)) for x in (0, 5, 9)]
    for future in held[1:]:
        future.cancel(running=True)
    for future in futures:
        future.result(WAIT_S)
    held[0].cancel(running=True)
    assert lines_of(path) == ["9", "5", "0"]


def test_two_jobs_of_one_id(engine: AnyEngine, gate: Gate) -> None:
    first = engine.dispatch(gate.job(id="the same"))
    with pytest.raises(ValueError, match="'the same' is taken"):
        engine.dispatch(Job(jobs.square, (2,), id="the same"))
    gate.open()
    first.result(WAIT_S)
    assert engine.dispatch(Job(jobs.square, (2,), id="the same")).result(WAIT_S) == 4


# ---- bad ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "exitcode"),
    [
        (Job(jobs.leave, (0,)), 0),
        (Job(jobs.kill_yourself), -signal.SIGKILL),
        (Job(jobs.kill_yourself, (signal.SIGSEGV,)), -signal.SIGSEGV),
    ],
)
def test_a_job_that_ends_its_worker_costs_itself(engine: AnyEngine, job: Job, exitcode: int) -> None:
    others = [engine.submit(jobs.square, x) for x in range(30)]
    outcome = engine.dispatch(job).outcome(WAIT_S)
    more = [engine.submit(jobs.square, x) for x in range(30)]
    assert outcome.status == "lost"
    assert isinstance(outcome.error, JobLost)
    assert outcome.error.exitcode == exitcode
    assert [future.result(WAIT_S) for future in others + more] == [x * x for x in range(30)] * 2


def test_a_job_may_fork(engine: AnyEngine) -> None:
    def fork() -> str:
        return "child" if os.fork() == 0 else "parent"

    assert engine.submit(fork).result(WAIT_S) == "parent"


# ---- data for many jobs ----------------------------------------------------------------------------------------------


def test_a_shared_object_is_one_copy_and_read_only(engine: AnyEngine) -> None:
    array = np.arange(50_000, dtype=np.float64)
    shared = engine.share(array)
    assert shared.nbytes >= array.nbytes
    assert set(engine.map(jobs.total, itertools.repeat(shared, 20))) == {float(array.sum())}
    assert engine.submit(lambda: jobs.total(shared)).result(WAIT_S) == float(array.sum())
    with pytest.raises(ValueError, match="read-only") as caught:
        engine.submit(jobs.write_to, shared).result(WAIT_S)
    assert any("share()" in note for note in caught.value.__notes__)
    with Engine(1) as other, pytest.raises(TypeError, match="only be sent to jobs of the engine"):
        other.submit(jobs.total, shared).result(WAIT_S)


def test_shared_objects_may_be_inside_each_other(engine: AnyEngine) -> None:
    inner = engine.share([1, 2, 3])
    outer = engine.share({"inner": inner})
    assert engine.submit(lambda given: sum(given["inner"]), outer).result(WAIT_S) == 6
    del inner
    assert engine.submit(lambda given: sum(given["inner"]), outer).result(WAIT_S) == 6


# ---- others' clients -------------------------------------------------------------------------------------------------


def test_futures_are_what_wait_and_asyncio_know(engine: AnyEngine) -> None:
    futures = [engine.submit(jobs.square, x) for x in range(10)]
    assert {f.result() for f in concurrent.futures.as_completed(futures, WAIT_S)} == {x * x for x in range(10)}

    async def ask() -> list[Any]:
        loop = asyncio.get_running_loop()
        pair = asyncio.gather(
            asyncio.wrap_future(engine.submit(jobs.square, 3)), loop.run_in_executor(engine, jobs.square, 4)
        )
        return [*await pair]

    assert asyncio.run(ask()) == [9, 16]


def test_done_callbacks_may_submit_and_raise(engine: AnyEngine, caplog: pytest.LogCaptureFixture) -> None:
    second: list[Any] = []
    seen = threading.Event()

    def then(future: Any) -> None:
        second.append(engine.submit(jobs.square, future.result()))
        seen.set()
        raise RuntimeError("a callback's own")

    engine.submit(jobs.square, 2).add_done_callback(then)
    wait_for(seen)
    assert second[0].result(WAIT_S) == 16


def test_observers_hear_the_whole_story(engine: AnyEngine) -> None:
    events: list[Any] = []
    with engine.observe(events.append):
        engine.dispatch(Job(jobs.fail_until, (2,), id="watched", retries=1)).result(WAIT_S)
        wait_for(lambda: any(isinstance(event, JobFinished) for event in events))
    names = [type(e).__name__ for e in events if not type(e).__name__.startswith(("Worker", "Engine"))]
    assert names == ["JobAccepted", "JobStarted", "JobRetried", "JobStarted", "JobFinished"]
    assert {e.job.id for e in events if isinstance(e, (JobAccepted, JobStarted))} == {"watched"}


def test_an_observer_given_inside_a_callback_hears_of_what_that_submits(engine: AnyEngine) -> None:
    events: list[Any] = []
    made: list[Any] = []

    def then(_: Any) -> None:
        made.append(engine.observe(events.append))
        made.append(engine.map(jobs.square, range(50)))

    engine.submit(jobs.square, 2).add_done_callback(then)
    observation, values = wait_for(lambda: len(made) == 2 and made)  # type: ignore[misc]
    assert list(values) == [n * n for n in range(50)]
    observation.end()
    for kind in (JobAccepted, JobStarted, JobFinished):
        assert sum(isinstance(event, kind) for event in events) == 50


def test_stats_and_join(engine: AnyEngine, gate: Gate) -> None:
    before = engine.stats()
    future = engine.dispatch(gate.job())
    assert not engine.join(0.05)
    assert engine.stats().queued == 1
    gate.open()
    future.result(WAIT_S)
    assert engine.join(WAIT_S)
    after = engine.stats()
    assert (after.pending, after.queued, after.succeeded) == (0, 0, before.succeeded + 1)
    assert len(wait_for(lambda: engine.workers(), about="rows")) <= WORKERS  # type: ignore[arg-type]


# ---- engines of their own: the tests above are over ------------------------------------------------------------------


@pytest.fixture(scope="session")
def alone(shared_engine: AnyEngine) -> None:
    """The engine of the tests above has ended: on Ray it had all CPUs."""
    assert shared_engine.shutdown(timeout=WAIT_S).complete


@pytest.fixture
def make(cluster: Cluster, alone: None) -> Iterator[Callable[..., AnyEngine]]:
    """Makes engines with options."""
    made: list[AnyEngine] = []

    def make(**options: Any) -> AnyEngine:
        made.append(cluster.connect(**options))
        return made[-1]

    yield make
    for engine in made:
        assert engine.shutdown(cancel_futures=True, timeout=5.0).complete


def test_options_of_the_engine_hold_there(make: Callable[..., AnyEngine], tmp_path: Path) -> None:
    path = str(tmp_path / "set-up")
    engine = make(initializer=jobs.set_up, initargs=(path,), timeout=0.4, retries=1, stop_grace=0.2)
    assert list(engine.map(jobs.square, range(50))) == [x * x for x in range(50)]
    outcome = engine.submit(jobs.sleep_for_ever).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts) == ("expired", 2)
    assert set(lines_of(path)) == {"set up"}


def test_jobs_of_a_script_see_what_its_initializer_has_set(make: Callable[..., AnyEngine]) -> None:
    script: dict[str, Any] = {"__name__": "__main__"}  # so its functions travel by value
    lines = (
        "model = None",
        "def start(value):",
        "    global model",
        "    model = value",
        "def job():",
        "    return model",
    )
    exec("\n".join(lines), script)
    engine = make(initializer=script["start"], initargs=(7,))
    assert [engine.submit(script["job"]).result(WAIT_S) for _ in range(3)] == [7, 7, 7]
    assert script["model"] is None


def test_a_memory_limit(make: Callable[..., AnyEngine], tmp_path: Path) -> None:
    engine = make(memory_limit="200MiB", max_tasks_per_child=1000)
    outcome = engine.submit(jobs.grow, str(tmp_path / "grown")).outcome(WAIT_S)
    assert outcome.status == "lost"
    assert isinstance(outcome.error, MemoryLimitExceeded)
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9


def test_max_workers_is_the_number_of_jobs_at_once(make: Callable[..., AnyEngine], gate: Gate) -> None:
    engine = make(max_workers=1)
    futures = [engine.dispatch(gate.job()) for _ in range(4)]
    gate.wait_for(1)
    assert not futures[-1].running()
    assert len(gate.lines()) == 1
    gate.open()
    for future in futures:
        assert future.result(WAIT_S) == "let through"


def test_max_pending_blocks_who_submits(make: Callable[..., AnyEngine], gate: Gate) -> None:
    engine = make(max_pending=2)
    for _ in range(WORKERS):
        engine.dispatch(gate.job())
    gate.wait_for(WORKERS)
    accepted: list[Any] = []

    def submit_five() -> None:
        for _ in range(5):
            accepted.append(engine.dispatch(gate.job()))

    thread = threading.Thread(target=submit_five)
    thread.start()
    wait_for(lambda: len(accepted) == 2)
    gate.open()
    thread.join(WAIT_S)
    assert [future.result(WAIT_S) for future in accepted] == ["let through"] * 5


def test_an_initializer_that_raises_breaks_the_engine(make: Callable[..., AnyEngine]) -> None:
    engine = make(initializer=jobs.refuse_to_start)
    future = engine.submit(jobs.square, 2)
    with pytest.raises(EngineBroken, match="no such model") as caught:
        future.result(WAIT_S)
    causes = list(itertools.takewhile(bool, iterate(caught.value, lambda error: error.__cause__)))
    assert any(isinstance(cause, LookupError) for cause in causes)
    with pytest.raises(EngineBroken):
        engine.submit(jobs.square, 2)


def iterate(value: Any, step: Callable[[Any], Any]) -> Iterator[Any]:
    while True:
        yield value
        value = step(value)


def test_what_jobs_print_comes_here(make: Callable[..., AnyEngine]) -> None:
    said: list[Any] = []
    engine = make(output=said.append)
    engine.dispatch(Job(jobs.say, ("here I am",), id="speaker")).result(WAIT_S)
    wait_for(lambda: said)
    assert [(one.job_id, one.stream, one.text) for one in said] == [("speaker", "stdout", "here I am")]


def test_shutdown_finishes_what_was_accepted(make: Callable[..., AnyEngine]) -> None:
    engine = make()
    futures = [engine.submit(jobs.square, x) for x in range(200)]
    report = engine.shutdown()
    assert report.complete
    assert (report.finished, report.cancelled, report.lost) == (200, 0, 0)
    assert [future.result(0) for future in futures] == [x * x for x in range(200)]
    with pytest.raises(EngineClosed):
        engine.submit(jobs.square, 2)
    assert engine.shutdown() == report


def test_shutdown_with_a_timeout_ends_what_runs(make: Callable[..., AnyEngine], gate: Gate) -> None:
    engine = make()
    running = [engine.dispatch(gate.job()) for _ in range(WORKERS)]
    gate.wait_for(WORKERS)
    waiting = engine.dispatch(gate.job())
    report = engine.shutdown(timeout=0.2)
    assert report.complete
    assert {future.outcome(0).status for future in running} == {"lost"}
    assert waiting.outcome(0).status == "cancelled"


def test_leaving_through_an_error_cancels_what_has_not_started(make: Callable[..., AnyEngine], gate: Gate) -> None:
    engine = make()
    running = [engine.dispatch(gate.job()) for _ in range(WORKERS)]
    gate.wait_for(WORKERS)
    waiting = engine.dispatch(gate.job())
    with pytest.raises(ZeroDivisionError), engine:
        raise_it_when_open(gate)
    assert {future.outcome(0).status for future in running} == {"succeeded"}
    assert waiting.outcome(0).status == "cancelled"


def raise_it_when_open(gate: Gate) -> None:
    threading.Timer(0.1, gate.open).start()
    raise ZeroDivisionError


@pytest.mark.parametrize("retries", [0, 2])
def test_a_lost_process_of_the_cluster_loses_no_job_that_may_be_retried(
    make: Callable[..., AnyEngine], cluster: Cluster, tmp_path: Path, retries: int
) -> None:
    """Killed twice in the middle of it. Locally it is a worker, elsewhere the node's own process."""
    path = str(tmp_path / "ran")
    engine = make(retries=retries)
    batch = [Job(jobs.sleep_for, (0.02, path, str(x)), id=str(x), meta=x) for x in range(150)]
    statuses: Counter[str] = Counter()
    by_id = {}
    outcomes = engine.run(batch)
    for count, outcome in enumerate(outcomes, 1):
        statuses[str(outcome.status)] += 1
        by_id[outcome.job.id] = outcome
        if count in (20, 70):
            cluster.kill_a_node(engine)
    ran = Counter(lines_of(path))
    assert len(by_id) == sum(statuses.values()) == len(batch)
    assert all(times <= retries + 1 for times in ran.values())
    if retries:
        assert statuses == {"succeeded": len(batch)}
    else:
        assert set(statuses) <= {"succeeded", "lost"}
        assert 1 <= statuses["lost"] <= 2 * 2 * 3  # of two nodes' slots, what was sent ahead included
        assert all(ran[id_] == 1 for id_, outcome in by_id.items() if outcome.ok)
    assert {o.value for o in by_id.values() if o.ok} == {id_ for id_, o in by_id.items() if o.ok}


@on_a_cluster
def test_nothing_of_an_engine_is_left_on_its_nodes(make: Callable[..., AnyEngine], gate: Gate) -> None:
    engine = make()
    futures = [engine.dispatch(gate.job()) for _ in range(WORKERS)]
    gate.wait_for(WORKERS)
    workers = [row.pid for row in wait_for(engine.workers)]  # type: ignore[union-attr]
    assert len(workers) >= 1
    engine.shutdown(timeout=0.1)
    assert {future.outcome(0).status for future in futures} == {"lost"}
    wait_gone(*workers)


@on_a_cluster
def test_what_a_cluster_cannot_do_is_refused_in_a_sentence(cluster: Cluster, alone: None) -> None:
    with pytest.raises(TypeError, match="takes the name of a start method"):
        cluster.connect(mp_context=multiprocessing.get_context("spawn"))
    with pytest.raises(ValueError, match="look at `stats"):
        cluster.connect(progress=True)
    with pytest.raises(TypeError, match="max_worker"):
        cluster.connect(max_worker=3)


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_dask, "CONNECT_S", 0.5)
    for address in ("dask://nowhere", "spark://host:1", "", 7):
        with pytest.raises((ValueError, TypeError), match=r"connect: .*address"):
            mpengine.connect(address)
    with pytest.raises(ConnectionError, match=r"the Dask scheduler at tcp://127\.0\.0\.1:9 does not answer"):
        mpengine.connect("dask://127.0.0.1:9")
