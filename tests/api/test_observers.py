"""The public stream of events."""

import itertools
import os
import threading
from collections import Counter
from typing import Any

import pytest

from mpengine import EngineClosed, Job
from mpengine.observing import (
    EngineState,
    JobAccepted,
    JobFinished,
    JobRetried,
    JobStarted,
    WorkerEnded,
    WorkerReady,
    WorkerStarted,
)
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for

JOB_EVENTS = (JobAccepted, JobStarted, JobRetried, JobFinished)


def story(events: list[Any], id: str) -> list[Any]:
    """The events of one job, in order."""
    found = []
    for event in events:
        if isinstance(event, JOB_EVENTS):
            job = event.outcome.job if isinstance(event, JobFinished) else event.job
            if job.id == id:
                found.append(event)
    return found


def test_every_job_has_its_story_in_order_and_one_end(make_engine: MakeEngine, gate: Gate, tmp_path: Any) -> None:
    events: list[Any] = []
    engine = make_engine(observers=[events.append])
    given = {
        "good": Job(jobs.square, (2,), id="good"),
        "bad": Job(jobs.fail, id="bad"),
        "second try": Job(jobs.fail_until, (str(tmp_path / "n"), 1), id="second try", retries=1),
        "gone": Job(jobs.leave, (4,), id="gone"),
        "late": Job(jobs.enter, (gate.door,), id="late", timeout=0.2),
        "unsendable": Job(jobs.echo, (jobs.Unpicklable(),), id="unsendable"),
    }
    for job in given.values():
        engine.dispatch(job)
    assert engine.join(WAIT_S)
    engine.shutdown()
    expected = {
        "good": [JobAccepted, JobStarted, JobFinished],
        "bad": [JobAccepted, JobStarted, JobFinished],
        "second try": [JobAccepted, JobStarted, JobRetried, JobStarted, JobFinished],
        "gone": [JobAccepted, JobStarted, JobFinished],
        "late": [JobAccepted, JobStarted, JobFinished],
        "unsendable": [JobAccepted, JobFinished],
    }
    for id, kinds in expected.items():
        told = story(events, id)
        assert [type(event) for event in told] == kinds, id
        times = [event.at for event in told]
        assert times == sorted(times), id
        attempts = [event.attempt for event in told if isinstance(event, JobStarted)]
        assert attempts == list(range(1, kinds.count(JobStarted) + 1))
        for event in told:
            if isinstance(event, JobStarted):
                assert event.worker_pid
    (retried,) = [event for event in events if isinstance(event, JobRetried)]
    assert type(retried.error) is jobs.CustomError
    assert retried.attempt == 1
    first = next(e for e in story(events, "second try") if isinstance(e, JobStarted))
    assert retried.worker_pid == first.worker_pid
    assert 0 < retried.duration <= retried.at - first.at


def test_one_end_per_job_also_in_bulk(make_engine: MakeEngine) -> None:
    events: list[Any] = []
    engine = make_engine(observers=[events.append])
    ids = {outcome.job.id for outcome in engine.run(Job(jobs.square, (n,)) for n in range(500))}
    assert len(ids) == 500
    assert list(engine.map(jobs.square, range(100))) == [n * n for n in range(100)]  # calls of map are seen as well
    engine.shutdown()
    for kind in (JobAccepted, JobStarted, JobFinished):
        counts = Counter(
            event.outcome.job.id if isinstance(event, JobFinished) else event.job.id
            for event in events
            if isinstance(event, kind)
        )
        assert len(counts) == 600
        assert set(counts.values()) == {1}
    for id in ids:
        assert [type(event) for event in story(events, id)] == [JobAccepted, JobStarted, JobFinished]


def test_workers_and_the_engine_have_their_events(make_engine: MakeEngine) -> None:
    events: list[Any] = []
    engine = make_engine(2, observers=[events.append], max_tasks_per_child=5)
    list(engine.map(jobs.square, range(20)))
    engine.shutdown()
    started = [event.pid for event in events if isinstance(event, WorkerStarted)]
    ready = [event.pid for event in events if isinstance(event, WorkerReady)]
    ended = {event.pid: event.exitcode for event in events if isinstance(event, WorkerEnded)}
    assert len(started) == len(set(started)) >= 4
    assert set(ready) <= set(started)
    assert set(ended) == set(started)
    assert set(ended.values()) == {0}
    assert [event.state for event in events if isinstance(event, EngineState)] == ["open", "closing", "closed"]
    for pid in ready:
        kinds = [type(e) for e in events if isinstance(e, WorkerStarted | WorkerReady | WorkerEnded) and e.pid == pid]
        assert kinds == [WorkerStarted, WorkerReady, WorkerEnded]


def test_a_broken_engine_says_so(make_engine: MakeEngine) -> None:
    events: list[Any] = []
    engine = make_engine(1, initializer=jobs.initialize_badly, initargs=("x",), observers=[events.append])
    engine.submit(jobs.echo).exception(WAIT_S)
    engine.shutdown()
    states = [event.state for event in events if isinstance(event, EngineState)]
    assert states == ["open", "broken", "closing", "closed"]


def test_an_observer_that_raises_is_logged_and_dropped(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Any] = []
    events: list[Any] = []

    def bad(event: Any) -> None:
        calls.append(event)
        if isinstance(event, JobAccepted):
            raise RuntimeError("no observer of mine")

    engine = make_engine(observers=[bad, events.append])
    assert [engine.submit(jobs.square, n).result(WAIT_S) for n in range(5)] == [n * n for n in range(5)]
    engine.shutdown()
    assert sum(isinstance(event, JobAccepted) for event in calls) == 1
    assert sum(isinstance(event, JobFinished) for event in events) == 5
    assert "no observer of mine" in caplog.text
    (record,) = [record for record in caplog.records if "observer" in record.message]
    assert record.name.startswith("mpengine")


def test_an_observer_may_use_the_engine(make_engine: MakeEngine) -> None:
    box: list[Any] = []
    followed = threading.Event()

    def follow(event: Any) -> None:
        if isinstance(event, JobFinished) and event.outcome.job.id == "first":
            box[0].submit(jobs.echo, 1).add_done_callback(lambda _: followed.set())

    engine = make_engine(observers=[follow], max_pending=1)
    box.append(engine)
    engine.dispatch(Job(jobs.echo, id="first"))
    wait_for(followed)
    box.clear()


def kinds_of(events: list[Any], id: str) -> list[Any]:
    return [type(event) for event in story(events, id)]


def ignore(event: Any) -> None:
    """An observer."""


WHOLE = [JobAccepted, JobStarted, JobFinished]


def test_who_looks_later_is_told_in_full_of_what_comes_after(make_engine: MakeEngine) -> None:
    """Whatever way the jobs would take if nobody looked."""
    events: list[Any] = []
    engine = make_engine()
    assert [engine.submit(jobs.square, n).result(WAIT_S) for n in range(20)] == [n * n for n in range(20)]
    assert engine.join(WAIT_S)
    with engine.observe(events.append):
        futures = [engine.submit(jobs.square, n) for n in range(20)]
        assert [future.result(WAIT_S) for future in futures] == [n * n for n in range(20)]
        assert [engine.submit(jobs.square, n).result(WAIT_S) for n in range(20)] == [n * n for n in range(20)]
        assert list(engine.map(jobs.square, range(50))) == [n * n for n in range(50)]
        assert sorted(engine.map_unordered(jobs.square, range(50))) == [n * n for n in range(50)]
        assert sum(outcome.ok for outcome in engine.run(Job(jobs.square, (n,)) for n in range(60))) == 60
        by_value = (lambda: lambda x: -x)()
        assert sum(outcome.value for outcome in engine.run(Job(by_value, (n,)) for n in range(10))) == -45
        assert engine.join(WAIT_S)
    for kind in (JobAccepted, JobStarted, JobFinished):
        counts = Counter(
            event.outcome.job.id if isinstance(event, JobFinished) else event.job.id
            for event in events
            if isinstance(event, kind)
        )
        assert (len(counts), set(counts.values())) == (210, {1}), kind


def test_nobody_is_told_after_the_end_and_jobs_take_the_short_ways_again(make_engine: MakeEngine) -> None:
    events: list[Any] = []
    engine = make_engine(1)
    observation = engine.observe(events.append)
    assert engine.dispatch(Job(jobs.square, (2,), id="seen")).result(WAIT_S) == 4
    assert engine.join(WAIT_S)
    observation.end()
    observation.end()
    told = len(events)
    assert engine.submit(jobs.square, 3)._function is not None  # a plain call, see `lane`
    assert engine.join(WAIT_S)
    engine.shutdown()
    observation.end()
    assert len(events) == told
    assert kinds_of(events, "seen") == WHOLE


def test_jobs_that_end_when_nobody_looks_are_not_kept(make_engine: MakeEngine, gate: Gate) -> None:
    events: list[Any] = []
    engine = make_engine(1)
    with engine.observe(events.append):
        future = engine.dispatch(Job(jobs.enter, (gate.door,), id="on"))
        gate.arrival()
        wait_for(lambda: kinds_of(events, "on") == [JobAccepted, JobStarted], about="the start of a job that runs on")
    gate.open()
    future.result(WAIT_S)
    assert engine.join(WAIT_S)
    assert engine._dispatcher.observers._started == {}
    assert kinds_of(events, "on") == [JobAccepted, JobStarted]


def test_an_observer_that_was_dropped_costs_nothing_any_more(make_engine: MakeEngine) -> None:
    def bad(event: Any) -> None:
        raise RuntimeError("no observer of mine")

    engine = make_engine(1)
    engine.observe(bad)
    assert engine.submit(jobs.square, 3)._function is not None
    assert engine.join(WAIT_S)


def test_who_looks_later_is_told_how_things_stand(make_engine: MakeEngine, gate: Gate) -> None:
    """State, workers, and the jobs that wait or run: of each of those, the whole story."""
    early: list[Any] = []
    late: list[Any] = []
    engine = make_engine(1)
    engine.observe(early.append)
    running = engine.dispatch(Job(jobs.enter, (gate.door,), id="running"))
    pid = gate.arrival().pid
    wait_for(lambda: kinds_of(early, "running") == [JobAccepted, JobStarted], about="the start of a job that runs on")
    waiting = engine.dispatch(Job(jobs.echo, id="waiting"))
    engine.observe(late.append)
    assert late[0] == EngineState("open", late[0].at)
    assert [type(event) for event in late[1:3]] == [WorkerStarted, WorkerReady]
    assert {event.pid for event in late[1:3]} == {pid}
    assert late[0].at < late[1].at < late[2].at
    assert kinds_of(late, "running") == [JobAccepted, JobStarted]
    assert kinds_of(late, "waiting") == [JobAccepted]
    gate.open()
    for future in (running, waiting):
        future.result(WAIT_S)
    engine.shutdown()
    for id in ("running", "waiting"):
        assert kinds_of(late, id) == WHOLE
    assert late[-1] == early[-1] == EngineState("closed", late[-1].at)


def test_a_run_under_way_is_told_from_the_first_look_on(make_engine: MakeEngine) -> None:
    """What it draws from then on, though it has sent plain jobs before."""
    events: list[Any] = []
    engine = make_engine()
    numbers = itertools.count()
    outcomes = engine.run(Job(jobs.square, (n,), id=str(n)) for n in iter(lambda: next(numbers), 100_000))
    next(outcomes)
    observation = engine.observe(events.append)
    drawn = next(numbers)
    assert sum(1 for _ in outcomes) == 99_998
    observation.end()
    assert kinds_of(events, "99999") == WHOLE
    accepted = Counter(event.job.id for event in events if isinstance(event, JobAccepted))
    finished = Counter(event.outcome.job.id for event in events if isinstance(event, JobFinished))
    assert accepted == finished
    assert drawn < 99_999


def test_stories_are_whole_whoever_comes_and_goes_under_load(make_engine: MakeEngine) -> None:
    """Jobs of all ways are under way when an observer begins, and when it ends."""
    engine = make_engine(2)
    enough = threading.Event()
    failed: list[BaseException] = []

    def load() -> None:
        try:
            while not enough.is_set():
                for future in [engine.submit(abs, n) for n in range(100)]:
                    future.result(WAIT_S)
                assert [engine.submit(abs, n).result(WAIT_S) for n in range(20)] == list(range(20))
                assert list(engine.map(abs, range(100))) == list(range(100))
                assert sum(outcome.ok for outcome in engine.run(Job(jobs.square, (n,)) for n in range(100))) == 100
                for future in [engine.dispatch(Job(jobs.square, (n,), retries=1)) for n in range(50)][::3]:
                    future.cancel()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for count in range(60):
            events: list[Any] = []
            with engine.observe(events.append):
                wait_for(lambda events=events, least=10 * count: len(events) > least or failed)  # type: ignore[misc]
            stories: dict[str, list[Any]] = {}
            for event in events:
                if isinstance(event, JOB_EVENTS):
                    job = event.outcome.job if isinstance(event, JobFinished) else event.job
                    stories.setdefault(job.id, []).append(type(event))
            without_start = [JobAccepted, JobFinished]  # cancelled
            odd = [told for told in stories.values() if told != WHOLE[: len(told)] and told != without_start]
            assert odd == []
    finally:
        enough.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert failed == []
    assert engine.join(WAIT_S)
    assert engine._dispatcher.observers._started == {}


def test_an_observer_may_begin_and_end_observations(make_engine: MakeEngine) -> None:
    inner: list[Any] = []
    box: list[Any] = []

    def look(event: Any) -> None:
        if isinstance(event, JobFinished) and event.outcome.job.id == "first":
            box.append(box[0].observe(inner.append))
            box.append(box[0].submit(jobs.echo, 1))
            box[1].end()
            raise RuntimeError("after its end")

    engine = make_engine(1)
    box += [engine, engine.observe(look)]
    engine.dispatch(Job(jobs.echo, id="first")).result(WAIT_S)
    assert engine.join(WAIT_S)
    engine.dispatch(Job(jobs.echo, id="second")).result(WAIT_S)
    assert engine.join(WAIT_S)
    assert kinds_of(inner, "first") == []
    assert kinds_of(inner, "second") == WHOLE
    assert kinds_of(inner, box[3].job.id) == WHOLE
    box.clear()


def test_what_cannot_be_observed_is_said_in_one_line(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    with pytest.raises(TypeError, match="an observer must be callable, got str"):
        engine.observe("report.html")  # type: ignore[arg-type]
    engine.shutdown()
    with pytest.raises(EngineClosed, match="is closed: there is nothing left to observe"):
        engine.observe(print)


def test_a_forked_copy_neither_begins_nor_ends_an_observation(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    observation = engine.observe(ignore)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            observation.end()
            engine.observe(print)
        except EngineClosed:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("kind", [JobStarted, JobFinished])
def test_events_are_frozen(make_engine: MakeEngine, kind: Any) -> None:
    events: list[Any] = []
    engine = make_engine(1, observers=[events.append])
    engine.submit(jobs.echo).result(WAIT_S)
    engine.shutdown()
    event = next(event for event in events if isinstance(event, kind))
    with pytest.raises(AttributeError):
        event.at = 0.0
