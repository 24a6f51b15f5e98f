"""What is done about jobs in a worker's hand: timeouts, interrupts, kills, and jobs stuck behind a long one."""

import pytest

from mpengine.context import Context
from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.job import Status
from mpengine.core.ledger import Ledger
from mpengine.core.patrol import IDLE_PATROL_S, PATROL_S, SETTLE_S, STUCK_S, UNSTARTED_S
from mpengine.core.records import Report
from mpengine.errors import JobExpired
from mpengine.testing.fake_workers import End, Step
from tests.core.makers import KEY, STOP_GRACE_S, MapSink, Scene, is_open, make_record, make_span, outcome_of

# Until the items behind a long one have another worker: the batch is looked at for the first time, the item is found to
# be long, the revocation is sure to be seen.
A_WHILE = IDLE_PATROL_S + STUCK_S + SETTLE_S + 3 * PATROL_S


def cancel(scene: Scene, *records: object) -> None:
    for record in records:
        scene.fleet.decide(ev.CancelRequested(record, "not wanted", running=True))  # type: ignore[arg-type]


# ---- timeouts --------------------------------------------------------------------------------------------------------


def test_a_job_in_time_is_let_be() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, timeout=5.0)
    scene.begin()
    scene.pass_time(4.99)
    scene.work(End.VALUE)
    scene.pass_time(100.0)
    assert outcome_of(record).ok
    assert not scene.all_asked(do.Interrupt)


def test_a_timeout_interrupts_and_the_grace_later_kills() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, timeout=5.0)
    scene.begin()
    scene.pass_time(4.99)
    assert not scene.all_asked(do.Interrupt)
    scene.pass_time(0.02)
    assert [(a.worker, a.item) for a in scene.all_asked(do.Interrupt)] == [(1, 0)]
    assert is_open(record)
    scene.pass_time(STOP_GRACE_S - 0.02)
    assert not scene.all_asked(do.Kill)
    scene.pass_time(0.03)
    assert [(a.worker, a.item) for a in scene.all_asked(do.Kill)] == [(1, 0)]
    scene.die()
    outcome = outcome_of(record)
    assert outcome.status is Status.EXPIRED
    assert isinstance(outcome.error, JobExpired)
    assert (outcome.attempts, outcome.worker_pid) == (1, scene.workers[0].pid)
    assert outcome.duration == pytest.approx(5.0 + STOP_GRACE_S, abs=0.1)


def test_a_job_that_heeds_the_interrupt_costs_no_worker() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, timeout=5.0)
    scene.begin()
    scene.pass_time(5.1)
    scene.work(End.INTERRUPTED)
    scene.pass_time(100.0)
    outcome = outcome_of(record)
    assert outcome.status is Status.EXPIRED
    assert isinstance(outcome.error, JobExpired)
    assert outcome.error.stack == "the line it was on"
    assert not scene.all_asked(do.Kill)


def test_a_timeout_does_not_run_while_the_job_waits() -> None:
    scene = Scene(workers=0)
    (record,) = scene.jobs(1, timeout=5.0)
    scene.pass_time(100.0)
    scene.workers.append(scene.fleet.start_worker())
    scene.pass_time(100.0)  # in the queue
    scene.begin()
    scene.pass_time(4.9)
    assert not scene.all_asked(do.Interrupt)
    scene.pass_time(0.2)
    assert scene.all_asked(do.Interrupt)
    assert is_open(record)


def test_a_timeout_counts_from_the_start_of_its_own_item() -> None:
    scene = Scene()
    first, second = scene.jobs(2, timeout=1.0)
    scene.begin()
    scene.pass_time(STUCK_S / 2)
    scene.work(End.VALUE)
    scene.begin()
    scene.pass_time(0.99)
    assert not scene.all_asked(do.Interrupt)
    scene.pass_time(0.1)
    assert [a.item for a in scene.all_asked(do.Interrupt)] == [1]
    assert outcome_of(first).ok
    assert is_open(second)


def test_a_success_after_the_timeout_does_not_count() -> None:
    """Decided is decided: what it brings after that changes nothing."""
    scene = Scene()
    (record,) = scene.jobs(1, timeout=5.0)
    scene.begin()
    scene.pass_time(5.1)
    scene.work(End.VALUE)
    assert outcome_of(record).status is Status.EXPIRED


def test_a_result_that_was_logged_in_time_counts_although_nobody_has_read_it_yet() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, timeout=5.0)
    scene.begin().step(End.VALUE)
    scene.pass_time(100.0)
    assert outcome_of(record).ok


def test_the_timeout_of_an_item_that_has_ended_is_over() -> None:
    """Its worker is stopped before it begins the next."""
    scene = Scene()
    first, second = scene.jobs(2, timeout=1.0, retries=1, backoff=60.0)
    scene.work(End.ERROR)
    assert scene.workers[0].at is Step.CLAIMED
    scene.pass_time(2.0)
    assert not scene.all_asked(do.Interrupt)
    assert first in scene.books.delayed
    assert is_open(second)


# ---- cancelled jobs --------------------------------------------------------------------------------------------------


def test_a_cancelled_job_in_the_queue_is_taken_back() -> None:
    scene = Scene()
    first, second, third = scene.jobs(3)
    cancel(scene, second)
    assert outcome_of(second).status is Status.CANCELLED
    assert outcome_of(second).attempts == 0
    scene.work(End.VALUE, End.VALUE)
    assert outcome_of(first).ok
    assert outcome_of(third).ok
    assert scene.fleet.marks[second] == 0


def test_a_running_job_is_interrupted_at_once_then_killed() -> None:
    scene = Scene()
    (record,) = scene.jobs(1)
    scene.begin()
    cancel(scene, record)
    assert len(scene.all_asked(do.Interrupt)) == 1
    scene.pass_time(STOP_GRACE_S + 0.1)
    assert len(scene.all_asked(do.Kill)) == 1
    scene.die()
    outcome = outcome_of(record)
    assert outcome.status is Status.CANCELLED
    assert outcome.attempts == 1


def test_a_job_that_waits_in_a_workers_hand_is_given_back_before_it_starts() -> None:
    scene = Scene()
    first, second, third = scene.jobs(3)
    scene.begin()
    cancel(scene, third)
    assert [a.worker for a in scene.all_asked(do.Revoke)] == [1]
    assert not scene.all_asked(do.Interrupt)
    scene.workers[0].step(End.VALUE)
    for _ in range(3):
        scene.workers[0].step()
    scene.fleet.collect(scene.workers[0])
    assert outcome_of(third).status is Status.CANCELLED
    scene.work(End.VALUE)
    assert outcome_of(first).ok
    assert outcome_of(second).ok
    assert not scene.fleet.starts[third]


def test_cancelling_what_has_started_without_running_does_nothing() -> None:
    scene = Scene()
    (record,) = scene.jobs(1)
    scene.begin()
    scene.fleet.decide(ev.CancelRequested(record, "not wanted", running=False))
    scene.pass_time(100.0)
    scene.work(End.VALUE)
    assert outcome_of(record).ok


def test_the_first_decision_holds() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, deadline=scene.clock() + 10.0)
    scene.begin()
    cancel(scene, record)
    scene.fleet.decide(ev.CancelRequested(record, "changed my mind", running=True))
    scene.pass_time(11.0)
    scene.die()
    assert outcome_of(record).status is Status.CANCELLED
    assert "not wanted" in str(outcome_of(record).error)


def test_a_killed_worker_takes_nobody_along() -> None:
    """The item ends, and another begins, just before the kill: the kill was for the first."""
    scene = Scene()
    (record,) = scene.jobs(1)
    scene.begin()
    cancel(scene, record)
    (innocent,) = scene.jobs(1, key=KEY + 1)
    scene.clock.advance(STOP_GRACE_S + 0.1)
    worker = scene.workers[0]
    kill = do.Kill(1, worker.started[0], 0, "late")
    worker.step(End.VALUE)
    scene.begin()
    scene.fleet._kill(kill)
    assert worker.at is Step.RUNNING
    scene.work(End.VALUE)
    assert outcome_of(innocent).ok


def test_a_kill_that_came_too_late_for_one_item_does_not_spare_the_next() -> None:
    ledger = Ledger(stop_grace=0.0, jitter=lambda: 0.5)
    ledger.books.pace.observe(KEY, 1, 1e-4)
    ledger.handle(ev.WorkerReady(1, 4001), 0.0)
    first, second = (make_record(timeout=0.002) for _ in range(2))
    ledger.handle(ev.Accepted([first, second]), 0.0)
    (batch,) = ledger.books.batches

    def asked(index: int, since: float, now: float) -> list[str]:
        ledger.handle(ev.Observed(1, batch, index, since), now)
        return [type(action).__name__ for action in ledger.handle(ev.TimePassed(), now)]

    assert asked(0, 0.0, 0.003) == ["Interrupt"]
    assert asked(0, 0.0, 0.004) == ["Kill"]
    ledger.handle(ev.Reported(1, batch, [Report(0)]), 0.004)
    assert asked(1, 0.004, 0.007) == ["Interrupt"]
    assert asked(1, 0.004, 0.008) == ["Kill"]


# ---- stuck behind a long job -----------------------------------------------------------------------------------------


def test_jobs_behind_a_long_one_go_to_another_worker() -> None:
    scene = Scene(workers=2)
    records = scene.jobs(4)
    long, *others = records
    scene.begin(0)
    assert scene.workers[1].at is Step.IDLE
    assert not scene.fleet.queue
    scene.pass_time(A_WHILE)
    scene.work(*[End.VALUE] * 3, worker=1)
    assert all(outcome_of(record).ok for record in others)
    assert is_open(long)
    scene.work(End.VALUE)
    assert outcome_of(long).ok
    assert all(scene.fleet.starts[record] == 1 for record in records)


def test_they_are_taken_only_when_the_worker_must_see_the_revocation() -> None:
    scene = Scene(workers=2)
    scene.jobs(3)
    scene.begin()
    while not scene.all_asked(do.Revoke):
        scene.pass_time(0.001)
    (revoke,) = scene.all_asked(do.Revoke)
    batch = scene.books.batches[revoke.batch]
    revoked_at = batch.revoked_at
    assert revoked_at is not None
    assert batch.size == 3
    scene.clock.advance_to(revoked_at + SETTLE_S / 2)
    scene.fleet.decide(ev.TimePassed())
    assert batch.size == 3
    scene.pass_time(0.02)
    assert batch.size == 1
    assert len(scene.fleet.queue) == 1  # the other two, for anybody


def test_an_item_that_starts_between_the_look_and_the_revocation_is_not_taken() -> None:
    scene = Scene(workers=2)
    first, second, third = scene.jobs(3)
    worker = scene.begin(0)
    scene.fleet.observe()
    worker.step(End.VALUE)
    scene.begin(0)
    scene.fleet.tell(ev.CancelRequested(third, "not wanted", running=True))
    assert worker.revoked == worker.claim
    assert not scene.fleet.queue
    assert not scene.books.backlog
    scene.pass_time(A_WHILE)
    assert outcome_of(third).status is Status.CANCELLED
    scene.work(End.VALUE)
    assert outcome_of(first).ok
    assert outcome_of(second).ok
    assert scene.fleet.marks[second] == 1


def test_a_batch_that_gets_on_is_not_revoked() -> None:
    scene = Scene()
    records = scene.jobs(8)
    for _ in records:
        scene.begin()
        scene.pass_time(STUCK_S / 2)
        scene.work(End.VALUE)
    assert not scene.all_asked(do.Revoke)
    assert all(outcome_of(record).ok for record in records)


def test_a_worker_that_gives_back_and_is_truncated_as_well_changes_nothing_twice() -> None:
    scene = Scene()
    first, second = scene.jobs(2)
    scene.begin()
    scene.pass_time(A_WHILE)  # revoked and truncated
    scene.workers[0].step(End.VALUE)
    for _ in range(3):
        scene.workers[0].step()  # marks the second, sees the revocation, gives it back
    scene.fleet.collect(scene.workers[0])
    scene.work(End.VALUE)
    assert outcome_of(first).ok
    assert outcome_of(second).ok
    assert scene.fleet.starts[second] == 1


def test_a_revocation_is_not_lost_to_one_of_a_batch_that_is_over() -> None:
    """A worker ends one batch, unread as yet, and is in the next: both are given up at once, and it reads one word."""
    scene = Scene(workers=0, seconds=2.5e-4)
    context = Context()
    running, doomed, bystander = (make_record(context=context if own else None) for own in (1, 1, 0))
    first, second = (make_record(priority=1, context=context) for _ in range(2))
    scene.accept(running, doomed, bystander, *(make_record() for _ in range(3)))
    scene.accept(first, second)
    scene.workers.append(scene.fleet.start_worker())
    worker = scene.begin()
    scene.fleet.observe()

    def get_ahead() -> None:
        scene.between = lambda: None
        for _ in range(9):
            if worker.item is not running:
                worker.step()

    scene.between = get_ahead  # after its log was read, before its board is
    scene.fleet.decide(ev.ContextCancelled(context, "the night is over"))
    assert worker.item is running
    assert doomed in scene.books.batches[worker.claim].records
    assert bystander in scene.books.batches[worker.claim].records
    scene.pass_time(A_WHILE)
    worker.step(End.VALUE)
    for _ in range(8):
        worker.step()
    scene.fleet.collect(worker)
    for _ in range(8):
        worker.step()
    scene.fleet.collect(worker)
    assert outcome_of(doomed).status is Status.CANCELLED
    assert scene.fleet.starts[doomed] == outcome_of(doomed).attempts
    assert outcome_of(bystander).ok
    assert scene.fleet.starts[bystander] == 1


# ---- a worker with nothing to do -------------------------------------------------------------------------------------


def test_who_has_much_gives_to_who_has_nothing() -> None:
    scene = Scene(workers=1, seconds=1e-6)
    records = scene.jobs(30)
    scene.begin(0)
    scene.books.pace.observe(KEY, 1, 1.0)  # it was more than it seemed
    scene.fleet.observe()
    assert not scene.all_asked(do.Revoke)
    scene.workers.append(scene.fleet.start_worker())
    assert not scene.fleet.queue
    scene.fleet.wake()
    assert len(scene.all_asked(do.Revoke)) == 1
    scene.work(End.VALUE)  # sees it before the next item, and gives back
    while scene.workers[0].at is not Step.IDLE:
        scene.workers[0].step()
    scene.fleet.collect(scene.workers[0])
    assert len(scene.fleet.queue) >= 2
    waiting = scene.books.backlog.calls  # for a third and fourth batch
    assert sum(len(ticket.items) for ticket in scene.fleet.queue) + waiting == 29
    while scene.books.open:
        for worker in (0, 1):
            if scene.fleet.queue or scene.workers[worker].at is not Step.IDLE:
                scene.begin(worker)
                scene.work(End.VALUE, worker=worker)
    assert all(outcome_of(record).ok for record in records)
    assert all(scene.fleet.starts[record] == 1 for record in records)


def test_what_is_done_in_a_moment_stays_where_it_is() -> None:
    scene = Scene(workers=2, seconds=1e-6)
    scene.jobs(8)
    scene.begin(0)
    scene.pass_time(0.0009)
    assert not scene.all_asked(do.Revoke)
    scene.pass_time(0.002)  # or not
    assert scene.all_asked(do.Revoke)


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_values_held_back_behind_a_long_call_are_asked_for() -> None:
    scene = Scene()
    sink = MapSink()
    scene.accept(make_span(3, sink=sink))
    scene.begin().step(End.VALUE)
    scene.begin()
    scene.pass_time(A_WHILE)
    assert scene.all_asked(do.Flush)
    scene.fleet.observe()
    assert sink.values == {0: 0}


def test_values_that_were_held_back_at_the_last_look_are_asked_for() -> None:
    """No call is long, but all have become slow: a group that was made for fast ones would hold them for seconds."""
    scene = Scene()
    scene.accept(make_span(100, sink=MapSink()))
    calls = 0
    while not scene.all_asked(do.Flush):
        scene.begin().step(End.VALUE)  # held
        scene.begin()
        scene.pass_time(PATROL_S)
        calls += 1
        assert calls * PATROL_S < IDLE_PATROL_S + 4 * PATROL_S, "nobody asks"


def test_calls_behind_a_long_one_go_to_another_worker() -> None:
    scene = Scene(workers=2)
    sink = MapSink()
    scene.accept(make_span(4, sink=sink))
    scene.begin(0)
    scene.pass_time(A_WHILE)
    for _ in range(15):
        scene.workers[1].step()
    scene.fleet.collect(scene.workers[1])
    assert sink.values == {1: 1, 2: 2, 3: 3}
    scene.workers[0].step(End.VALUE)
    for _ in range(4):
        scene.workers[0].step()  # marks the next, sees the revocation, logs what it holds, gives back
    scene.fleet.collect(scene.workers[0])
    assert sink.values == {0: 0, 1: 1, 2: 2, 3: 3}
    assert scene.books.open == 0


def test_of_a_closed_map_the_rest_is_dropped_and_a_long_call_broken_off() -> None:
    scene = Scene()
    sink = MapSink()
    scene.accept(make_span(4, sink=sink))
    scene.begin()
    scene.fleet.decide(ev.StreamClosed(sink))
    assert not scene.all_asked(do.Interrupt)  # a call of microseconds is over before that
    scene.pass_time(0.05)
    assert len(scene.all_asked(do.Interrupt)) == 1
    assert scene.books.open == 1
    scene.pass_time(STOP_GRACE_S + 0.1)
    assert len(scene.all_asked(do.Kill)) == 1
    scene.die()
    assert scene.books.open == 0
    assert (sink.values, sink.errors) == ({}, {})


def test_the_last_call_of_a_closed_map_is_broken_off_as_well() -> None:
    scene = Scene()
    sink = MapSink()
    scene.accept(make_span(1, sink=sink))
    scene.begin()
    scene.fleet.decide(ev.StreamClosed(sink))
    scene.pass_time(0.05)
    assert len(scene.all_asked(do.Interrupt)) == 1


def test_a_call_of_a_closed_map_is_broken_off_whenever_it_started() -> None:
    """The board is read, the call ends, the next begins and finds no revocation, which comes a moment later."""
    scene = Scene()
    sink = MapSink()
    scene.accept(make_span(4, sink=sink))
    worker = scene.begin()
    scene.fleet.observe()
    worker.step(End.VALUE)
    scene.begin()
    scene.fleet.tell(ev.StreamClosed(sink))
    scene.pass_time(0.05)
    assert [action.item for action in scene.all_asked(do.Interrupt)] == [1]


def test_a_call_that_starts_between_the_look_and_the_revocation_holds_up_nobody() -> None:
    """The board is read, the call ends, the next begins and finds no revocation, which comes a moment later."""
    scene = Scene(workers=2)
    sink = MapSink()
    scene.accept(make_span(4, sink=sink))
    worker = scene.begin(0)
    scene.fleet.observe()
    scene.clock.advance(IDLE_PATROL_S)
    scene.fleet.observe()
    worker.step(End.VALUE)
    scene.begin(0)
    scene.fleet.tell(ev.TimePassed())
    assert scene.all_asked(do.Revoke)
    scene.pass_time(A_WHILE)
    assert len(scene.fleet.queue) == 1
    assert [position for _, position in scene.fleet.queue[0].items] == [2, 3]  # type: ignore[misc]


# ---- when to look ----------------------------------------------------------------------------------------------------


def test_a_single_running_job_without_limits_costs_no_look_at_all() -> None:
    scene = Scene()
    scene.accept(make_record())
    scene.begin()
    scene.fleet.observe()
    scene.pass_time(UNSTARTED_S)
    assert scene.ledger.next_wakeup() is None


def test_a_running_job_with_a_timeout_is_looked_at_when_it_may_be_over() -> None:
    scene = Scene()
    scene.accept(make_record(timeout=50.0))
    scene.begin()
    since = scene.clock()
    scene.pass_time(UNSTARTED_S)
    assert scene.ledger.next_wakeup() == pytest.approx(since + 50.0, abs=0.01)


@pytest.mark.parametrize("steps", [0, 1], ids=["not claimed", "claimed"])
def test_if_nothing_of_a_batch_starts_the_workers_are_examined(steps: int) -> None:
    scene = Scene()
    scene.accept(make_record())
    for _ in range(steps):
        scene.workers[0].step()
    scene.pass_time(0.9 * UNSTARTED_S)
    assert not scene.all_asked(do.Examine)
    scene.pass_time(0.2 * UNSTARTED_S)
    assert len(scene.all_asked(do.Examine)) == 1
    scene.pass_time(3 * UNSTARTED_S)
    assert len(scene.all_asked(do.Examine)) == 4
