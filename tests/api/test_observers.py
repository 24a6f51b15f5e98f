"""The public stream of events."""

import threading
from collections import Counter
from typing import Any

import pytest

from mpengine import Job
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


@pytest.mark.parametrize("kind", [JobStarted, JobFinished])
def test_events_are_frozen(make_engine: MakeEngine, kind: Any) -> None:
    events: list[Any] = []
    engine = make_engine(1, observers=[events.append])
    engine.submit(jobs.echo).result(WAIT_S)
    engine.shutdown()
    event = next(event for event in events if isinstance(event, kind))
    with pytest.raises(AttributeError):
        event.at = 0.0
