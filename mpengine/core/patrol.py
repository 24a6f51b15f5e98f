"""Watching what workers hold: timeouts, jobs given up, and jobs stuck behind a long one. Part of the ledger.

An item is broken off in steps, each with its own condition:

    not claimed by anyone ──▶ Retract: it comes back, and is settled where it comes back
    claimed, not started  ──▶ Revoke: its worker gives it back before it would start it
    running               ──▶ Interrupt, and `stop_grace` later Kill

Revoke needs no answer from a worker that sits in a long job. It stores the revocation in shared memory, and a worker
reads that after it has stored which item it starts. So if the board still shows the same item `SETTLE_S` after the
revocation was stored, then the worker will see it before the next, and the items behind it can be given to another.
(A store is visible to other processors within a microsecond; SETTLE_S is a thousand times that.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpengine.core import actions as do
from mpengine.core import verdicts
from mpengine.core.job import Status
from mpengine.core.records import Batch, Doom, Span

if TYPE_CHECKING:
    from mpengine.core.books import Books

# Without news of a batch for this long, its log is looked at, where results may lie unannounced; and the next time,
# what its worker holds back is asked for. Workers ring every millisecond while calls end: who does not is in a slow
# one, and what had ended before that is with the consumer after two looks, within 5 ms.
PATROL_S = 0.002
HUNGRY_S = 0.001  # the same, while a worker has nothing to do: who holds more than this gives it back
STUCK_S = 0.005  # an item that runs half as long as a whole batch should: those behind it go to another worker
SETTLE_S = 0.002
UNSTARTED_S = 1.0  # a batch of which nothing has started for this long: a worker that should be at it may be stopped
IDLE_PATROL_S = 0.050  # between looks at a batch of many items that nobody has claimed yet


class Patrol:
    """Decides about batches in flight. Its answers go out through the books."""

    def __init__(self, books: Books, stop_grace: float) -> None:
        self._books = books
        self._stop_grace = stop_grace
        self._workers = 0
        self._hungry = False  # a worker has nothing to do, and nothing waits

    def sent(self, batch: Batch, now: float) -> None:
        """A batch has just been formed."""
        if batch.size > 1 or (batch.records and batch.records[0].timeout is not None):
            self._plan(batch, now)
        else:
            batch.check_at = now + UNSTARTED_S

    def freed(self, now: float) -> None:
        """A batch is over; its worker takes the next at once, and says nothing of that."""
        free = self._workers - sum(batch.worker is not None for batch in self._books.batches.values())
        for batch in self._books.batches.values():
            if batch.worker is None and free > 0:
                free -= 1
                self.claimed(batch, now)

    def claimed(self, batch: Batch, now: float) -> None:
        """A worker has it, or is about to: it is watched from now on, if it is not already."""
        if batch.size > 1 and batch.check_at is not None and batch.check_at > now + PATROL_S:
            batch.heard_at = now
            self._plan(batch, now)

    def progressed(self, batch: Batch, now: float) -> None:
        """Some of its items were reported, not all."""
        batch.heard_at = now
        batch.index_since = max(batch.index_since, now) if batch.index < batch.done else batch.index_since
        self._plan(batch, now)

    def share(self, now: float, workers: int) -> None:
        """Nothing more can be sent now. If a worker has nothing to do, others are to give back what they hold."""
        self._workers = workers
        was_hungry = self._hungry
        self._hungry = len(self._books.batches) < workers and not self._books.backlog
        if self._hungry and not was_hungry:
            for batch in self._books.batches.values():
                if batch.size - batch.done > 1 and batch.check_at is not None:
                    batch.check_at = now

    def pursue(self, batch: Batch, now: float) -> None:
        """Something in this batch was given up: act at once on what is known of it."""
        if batch.worker is None:
            self._books.retract()
            batch.check_at = now + PATROL_S  # or else somebody claims it first
        else:
            self.check(batch, now)

    def call_back(self, batch: Batch, now: float) -> None:
        """Nothing more of this batch is to be started; what runs may finish."""
        if batch.worker is None:
            self._books.retract()
            batch.check_at = now + PATROL_S
        elif batch.size > max(batch.done, batch.index + 1) and not self._books.has_moved_on(batch):
            self._revoke(batch, now)
            self._plan(batch, now)

    def check(self, batch: Batch, now: float) -> None:
        """Decide about a batch; the board was read just before."""
        if self._current(batch) is None and now >= batch.sent_at + UNSTARTED_S:
            self._books.emit(do.Examine())
        if batch.worker is not None and not self._books.has_moved_on(batch):
            self._expire(batch, now)
            self._break_off(batch, now)
            self._unblock(batch, now)
        if batch.seq in self._books.batches:
            self._plan(batch, now)

    def is_overdue(self, batch: Batch, now: float) -> bool:
        """Whether its worker holds back values that it has had for a while: its calls have become slow."""
        return batch.span is not None and batch.done < batch.index < batch.size and now >= batch.heard_at + PATROL_S

    # ---- decisions -------------------------------------------------------------------------------------------------

    def _current(self, batch: Batch) -> int | None:
        """The item that runs, as far as the board tells."""
        return batch.index if batch.done <= batch.index < batch.size else None

    def _expire(self, batch: Batch, now: float) -> None:
        index = self._current(batch)
        if index is None or batch.span is not None:
            return
        record = batch.records[index]
        if record.doom is None and record.timeout is not None and now >= batch.index_since + record.timeout:
            error = verdicts.timeout_error(record, record.attempt + 1, record.timeout)
            record.doom = Doom(Status.EXPIRED, error, retry=True)

    def _break_off(self, batch: Batch, now: float) -> None:
        """Revoke what was given up and waits in the worker's hand; interrupt, then kill, what runs."""
        assert batch.worker is not None
        index = self._current(batch)
        if batch.span is not None and batch.span.cancelled:
            waiting = True
            # A call of microseconds is over before it can be broken off: the revocation ends the batch after it.
            running = batch.revoked_at is not None and now >= batch.revoked_at + SETTLE_S
        elif batch.span is not None:
            dooms = self._books.dooms
            running = bool(dooms) and index is not None and any(job in dooms for job in batch.jobs(index, index + 1))
            waiting = bool(dooms) and any(
                job in dooms for job in batch.jobs(batch.done if index is None else index + 1)
            )
        else:
            running = index is not None and batch.records[index].doom is not None
            later = batch.records[(batch.done if index is None else index + 1) : batch.size]
            waiting = any(record.doom is not None for record in later)
        if waiting:
            self._revoke(batch, now)
        if not running or index is None:
            return
        if batch.interrupted != index:
            batch.interrupted, batch.killed = index, False
            batch.kill_at = now + self._stop_grace
            self._books.interrupt(do.Interrupt(batch.worker, batch.seq, index))
        elif batch.kill_at is not None and now >= batch.kill_at and not batch.killed:
            batch.killed = True
            reason = f"it did not heed an interrupt for {self._stop_grace:g} s"
            self._books.emit(do.Kill(batch.worker, batch.seq, index, reason))

    def _unblock(self, batch: Batch, now: float) -> None:
        """Take from a worker what is stuck behind a long item, or what it was asked to give back."""
        index = self._current(batch)
        if index is None:
            return
        assert batch.worker is not None
        age = now - batch.index_since
        stuck = age >= STUCK_S
        if self.is_overdue(batch, now):
            self._books.emit(do.Flush(batch.worker, batch.seq))
        if index + 1 >= batch.size:
            return
        if batch.revoked_at is None:
            if stuck or (self._hungry and (age >= HUNGRY_S or self._is_long(batch, batch.size - index - 1))):
                self._revoke(batch, now)
        elif now >= batch.revoked_at + SETTLE_S:
            self._books.truncate(batch, index + 1, now)

    def _is_given_up(self, batch: Batch, span: Span) -> bool:
        dooms = self._books.dooms
        return span.cancelled or (bool(dooms) and any(job in dooms for job in batch.jobs(batch.done)))

    def _is_long(self, batch: Batch, calls: int) -> bool:
        """Whether so many items at its end are worth the way back, as far as is known."""
        key = batch.records[-1].key if batch.span is None else batch.span.key
        seconds = self._books.pace.seconds(key)
        return seconds is None or seconds * calls >= HUNGRY_S

    def _revoke(self, batch: Batch, now: float) -> None:
        if batch.revoked_at is None:
            assert batch.worker is not None
            batch.revoked_at = now
            self._books.emit(do.Revoke(batch.worker, batch.seq))

    # ---- when to look again ----------------------------------------------------------------------------------------

    def _next_look(self, batch: Batch, now: float) -> float:
        """At a batch of which more than the item that runs is open."""
        if self._hungry:
            return now + HUNGRY_S
        if batch.worker is None:
            before = sum(b.worker is not None or b.seq < batch.seq for b in self._books.batches.values())
            if before >= self._workers:  # each of them has another
                return now + IDLE_PATROL_S
        due = batch.heard_at + PATROL_S
        return due if due > now else now + PATROL_S

    def _plan(self, batch: Batch, now: float) -> None:
        """Set `check_at`: as seldom as the batch allows, never for a single running job without limits."""
        index = self._current(batch)
        times = [now + UNSTARTED_S] if index is None else []
        if batch.revoked_at is not None and (index is None or index + 1 < batch.size):
            times.append(now + (HUNGRY_S if self._hungry else PATROL_S))
        elif batch.size - batch.done > 1:
            times.append(self._next_look(batch, now))
        elif batch.span is not None and self._is_given_up(batch, batch.span):
            times.append(now + PATROL_S)
        if batch.kill_at is not None and not batch.killed and batch.interrupted == index:
            times.append(max(batch.kill_at, now))
        if batch.span is None:
            waiting = batch.records[batch.done : batch.size]
            limits = [record.timeout for record in waiting if record.timeout is not None]
            if index is not None and batch.records[index].timeout is not None and batch.records[index].doom is None:
                times.append(batch.index_since + (batch.records[index].timeout or 0.0))
            elif limits:
                times.append(now + min(limits))
            if any(record.doom is not None for record in waiting) and batch.interrupted != index:
                times.append(now + PATROL_S)
        batch.check_at = min(times, default=None)
