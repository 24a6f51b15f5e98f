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
   brings after that, the outcome is the doom's.
4. Late and repeated messages are legal: what speaks of a closed batch, or of items already reported, changes nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core import verdicts
from mpengine.core.backlog import Backlog
from mpengine.core.forming import form_batch
from mpengine.core.job import Outcome, Status
from mpengine.core.pace import Pace
from mpengine.core.patrol import Patrol
from mpengine.core.policy import backoff_delay, may_retry
from mpengine.core.records import Batch, Doom, Entry, Record, Report, Span, State
from mpengine.errors import InternalError

if TYPE_CHECKING:
    from mpengine.context import Context

# Batches in flight per worker: the one it runs and one it can claim without asking. A queued batch can still be
# retracted, but more of them would only put more work out of reach of priorities and shorter batches.
BATCHES_PER_WORKER = 2


class Ledger:
    """See the module's text. Not thread-safe: one thread calls `handle`.

    Args:
        stop_grace: Seconds an interrupted job has before its worker is killed.
        jitter: Uniform random numbers in [0, 1), for backoff.
    """

    def __init__(self, *, stop_grace: float, jitter: Callable[[], float]) -> None:
        self.pace = Pace()
        self.backlog = Backlog()
        self.batches: dict[int, Batch] = {}
        self.workers: dict[int, int] = {}  # ready workers: id -> pid
        self.counts = dict.fromkeys(Status, 0)
        self.open = 0  # accepted and not settled: records, and calls of spans
        self.accepted = 0
        self.retried = 0
        self.broken: BaseException | None = None
        self._abandoned: str | None = None  # why nothing is started any more, after a shutdown's time was over
        self._jitter = jitter
        self._seqs = itertools.count(1)
        self._ties = itertools.count()
        self._timers: list[tuple[float, int, Record]] = []  # deadlines and ends of backoffs
        self._delayed: set[Record] = set()
        self._of_context: dict[Context, set[Record]] = {}
        self._out: list[do.Action] = []
        self._queue_full = False
        self._patrol = Patrol(self, stop_grace)
        self._story: deque[str] = deque(maxlen=100)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.Accepted: self._accepted,
            ev.WorkerReady: self._worker_ready,
            ev.Reported: self._reported,
            ev.GaveBack: self._gave_back,
            ev.Observed: self._observed,
            ev.WorkerExited: self._worker_exited,
            ev.Retracted: self._retracted,
            ev.QueueFull: self._on_queue_full,
            ev.PutFailed: self._put_failed,
            ev.CancelRequested: self._cancel_requested,
            ev.ContextCancelled: self._context_cancelled,
            ev.StreamClosed: self._stream_closed,
            ev.PendingCancelled: self._pending_cancelled,
            ev.Abandoned: self._on_abandoned,
            ev.Broke: self._broke,
            ev.TimePassed: self._time_passed,
        }

    # ---- the surface -------------------------------------------------------------------------------------------

    def handle(self, event: ev.Event, now: float) -> list[do.Action]:
        """Take in what happened; return what to do about it, in order."""
        self._handlers[type(event)](event, now)
        if self.broken is None and self._abandoned is None:
            self._fill(now)
        out, self._out = self._out, []
        return out

    def next_wakeup(self) -> float | None:
        """When `TimePassed` is due, if nothing else happens before."""
        while self._timers and self._timers[0][2].state is State.SETTLED:
            heapq.heappop(self._timers)
        times = [b.check_at for b in self.batches.values() if b.check_at is not None]
        if self._timers:
            times.append(self._timers[0][0])
        return min(times, default=None)

    def running(self) -> int:
        """Batches that a worker is known to hold, at most one a worker."""
        return sum(1 for b in self.batches.values() if b.worker is not None)

    def story(self) -> str:
        """The last events, for bug reports."""
        return "; ".join(self._story)

    # ---- taking in -------------------------------------------------------------------------------------------

    def _accepted(self, event: ev.Accepted, now: float) -> None:
        for entry in event.entries:
            if isinstance(entry, Span):
                self._accept_span(entry)
            else:
                self._accept_record(entry, now)

    def _accept_span(self, span: Span) -> None:
        self.open += len(span)
        self.accepted += len(span)
        if self.broken is not None:
            self._fail_span(span, self.broken)
        elif self._abandoned is not None:
            self._fail_span(span, self._span_cancelled(span, self._abandoned))
        else:
            self.backlog.push(span)

    def _accept_record(self, record: Record, now: float) -> None:
        record.seq = next(self._seqs)
        record.accepted_at = now
        self.open += 1
        self.accepted += 1
        if record.problem is not None:
            self._settle(record, Status.FAILED, record.problem, now)
        elif self.broken is not None:
            self._settle(record, Status.FAILED, self.broken, now)
        elif self._abandoned is not None:
            self._settle(record, Status.CANCELLED, verdicts.cancelled_error(record, self._abandoned), now)
        elif record.deadline is not None and record.deadline <= now:
            self._settle(record, Status.EXPIRED, verdicts.deadline_error(record, 0, started=False), now)
        else:
            if record.deadline is not None:
                self._set_timer(record.deadline, record)
            if record.context is not None:
                self._of_context.setdefault(record.context, set()).add(record)
            self.backlog.push(record)

    def _worker_ready(self, event: ev.WorkerReady, now: float) -> None:
        self.workers[event.worker] = event.pid

    def _fill(self, now: float) -> None:
        """Keep the queue shallow, but never empty while something waits."""
        limit = BATCHES_PER_WORKER * len(self.workers)
        while not self._queue_full and len(self.batches) < limit:
            ahead = len(self.batches) >= len(self.workers)
            batch = form_batch(self.backlog, self.pace, next(self._seqs), len(self.workers), now, ahead=ahead)
            if batch is None:
                return
            for record in batch.records:
                record.batch = batch
                record.state = State.QUEUED
            if batch.span is not None:
                batch.span.state = State.QUEUED
            self.batches[batch.seq] = batch
            self._patrol.sent(batch, now)
            self._out.append(do.PutBatch(batch))

    # ---- what workers tell -------------------------------------------------------------------------------------

    def _reported(self, event: ev.Reported, now: float) -> None:
        batch = self.batches.get(event.batch)
        if batch is None:
            return
        batch.worker = event.worker
        self._queue_full = False
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
                self._span_reported(batch.span, report)
            else:
                self._record_reported(batch.records[report.index], event.worker, report, now)
        if batch.done >= batch.size:
            self._close(batch)
        else:
            self._patrol.progressed(batch, now)

    def _span_reported(self, span: Span, report: Report) -> None:
        position = span.position + span.first + report.index
        self.open -= report.count
        if report.error is not None:
            self.counts[Status.FAILED] += 1
            if not span.cancelled:
                self._out.append(do.DeliverError(span.sink, position, report.error))
            return
        if report.duration:  # 0: logged before the group was over
            self.pace.observe(span.key, report.count, report.duration)
        self.counts[Status.SUCCEEDED] += report.count
        if not span.cancelled:
            self._out.append(do.Deliver(span.sink, position, report.count, report.value))

    def _record_reported(self, record: Record, worker: int, report: Report, now: float) -> None:
        if report.skipped:
            error = verdicts.cancelled_error(record, "its future was cancelled before it started")
            self._settle_doomed(record, Doom(Status.CANCELLED, error), now)
            return
        record.started_at = report.started_at
        record.worker_pid = self.workers.get(worker)
        if report.interrupted and record.doom is None:
            raise InternalError(
                f"{verdicts.describe(record, record.attempt + 1)} was interrupted without a reason; "
                f"please report this. Story: {self.story()}"
            )
        if record.doom is not None:
            self._end_doomed(record, now, report)
        elif report.error is not None:
            self._attempt_failed(record, Status.FAILED, report.error, now, report)
        else:
            self.pace.observe(record.key, 1, report.duration)
            record.attempt += 1
            self._settle(record, Status.SUCCEEDED, None, now, report)

    def _gave_back(self, event: ev.GaveBack, now: float) -> None:
        batch = self.batches.get(event.batch)
        if batch is None or event.index >= batch.size:
            return
        batch.worker = event.worker
        self.truncate(batch, event.index, now)

    def _observed(self, event: ev.Observed, now: float) -> None:
        batch = self.batches.get(event.batch)
        if batch is None:
            return
        batch.worker = event.worker
        if event.index != batch.index:
            batch.index = event.index
            batch.index_since = now if event.since is None else event.since
        if batch.records and 0 <= event.index < batch.size:
            record = batch.records[event.index]
            record.started_at = batch.index_since
            record.worker_pid = self.workers.get(event.worker)

    def _worker_exited(self, event: ev.WorkerExited, now: float) -> None:
        self.workers.pop(event.worker, None)
        batch = self.batches.get(event.batch)
        self._story.append(f"{now:.3f} worker {event.worker} exited {event.exitcode} in {event.batch}.{event.index}")
        if batch is None:
            return
        batch.worker = event.worker
        batch.index = event.index
        if batch.span is not None:
            self._span_worker_exited(batch, batch.span, event, now)
            return
        culprit = event.index if batch.done <= event.index < batch.size else None
        rest = batch.records[batch.done if culprit is None else culprit + 1 : batch.size]
        self._close(batch)
        if culprit is not None:
            record = batch.records[culprit]
            record.worker_pid = event.pid
            if record.doom is not None:
                self._end_doomed(record, now, Report(culprit, stack=event.stack, started_at=batch.index_since))
            else:
                error = verdicts.lost_error(
                    verdicts.describe(record, record.attempt + 1), event.pid, event.exitcode,
                    peak_memory=event.peak_memory, stack=event.stack, problem=event.problem,
                )  # fmt: skip
                report = Report(culprit, started_at=batch.index_since, peak_memory=event.peak_memory)
                self._attempt_failed(record, Status.LOST, error, now, report)
        self._put_back(rest, now)

    def _span_worker_exited(self, batch: Batch, span: Span, event: ev.WorkerExited, now: float) -> None:
        """The call it was in is lost; finished calls whose values were not logged yet run again."""
        first, stop = span.first + batch.done, span.first + batch.size
        self._close(batch)
        parts = [span.part(first, stop)]
        if batch.done <= event.index < batch.size:
            at = span.first + event.index
            parts = [span.part(first, at), span.part(at + 1, stop)]
            self.open -= 1
            self.counts[Status.LOST] += 1
            if not span.cancelled:
                error = verdicts.lost_error(
                    verdicts.span_subject(span, span.position + at), event.pid, event.exitcode,
                    peak_memory=event.peak_memory, stack=event.stack, problem=event.problem,
                )  # fmt: skip
                self._out.append(do.DeliverError(span.sink, span.position + at, error))
        for part in parts:
            part.cancelled = span.cancelled
        self._put_back([part for part in parts if len(part)], now)

    # ---- what the queue tells ----------------------------------------------------------------------------------

    def _retracted(self, event: ev.Retracted, now: float) -> None:
        for seq in sorted(event.batches, reverse=True):  # each goes to the front: the oldest last
            batch = self.batches.get(seq)
            if batch is not None:
                self.truncate(batch, 0, now)

    def _on_queue_full(self, event: ev.QueueFull, now: float) -> None:
        self._queue_full = True  # until a worker reports: then it has claimed something
        self._retracted(ev.Retracted([event.batch]), now)

    def _put_failed(self, event: ev.PutFailed, now: float) -> None:
        batch = self.batches[event.batch]
        self._close(batch)
        if batch.span is not None:
            self._fail_span(batch.span, event.error)
        for record in batch.records:
            self._settle(record, Status.FAILED, event.error, now)

    def truncate(self, batch: Batch, index: int, now: float) -> None:
        """The items from `index` on were not started and will not be: they are somebody else's from now on."""
        if batch.span is not None:
            span = batch.span
            rest: list[Entry] = [span.part(span.first + index, span.first + batch.size)]
            if isinstance(rest[0], Span):
                rest[0].cancelled = span.cancelled
        else:
            rest = list(batch.records[index : batch.size])
        batch.size = index
        if batch.done >= batch.size:
            self._close(batch)
        self._put_back(rest, now)

    def _close(self, batch: Batch) -> None:
        del self.batches[batch.seq]
        self._out.append(do.Forget(batch))

    def _put_back(self, entries: Sequence[Entry], now: float) -> None:
        """Entries that were sent and not started: again the first in line, unless nobody wants them any more."""
        again: list[Entry] = []
        for entry in entries:
            if isinstance(entry, Span):
                if entry.cancelled:
                    self._drop_span(entry)
                elif self._abandoned is not None:
                    self._fail_span(entry, self._span_cancelled(entry, self._abandoned))
                else:
                    again.append(entry)
                continue
            entry.batch = None
            entry.state = State.PENDING
            entry.started_at = None
            if entry.doom is not None:
                self._settle_doomed(entry, entry.doom, now)
            elif self._abandoned is not None:
                error = verdicts.cancelled_error(entry, self._abandoned)
                self._settle(entry, Status.CANCELLED, error, now)
            else:
                again.append(entry)
        self.backlog.push_front(again)

    # ---- giving up -----------------------------------------------------------------------------------------------

    def doom(self, record: Record, doom: Doom, now: float) -> None:
        """Decide that a job ends before its time; the first decision holds."""
        if record.state is State.PENDING:
            if record in self._delayed:
                self._delayed.discard(record)
            else:
                self.backlog.settled()
            self._settle_doomed(record, doom, now)
        elif record.state is State.QUEUED and record.doom is None:
            record.doom = doom
            assert record.batch is not None
            self._patrol.pursue(record.batch, now)

    def _cancel(self, record: Record, reason: str, now: float) -> None:
        self.doom(record, Doom(Status.CANCELLED, verdicts.cancelled_error(record, reason)), now)

    def _cancel_requested(self, event: ev.CancelRequested, now: float) -> None:
        record = event.record
        if record.state is State.PENDING or (record.state is State.QUEUED and event.running):
            self._cancel(record, event.reason, now)

    def _context_cancelled(self, event: ev.ContextCancelled, now: float) -> None:
        for record in sorted(self._of_context.get(event.context, ()), key=lambda r: r.seq):
            self._cancel(record, event.reason, now)

    def _stream_closed(self, event: ev.StreamClosed, now: float) -> None:
        for entry in list(self.backlog):
            if entry.stream is event.stream:
                if isinstance(entry, Span):
                    entry.state = State.SETTLED
                    self.backlog.settled()
                    self._drop_span(entry)
                else:
                    self._cancel(entry, "its iterator was closed", now)
        for record in [r for r in self._delayed if r.stream is event.stream]:
            self._cancel(record, "its iterator was closed", now)
        for batch in list(self.batches.values()):
            if batch.span is not None:
                if batch.span.stream is event.stream:
                    batch.span.cancelled = True
                    self._patrol.pursue(batch, now)
            else:
                for record in list(batch.records[batch.done : batch.size]):
                    if record.stream is event.stream:
                        self._cancel(record, "its iterator was closed", now)

    def _pending_cancelled(self, event: ev.PendingCancelled, now: float) -> None:
        for entry in list(self.backlog):
            if isinstance(entry, Span):
                entry.state = State.SETTLED
                self.backlog.settled()
                self._fail_span(entry, self._span_cancelled(entry, event.reason))
            else:
                self._cancel(entry, event.reason, now)
        for record in list(self._delayed):
            self._cancel(record, event.reason, now)
        self._abandoned = event.reason  # so that what comes back is cancelled, too
        for batch in list(self.batches.values()):
            self._patrol.call_back(batch, now)

    def _on_abandoned(self, event: ev.Abandoned, now: float) -> None:
        self._pending_cancelled(ev.PendingCancelled(event.reason), now)

    def _broke(self, event: ev.Broke, now: float) -> None:
        self.broken = event.error
        for batch in list(self.batches.values()):
            self._close(batch)
            if batch.span is not None:
                first = batch.span.first
                self._fail_span(batch.span.part(first + batch.done, first + batch.size), self.broken)
            for record in batch.records[batch.done : batch.size]:
                self._settle(record, Status.FAILED, self.broken, now)
        for entry in list(self.backlog):
            self.backlog.settled()
            if isinstance(entry, Span):
                entry.state = State.SETTLED
                self._fail_span(entry, self.broken)
            else:
                self._settle(entry, Status.FAILED, self.broken, now)
        for record in list(self._delayed):
            self._settle(record, Status.FAILED, self.broken, now)
        self._delayed.clear()

    # ---- the time --------------------------------------------------------------------------------------------------

    def _set_timer(self, when: float, record: Record) -> None:
        heapq.heappush(self._timers, (when, next(self._ties), record))

    def _time_passed(self, event: ev.TimePassed, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            record = heapq.heappop(self._timers)[2]
            if record.state is State.SETTLED:
                continue
            if record.deadline is not None and record.deadline <= now:
                started = record.state is State.QUEUED and self._has_started(record)
                error = verdicts.deadline_error(record, record.attempt + started, started=started)
                self.doom(record, Doom(Status.EXPIRED, error), now)
            elif record in self._delayed:
                self._delayed.discard(record)
                self.backlog.push(record)
        for batch in list(self.batches.values()):
            if batch.check_at is not None and batch.check_at <= now:
                self._patrol.check(batch, now)

    def _has_started(self, record: Record) -> bool:
        batch = record.batch
        return batch is not None and 0 <= batch.index < batch.size and batch.records[batch.index] is record

    def emit(self, action: do.Action) -> None:
        """For the patrol: add to what `handle` returns."""
        self._out.append(action)

    # ---- ends ------------------------------------------------------------------------------------------------------

    def _end_doomed(self, record: Record, now: float, report: Report) -> None:
        doom = record.doom
        assert doom is not None
        if report.stack and not getattr(doom.error, "stack", ""):
            doom.error.__dict__["stack"] = report.stack
        if doom.retry:
            record.doom = None
            self._attempt_failed(record, doom.status, doom.error, now, report)
        else:
            record.attempt += 1
            self._settle_doomed(record, doom, now, report)

    def _settle_doomed(self, record: Record, doom: Doom, now: float, report: Report | None = None) -> None:
        self._settle(record, doom.status, doom.error, now, report)

    def _attempt_failed(
        self, record: Record, status: Status, error: BaseException, now: float, report: Report
    ) -> None:  # fmt: skip
        record.attempt += 1
        wanted = self.broken is None and self._abandoned is None
        in_time = record.deadline is None or now < record.deadline
        if not (record.attempt <= record.retries and wanted and in_time and may_retry(record.job.retry_on, error)):
            self._settle(record, status, error, now, report)
            return
        record.errors += (error,)
        record.state = State.PENDING
        record.batch = None
        record.started_at = None
        delay = backoff_delay(record.job.backoff, record.attempt, self._jitter)
        self.retried += 1
        self._out.append(do.Retried(record, error, delay))
        if delay > 0:
            self._delayed.add(record)
            self._set_timer(now + delay, record)
        else:
            self.backlog.push(record)

    def _settle(
        self, record: Record, status: Status, error: BaseException | None, now: float, report: Report | None = None
    ) -> None:
        started_at = record.started_at
        duration, peak = 0.0, 0
        if report is not None:
            duration = report.duration or (max(0.0, now - started_at) if started_at is not None else 0.0)
            peak = report.peak_memory
        outcome = Outcome(
            record.job,
            status,
            report.value if report is not None and error is None else None,
            error,
            record.attempt,
            record.errors if error is None or record.attempt == 0 else (*record.errors, error),
            max(0.0, (now if started_at is None else started_at) - record.accepted_at),
            duration,
            record.worker_pid,
            peak,
        )
        record.state = State.SETTLED
        record.payload = None
        record.batch = None
        record.doom = None
        if record.context is not None:
            self._forget_context(record)
        self.open -= 1
        self.counts[status] += 1
        self._out.append(do.Settle(record, outcome))

    def _forget_context(self, record: Record) -> None:
        assert record.context is not None
        peers = self._of_context.get(record.context)
        if peers is not None:
            peers.discard(record)
            if not peers:
                del self._of_context[record.context]

    def _span_cancelled(self, span: Span, reason: str) -> BaseException:
        return verdicts.span_cancelled_error(span, reason)

    def _fail_span(self, span: Span, error: BaseException) -> None:
        status = Status.FAILED if error is self.broken else Status.CANCELLED
        self.counts[status] += len(span)
        self.open -= len(span)
        if not span.cancelled:
            self._out.append(do.DeliverError(span.sink, span.position + span.first, error))

    def _drop_span(self, span: Span) -> None:
        self.counts[Status.CANCELLED] += len(span)
        self.open -= len(span)

    def records(self) -> Iterable[Record]:
        """Every record not settled, for the invariants."""
        yield from (e for e in self.backlog if isinstance(e, Record))
        yield from self._delayed
        for batch in self.batches.values():
            yield from batch.records[batch.done : batch.size]
