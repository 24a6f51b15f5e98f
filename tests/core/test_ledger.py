"""The ledger, by example: where a job goes, what ends it, what a worker's death costs, what late messages change."""

import pytest

from mpengine.context import Context
from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.job import Status
from mpengine.core.ledger import BATCHES_PER_WORKER
from mpengine.core.records import Report, State
from mpengine.errors import EngineBroken, InternalError, JobCancelled, JobLost
from mpengine.testing.fake_workers import End, Step
from tests.core.makers import KEY, MapSink, Scene, Sink, is_open, make_record, make_span, outcome_of

# ---- the plain way ---------------------------------------------------------------------------------------------------


def test_jobs_run_in_order_and_their_values_come_back() -> None:
    scene = Scene()
    records = scene.jobs(3)
    scene.work(End.VALUE, End.VALUE, End.VALUE)
    for record in records:
        outcome = outcome_of(record)
        assert outcome.status is Status.SUCCEEDED
        assert outcome.value == (1, 1)  # its first start, in worker 1
        assert (outcome.attempts, outcome.errors, outcome.worker_pid) == (1, (), scene.workers[0].pid)
    assert scene.books.open == 0
    assert scene.books.counts[Status.SUCCEEDED] == 3


def test_times_are_those_of_the_last_attempt() -> None:
    scene = Scene()
    (record,) = scene.jobs(1)
    scene.clock.advance(3.0)
    worker = scene.begin()
    worker.duration = 0.25
    scene.work(End.VALUE)
    assert outcome_of(record).waited == pytest.approx(3.0, abs=0.001)
    assert outcome_of(record).duration == 0.25


def test_a_job_that_raises_fails_with_that_very_exception_and_the_worker_stays() -> None:
    scene = Scene()
    bad, good = scene.jobs(2)
    scene.work(End.ERROR, End.VALUE)
    assert outcome_of(bad).status is Status.FAILED
    assert outcome_of(bad).error is scene.fleet.logged[bad].error
    assert outcome_of(bad).errors == (outcome_of(bad).error,)
    assert outcome_of(good).ok


def test_what_cannot_be_pickled_fails_alone_and_is_never_sent() -> None:
    scene = Scene()
    problem = TypeError("cannot pickle a lock")
    bad, good = make_record(problem=problem), make_record()
    scene.accept(bad, good)
    assert outcome_of(bad).error is problem
    assert outcome_of(bad).attempts == 0
    scene.work(End.VALUE)
    assert outcome_of(good).ok
    assert not scene.fleet.marks[bad]


def test_the_queue_is_kept_shallow() -> None:
    scene = Scene(workers=2, seconds=1.0)
    scene.jobs(20)
    assert len(scene.fleet.queue) == 2 * BATCHES_PER_WORKER
    scene.work(End.VALUE)
    assert len(scene.fleet.queue) == 2 * BATCHES_PER_WORKER  # one was claimed and has ended, one was put


def test_nothing_is_sent_before_a_worker_is_ready() -> None:
    scene = Scene(workers=0)
    records = scene.jobs(3)
    assert not scene.fleet.queue
    scene.workers.append(scene.fleet.start_worker())
    scene.work(*[End.VALUE] * 3)
    assert all(outcome_of(record).ok for record in records)


def test_a_more_urgent_job_overtakes_all_that_was_not_sent() -> None:
    scene = Scene(seconds=1.0)
    waiting = scene.jobs(5)
    (urgent,) = scene.jobs(1, priority=1)
    scene.work(*[End.VALUE] * (BATCHES_PER_WORKER + 1))
    assert outcome_of(urgent).ok
    assert [is_open(record) for record in waiting] == [False, False, True, True, True]


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_a_death_costs_the_job_it_hit_and_nothing_else() -> None:
    scene = Scene()
    done, culprit, behind = scene.jobs(3)
    scene.begin().step(End.VALUE)  # logged, and nobody has read it
    scene.begin()
    scene.die(-11)
    assert outcome_of(done).ok
    lost = outcome_of(culprit)
    assert lost.status is Status.LOST
    assert isinstance(lost.error, JobLost)
    assert (lost.error.exitcode, lost.error.worker_pid, lost.attempts) == (-11, scene.workers[0].pid, 1)
    assert "SIGSEGV" in str(lost.error)
    assert is_open(behind)
    scene.workers.append(scene.fleet.start_worker())
    scene.work(End.VALUE, worker=1)
    assert outcome_of(behind).ok
    assert scene.fleet.starts[behind] == 1


@pytest.mark.parametrize("steps", [0, 1], ids=["idle", "claimed"])
def test_a_worker_that_dies_before_it_starts_anything_costs_no_job(steps: int) -> None:
    scene = Scene()
    (record,) = scene.jobs(1)
    for _ in range(steps):
        scene.workers[0].step()
    scene.die()
    assert is_open(record)
    scene.workers.append(scene.fleet.start_worker())
    scene.work(End.VALUE, worker=1)
    assert outcome_of(record).ok
    assert outcome_of(record).attempts == 1


def test_a_worker_that_dies_after_it_has_logged_costs_no_job() -> None:
    scene = Scene()
    (record,) = scene.jobs(1)
    scene.begin().step(End.VALUE)
    scene.die()
    assert outcome_of(record).ok


def test_a_lost_job_knows_how_long_it_waited_and_ran() -> None:
    scene = Scene()
    (record,) = scene.jobs(1)
    scene.clock.advance(3.0)
    scene.begin()
    scene.clock.advance(4.0)
    scene.die()
    assert outcome_of(record).waited == pytest.approx(3.0, abs=0.01)
    assert outcome_of(record).duration == pytest.approx(4.0, abs=0.01)


def test_if_the_log_ended_early_all_that_had_started_is_lost_and_nothing_is_stuck() -> None:
    """A result cannot be read and the worker went on: what it ran meanwhile is lost, what it had not begun is not."""
    scene = Scene()
    records = scene.jobs(4)
    for _ in range(2):
        scene.begin().step(End.VALUE)
    scene.begin()
    worker = scene.workers[0]
    worker.log.popleft()
    worker.log.clear()
    scene.die(problem="it wrote rubbish into its log")
    assert [outcome_of(record).status for record in records[:3]] == [Status.LOST] * 3
    assert "rubbish" in str(outcome_of(records[0]).error)
    assert is_open(records[3])
    scene.workers.append(scene.fleet.start_worker())
    scene.work(End.VALUE, worker=1)
    assert outcome_of(records[3]).ok
    assert scene.books.open == 0


def test_if_the_log_ended_early_a_truncated_batch_is_not_run_again() -> None:
    scene = Scene(workers=2)
    first, second = scene.jobs(2)
    scene.begin()
    scene.pass_time(0.2)  # the second was taken away
    worker = scene.workers[0]
    worker.step(End.VALUE)
    worker.log.clear()
    worker.step()  # marks the second, which is no longer its own
    scene.die()
    assert outcome_of(first).status is Status.LOST
    scene.work(End.VALUE, worker=1)
    assert outcome_of(second).ok
    assert scene.fleet.starts[first] == 1


def test_if_the_log_ended_early_an_older_batch_is_not_stuck_either() -> None:
    scene = Scene()
    older = scene.jobs(2)
    (newer,) = scene.jobs(1, key=KEY + 1)
    worker = scene.begin()
    scene.fleet.observe()
    worker.step(End.VALUE)
    scene.begin().step(End.VALUE)
    worker.log.clear()
    scene.begin()
    scene.die()
    assert [outcome_of(record).status for record in (*older, newer)] == [Status.LOST] * 3
    assert scene.books.open == 0


def test_finished_calls_of_a_map_run_again_if_they_were_not_logged_and_the_one_that_ran_does_not() -> None:
    scene = Scene()
    sink = MapSink()
    scene.accept(make_span(5, sink=sink))
    for _ in range(2):
        scene.begin().step(End.VALUE)
    scene.begin()
    scene.die(-6)
    assert list(sink.errors) == [2]
    assert isinstance(sink.errors[2], JobLost)
    assert "call 2 of map(`resize`)" in str(sink.errors[2])
    scene.workers.append(scene.fleet.start_worker())
    for _ in range(40):
        scene.workers[1].step()
    scene.fleet.collect(scene.workers[1])
    assert sorted(sink.values) == [0, 1, 3, 4]
    assert [scene.fleet.starts[sink, position] for position in range(5)] == [2, 2, 1, 1, 1]
    assert scene.books.open == 0


def test_a_call_of_a_map_that_raises_ends_alone() -> None:
    scene = Scene()
    sink = MapSink()
    scene.accept(make_span(4, sink=sink, position=100))
    for end in (End.VALUE, End.ERROR, End.VALUE, End.VALUE):
        scene.begin().step(end)
    for _ in range(3):
        scene.workers[0].step()
    scene.fleet.collect(scene.workers[0])
    assert sorted(sink.values) == [100, 102, 103]
    assert list(sink.errors) == [101]
    assert scene.books.counts[Status.FAILED] == 1


def test_a_worker_that_retires_gives_back_the_rest() -> None:
    scene = Scene()
    first, second = scene.jobs(2)
    scene.work(End.VALUE)
    worker = scene.workers[0]
    worker.retiring = True
    while worker.at is not Step.DEAD:
        worker.step()
    scene.fleet.reap(worker)
    scene.workers.append(scene.fleet.start_worker())
    scene.work(End.VALUE, worker=1)
    assert outcome_of(first).ok
    assert outcome_of(second).ok
    assert outcome_of(second).attempts == 1


# ---- the queue -------------------------------------------------------------------------------------------------------


def test_what_finds_no_room_waits_until_something_was_taken_out() -> None:
    scene = Scene(seconds=1.0)
    scene.fleet.capacity = 1
    records = scene.jobs(3)
    assert len(scene.fleet.queue) == 1
    assert len(scene.books.backlog) == 2
    for _ in records:
        scene.work(End.VALUE)
    assert all(outcome_of(record).ok for record in records)
    assert scene.fleet.puts == scene.fleet.forgets


def test_what_was_taken_back_is_sent_again_in_its_order() -> None:
    scene = Scene(workers=2, seconds=1.0)
    records = scene.jobs(6)
    (urgent,) = scene.jobs(1, priority=1)
    seqs = [ticket.seq for ticket in scene.fleet.queue]
    scene.fleet.queue.clear()
    scene.fleet.tell(ev.Retracted(seqs))
    sent = [item for ticket in scene.fleet.queue for item in ticket.items]
    assert sent == [urgent, *records[:3]]


def stalled(workers: int = 1) -> Scene:
    """The queue was full once; one batch is in it, one job waits."""
    scene = Scene(workers, seconds=1.0)
    scene.fleet.capacity = 1
    scene.jobs(2)
    assert len(scene.books.backlog) == 1
    scene.fleet.capacity = None
    return scene


def test_a_full_queue_is_tried_again_when_its_jobs_were_taken_back() -> None:
    scene = stalled()
    (waiting,) = scene.books.backlog
    (sent,) = (record for record in scene.books.records() if record is not waiting)
    scene.fleet.decide(ev.CancelRequested(sent, "not wanted", running=True))
    assert [ticket.items for ticket in scene.fleet.queue] == [(waiting,)]


def test_a_full_queue_is_tried_again_when_a_batch_was_given_back() -> None:
    scene = stalled()
    worker = scene.workers[0]
    worker.step()
    worker.retiring = True
    while worker.at is not Step.DEAD:
        worker.step()
    scene.fleet.collect(worker)
    assert len(scene.fleet.queue) == 2


def test_a_full_queue_is_tried_again_when_who_held_its_jobs_has_died() -> None:
    scene = stalled(workers=2)
    scene.begin(0)
    scene.die(worker=0)
    scene.work(End.VALUE, worker=1)
    assert scene.books.open == 0


def test_a_full_queue_is_tried_again_although_what_was_taken_out_goes_on_for_long() -> None:
    scene = stalled(workers=2)
    scene.begin(0)
    scene.pass_time(1.0)
    scene.work(End.VALUE, worker=1)
    assert scene.books.open == 1


def test_a_job_that_cannot_be_written_fails_alone() -> None:
    scene = Scene(seconds=1.0)
    error = OSError("no memory for its arguments")
    scene.fleet.put_errors.append(error)
    bad, good = scene.jobs(2)
    assert outcome_of(bad).status is Status.FAILED
    assert outcome_of(bad).error is error
    assert outcome_of(bad).attempts == 0
    scene.work(End.VALUE)
    assert outcome_of(good).ok
    assert scene.fleet.puts == scene.fleet.forgets


def test_a_map_that_cannot_be_written_fails() -> None:
    scene = Scene()
    sink = MapSink()
    error = OSError("no memory for its arguments")
    scene.fleet.put_errors.append(error)
    scene.accept(make_span(6, sink=sink))
    assert sink.errors == {0: error}
    assert scene.books.open == 0
    assert scene.books.counts[Status.FAILED] == 6


def test_a_future_that_was_cancelled_while_its_batch_was_written_is_skipped() -> None:
    scene = Scene()
    sink = Sink(wanted=False)
    refused, other = make_record(sink=sink), make_record()
    scene.accept(refused, other)
    scene.work(End.VALUE)
    assert outcome_of(refused).status is Status.CANCELLED
    assert outcome_of(refused).attempts == 0
    assert outcome_of(other).ok
    assert not scene.fleet.starts[refused]


def test_an_item_that_was_sent_empty_counts_no_attempt() -> None:
    """It was claimed before its cancellation was told."""
    scene = Scene()
    (record,) = scene.jobs(1)
    (batch,) = scene.books.batches
    scene.fleet.tell(ev.Reported(1, batch, [Report(0, skipped=True)]))
    assert outcome_of(record).status is Status.CANCELLED
    assert outcome_of(record).attempts == 0
    assert outcome_of(record).errors == ()


# ---- ends of many ----------------------------------------------------------------------------------------------------


def test_a_context_ends_its_own_jobs_waiting_or_running() -> None:
    scene = Scene(seconds=1.0)
    context = Context()
    running, other, queued, waiting = (make_record(context=context if own else None) for own in (1, 0, 1, 1))
    scene.accept(running, other, queued, waiting)
    scene.begin()
    scene.fleet.decide(ev.ContextCancelled(context, "the night is over"))
    assert outcome_of(queued).status is outcome_of(waiting).status is Status.CANCELLED
    assert "the night is over" in str(outcome_of(waiting).error)
    assert is_open(running)
    scene.work(End.INTERRUPTED, End.VALUE)
    assert outcome_of(running).status is Status.CANCELLED
    assert outcome_of(other).ok
    assert not scene.books.of_context


def test_a_closed_iterator_ends_what_was_drawn_for_it() -> None:
    scene = Scene(seconds=1.0)
    stream = object()
    drawn, other = make_record(stream=stream), make_record()
    later = make_record(stream=stream)
    scene.accept(drawn, other, later)
    scene.fleet.decide(ev.StreamClosed(stream))
    assert outcome_of(drawn).status is outcome_of(later).status is Status.CANCELLED
    scene.work(End.VALUE)
    assert outcome_of(other).ok


def test_a_shutdown_that_cancels_lets_run_what_runs_and_starts_nothing_more() -> None:
    scene = Scene()
    records = scene.jobs(3)
    sink = MapSink()
    scene.accept(make_span(3, sink=sink))
    running, *waiting = records
    scene.begin()
    scene.fleet.decide(ev.PendingCancelled("the engine was shut down"))
    assert scene.all_asked(do.Revoke)  # at once, and not when it turns out that the others are stuck
    scene.pass_time(1.0)
    for record in waiting:
        assert outcome_of(record).status is Status.CANCELLED
        assert isinstance(outcome_of(record).error, JobCancelled)
    assert len(sink.errors) == 1
    scene.work(End.VALUE)
    assert outcome_of(running).ok
    assert scene.books.open == 0
    (late,) = scene.jobs(1)
    assert outcome_of(late).status is Status.CANCELLED


def test_a_retry_is_not_begun_after_a_shutdown_that_cancels() -> None:
    scene = Scene()
    (record,) = scene.jobs(1, retries=3)
    scene.begin()
    scene.fleet.decide(ev.PendingCancelled("the engine was shut down"))
    scene.work(End.ERROR)
    assert outcome_of(record).status is Status.FAILED


def test_when_the_engine_breaks_everything_fails_at_once_with_the_cause() -> None:
    scene = Scene(seconds=1.0)
    records = scene.jobs(4)
    delayed = make_record(retries=1, backoff=60.0)
    sink = MapSink()
    scene.accept(delayed, make_span(5, sink=sink))
    scene.begin()
    broken = EngineBroken("no worker can be kept alive")
    scene.fleet.decide(ev.Broke(broken))
    assert all(outcome_of(record).error is broken for record in [*records, delayed])
    assert outcome_of(records[0]).attempts == 1  # it was running
    assert outcome_of(records[1]).attempts == 0
    assert sink.errors == {0: broken}
    assert scene.books.open == 0
    scene.work(End.VALUE)  # too late
    assert outcome_of(records[0]).error is broken
    (late,) = scene.jobs(1)
    assert outcome_of(late).error is broken


# ---- late and repeated messages --------------------------------------------------------------------------------------


def test_what_was_told_before_changes_nothing() -> None:
    scene = Scene()
    first, second = scene.jobs(2)
    scene.work(End.VALUE)
    scene.work(End.ERROR)
    told = list(scene.fleet.told)
    before = (scene.books.open, dict(scene.books.counts))
    for event in told:
        if not isinstance(event, ev.Accepted | ev.WorkerReady):
            assert scene.ledger.handle(event, scene.clock()) == []
    assert (scene.books.open, scene.books.counts) == before
    assert outcome_of(first).ok
    assert outcome_of(second).status is Status.FAILED


def test_a_report_that_comes_again_while_its_batch_goes_on_changes_nothing() -> None:
    scene = Scene()
    first, second = scene.jobs(2)
    scene.work(End.VALUE)
    again = next(event for event in scene.fleet.told if isinstance(event, ev.Reported))
    assert scene.ledger.handle(again, scene.clock()) == []
    assert is_open(second)
    scene.work(End.VALUE)
    assert outcome_of(first).ok
    assert outcome_of(second).ok


def test_reports_that_no_worker_of_ours_sends_are_our_bug() -> None:
    scene = Scene()
    scene.jobs(3)
    (batch,) = scene.books.batches
    with pytest.raises(InternalError, match="please report"):
        scene.ledger.handle(ev.Reported(1, batch, [Report(2)]), scene.clock())


def test_a_late_board_does_not_touch_a_job_that_runs_elsewhere_by_now() -> None:
    scene = Scene()
    first, _ = scene.jobs(2, retries=1, backoff=30.0)
    scene.begin()
    scene.clock.advance(1.0)
    worker = scene.workers[0]
    seq, index, since = worker.started
    worker.step(End.ERROR)
    scene.fleet.collect(worker)
    assert first.state is State.PENDING
    scene.fleet.tell(ev.Observed(1, seq, index, since))
    assert first.started_at is None


def test_each_batch_is_forgotten_once() -> None:
    scene = Scene(workers=2)
    scene.jobs(5)
    scene.accept(make_span(5))
    scene.begin(0)
    scene.begin(1)
    scene.die(worker=0)
    scene.pass_time(1.0)
    for _ in range(60):
        scene.workers[1].step()
        scene.fleet.collect(scene.workers[1])
    assert scene.books.open == 0
    forgotten = [action.batch.seq for action in scene.all_asked(do.Forget)]
    assert sorted(forgotten) == sorted(action.batch.seq for action in scene.all_asked(do.PutBatch))
    assert len(set(forgotten)) == len(forgotten)
