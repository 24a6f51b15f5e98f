"""The pure record of every job of a cluster's engine, in the same books as a local one's.

    handle(event, now) -> [actions]        `now` is monotonic seconds; nothing here reads a clock

    PENDING ──send──▶ QUEUED ──ended──▶ settled: succeeded, failed, expired (its timeout), lost, or PENDING again
       ▲                │ ├──given up, past its deadline──▶ withdrawn; settled when its node has told the end
       └──never sent,───┘ └──node lost──▶ settled: lost, or PENDING again, if it may be retried
          recalled

Rules:
1. A record is in one place: the backlog, the delayed, one batch, or settled. A batch is one job, and belongs to a node.
2. A job that was handed over to a node counts as started. One that still waited here when its node was lost does not.
3. A doom is decided once, and holds whatever the attempt brings after that.
4. Late and repeated messages are legal: what speaks of a closed batch, or of a node that is lost, changes nothing.
5. What a node gives back without having begun it was no attempt. Unless it was asked for that, the node is about to
   leave, and is sent no more.
6. Nothing is sent past its deadline.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core import verdicts
from mpengine.core.books import Books
from mpengine.core.giving_up import GivingUp
from mpengine.core.job import Status
from mpengine.core.records import Batch, Doom, Record, Report, State
from mpengine.errors import JobLost

# Work that each slot of a node is given at once. Short jobs are sent ahead, so that it has some while it is told of
# more, which takes up to 10 ms there and back; and all of this is what a lost node takes with it.
AHEAD_S = 0.050
MOST_AHEAD = 4096  # jobs for each slot
STUCK_S = 0.200  # for which a job has been sent that was to be over within AHEAD_S: it stands behind a longer one


class NodeReady(NamedTuple):
    """A node's engine has started and runs as many jobs at once as it has slots."""

    node: int
    slots: int


class NodeLost(NamedTuple):
    """A node is gone, and all it was sent, but for what had not been handed over yet (`unsent`, by batch)."""

    node: int
    name: str
    reason: str
    unsent: Collection[int] = ()


class AttemptEnded(NamedTuple):
    """A node has told how an attempt ended. `started`: it had been."""

    node: int
    batch: int
    status: Status
    report: Report
    started: bool = True
    worker_pid: int | None = None


class Refused(NamedTuple):
    """This batch was not sent: its job's future turned out to be cancelled."""

    node: int
    batch: int
    reason: str


class Send(NamedTuple):
    """Give this batch's job to its node."""

    node: int
    batch: Batch


class Withdraw(NamedTuple):
    """Tell the node that nobody wants this any more: it is to end, running or not. Answered by `AttemptEnded`."""

    node: int
    batch: int


class Recall(NamedTuple):
    """Ask the node for this batch, if it has not started. Answered by `AttemptEnded`, of an attempt or of none."""

    node: int
    batch: int


Event = (
    ev.Accepted | ev.CancelRequested | ev.ContextCancelled | ev.StreamClosed | ev.PendingCancelled | ev.Broke
    | ev.TimePassed | NodeReady | NodeLost | AttemptEnded | Refused
)  # fmt: skip
Action = do.Settle | do.Retried | do.Forget | Send | Withdraw | Recall


class Node:
    """A node that takes jobs. Owned by the ledger.

    Attributes:
        held: What it was sent, by number, oldest first.
        busy: Slots that this takes, by what is known of how long it takes: of short jobs many fit into one.
        leaving: It takes no more.
    """

    __slots__ = ("_shares", "busy", "held", "id", "leaving", "slots")

    def __init__(self, id: int, slots: int) -> None:
        self.id = id
        self.slots = slots
        self.held: dict[int, Batch] = {}
        self.busy = 0.0
        self.leaving = False
        self._shares: dict[int, float] = {}

    def take(self, batch: Batch, share: float) -> None:
        """It is sent this."""
        self.held[batch.seq] = batch
        self._shares[batch.seq] = share
        self.busy += share

    def drop(self, seq: int) -> Batch | None:
        """It no longer has this; None: it never had."""
        batch = self.held.pop(seq, None)
        if batch is not None:
            self.busy = self.busy - self._shares.pop(seq) if self.held else 0.0  # without what rounding leaves
        return batch

    def clear(self) -> None:
        """It has nothing any more."""
        self.held.clear()
        self._shares.clear()
        self.busy = 0.0

    def load(self) -> float:
        """How full it is: from 1.0 on, it is sent nothing."""
        return self.busy / self.slots


class ClusterLedger:
    """See the module's text. Not thread-safe: one thread calls `handle`.

    Args:
        jitter: Uniform random numbers in [0, 1), for backoff.

    Attributes:
        books: Where everything is. Others may read it.
        nodes: Those that take jobs.
    """

    def __init__(self, *, jitter: Callable[[], float]) -> None:
        self.books = Books(jitter)
        self.nodes: dict[int, Node] = {}
        self._seqs = itertools.count(1)
        self._withdrawn: list[Withdraw] = []
        self._recall_at: float | None = None
        giving_up = GivingUp(self.books, _Withdrawals(self._withdrawn))
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.Accepted: self._accepted,
            ev.CancelRequested: giving_up.cancel_requested,
            ev.ContextCancelled: giving_up.context_cancelled,
            ev.StreamClosed: giving_up.stream_closed,
            ev.PendingCancelled: giving_up.pending_cancelled,
            ev.Broke: self._broke,
            ev.TimePassed: lambda event, now: giving_up.time_passed(now),
            NodeReady: self._node_ready,
            NodeLost: self._node_lost,
            AttemptEnded: self._attempt_ended,
            Refused: self._refused,
        }
        self._giving_up = giving_up

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Take in what happened; return what to do about it, in order."""
        self._handlers[type(event)](event, now)
        asks: list[Action] = [*self._fill(now)]
        asks += self._recall(now)
        asks += self._withdrawn
        self._withdrawn.clear()
        return asks + self.books.take_actions()  # type: ignore[operator]  # of a local engine's, only those of `Action`

    def next_wakeup(self) -> float | None:
        """When `TimePassed` is due, if nothing else happens before."""
        timer = self.books.next_timer()
        if self._recall_at is None:
            return timer
        return self._recall_at if timer is None else min(timer, self._recall_at)

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def _accepted(self, event: ev.Accepted, now: float) -> None:
        for entry in event.entries:
            assert isinstance(entry, Record)
            self.books.accept(entry, next(self._seqs), now)

    def _fill(self, now: float) -> list[Send]:
        """Send what the nodes have room for: each to the one that has the least to do for its size."""
        books = self.books
        sends: list[Send] = []
        if books.broken is not None or books.abandoned is not None:
            return sends
        due = books.next_timer()
        if due is not None and due <= now:
            self._giving_up.time_passed(now)
        while (record := books.backlog.peek()) is not None:
            assert isinstance(record, Record)
            node = self._roomiest()
            if node is None:
                break
            books.backlog.pop()
            sends.append(self._send(record, node, now))
        return sends

    def _share(self, key: int) -> float:
        """What a job of this function takes of a slot: all of it, unless it is known to be short."""
        seconds = self.books.pace.seconds(key)
        return 1.0 if seconds is None else min(1.0, max(seconds / AHEAD_S, 1 / MOST_AHEAD))

    def _roomiest(self) -> Node | None:
        node = min((node for node in self.nodes.values() if not node.leaving), key=Node.load, default=None)
        return None if node is None or node.load() >= 1.0 else node

    def _send(self, record: Record, node: Node, now: float) -> Send:
        batch = Batch(next(self._seqs), records=[record], now=now)
        batch.worker = node.id
        batch.index = 0  # as good as started
        record.batch = batch
        record.state = State.QUEUED
        record.started_at = now
        self.books.batches[batch.seq] = batch
        node.take(batch, self._share(record.key))
        return Send(node.id, batch)

    def _recall(self, now: float) -> list[Recall]:
        """A node is idle: what stands behind a longer job elsewhere, against what was expected, is asked back."""
        self._recall_at = None
        recalls = []
        if not self.books.backlog and any(not node.held and not node.leaving for node in self.nodes.values()):
            for node in self.nodes.values():
                waiting = [batch for batch in node.held.values() if batch.revoked_at is None]
                for batch in waiting[node.slots :]:
                    due = batch.sent_at + STUCK_S
                    if due <= now:
                        batch.revoked_at = now
                        recalls.append(Recall(node.id, batch.seq))
                    elif self._recall_at is None or due < self._recall_at:
                        self._recall_at = due
        return recalls

    def _attempt_ended(self, event: AttemptEnded, now: float) -> None:
        node = self.nodes.get(event.node)
        batch = None if node is None else node.drop(event.batch)
        if batch is None:
            return
        self.books.close(batch)
        record, report = batch.records[0], event.report
        record.worker_pid = event.worker_pid
        record.started_at = max(batch.sent_at, now - report.duration)
        if record.doom is not None:
            if event.started:
                self.books.end_doomed(record, now, report)
            else:
                self._end_unstarted(record, now)
        elif report.error is None:
            self.books.pace.observe(record.key, 1, report.duration)
            record.attempt += 1
            self.books.settle(record, Status.SUCCEEDED, None, now, report)
        elif not event.started and event.status in (Status.CANCELLED, Status.LOST):
            assert node is not None
            node.leaving = node.leaving or batch.revoked_at is None  # else it was recalled
            self.books.put_back([record], now)
        elif not event.started and event.status is Status.EXPIRED:  # its deadline, by the node's clock
            record.started_at = None
            self.books.settle(record, Status.EXPIRED, report.error, now)
        elif event.status is Status.CANCELLED:  # nobody here wanted that
            self._lost(record, f"its node gave it up: {report.error}", now, report)
        else:
            self.books.attempt_failed(record, event.status, report.error, now, report)

    def _refused(self, event: Refused, now: float) -> None:
        node = self.nodes.get(event.node)
        batch = None if node is None else node.drop(event.batch)
        if batch is None:
            return
        self.books.close(batch)
        record = batch.records[0]
        if record.doom is None:
            record.doom = Doom(Status.CANCELLED, verdicts.cancelled_error(record, event.reason))
        self._end_unstarted(record, now)

    def _end_unstarted(self, record: Record, now: float) -> None:
        doom = record.doom
        assert doom is not None
        record.started_at = None
        self.books.settle(record, doom.status, doom.error, now)

    def _lost(self, record: Record, why: str, now: float, report: Report) -> None:
        subject = verdicts.describe(record, record.attempt + 1)
        error = JobLost(
            f"{subject} was lost: {why}. It may have been running: allow it `retries` to have it run elsewhere.",
            exitcode=None, worker_pid=record.worker_pid or 0, peak_memory=report.peak_memory,
        )  # fmt: skip
        self.books.attempt_failed(record, Status.LOST, error, now, report)

    # ---- nodes -----------------------------------------------------------------------------------------------------

    def _node_ready(self, event: NodeReady, now: float) -> None:
        self.nodes[event.node] = Node(event.node, event.slots)

    def _node_lost(self, event: NodeLost, now: float) -> None:
        node = self.nodes.pop(event.node, None)
        if node is None:
            return
        unsent = []
        for batch in node.held.values():
            self.books.close(batch)
            record = batch.records[0]
            if batch.seq in event.unsent:
                unsent.append(record)
            elif record.doom is not None:
                self.books.end_doomed(record, now, Report(0))
            else:
                self._lost(record, f"{event.name} is gone, {event.reason}", now, Report(0))
        self.books.put_back(unsent, now)

    def _broke(self, event: ev.Broke, now: float) -> None:
        self._giving_up.broke(event, now)
        for node in self.nodes.values():
            node.clear()


class _Withdrawals:
    """What is given up on a node is asked back, running or not."""

    def __init__(self, out: list[Withdraw]) -> None:
        self._out = out

    def pursue(self, batch: Batch, now: float) -> None:
        """As in `giving_up.Pursuer`."""
        assert batch.worker is not None
        self._out.append(Withdraw(batch.worker, batch.seq))

    def call_back(self, batch: Batch, now: float) -> None:
        """As in `giving_up.Pursuer`: what was sent counts as running."""
