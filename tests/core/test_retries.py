"""Retries: further attempts, how many, when, and what ends them."""

import pytest

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.job import Status
from mpengine.errors import JobExpired, JobLost
from mpengine.testing.fake_workers import End, Step
from tests.core.makers import STOP_GRACE_S, Scene, is_open, outcome_of


def test_without_retries_a_started_job_never_runs_again() -> None:
    scene = Scene(workers=2)
    (record,) = scene.jobs(1)
    scene.begin()
    scene.die()
    assert outcome_of(record).status is Status.LOST
    assert not scene.fleet.queue


def test_n_retries_are_n_more_attempts() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, retries=2)
    scene.work(End.ERROR, worker=0)
    scene.work(End.ERROR, worker=0)
    assert is_open(record)
    scene.work(End.ERROR, worker=0)
    outcome = outcome_of(record)
    assert outcome.status is Status.FAILED
    assert outcome.attempts == 3
    assert [str(error)[:7] for error in outcome.errors] == ["start 1", "start 2", "start 3"]
    assert outcome.error is outcome.errors[-1]
    assert scene.books.retried == 2


def test_a_success_ends_them_and_remembers_what_failed() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, retries=5)
    scene.work(End.ERROR)
    scene.work(End.VALUE)
    outcome = outcome_of(record)
    assert outcome.ok
    assert outcome.value == (2, 1)
    assert outcome.attempts == 2
    assert len(outcome.errors) == 1


def test_a_lost_job_may_be_retried() -> None:
    scene = Scene(workers=2)
    (record,) = scene.jobs(1, retries=1)
    scene.begin()
    scene.die()
    scene.work(End.VALUE, worker=1)
    assert outcome_of(record).ok
    assert isinstance(outcome_of(record).errors[0], JobLost)


def test_a_timeout_may_be_retried_and_counts_anew() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, retries=1, timeout=5.0)
    scene.begin()
    scene.pass_time(5.1)
    scene.work(End.INTERRUPTED)
    scene.begin()
    scene.pass_time(4.9)
    assert len(scene.all_asked(do.Interrupt)) == 1
    scene.pass_time(0.2)
    assert len(scene.all_asked(do.Interrupt)) == 2
    scene.work(End.INTERRUPTED)
    assert outcome_of(record).status is Status.EXPIRED
    assert [type(error) for error in outcome_of(record).errors] == [JobExpired, JobExpired]


@pytest.mark.parametrize(("retry_on", "again"), [(ValueError, True), (KeyError, False), (lambda error: 1 / 0, False)])
def test_the_owner_says_which_errors(retry_on: object, again: bool) -> None:
    scene = Scene()
    (record,) = scene.jobs(1, retries=1, retry_on=retry_on)
    scene.work(End.ERROR)
    assert is_open(record) == again


def test_the_next_attempt_waits_for_its_backoff_and_others_go_on() -> None:
    scene = Scene(jitter=0.0)
    (record,) = scene.jobs(1, retries=2, backoff=10.0)
    scene.work(End.ERROR)
    (told,) = scene.all_asked(do.Retried)
    assert (told.record, told.delay) == (record, 5.0)
    assert not scene.fleet.queue
    assert scene.ledger.next_wakeup() == pytest.approx(scene.clock() + 5.0, abs=0.01)
    (other,) = scene.jobs(1)
    scene.work(End.VALUE)
    assert outcome_of(other).ok
    scene.pass_time(4.9)
    assert not scene.fleet.queue
    scene.pass_time(0.2)
    assert len(scene.fleet.queue) == 1
    scene.work(End.ERROR)
    assert scene.all_asked(do.Retried)[1].delay == 10.0


def test_without_a_backoff_it_goes_to_the_end_of_the_line() -> None:
    scene = Scene(seconds=1.0)
    failing, *others = scene.jobs(4, retries=1)
    scene.work(End.ERROR)
    scene.work(End.VALUE, End.VALUE, End.VALUE)
    assert all(outcome_of(record).ok for record in others)
    assert is_open(failing)


# ---- given up between attempts ---------------------------------------------------------------------------------------


def test_a_job_cancelled_while_it_waits_for_the_next_attempt_has_the_errors_of_its_attempts_alone() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, retries=2, backoff=10.0)
    scene.work(End.ERROR)
    scene.fleet.decide(ev.CancelRequested(record, "not wanted", running=False))
    outcome = outcome_of(record)
    assert outcome.status is Status.CANCELLED
    assert outcome.attempts == 1
    assert [str(error)[:7] for error in outcome.errors] == ["start 1"]
    scene.pass_time(100.0)
    assert not scene.fleet.queue
    assert not scene.books.delayed


def test_a_closed_iterator_and_a_shutdown_end_what_is_delayed() -> None:
    for event in (ev.StreamClosed("stream"), ev.PendingCancelled("the engine was shut down")):
        scene = Scene()
        (record,) = scene.jobs(1, retries=2, backoff=10.0, stream="stream")
        scene.work(End.ERROR)
        scene.fleet.decide(event)
        assert outcome_of(record).status is Status.CANCELLED


def test_a_cancellation_beats_the_retry_of_a_timeout() -> None:
    """The attempt is already to end by its timeout, and would be followed by another."""
    scene = Scene()
    (record,) = scene.jobs(1, retries=3, timeout=1.0)
    scene.begin()
    scene.pass_time(1.1)
    assert scene.all_asked(do.Interrupt)
    scene.fleet.decide(ev.CancelRequested(record, "not wanted", running=True))
    scene.pass_time(STOP_GRACE_S + 0.1)
    scene.die()
    assert outcome_of(record).status is Status.CANCELLED
    assert outcome_of(record).attempts == 1
    assert not scene.all_asked(do.Retried)


def test_a_timeout_of_an_attempt_that_turns_out_never_to_have_begun_does_not_count() -> None:
    """The worker was stopped between its mark and its look at the revocation."""
    scene = Scene()
    _first, second = scene.jobs(2, timeout=1.0)
    worker = scene.begin()
    worker.step(End.VALUE)
    worker.step()
    assert worker.at is Step.MARKED
    worker.revoked = worker.claim
    scene.pass_time(2.0)
    assert scene.all_asked(do.Interrupt)
    worker.step()
    worker.step()
    scene.fleet.collect(worker)
    assert is_open(second)
    scene.work(End.VALUE)
    assert outcome_of(second).ok
    assert outcome_of(second).attempts == 1
