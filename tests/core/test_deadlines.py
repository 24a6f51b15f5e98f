"""Deadlines: they belong to the context, run from its start, and are never retried."""

import pytest

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.job import Status
from mpengine.errors import JobExpired
from mpengine.testing.fake_workers import End
from tests.core.makers import STOP_GRACE_S, Scene, is_open, make_record, outcome_of


def test_past_it_a_job_is_not_even_accepted_for_running() -> None:
    for late in (0.0, -5.0):
        scene = Scene()
        record = make_record(deadline=scene.clock() + late)
        scene.accept(record)
        outcome = outcome_of(record)
        assert outcome.status is Status.EXPIRED
        assert outcome.attempts == 0
        assert not scene.fleet.queue
        assert isinstance(outcome.error, JobExpired)
        assert "before it was started" in str(outcome.error)


@pytest.mark.parametrize("workers", [0, 1], ids=["in the backlog", "in the queue"])
def test_a_waiting_job_expires_without_being_run(workers: int) -> None:
    scene = Scene(workers=workers)
    record = make_record(deadline=scene.clock() + 5.0)
    other = make_record()
    scene.accept(record, other)
    scene.pass_time(4.9)
    assert is_open(record)
    scene.pass_time(0.2)
    assert outcome_of(record).status is Status.EXPIRED
    assert outcome_of(record).attempts == 0
    assert is_open(other)
    scene.workers.append(scene.fleet.start_worker())
    scene.work(End.VALUE, worker=-1)
    assert outcome_of(other).ok
    assert not scene.fleet.marks[record]


def test_a_running_job_is_interrupted_at_it_and_killed_after_the_grace() -> None:
    scene = Scene()
    record = make_record(deadline=scene.clock() + 5.0)
    scene.accept(record)
    scene.begin()
    scene.pass_time(5.01)
    assert len(scene.all_asked(do.Interrupt)) == 1
    scene.pass_time(STOP_GRACE_S + 0.01)
    assert len(scene.all_asked(do.Kill)) == 1
    scene.die()
    outcome = outcome_of(record)
    assert outcome.status is Status.EXPIRED
    assert outcome.attempts == 1
    assert "while it ran" in str(outcome.error)


def test_it_is_never_retried() -> None:
    scene = Scene()
    record = make_record(deadline=scene.clock() + 5.0, retries=5)
    scene.accept(record)
    scene.begin()
    scene.pass_time(5.01)
    scene.work(End.INTERRUPTED)
    assert outcome_of(record).status is Status.EXPIRED
    assert outcome_of(record).attempts == 1


def test_past_it_a_failed_attempt_is_the_last() -> None:
    """The failure was logged in time and read too late for another attempt."""
    scene = Scene()
    record = make_record(deadline=scene.clock() + 5.0, retries=5)
    scene.accept(record)
    scene.begin().step(End.ERROR)
    scene.clock.advance(6.0)
    scene.fleet.wake()
    assert outcome_of(record).status is Status.FAILED
    assert outcome_of(record).attempts == 1


def test_it_ends_the_wait_for_the_next_attempt() -> None:
    scene = Scene()
    record = make_record(deadline=scene.clock() + 5.0, retries=5, backoff=60.0)
    scene.accept(record)
    scene.work(End.ERROR)
    scene.pass_time(4.9)
    assert is_open(record)
    scene.pass_time(0.2)
    assert outcome_of(record).status is Status.EXPIRED
    assert len(outcome_of(record).errors) == 1
    assert scene.ledger.next_wakeup() is None


def test_a_result_that_was_logged_before_it_counts() -> None:
    scene = Scene()
    record = make_record(deadline=scene.clock() + 5.0)
    scene.accept(record)
    scene.begin().step(End.VALUE)
    scene.pass_time(100.0)
    assert outcome_of(record).ok


def test_a_settled_job_is_not_touched_by_it() -> None:
    scene = Scene()
    record = make_record(deadline=scene.clock() + 5.0)
    scene.accept(record)
    scene.work(End.VALUE)
    scene.pass_time(100.0)
    scene.fleet.tell(ev.TimePassed())
    assert outcome_of(record).ok


def test_a_timeout_that_is_shorter_counts_first_and_a_retry_still_ends_at_the_deadline() -> None:
    scene = Scene()
    record = make_record(deadline=scene.clock() + 5.0, timeout=3.0, retries=5)
    scene.accept(record)
    scene.begin()
    scene.pass_time(3.1)
    scene.work(End.INTERRUPTED)
    assert is_open(record)
    scene.begin()
    scene.pass_time(2.0)
    scene.work(End.INTERRUPTED)
    assert outcome_of(record).status is Status.EXPIRED
    assert "deadline" in str(outcome_of(record).error)
    assert outcome_of(record).attempts == 2


def test_the_clock_may_jump() -> None:
    scene = Scene()
    records = [make_record(deadline=scene.clock() + seconds) for seconds in (1.0, 50.0, 1e9)]
    scene.accept(*records)
    scene.clock.advance(1e6)
    scene.fleet.wake()
    assert [is_open(record) for record in records] == [False, False, True]


def test_the_deadlines_of_settled_jobs_do_not_pile_up() -> None:
    """A long job under the same context must not keep a hundred thousand short ones in memory."""
    scene = Scene()
    deadline = scene.clock() + 3600.0
    scene.accept(make_record(deadline=deadline, key=1))
    scene.begin()
    scene.workers.append(scene.fleet.start_worker())
    for _ in range(2000):
        record = make_record(deadline=deadline)
        scene.accept(record)
        scene.work(End.VALUE, worker=1)
    assert len(scene.books.timers) < 1500


def test_a_value_that_its_owner_has_is_the_outcome_though_it_was_late() -> None:
    scene = Scene()
    record = make_record(timeout=5.0)
    assert scene.fleet.send(record)
    scene.fleet.book()
    scene.begin()
    scene.pass_time(5.01)
    assert len(scene.all_asked(do.Interrupt)) == 1
    scene.workers[0].step(End.VALUE)
    assert scene.fleet.take_offer() is record
    scene.fleet.collect(scene.workers[0])
    assert outcome_of(record).status is Status.SUCCEEDED
