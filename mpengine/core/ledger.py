"""The ledger: the pure record of every job not yet ended, and the only thing that changes a job's state.

    handle(event, now) -> [actions]        `now` is monotonic seconds; nothing here reads a clock

    PENDING ──form batch──▶ QUEUED ──reported──▶ settled: succeeded, failed
       ▲                      │  ├──past its time──▶ settled: expired      (or PENDING again, if it may be retried)
       │                      │  ├──given up──────▶ settled: cancelled
       └──retracted, given────┘  └──worker died───▶ settled: lost          (or PENDING again, if it may be retried)
          back, truncated

Rules:
1. A record is in one place: the backlog, the delayed (backing off), one batch, or settled.
2. An item was started if and only if its worker's board says so (`Observed`, `WorkerExited`) or a report of it came.
   What was not started goes back to the front of the backlog, free of charge; what was started never runs again
   unless its owner allowed a retry.
3. A doom (cancelled, expired) is decided once, after everything the worker has logged was read. Whatever an attempt
   brings after that, the outcome is the doom's; unless its owner was handed the value before we heard of it.
4. Late and repeated messages are legal: what speaks of a closed batch, or of items already reported, changes nothing.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core import verdicts
from mpengine.core.books import Books
from mpengine.core.forming import form_batch
from mpengine.core.giving_up import GivingUp
from mpengine.core.job import Status
from mpengine.core.patrol import PATROL_S, Patrol
from mpengine.core.records import Batch, Record, Report, Span, State
from mpengine.errors import InternalError, JobLost

# Batches in flight per worker: the one it runs and one it can claim without asking. A queued batch can still be
# retracted, but more of them would only put more work out of reach of priorities and shorter batches.
BRISK_S = 1e-6  # a call that is shorter costs the parent as much as a worker
BATCHES_PER_WORKER = 2


class Ledger:
    """See the module's text. Not thread-safe: one thread calls `handle`.

    Args:
        stop_grace: Seconds an interrupted job has before its worker is killed.
        jitter: Uniform random numbers in [0, 1), for backoff.

    Attributes:
        books: Where everything is. Others may read it.
        workers: Ready workers: id -> pid.
    """

    def __init__(self, *, stop_grace: float, jitter: Callable[[], float]) -> None:
        self.books = Books(jitter)
        self.workers: dict[int, int] = {}
        self._seqs = itertools.count(1)
        self._full_until: float | None = None  # the queue had no room; when to try again
        self._patrol = Patrol(self.books, stop_grace)
        giving_up = self._giving_up = GivingUp(self.books, self._patrol)
        self._story: deque[str] = deque(maxlen=100)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.Accepted: self._accepted,
            ev.Sent: self._sent,
            ev.Passed: self._passed,
            ev.WorkerReady: self._worker_ready,
            ev.Reported: self._reported,
            ev.GaveBack: self._gave_back,
            ev.Observed: self._observed,
            ev.WorkerExited: self._worker_exited,
            ev.Retracted: self._retracted,
            ev.QueueFull: self._on_queue_full,
            ev.PutFailed: self._put_failed,
            ev.Refused: giving_up.refused,
            ev.CancelRequested: giving_up.cancel_requested,
            ev.CallsCancelled: giving_up.calls_cancelled,
            ev.ContextCancelled: giving_up.context_cancelled,
            ev.StreamClosed: giving_up.stream_closed,
            ev.PendingCancelled: giving_up.pending_cancelled,
            ev.Broke: giving_up.broke,
            ev.TimePassed: self._time_passed,
        }

    # ---- the surface -------------------------------------------------------------------------------------------

    def handle(self, event: ev.Event, now: float) -> list[do.Action]:
        """Take in what happened; return what to do about it, in order."""
        self._handlers[type(event)](event, now)
        if self.books.broken is None and self.books.abandoned is None:
            self._fill(now)
            self._patrol.share(now, len(self.workers))
        return self.books.take_actions()

    def next_wakeup(self) -> float | None:
        """When `TimePassed` is due, if nothing else happens before."""
        wakeup = self.books.next_timer()
        if self._full_until is not None and (wakeup is None or self._full_until < wakeup):
            wakeup = self._full_until
        for batch in self.books.batches.values():
            if batch.check_at is not None and (wakeup is None or batch.check_at < wakeup):
                wakeup = batch.check_at
        return wakeup

    def slack(self, now: float) -> float:
        """Seconds for which no worker runs out of work, as far as is known: half of what each has in the mean.

        Until then nothing is lost if nobody hears of what ends. 0.0 if there is not a batch more than workers; if a
        worker was just asked for what it holds back; if calls are so short that the parent is what all wait for.
        """
        batches, pace, workers = self.books.batches, self.books.pace, len(self.workers)
        if len(batches) <= workers:
            return 0.0
        work = 0.0
        for batch in batches.values():
            if self._patrol.is_overdue(batch, now):
                return 0.0
            seconds = pace.seconds(batch.records[0].key if batch.span is None else batch.span.key)
            if seconds is None or seconds < BRISK_S:
                return 0.0
            work += (batch.size - batch.done) * seconds
        return work / (2 * max(1, workers))

    def story(self) -> str:
        """The last events, for bug reports."""
        return "; ".join(self._story)

    # ---- taking in -------------------------------------------------------------------------------------------

    def _accepted(self, event: ev.Accepted, now: float) -> None:
        for entry in event.entries:
            if isinstance(entry, Span):
                self._accept_span(entry, now)
            else:
                self.books.accept(entry, next(self._seqs), now)

    def _accept_span(self, span: Span, now: float) -> None:
        span.accepted_at = now
        self.books.open += len(span)
        self.books.accepted += len(span)
        if self.books.broken is not None:
            self.books.fail_span(span, Status.FAILED, self.books.broken)
        elif self.books.abandoned is not None:
            self.books.fail_span(span, Status.CANCELLED, verdicts.span_cancelled_error(span, self.books.abandoned))
        else:
            self.books.backlog.push(span)

    def _sent(self, event: ev.Sent, now: float) -> None:
        record = event.record
        record.seq = next(self._seqs)
        record.accepted_at = event.at
        self.books.open += 1
        self.books.accepted += 1
        batch = Batch(event.batch, records=[record], lone=True, now=now)
        if self.books.broken is not None:
            self.books.emit(do.Forget(batch))
            self.books.settle(record, Status.FAILED, self.books.broken, now)
        else:
            self._enter(batch, now)

    def _passed(self, event: ev.Passed, now: float) -> None:
        self.books.accepted += len(event.calls)
        self.books.handed_over += len(event.calls)
        for key, duration in event.calls:
            self.books.pace.observe(key, 1, duration)

    def next_seq(self) -> int:
        """A number for a batch that is sent before the ledger hears of it (`Sent`). Any thread."""
        return next(self._seqs)

    def _worker_ready(self, event: ev.WorkerReady, now: float) -> None:
        self.workers[event.worker] = event.pid
        self._full_until = None

    def _fill(self, now: float) -> None:
        """Keep the queue shallow, but never empty while something waits."""
        books, workers = self.books, len(self.workers)
        while len(books.batches) < BATCHES_PER_WORKER * workers and self._full_until is None and books.backlog:
            ahead = len(books.batches) >= workers
            batch = form_batch(books.backlog, books.pace, next(self._seqs), workers, now, ahead=ahead)
            if batch is None:
                return
            self._enter(batch, now)
            self.books.emit(do.PutBatch(batch))

    def _enter(self, batch: Batch, now: float) -> None:
        """A batch is in the queue, or about to be."""
        for record in batch.records:
            record.batch = batch
            record.state = State.QUEUED
        if batch.span is not None:
            batch.span.state = State.QUEUED
        self.books.batches[batch.seq] = batch
        self._patrol.sent(batch, now)

    # ---- what workers tell -------------------------------------------------------------------------------------

    def _reported(self, event: ev.Reported, now: float) -> None:
        batch = self.books.batches.get(event.batch)
        if batch is None:
            return
        batch.worker = event.worker
        self._full_until = None
        for report in event.reports:
            if report.index < batch.done:
                continue  # told before
            if report.index > batch.done or report.index + report.count > batch.size:
                raise InternalError(
                    f"batch {batch.seq}: a report of item {report.index} (+{report.count}) while {batch.done} of "
                    f"{batch.size} are done; please report this. Story: {self.story()}"
                )
            batch.done += report.count
            if batch.span is not None:
                self._span_reported(batch.span, event.worker, report)
            else:
                self._record_reported(batch.records[report.index], event.worker, report, now)
        if batch.done >= batch.size:
            self.books.close(batch)
            self._patrol.freed(now)
        else:
            self._patrol.progressed(batch, now)

    def _span_reported(self, span: Span, worker: int, report: Report) -> None:
        status = Status.SUCCEEDED if report.error is None else Status.FAILED
        if report.error is None and report.duration:  # 0: logged before the group was over
            self.books.pace.observe(span.key, report.count, report.duration)
        first, pid = span.first + report.index, self.workers.get(worker)
        self.books.end_some(span, first, report.count, status, report.error, report, pid)

    def _record_reported(self, record: Record, worker: int, report: Report, now: float) -> None:
        if report.skipped:
            error = verdicts.cancelled_error(record, "its future was cancelled before it started")
            self.books.settle(record, Status.CANCELLED, error, now)
            return
        record.started_at = report.started_at
        record.worker_pid = self.workers.get(worker)
        if report.interrupted and record.doom is None:
            raise InternalError(
                f"{verdicts.describe(record, record.attempt + 1)} was interrupted without a reason; "
                f"please report this. Story: {self.story()}"
            )
        if record.doom is not None and not report.handed_over:
            self.books.end_doomed(record, now, report)
        elif report.error is not None:
            self.books.attempt_failed(record, Status.FAILED, report.error, now, report)
        else:
            self.books.pace.observe(record.key, 1, report.duration)
            record.attempt += 1
            self.books.settle(record, Status.SUCCEEDED, None, now, report)

    def _gave_back(self, event: ev.GaveBack, now: float) -> None:
        batch = self.books.batches.get(event.batch)
        if batch is None or event.item >= batch.size:
            return
        batch.worker = event.worker
        self._full_until = None
        self.books.truncate(batch, event.item, now)
        self._patrol.freed(now)

    def _observed(self, event: ev.Observed, now: float) -> None:
        self.books.claims[event.worker] = event.batch
        batch = self.books.batches.get(event.batch)
        if batch is None:
            return
        is_news, batch.worker = batch.worker is None, event.worker
        if event.item != batch.index:
            batch.index = event.item
            # Of a span it is not told; but a worker that had nothing to do took this as soon as it was sent.
            seen = batch.sent_at if event.item == 0 and not batch.ahead else now
            batch.index_since = seen if event.since is None else event.since
        if is_news:
            self._patrol.claimed(batch, now)
        if batch.records and batch.done <= event.item < batch.size:
            record = batch.records[event.item]
            record.started_at = batch.index_since
            record.worker_pid = self.workers.get(event.worker)

    def _worker_exited(self, event: ev.WorkerExited, now: float) -> None:
        self.workers.pop(event.worker, None)
        self.books.claims.pop(event.worker, None)
        self._full_until = None
        self._story.append(f"{now:.3f} worker {event.worker} exited {event.exitcode} in {event.batch}.{event.item}")
        batch = self.books.batches.get(event.batch)
        if batch is not None:
            batch.worker = event.worker
            if event.item != batch.index:
                batch.index, batch.index_since = event.item, event.since or now
        for held in [b for b in self.books.batches.values() if b.worker == event.worker]:
            if held is not batch:
                held.index = held.size - 1  # it went on to another, and so had started all of this one
            if held.span is not None:
                self._span_worker_exited(held, held.span, event, now)
            else:
                self._jobs_worker_exited(held, event, now)

    def _jobs_worker_exited(self, batch: Batch, event: ev.WorkerExited, now: float) -> None:
        """What it had started and not reported is lost: one job, or more if its log could not be read to the end."""
        stop = max(batch.done, min(batch.index + 1, batch.size))
        started, rest = batch.records[batch.done : stop], batch.records[stop : batch.size]
        self.books.close(batch)
        for record in started:
            record.worker_pid = event.pid
            report = Report(0, stack=event.stack, started_at=batch.index_since, peak_memory=event.peak_memory)
            record.started_at = batch.index_since
            if record.doom is not None:
                self.books.end_doomed(record, now, report)
            else:
                error = self._lost_error(verdicts.describe(record, record.attempt + 1), event)
                self.books.attempt_failed(record, Status.LOST, error, now, report)
        self.books.put_back(rest, now)

    def _span_worker_exited(self, batch: Batch, span: Span, event: ev.WorkerExited, now: float) -> None:
        """The call it was in is lost; finished calls whose values were not logged yet run again."""
        first, stop = span.first + batch.done, span.first + batch.size
        self.books.close(batch)
        parts = [span.part(first, stop)]
        if batch.done <= batch.index < batch.size:
            at = span.first + batch.index
            parts = [span.part(first, at), span.part(at + 1, stop)]
            error = self._lost_error(verdicts.span_subject(span, at), event)
            report = Report(0, stack=event.stack, started_at=event.since or 0.0, peak_memory=event.peak_memory)
            self.books.end_some(span, at, 1, Status.LOST, error, report, event.pid)
        for part in parts:
            part.cancelled = span.cancelled
        self.books.put_back([part for part in parts if len(part)], now)

    @staticmethod
    def _lost_error(subject: str, event: ev.WorkerExited) -> JobLost:
        return verdicts.lost_error(
            subject, event.pid, event.exitcode, peak_memory=event.peak_memory, stack=event.stack,
            problem=event.problem, memory=event.memory,
        )  # fmt: skip

    # ---- what the queue tells ----------------------------------------------------------------------------------

    def _retracted(self, event: ev.Retracted, now: float) -> None:
        self._full_until = None
        self._take_back(event.batches, now)

    def _on_queue_full(self, event: ev.QueueFull, now: float) -> None:
        self._full_until = now + PATROL_S  # or until something is known to have been taken out
        self._take_back([event.batch], now)

    def _take_back(self, batches: Sequence[int], now: float) -> None:
        for seq in sorted(batches, reverse=True):  # each goes to the front: the oldest last
            batch = self.books.batches.get(seq)
            if batch is not None:
                self.books.truncate(batch, 0, now)

    def _put_failed(self, event: ev.PutFailed, now: float) -> None:
        batch = self.books.batches.get(event.batch)
        if batch is None:
            return
        self.books.close(batch)
        if batch.span is not None:
            self.books.fail_span(batch.span, Status.FAILED, event.error)
        for record in batch.records:
            self.books.settle(record, Status.FAILED, event.error, now)

    # ---- the time --------------------------------------------------------------------------------------------------

    def _time_passed(self, event: ev.TimePassed, now: float) -> None:
        if self._full_until is not None and now >= self._full_until:
            self._full_until = None
        self._giving_up.time_passed(now)
        for batch in list(self.books.batches.values()):
            if batch.check_at is not None and batch.check_at <= now:
                self._patrol.check(batch, now)
