"""Job queue, workers, their boards and logs, and the dispatcher's turn, all in memory: what a ledger deals with.

    ledger ─ actions ─▶ FakeWorkers ─ tickets ─▶ FakeWorker.step(), ... ─ log, board ─▶ FakeWorkers ─ events ─▶ ledger

A fake worker does what a real one does (runtime/worker.py, runtime/running.py), in the same order, one store at a time:

    IDLE ─claim─▶ CLAIMED ─store `started`─▶ MARKED ─look at `revoked`─▶ RUNNING ─end─▶ CLAIMED ...
                                               └────────────────────────▶ LEAVING (log what is held, give back)

So a test may stop or kill it between any two of them. What it logs outlives it; what it has started stays on its board.
The requests of the parent (revoke, interrupt, flush) are stores that it sees from then on.

`FakeWorkers` does what the dispatcher does: before anything is decided it collects every log and reads every board, and
it carries out what the ledger asks. `between` is called at each place where a real worker may get ahead of the parent:
between a log and a board, a board and the decision, a decision and each of its actions.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.ledger import Ledger
from mpengine.core.records import Batch, Call, Record, Report, SpanSink
from mpengine.errors import InternalError
from mpengine.testing.fake_clock import FakeClock

TICK_S = 1e-6  # passes wherever a worker may get ahead

Item = Record | Call | tuple[SpanSink, int]  # a job, a job of a span, or the call of a map at a position of its input


class Step(Enum):
    """Where a worker is in its work; the module's text has the order."""

    IDLE = "idle"
    CLAIMED = "claimed"
    MARKED = "marked"
    RUNNING = "running"
    RAISED = "raised"  # a call of a map has raised: what is held is logged first, then the error
    LEAVING = "leaving the batch"
    DEAD = "dead"


class End(Enum):
    """How an item ends."""

    VALUE = "value"
    ERROR = "error"
    INTERRUPTED = "interrupted"  # if it was asked to, else by a value


@dataclass(frozen=True, slots=True)
class Ticket:
    """One message of the queue: the batch as it was when it was put."""

    seq: int
    items: tuple[Item, ...]
    refused: frozenset[int]  # items sent empty: their futures were cancelled
    is_span: bool
    is_lone: bool = False


class FakeWorker:
    """A worker process.

    Attributes:
        claim: The batch it claimed last; 0: none.
        started: Batch and item it started last, and when.
        log: What it committed and nobody has read: (batch, a report or the index from which on it gave back).
        revoked, interrupt, flush: Requests of the parent.
        duration: What it says its next items took.
        retiring: It leaves before its next item.
    """

    def __init__(self, number: int, owner: FakeWorkers) -> None:
        self.number = number
        self.pid = 4000 + number
        self.at = Step.IDLE
        self.claim = 0
        self.started: tuple[int, int, float] = (0, -1, 0.0)
        self.log: deque[tuple[int, Report | int]] = deque()
        self.revoked = 0
        self.flush = 0
        self.interrupt: tuple[int, int] = (0, -1)
        self.duration = 1e-5
        self.retiring = False
        self.exitcode = 0
        self._owner = owner
        self._ticket = Ticket(0, (), frozenset(), is_span=False)
        self._index = 0
        self._held = 0  # calls before `_index` whose values are not logged yet
        self._end = End.VALUE

    def __repr__(self) -> str:
        return f"FakeWorker({self.number}, {self.at.value}, item {self._index} of batch {self.claim})"

    @property
    def item(self) -> Item | None:
        """What it runs, if it runs something."""
        return self._ticket.items[self._index] if self.at is Step.RUNNING else None

    @property
    def unfinished(self) -> Item | None:
        """What its board says it has started, and its log does not say how that has ended."""
        seq, index, _ = self.started
        if self.at is Step.IDLE or seq != self.claim or index < self._index - self._held:
            return None
        return self._ticket.items[index]

    def step(self, end: End = End.VALUE) -> None:
        """Go on by one step; `end` says how what it runs ends, if it runs."""
        if self.at is Step.IDLE:
            self._take()
        elif self.at is Step.CLAIMED:
            self._mark()
        elif self.at is Step.MARKED:
            self._look()
        elif self.at is Step.RUNNING:
            self._finish(end)
        elif self.at is Step.RAISED:
            self._raised()
        elif self.at is Step.LEAVING:
            self._leave_batch()

    def log_held(self, duration: float = 0.0) -> None:
        """Commit the values of calls that it holds back."""
        if self._held:
            first = self._index - self._held
            items = self._ticket.items[first : self._index]
            value = tuple(item[1] if isinstance(item, tuple) else item for item in items)
            self._held = 0
            self._commit(Report(first, value, count=len(items), duration=duration), items)

    def die(self, exitcode: int) -> None:
        """Be gone, wherever it is."""
        if self.at is not Step.DEAD:
            unfinished = self.unfinished
            if unfinished is not None:
                self._owner.lost.add(unfinished)
                if self.at is Step.RUNNING:
                    self._owner.cut_off.add(unfinished)
            self.at = Step.DEAD
            self.exitcode = exitcode

    # ---- the steps -------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        if self.retiring:
            self.at = Step.DEAD
        elif self._owner.queue:
            self._ticket = self._owner.queue.popleft()
            self.claim = self._ticket.seq
            self._index = 0
            self.at = Step.CLAIMED

    def _mark(self) -> None:
        if self.retiring:
            self.at = Step.LEAVING
            return
        self.started = (self.claim, self._index, self._owner.clock())
        self._owner.marks[self._ticket.items[self._index]] += 1
        self.at = Step.MARKED

    def _look(self) -> None:
        item = self._ticket.items[self._index]
        if self.revoked == self.claim:
            self.at = Step.LEAVING
        elif self._index in self._ticket.refused:
            self._commit(Report(self._index, skipped=True), ())
            self._next()
        else:
            self.at = Step.RUNNING
            self._owner.start(item)

    def _finish(self, end: End) -> None:
        if end is End.INTERRUPTED and self.interrupt != self.started[:2]:
            end = End.VALUE
        self._end = end
        if not self._ticket.is_span:
            self._commit(self._report(end), [self._ticket.items[self._index]])
            self._next()
        elif end is End.VALUE:
            self._held += 1
            self._next()
        else:
            self.at = Step.RAISED

    def _raised(self) -> None:
        if self._held:
            self.log_held(self.duration)
            return
        self._commit(self._report(self._end), [self._ticket.items[self._index]])
        self._next()

    def _next(self) -> None:
        self._index += 1
        if self._index < len(self._ticket.items):
            self.at = Step.CLAIMED
        else:
            self.at = Step.LEAVING if self._held else Step.IDLE

    def _leave_batch(self) -> None:
        at_end = self._index == len(self._ticket.items)
        if self._held:
            self.log_held(self.duration)
        else:
            self.log.append((self.claim, self._index))
            at_end = True
        if at_end:
            self.at = Step.IDLE

    def _report(self, end: End) -> Report:
        item = self._ticket.items[self._index]
        report = Report(self._index, started_at=self.started[2], duration=self.duration)
        if end is End.VALUE:
            report.value = (self._owner.starts[item], self.number)
        elif end is End.ERROR:
            report.error = ValueError(f"start {self._owner.starts[item]} of {item!r}")
        else:
            report.interrupted = True
            report.stack = "the line it was on"
            if self._ticket.is_span:  # as the collector has it
                report.error = InternalError("interrupted call of a closed map")
        return report

    def _commit(self, report: Report, items: Sequence[Item]) -> None:
        self.log.append((self.claim, report))
        if self._ticket.is_lone and report.error is None and not report.interrupted:
            self._owner.offers.append(report)
        self._owner.logged.update(dict.fromkeys(items, report))


class FakeWorkers:
    """See the module's text.

    Args:
        ledger: The ledger to serve.
        clock: Its time.
        between: Called wherever workers may get ahead of the parent.
        spy: Called with each event and what the ledger answered, before anything is done about it.

    Attributes:
        capacity: Tickets the queue has room for; None: any number.
        put_errors: Raised by the next puts, one each.
        puts, forgets: How many there were.
        marks, starts: How often an item was marked as started, and how often it ran.
        logged: The report of each item that was logged.
        offers: Reports of lone jobs' values that their workers have offered to whoever waits (runtime/answers.py).
        lost: Items that a worker's death ended.
        cut_off: Those of them that really ran at that moment.
        told: Every event, for repetition.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: FakeClock,
        *,
        between: Callable[[], None] = lambda: None,
        spy: Callable[[ev.Event, Sequence[do.Action]], None] = lambda event, actions: None,
    ) -> None:
        self.ledger = ledger
        self.clock = clock
        self.queue: deque[Ticket] = deque()
        self.workers: dict[int, FakeWorker] = {}
        self.capacity: int | None = None
        self.put_errors: deque[Exception] = deque()
        self.puts = 0
        self.forgets = 0
        self.marks: Counter[Item] = Counter()
        self.starts: Counter[Item] = Counter()
        self.logged: dict[Item, Report] = {}
        self.offers: deque[Report] = deque()
        self.lost: set[Item] = set()
        self.cut_off: set[Item] = set()
        self.told: list[ev.Event] = []
        self.on_start: Callable[[Item], None] = lambda item: None
        self._between = between
        self._spy = spy
        self._events: deque[ev.Event] = deque()
        self._lane: deque[tuple[Record, int, float]] = deque()
        self._telling = False
        self._last_number = 0

    # ---- workers ---------------------------------------------------------------------------------------------------

    def start_worker(self) -> FakeWorker:
        """A new worker that is ready."""
        self._last_number += 1
        worker = FakeWorker(self._last_number, self)
        self.workers[worker.number] = worker
        self.tell(ev.WorkerReady(worker.number, worker.pid))
        return worker

    def start(self, item: Item) -> None:
        """For a worker: the item's own code starts now."""
        self.on_start(item)
        self.starts[item] += 1

    def reap(self, worker: FakeWorker, problem: str = "") -> None:
        """Learn of the death of a worker."""
        assert worker.at is Step.DEAD
        self.collect(worker)
        del self.workers[worker.number]
        batch, index, since = self._board(worker)
        self.book()
        self.tell(
            ev.WorkerExited(
                worker.number, worker.pid, worker.exitcode, batch, index, since or None, problem=problem
            )
        )  # fmt: skip

    # ---- a caller's turn -------------------------------------------------------------------------------------------

    def send(self, record: Record) -> bool:
        """Put a job on the short way (runtime/express.py), if that is open."""
        if self.ledger.books.open or self._lane or not self.ledger.workers or record.context is not None:
            return False
        if record.payload is None or record.deadline is not None or not record.sink.start(record):
            return False
        seq = self.ledger.next_seq()
        self._lane.append((record, seq, self.clock()))
        self.puts += 1
        self.queue.append(Ticket(seq, (record,), frozenset(), is_span=False, is_lone=True))
        return True

    def take_offer(self) -> Record | None:
        """Somebody takes the first of the answers, unless the parent has read the log; returns whose it was."""
        report = self.offers.popleft()
        for worker in self.workers.values():
            for seq, logged in worker.log:
                if logged is report:
                    report.handed_over = True
                    return self._record_of(seq)
        return None

    def _record_of(self, seq: int) -> Record:
        for record, sent, _ in self._lane:
            if sent == seq:
                return record
        return self.ledger.books.batches[seq].records[0]

    def book(self) -> None:
        """Enter into the books what is on the short way."""
        while self._lane:
            self.tell(ev.Sent(*self._lane.popleft()))

    # ---- the dispatcher's turn ---------------------------------------------------------------------------------------

    def tell(self, event: ev.Event) -> None:
        """Tell the ledger and do what it asks; what comes of that is told in turn."""
        self._events.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._events:
                event = self._events.popleft()
                self.told.append(event)
                actions = self.ledger.handle(event, self.clock())
                self._spy(event, actions)
                for action in actions:
                    if not isinstance(action, do.Settle | do.Kill):
                        self._do(action)
                for action in actions:
                    if isinstance(action, do.Settle):
                        action.record.sink.settle(action.record, action.outcome)
                    elif isinstance(action, do.Kill):
                        self._kill(action)
        finally:
            self._telling = False

    def decide(self, event: ev.Event) -> None:
        """Take in all that was logged, read the boards, and then tell the event."""
        self.book()
        self.observe()
        self._race()
        self.tell(event)

    def wake(self) -> bool:
        """Tell of the time, if it is due; whether it was."""
        due = self.ledger.next_wakeup()
        if due is None or due > self.clock():
            return False
        self.decide(ev.TimePassed())
        return True

    def observe(self) -> None:
        """Read every log and then the board beside it."""
        for worker in list(self.workers.values()):
            self.collect(worker)
            self._race()
            batch, index, since = self._board(worker)
            self.book()
            if batch:
                self.tell(ev.Observed(worker.number, batch, index, since or None))

    def collect(self, worker: FakeWorker) -> None:
        """Pass on what a worker has logged."""
        events: list[ev.Event] = []
        reports: list[Report] = []
        batch = 0
        while worker.log:
            seq, entry = worker.log.popleft()
            if reports and (seq != batch or isinstance(entry, int)):
                events.append(ev.Reported(worker.number, batch, tuple(reports)))
                reports.clear()
            batch = seq
            if isinstance(entry, int):
                events.append(ev.GaveBack(worker.number, seq, entry))
            else:
                reports.append(entry)
        if reports:
            events.append(ev.Reported(worker.number, batch, tuple(reports)))
        if events:
            self.book()
        for event in events:
            self.tell(event)

    def _board(self, worker: FakeWorker) -> tuple[int, int, float]:
        seq, index, since = worker.started
        if seq != worker.claim:
            return worker.claim, -1, 0.0
        batch = self.ledger.books.batches.get(seq)
        return seq, index, since if batch is not None and batch.span is None else 0.0

    def _race(self) -> None:
        self.clock.advance(TICK_S)
        self._between()

    # ---- what the ledger asks ----------------------------------------------------------------------------------------

    def _do(self, action: do.Action) -> None:
        self._race()
        if isinstance(action, do.PutBatch):
            self._put(action.batch)
        elif isinstance(action, do.Forget):
            self.forgets += 1
        elif isinstance(action, do.EndCalls):
            if action.wanted:
                action.sink.ended(action.part)
        elif isinstance(action, do.Retract):
            seqs = [ticket.seq for ticket in self.queue]
            self.queue.clear()
            self.book()
            self._events.append(ev.Retracted(seqs))
        elif isinstance(action, do.Revoke | do.Flush | do.Interrupt):
            worker = self.workers.get(action.worker)
            if worker is not None:
                self._ask(worker, action)

    def _kill(self, action: do.Kill) -> None:
        self._race()
        worker = self.workers.get(action.worker)
        if worker is not None:
            self.collect(worker)  # from here on it is stopped
            if self._board(worker)[:2] == (action.batch, action.item):
                worker.die(-9)

    def _ask(self, worker: FakeWorker, action: do.Revoke | do.Flush | do.Interrupt) -> None:
        if isinstance(action, do.Revoke):
            worker.revoked = action.batch
        elif isinstance(action, do.Interrupt):
            worker.interrupt = (action.batch, action.item)
        elif worker.at is Step.RUNNING and worker.claim == action.batch:
            worker.log_held()

    def _put(self, batch: Batch) -> None:
        self.puts += 1  # tried, and forgotten whatever comes of it
        refused: list[int] = []
        items: list[Item] = []
        if batch.span is not None and batch.span.payload is None:
            items += batch.span.open_jobs
            given_up = batch.span.sink.start_calls(batch.span)
            if given_up:
                self._events.append(ev.Refused(batch.seq, given_up, "its future was cancelled"))
                return
        elif batch.span is not None:
            start = batch.span.position + batch.span.first
            items += [(batch.span.sink, start + index) for index in range(batch.size)]
        for index, record in enumerate(batch.records):
            if not record.sink.start(record):
                refused.append(index)
            items.append(record)
        if self.put_errors:
            self._events.append(ev.PutFailed(batch.seq, self.put_errors.popleft()))
        elif self.capacity is not None and len(self.queue) >= self.capacity:
            self._events.append(ev.QueueFull(batch.seq))
        else:
            is_span = batch.span is not None
            self.queue.append(Ticket(batch.seq, tuple(items), frozenset(refused), is_span))
            for index in refused:
                record = batch.records[index]
                self._events.append(ev.CancelRequested(record, "its future was cancelled", running=True))
