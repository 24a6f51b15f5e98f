"""The books: where every open job is, and the one place where each of them ends.

The ledger's parts write in them: what was accepted, which batch holds it, why nothing more may start. They keep the
count, and they turn an end into an outcome, or into another attempt.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from mpengine.core import actions as do
from mpengine.core import verdicts
from mpengine.core.backlog import Backlog
from mpengine.core.job import Outcome, Status
from mpengine.core.pace import Pace
from mpengine.core.policy import backoff_delay, may_retry
from mpengine.core.records import Batch, Call, Doom, Entry, Record, Report, Span, SpanEnd, State

if TYPE_CHECKING:
    from mpengine.context import Context

_IDLE_TIMERS = 1000  # of settled records that may stay until they are swept


class Books:
    """See the module's text.

    Attributes:
        backlog: What waits.
        delayed: What waits for the end of its backoff.
        batches: What was sent, by number.
        claims: The batch each worker was last seen to hold.
        open: Accepted and not settled: records, and calls of spans.
        broken: Why everything fails, if it does.
        abandoned: Why nothing is started any more, if so.
        of_context: Open records by the context they were given.
        counts: Jobs that ended, by status, but for those of `handed_over`.
        handed_over: Jobs that succeeded, and whose value its owner had before these books knew: others count them.
        timers: A heap of (when, tie, record): deadlines, and ends of backoffs.
        dooms: Jobs of spans that were sent, and are to end before their time.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self.pace = Pace()
        self.backlog = Backlog()
        self.delayed: set[Record] = set()
        self.batches: dict[int, Batch] = {}
        self.claims: dict[int, int] = {}
        self.open = 0
        self.accepted = 0
        self.retried = 0
        self.counts = dict.fromkeys(Status, 0)
        self.handed_over = 0
        self.broken: BaseException | None = None
        self.abandoned: str | None = None
        self.of_context: dict[Context, set[Record]] = {}
        self.timers: list[tuple[float, int, Record]] = []
        self.dooms: dict[Call, Doom] = {}
        self._ties = itertools.count()
        self._jitter = jitter
        self._out: list[do.Action] = []
        self._interrupts: list[do.Interrupt] = []
        self._retracting = False

    def ended(self) -> int:
        """How many jobs have ended, so far as these books know. Any thread."""
        return sum(self.counts.values()) + self.handed_over

    def emit(self, action: do.Action) -> None:
        """Add to what the ledger answers."""
        self._out.append(action)

    def retract(self) -> None:
        """Ask for every batch that no worker has claimed; once an answer is enough."""
        self._retracting = True

    def interrupt(self, action: do.Interrupt) -> None:
        """Ask a worker to break off an item, after all else: a worker that is free again takes what is next."""
        self._interrupts.append(action)

    def has_moved_on(self, batch: Batch) -> bool:
        """Whether its worker holds another by now: then all of this one was started, and its reports are on their way.

        A worker has one word each for what it is asked; asking about a batch that is over would wipe out what it was
        asked about the next.
        """
        return batch.worker is not None and self.claims.get(batch.worker, batch.seq) != batch.seq

    def take_actions(self) -> list[do.Action]:
        """What was emitted since the last time."""
        out, self._out = self._out, []
        if self._retracting:
            self._retracting = False
            out.insert(0, do.Retract())
        if self._interrupts:
            out += self._interrupts
            self._interrupts = []
        return out

    def set_timer(self, when: float, record: Record) -> None:
        """Look at this record again then."""
        if len(self.timers) > 2 * len(self.delayed) + 2 * self.open + _IDLE_TIMERS:
            # Of settled records, for the most part: they would stay in memory until their time.
            self.timers = [timer for timer in self.timers if timer[2].state is not State.SETTLED]
            heapq.heapify(self.timers)
        heapq.heappush(self.timers, (when, next(self._ties), record))

    def accept(self, record: Record, seq: int, now: float) -> None:
        """One more job, which waits from now on, or has ended already."""
        record.seq = seq
        record.accepted_at = now
        self.open += 1
        self.accepted += 1
        if record.problem is not None:
            self.settle(record, Status.FAILED, record.problem, now)
        elif self.broken is not None:
            self.settle(record, Status.FAILED, self.broken, now)
        elif self.abandoned is not None:
            self.settle(record, Status.CANCELLED, verdicts.cancelled_error(record, self.abandoned), now)
        elif record.context is not None and record.context.reason is not None:
            # Whoever cancels it later than this tells us.
            self.settle(record, Status.CANCELLED, verdicts.cancelled_error(record, record.context.reason), now)
        elif record.deadline is not None and record.deadline <= now:
            self.settle(record, Status.EXPIRED, verdicts.deadline_error(record, 0, started=False), now)
        else:
            if record.deadline is not None:
                self.set_timer(record.deadline, record)
            if record.context is not None:
                self.of_context.setdefault(record.context, set()).add(record)
            self.backlog.push(record)

    def next_timer(self) -> float | None:
        """When the next deadline passes, or backoff ends."""
        while self.timers and self.timers[0][2].state is State.SETTLED:
            heapq.heappop(self.timers)
        return self.timers[0][0] if self.timers else None

    def records(self) -> Iterable[Record]:
        """Every record that is not settled."""
        yield from (entry for entry in self.backlog if isinstance(entry, Record))
        yield from self.delayed
        for batch in self.batches.values():
            yield from batch.records[batch.done : batch.size]

    # ---- out of a batch ----------------------------------------------------------------------------------------

    def truncate(self, batch: Batch, index: int, now: float) -> None:
        """The items from `index` on were not started and will not be: they are somebody else's from now on."""
        span = batch.open_span(index)
        rest: list[Entry] = list(batch.records[index : batch.size]) if span is None else [span]
        batch.size = index
        if batch.done >= batch.size:
            self.close(batch)
        self.put_back(rest, now)

    def close(self, batch: Batch) -> None:
        """No worker will look at this batch any more."""
        del self.batches[batch.seq]
        self._out.append(do.Forget(batch))

    def put_back(self, entries: Sequence[Entry], now: float) -> None:
        """Entries that were sent and not started: again the first in line, unless nobody wants them any more."""
        again: list[Entry] = []
        for entry in entries:
            if isinstance(entry, Span):
                if self.dooms:
                    self.end_doomed_calls(entry)
                if not len(entry):
                    continue
                if entry.cancelled:
                    self.drop_span(entry)
                elif self.abandoned is not None:
                    self.fail_span(entry, Status.CANCELLED, verdicts.span_cancelled_error(entry, self.abandoned))
                else:
                    again.append(entry)
                continue
            entry.batch = None
            entry.state = State.PENDING
            entry.started_at = None
            if entry.doom is not None and entry.doom.retry:
                entry.doom = None  # its attempt was to end, and it turns out that it never began
            if entry.doom is not None:
                self.settle(entry, entry.doom.status, entry.doom.error, now)
            elif self.abandoned is not None:
                error = verdicts.cancelled_error(entry, self.abandoned)
                self.settle(entry, Status.CANCELLED, error, now)
            else:
                again.append(entry)
        self.backlog.push_front(again)

    # ---- ends ----------------------------------------------------------------------------------------------------

    def end_doomed(self, record: Record, now: float, report: Report) -> None:
        """An attempt has ended that was to end before its time: whatever it brought, this is its outcome."""
        doom = record.doom
        assert doom is not None
        if report.stack and not getattr(doom.error, "stack", ""):
            doom.error.__dict__["stack"] = report.stack
        if doom.retry:
            record.doom = None
            self.attempt_failed(record, doom.status, doom.error, now, report)
        else:
            record.attempt += 1
            self.settle(record, doom.status, doom.error, now, report)

    def attempt_failed(
        self, record: Record, status: Status, error: BaseException, now: float, report: Report
    ) -> None:  # fmt: skip
        """An attempt ended badly: another follows if its owner allows it, else that was its outcome."""
        record.attempt += 1
        wanted = self.broken is None and self.abandoned is None
        in_time = record.deadline is None or now < record.deadline
        if not (record.attempt <= record.retries and wanted and in_time and may_retry(record.job.retry_on, error)):
            self.settle(record, status, error, now, report)
            return
        record.errors += (error,)
        started_at = record.started_at
        record.state = State.PENDING
        record.batch = None
        record.started_at = None
        delay = backoff_delay(record.job.backoff, record.attempt, self._jitter)
        duration = _ran_for(report, started_at, now)
        self.retried += 1
        self._out.append(do.Retried(record, record.attempt, started_at, error, delay, duration))
        if delay > 0:
            self.delayed.add(record)
            self.set_timer(now + delay, record)
        else:
            self.backlog.push(record)

    def settle(
        self, record: Record, status: Status, error: BaseException | None, now: float, report: Report | None = None
    ) -> None:
        """The one end of a record."""
        started_at = record.started_at
        duration, peak = 0.0, 0
        if report is not None:
            duration = _ran_for(report, started_at, now)
            peak = report.peak_memory
        outcome = Outcome(
            record.job,
            status,
            report.value if report is not None and error is None else None,
            error,
            record.attempt,
            record.errors if error is None or report is None else (*record.errors, error),
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
        if report is not None and report.handed_over:
            self.handed_over += 1
        else:
            self.counts[status] += 1
        self._out.append(do.Settle(record, outcome))

    def _forget_context(self, record: Record) -> None:
        assert record.context is not None
        peers = self.of_context.get(record.context)
        if peers is not None:
            peers.discard(record)
            if not peers:
                del self.of_context[record.context]

    def end_calls(
        self,
        span: Span,
        first: int,
        count: int,
        status: Status,
        error: BaseException | None = None,
        report: Report | None = None,
        worker_pid: int | None = None,
        skipped: int = 0,
    ) -> None:
        """The one end of so many calls of a span."""
        self.counts[status] += count
        self.open -= count
        if span.jobs is not None or not span.cancelled:
            part = SpanEnd(span, first, count, status, error, report, worker_pid, skipped)
            self._out.append(do.EndCalls(span.sink, part, not span.cancelled))

    def end_some(
        self, span: Span, first: int, count: int, status: Status, error: BaseException | None, report: Report,
        worker_pid: int | None,
    ) -> None:  # fmt: skip
        """As `end_calls`, for what a worker told: of jobs that are doomed, the doom holds."""
        start = first
        if not self.dooms:
            self.end_calls(span, first, count, status, error, report, worker_pid)
            return
        for at, job in enumerate(span.open_jobs[first - span.first : first - span.first + count], first):
            doom = self.dooms.pop(job, None)
            if doom is not None:
                if report.stack and not getattr(doom.error, "stack", ""):
                    doom.error.__dict__["stack"] = report.stack
                if at > start:
                    self.end_calls(span, start, at - start, status, error, report, worker_pid, start - first)
                self.end_calls(span, at, 1, doom.status, doom.error, report, worker_pid)
                start = at + 1
        if start < first + count:
            self.end_calls(span, start, first + count - start, status, error, report, worker_pid, start - first)

    def end_doomed_calls(self, span: Span) -> None:
        """Take those that are doomed out of a span that has not been started."""
        kept = []
        for job in span.open_jobs:
            doom = self.dooms.pop(job, None)
            if doom is None:
                kept.append(job)
            else:
                self.fail_span(span.of([job]), doom.status, doom.error)
        if span.jobs is not None and len(kept) < len(span):
            span.size = span.of(kept).size
            span.jobs, span.position, span.first, span.stop = kept, 0, 0, len(kept)

    def fail_span(self, span: Span, status: Status, error: BaseException) -> None:
        """None of these calls will run; whoever waits for them gets the error."""
        self.end_calls(span, span.first, len(span), status, error)

    def drop_span(self, span: Span) -> None:
        """None of these calls will run, and nobody waits for them."""
        span.cancelled = True
        self.end_calls(span, span.first, len(span), Status.CANCELLED)


def _ran_for(report: Report, started_at: float | None, now: float) -> float:
    """Seconds: as the worker measured them, or else as far as is known here."""
    return report.duration or (max(0.0, now - started_at) if started_at is not None else 0.0)
