"""Jobs that end before their time: cancelled one by one, with their context, iterator or engine. Part of the ledger."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Protocol

from mpengine.core import events as ev
from mpengine.core import verdicts
from mpengine.core.books import Books
from mpengine.core.job import Status
from mpengine.core.records import Batch, Call, Doom, Record, Span, State

_CLOSED = "its iterator was closed"


class Pursuer(Protocol):
    """Reaches for what was sent."""

    def pursue(self, batch: Batch, now: float) -> None:
        """Something in this batch was given up."""

    def call_back(self, batch: Batch, now: float) -> None:
        """Nothing more of this batch is to be started; what runs may finish."""


class GivingUp:
    """Decides what a wish to end jobs means for each of them, wherever it is."""

    def __init__(self, books: Books, patrol: Pursuer) -> None:
        self._books = books
        self._patrol = patrol

    def doom(self, record: Record, doom: Doom, now: float) -> None:
        """Decide that a job ends before its time; the first that is final holds."""
        if record.state is State.PENDING:
            if record in self._books.delayed:
                self._books.delayed.discard(record)
            else:
                self._books.backlog.settled(record)
            self._books.settle(record, doom.status, doom.error, now)
        elif record.state is State.QUEUED and (record.doom is None or record.doom.retry):
            record.doom = doom
            assert record.batch is not None
            self._patrol.pursue(record.batch, now)

    def time_passed(self, now: float) -> None:
        """Deadlines that have passed, and backoffs that are over."""
        books = self._books
        while books.timers and books.timers[0][0] <= now:
            record = heapq.heappop(books.timers)[2]
            if record.state is State.SETTLED:
                continue
            if record.deadline is not None and record.deadline <= now:
                started = record.batch is not None and record.batch.has_started(record)
                error = verdicts.deadline_error(record, record.attempt + started, started=started)
                self.doom(record, Doom(Status.EXPIRED, error), now)
            elif record in books.delayed:
                books.delayed.discard(record)
                books.backlog.push(record)

    def _cancel(self, record: Record, reason: str, now: float) -> None:
        self.doom(record, Doom(Status.CANCELLED, verdicts.cancelled_error(record, reason)), now)

    def cancel_requested(self, event: ev.CancelRequested, now: float) -> None:
        """One job, by its future."""
        record = event.record
        if record.state is State.PENDING or (record.state is State.QUEUED and event.running):
            self._cancel(record, event.reason, now)

    def calls_cancelled(self, event: ev.CallsCancelled, now: float) -> None:
        """Jobs in spans. All at once: they are searched for."""
        books = self._books
        for entry in list(books.backlog):
            if isinstance(entry, Span) and self._doom_calls(entry, entry.open_jobs, event):
                before = len(entry)
                books.end_doomed_calls(entry)
                books.backlog.drop_some(entry, before - len(entry))
        for batch in list(books.batches.values()) if event.running else ():
            waiting = batch.open_span(batch.done)
            if waiting is not None and self._doom_calls(waiting, waiting.open_jobs, event):
                self._patrol.pursue(batch, now)

    def _doom_calls(self, span: Span, jobs: Sequence[Call], event: ev.CallsCancelled | ev.Refused) -> bool:
        """Doom those of these jobs of a span that were given up; whether there are any."""
        found = [job for job in jobs if job in event.jobs]
        for job in found:
            error = verdicts.call_cancelled_error(span, job, event.reason)
            self._books.dooms.setdefault(job, Doom(Status.CANCELLED, error))
        return bool(found)

    def refused(self, event: ev.Refused, now: float) -> None:
        """A batch was not sent, for some of its calls were given up meanwhile."""
        batch = self._books.batches[event.batch]
        assert batch.span is not None
        self._doom_calls(batch.span, event.jobs, event)
        self._books.truncate(batch, 0, now)

    def context_cancelled(self, event: ev.ContextCancelled, now: float) -> None:
        """All jobs of a context."""
        for record in sorted(self._books.of_context.get(event.context, ()), key=lambda r: r.seq):
            self._cancel(record, event.reason, now)

    def stream_closed(self, event: ev.StreamClosed, now: float) -> None:
        """All that was drawn for an iterator."""
        for entry in list(self._books.backlog):
            if entry.stream is event.stream:
                if isinstance(entry, Span):
                    entry.state = State.SETTLED
                    self._books.backlog.settled(entry)
                    self._books.drop_span(entry)
                else:
                    self._cancel(entry, _CLOSED, now)
        for record in [r for r in self._books.delayed if r.stream is event.stream]:
            self._cancel(record, _CLOSED, now)
        for batch in list(self._books.batches.values()):
            if batch.span is not None:
                if batch.span.stream is event.stream:
                    batch.span.cancelled = True
                    self._patrol.pursue(batch, now)
            else:
                for record in list(batch.records[batch.done : batch.size]):
                    if record.stream is event.stream:
                        self._cancel(record, _CLOSED, now)

    def pending_cancelled(self, event: ev.PendingCancelled, now: float) -> None:
        """All that has not started; and from now on nothing starts."""
        for entry in list(self._books.backlog):
            if isinstance(entry, Span):
                entry.state = State.SETTLED
                self._books.backlog.settled(entry)
                self._books.fail_span(entry, Status.CANCELLED, verdicts.span_cancelled_error(entry, event.reason))
            else:
                self._cancel(entry, event.reason, now)
        for record in list(self._books.delayed):
            self._cancel(record, event.reason, now)
        self._books.abandoned = event.reason  # so that what comes back is cancelled, too
        for batch in list(self._books.batches.values()):
            self._patrol.call_back(batch, now)

    def broke(self, event: ev.Broke, now: float) -> None:
        """Everything, at once: there are no workers."""
        self._books.broken = event.error
        self._books.dooms.clear()
        for batch in list(self._books.batches.values()):
            self._books.close(batch)
            span = batch.open_span(batch.done)
            if span is not None:
                self._books.fail_span(span, Status.FAILED, self._books.broken)
            for record in batch.records[batch.done : batch.size]:
                record.attempt += batch.has_started(record)
                self._books.settle(record, Status.FAILED, self._books.broken, now)
        for entry in list(self._books.backlog):
            self._books.backlog.settled(entry)
            if isinstance(entry, Span):
                entry.state = State.SETTLED
                self._books.fail_span(entry, Status.FAILED, self._books.broken)
            else:
                self._books.settle(entry, Status.FAILED, self._books.broken, now)
        for record in list(self._books.delayed):
            self._books.settle(record, Status.FAILED, self._books.broken, now)
        self._books.delayed.clear()
