"""The ledger against everything that may happen, in any order: a Hypothesis state machine without processes or sleeps.

The fake workers keep the truth: what really ran, how it ended, what was logged. The ledger knows of that only what
logs and boards say. After each event the books must be in order, and at the end every job must have ended, once, in a
way that the truth allows.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mpengine.context import Context
from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core import invariants
from mpengine.core.job import Job, Outcome, Status
from mpengine.core.ledger import Ledger
from mpengine.core.records import Call, Record, Span, SpanEnd, State
from mpengine.errors import EngineBroken
from mpengine.testing.fake_clock import FakeClock
from mpengine.testing.fake_workers import End, FakeWorker, FakeWorkers, Item, Step

STOP_GRACE_S = 0.5
UNKNOWN, TINY, SHORT = range(3)  # keys of functions, by what the pace knows of them at the start
MAX_WORKERS = 4

Move = tuple[int, End, int]  # a worker, how what it runs ends, by how many steps it gets ahead
moves = st.lists(st.tuples(st.integers(0, MAX_WORKERS - 1), st.sampled_from(End), st.integers(1, 4)), max_size=6)
indices = st.integers(0, 1000)
spoken = st.sampled_from([None, None, None, 0.001, 0.5, 30.0])


def job() -> None:
    """Stands for what is run; nothing is."""


class Problem(Exception):
    """Why an object cannot be pickled."""


@dataclass
class Function:
    """What a span knows of its function."""

    name: str = "mapped"


@dataclass(eq=False)
class RecordSink:
    """A future, and what the test knows of its job."""

    record: Record = field(init=False)
    outcome: Outcome | None = None
    was_put: bool = False
    refused: bool = False  # its future was cancelled while it waited, and the ledger does not know yet
    may_cancel: bool = False  # somebody asked for that
    cancelled: bool = False  # ... and the ledger was told while the job was open
    taken: bool = False  # its owner was handed the value directly
    put_failed: bool = False

    def start(self, record: Record) -> bool:
        self.was_put = True
        return not self.refused

    def settle(self, record: Record, outcome: Outcome) -> None:
        assert record is self.record
        assert self.outcome is None, f"settled twice: {self.outcome}, {outcome}"
        self.outcome = outcome


@dataclass(eq=False)
class MapSink:
    """The iterator of a map."""

    calls: int
    values: set[int] = field(default_factory=set)
    errors: dict[int, BaseException] = field(default_factory=dict)
    closed: bool = False
    jobs: list[Job] | None = None  # what its calls are, if it is a `run`
    ended_jobs: set[str] = field(default_factory=set)

    def start_calls(self, span: Span) -> Sequence[Call]:
        return ()

    def ended(self, part: SpanEnd) -> None:
        assert not self.closed, "told to a closed iterator"
        positions = range(part.position, part.position + part.count)
        assert 0 <= part.position <= positions[-1] < self.calls
        if part.error is None:
            assert part.report is not None
            assert part.report.value == tuple(positions), f"the values {part.report.value} came as those of {positions}"
            assert not self.values & set(positions), "a value was delivered twice"
            assert not self.errors.keys() & set(positions), "a value was delivered after an error"
            self.values |= set(positions)
            return
        for position in positions:
            assert position not in self.values, "an error was delivered after a value"
            assert position not in self.errors, "an error was delivered twice"
            self.errors[position] = part.error


@dataclass(eq=False)
class PlainCall:
    """A future without a record, and what the test knows of it."""

    label: int
    args: tuple[Any, ...] = ()
    status: Status | None = None
    was_put: bool = False
    refused: bool = False  # it was cancelled while it waited
    may_cancel: bool = False  # somebody asked for that
    cancelled: bool = False  # ... and the ledger was told while it was open

    @property
    def id(self) -> str:
        return f"job-{self.label}"


class PlainSink:
    """The sink of plain calls."""

    def __init__(self, machine: "LedgerMachine") -> None:
        self._machine = machine

    def start_calls(self, span: Span) -> Sequence[Call]:
        calls = cast(Sequence[PlainCall], span.open_jobs)
        for call in calls:
            call.was_put = call.was_put or not call.refused
        return [call for call in calls if call.refused]

    def ended(self, part: SpanEnd) -> None:
        calls = cast(Sequence[PlainCall], part.jobs)
        assert len(calls) == part.count
        if part.error is None:
            assert part.report is not None
            assert part.report.value[part.skipped : part.skipped + part.count] == tuple(calls), "somebody else's values"
        for call in calls:
            assert call.status is None, f"{call} ended twice"
            call.status = part.status
            self._machine.check_call(call, part)


class LedgerMachine(RuleBasedStateMachine):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.ledger = Ledger(stop_grace=STOP_GRACE_S, jitter=lambda: 0.5)
        self.moves: deque[Move] = deque()
        self.fleet = FakeWorkers(self.ledger, self.clock, between=self.between, spy=self.spy)
        self.fleet.on_start = self.on_start
        self.books = self.ledger.books
        self.books.pace.observe(TINY, 1, 1e-6)
        self.books.pace.observe(SHORT, 1, 1e-3)
        self.sinks: list[RecordSink] = []
        self.maps: list[MapSink] = []
        self.calls: list[PlainCall] = []
        self.plain = PlainSink(self)
        self.put_errors: list[BaseException] = []
        self.contexts = [Context() for _ in range(3)]
        self.streams = [object() for _ in range(2)]
        self.inbox: deque[ev.Event] = deque()
        self.retries: dict[Record, int] = {}
        self.first_put: dict[int, int] = {}  # priority -> the newest record that was put
        self.stopped = self.broken = False

    # ---- after each event --------------------------------------------------------------------------------------------

    def between(self) -> None:
        """One worker gets ahead by some steps."""
        if self.moves:
            index, end, steps = self.moves.popleft()
            worker = self.worker(index)
            for _ in range(steps):
                if worker is not None:
                    worker.step(end)

    def spy(self, event: ev.Event, actions: Sequence[do.Action]) -> None:
        invariants.check(self.ledger)
        if isinstance(event, ev.PutFailed):
            self.put_failed(event, actions)
        for action in actions:
            if isinstance(action, do.EndCalls):
                self.on_ended(action)
            if isinstance(action, do.PutBatch):
                self.on_put(action)
            elif isinstance(action, do.Retried):
                self.on_retried(action.record)
            elif isinstance(action, do.Settle):
                assert action.record.state is State.SETTLED
                self.check_outcome(action.record, action.outcome)

    def on_ended(self, action: do.EndCalls) -> None:
        """Whether its iterator is told or not: of each job that is a call the engine hears once."""
        sink, part = action.sink, action.part
        if sink is self.plain:
            assert action.wanted
            return
        assert isinstance(sink, MapSink)
        assert (part.jobs is None) == (sink.jobs is None)
        if sink.jobs is not None and part.jobs is not None:
            assert part.jobs == sink.jobs[part.position : part.position + part.count]
            ended = {job.id for job in part.jobs}
            assert not ended & sink.ended_jobs, "a job ended twice"
            sink.ended_jobs |= ended

    def on_put(self, action: do.PutBatch) -> None:
        batch = action.batch
        assert not self.broken, "a batch was sent although the engine is broken"
        assert not self.stopped, "a batch was sent although nothing may be started any more"
        waiting = self.books.backlog.peek()
        entries = [batch.span] if batch.span is not None else batch.records
        for entry in entries:
            assert waiting is None or entry.priority >= waiting.priority, "a job with a higher priority was left behind"
        for record in batch.records:
            sink = self.sink_of(record)
            assert sink.outcome is None, "a settled job was sent"
            assert not sink.cancelled, "a cancelled job was sent"
            if not sink.was_put:
                assert self.first_put.get(record.priority, 0) < record.seq, "jobs of one priority changed their order"
                self.first_put[record.priority] = record.seq

    def on_retried(self, record: Record) -> None:
        assert self.sink_of(record).outcome is None, "a settled job is retried"
        self.retries[record] = self.retries.get(record, 0) + 1
        assert self.retries[record] <= record.retries

    def on_start(self, item: Item) -> None:
        """Before a worker runs something: may it?"""
        twins = [worker for worker in self.fleet.workers.values() if worker.item == item]
        assert len(twins) == 1, f"two workers run {item}"
        if isinstance(item, Record):
            starts = self.fleet.starts[item]
            assert starts <= self.retries.get(item, 0), "a job that has started is started again, and nobody allowed it"
            assert self.sink_of(item).outcome is None or self.broken, "a settled job is started"
        else:
            assert item not in self.fleet.cut_off, "the call that a worker died in is run again"
            assert item not in self.fleet.logged, "a call whose value was logged is run again"
            if isinstance(item, PlainCall):
                assert not item.refused, "a cancelled call is started"
                assert item.status is None or self.broken, "a call is started that has ended"

    def check_call(self, call: PlainCall, part: SpanEnd) -> None:
        """Is that what really happened to a plain call?"""
        if part.status is Status.SUCCEEDED:
            assert not call.refused, "it was cancelled before it was sent"
            assert not call.cancelled, "a call that was cancelled before it ended has succeeded"
        elif part.status is Status.CANCELLED:
            assert call.may_cancel or call.refused or self.stopped, "nobody asked for this cancellation"
        elif part.status is Status.LOST:
            assert call in self.fleet.lost, "no worker died in it"
        elif not self.broken:
            told = call in self.fleet.logged and part.error is self.fleet.logged[call].error
            assert told or part.error in self.put_errors, f"not the error that it raised: {part.error}"

    def put_failed(self, event: ev.PutFailed, actions: Sequence[do.Action]) -> None:
        self.put_errors.append(event.error)
        for action in actions:
            if isinstance(action, do.Settle) and action.outcome.error is event.error:
                self.sink_of(action.record).put_failed = True

    def check_outcome(self, record: Record, outcome: Outcome) -> None:
        """Is that what really happened?"""
        sink, fleet = self.sink_of(record), self.fleet
        marks, starts = fleet.marks[record], fleet.starts[record]
        status = outcome.status
        if sink.taken and not self.broken:
            assert status is Status.SUCCEEDED, "its owner has its value"
        assert outcome.job is record.job
        assert (outcome.error is None) == (status is Status.SUCCEEDED)
        assert outcome.attempts <= record.retries + 1
        if not self.broken:
            assert starts <= outcome.attempts <= marks, f"{outcome.attempts} attempts, {starts} starts, {marks} marks"
            ended_badly = outcome.attempts - (status is Status.SUCCEEDED)
            assert len(outcome.errors) == ended_badly, f"{outcome.errors} of {outcome.attempts} attempts"
        assert outcome.waited >= 0
        assert outcome.duration >= 0
        if status is Status.SUCCEEDED:
            assert outcome.value == fleet.logged[record].value
            assert outcome.value[0] == starts, "the value of an earlier attempt"
            assert sink.taken or not sink.cancelled, "a job that was cancelled before it ended has succeeded"
        elif status is Status.CANCELLED:
            assert sink.may_cancel or sink.refused or self.stopped, "nobody asked for this cancellation"
        elif status is Status.EXPIRED:
            late = record.deadline is not None and record.deadline <= self.clock()
            assert late or (record.timeout is not None and marks), "no limit was passed"
        elif status is Status.LOST:
            assert record in fleet.lost, "no worker died in it"
        elif record.problem is not None:
            assert outcome.error is record.problem
            assert not marks
        elif not (self.broken or sink.put_failed or isinstance(outcome.error, OSError)):
            assert outcome.error is fleet.logged[record].error, "not the error that it raised"

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def sink_of(self, record: Record) -> RecordSink:
        assert isinstance(record.sink, RecordSink)
        return record.sink

    def worker(self, index: int) -> FakeWorker | None:
        alive = [worker for worker in self.fleet.workers.values() if worker.at is not Step.DEAD]
        return alive[index % len(alive)] if alive else None

    def decide(self, event: ev.Event, moved: list[Move]) -> None:
        self.moves.extend(moved)
        self.fleet.decide(event)
        self.moves.clear()

    def cancelled(self, sinks: list[RecordSink]) -> None:
        """Those of these jobs that are open now must never succeed."""
        for sink in sinks:
            if sink.outcome is None:
                sink.cancelled = True

    # ---- what users do -----------------------------------------------------------------------------------------------

    @initialize(
        workers=st.integers(0, MAX_WORKERS),
        ending=st.sampled_from(["", "", "", "", "cancel pending", "break"]),
        after=st.integers(5, 25),
    )
    def begin(self, workers: int, ending: str, after: int) -> None:
        self.ending, self.left = ending, after
        for _ in range(workers):
            self.fleet.start_worker()

    @rule(
        count=st.integers(1, 8),
        key=st.sampled_from([UNKNOWN, TINY, TINY, SHORT]),
        timeout=spoken,
        deadline=spoken,
        retries=st.sampled_from([0, 0, 1, 2]),
        backoff=st.sampled_from([0.0, 0.0, 0.3]),
        priority=st.sampled_from([0, 0, 0, 5, -3]),
        context=st.sampled_from([None, None, 0, 1, 2]),
        stream=st.sampled_from([None, None, 0, 1]),
        problem=st.sampled_from([False, False, False, False, True]),
        large=st.booleans(),
    )
    def submit(
        self, count, key, timeout, deadline, retries, backoff, priority, context, stream, problem, large
    ) -> None:  # fmt: skip
        records = []
        for _ in range(count):
            sink = RecordSink()
            sink.record = Record(
                Job(
                    job, context=None if context is None else self.contexts[context], backoff=backoff, priority=priority
                ),
                sink,
                payload=None if problem else bytes(700_000 if large else 10),
                key=key,
                timeout=timeout,
                retries=retries,
                deadline=None if deadline is None else self.clock() + deadline,
                problem=Problem() if problem else None,
                stream=None if stream is None else self.streams[stream],
            )
            self.sinks.append(sink)
            records.append(sink.record)
        self.fleet.book()
        self.fleet.tell(ev.Accepted(records))
        self.left -= 1

    @precondition(lambda self: not (self.stopped or self.broken))
    @rule(timeout=spoken, retries=st.integers(0, 1), count=st.integers(1, 2))
    def send(self, timeout: float | None, retries: int, count: int) -> None:
        """By the short way if it is open, else by the long one."""
        for _ in range(count):
            sink = RecordSink()
            sink.record = Record(Job(job), sink, payload=bytes(10), timeout=timeout, retries=retries)
            self.sinks.append(sink)
            if not self.fleet.send(sink.record):
                self.fleet.book()
                self.fleet.tell(ev.Accepted([sink.record]))

    @precondition(lambda self: self.fleet.offers)
    @rule()
    def attend(self) -> None:
        """Somebody waits for a job on the short way, and takes its answer."""
        record = self.fleet.take_offer()
        if record is not None:
            self.sink_of(record).taken = True

    @rule(calls=st.integers(1, 12), cuts=st.lists(st.integers(1, 11), max_size=2), are_jobs=st.booleans())
    def submit_map(self, calls: int, cuts: list[int], are_jobs: bool) -> None:
        sink = MapSink(calls, jobs=[Job(max) for _ in range(calls)] if are_jobs else None)
        self.maps.append(sink)
        bounds = sorted({0, calls, *(cut for cut in cuts if cut < calls)})
        spans = []
        for first, stop, skipped in zip(bounds, bounds[1:], (0, 1, 2), strict=False):
            jobs = None if sink.jobs is None else [Job(max)] * skipped + sink.jobs[first:stop]
            where = {"position": first - skipped, "first": skipped, "stop": skipped + stop - first}
            spans.append(Span(sink, Function(), b"", **where, key=TINY, jobs=jobs))
        self.fleet.book()
        self.fleet.tell(ev.Accepted(spans))
        self.left -= 1

    @rule(
        calls=st.integers(1, 12),
        key=st.sampled_from([UNKNOWN, TINY, TINY, SHORT]),
        size=st.sampled_from([0, 0, 5 << 20]),
    )
    def submit_calls(self, calls: int, key: int, size: int) -> None:
        new = [PlainCall(len(self.calls) + number) for number in range(1, calls + 1)]
        self.calls += new
        self.fleet.book()
        span = Span(
            self.plain, Function(), None, position=0, first=0, stop=calls, key=key, jobs=new, size=size
        )  # fmt: skip
        self.fleet.tell(ev.Accepted([span]))
        self.left -= 1

    @precondition(lambda self: self.calls)
    @rule(chosen=st.lists(indices, min_size=1, max_size=5), running=st.booleans(), later=st.booleans(), moved=moves)
    def cancel_calls(self, chosen: list[int], running: bool, later: bool, moved: list[Move]) -> None:
        """Futures know at once; the ledger knows now, or when it is told of it later."""
        calls = {self.calls[index % len(self.calls)] for index in chosen}
        calls = {call for call in calls if call.status is None and (running or not call.was_put)}
        for call in calls:
            call.may_cancel = True
            call.refused = call.refused or not call.was_put
        event = ev.CallsCancelled(calls, "not wanted", running)
        if later:
            self.inbox.append(event)
            return
        self.decide(event, moved)
        for call in calls if running else ():
            call.cancelled = call.status is None

    @precondition(lambda self: self.sinks)
    @rule(index=indices, running=st.booleans(), moved=moves)
    def cancel(self, index: int, running: bool, moved: list[Move]) -> None:
        sink = self.sinks[index % len(self.sinks)]
        sink.may_cancel = True
        self.decide(ev.CancelRequested(sink.record, "not wanted", running=running), moved)
        if running:
            self.cancelled([sink])

    @precondition(lambda self: self.sinks)
    @rule(index=indices)
    def cancel_future_of_waiting(self, index: int) -> None:
        """The future knows at once, the ledger will."""
        sink = self.sinks[index % len(self.sinks)]
        if not sink.was_put and sink.outcome is None:
            sink.refused = True
            self.inbox.append(ev.CancelRequested(sink.record, "its future was cancelled", running=False))

    @rule(moved=moves)
    def empty_inbox(self, moved: list[Move]) -> None:
        while self.inbox:
            self.decide(self.inbox.popleft(), moved)

    @rule(index=st.integers(0, 2), moved=moves)
    def cancel_context(self, index: int, moved: list[Move]) -> None:
        sinks = [sink for sink in self.sinks if sink.record.context is self.contexts[index]]
        for sink in sinks:
            sink.may_cancel = True
        self.decide(ev.ContextCancelled(self.contexts[index], "its context was cancelled"), moved)
        self.cancelled(sinks)

    @rule(index=st.integers(0, 1), moved=moves)
    def close_stream(self, index: int, moved: list[Move]) -> None:
        sinks = [sink for sink in self.sinks if sink.record.stream is self.streams[index]]
        for sink in sinks:
            sink.may_cancel = True
        self.decide(ev.StreamClosed(self.streams[index]), moved)
        self.cancelled(sinks)

    @precondition(lambda self: self.maps)
    @rule(index=indices, moved=moves)
    def close_map(self, index: int, moved: list[Move]) -> None:
        sink = self.maps[index % len(self.maps)]
        self.decide(ev.StreamClosed(sink), moved)
        sink.closed = True

    @precondition(lambda self: self.ending and self.left <= 0)
    @rule(moved=moves)
    def end(self, moved: list[Move]) -> None:
        self.moves.extend(moved)
        self.fleet.observe()
        if self.ending == "break":
            self.broken = True
            self.fleet.tell(ev.Broke(EngineBroken("no worker can be started")))
        else:
            self.stopped = True
            self.fleet.tell(ev.PendingCancelled("the engine was shut down"))
        self.ending = ""
        self.moves.clear()

    # ---- what workers do ---------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.fleet.workers) < MAX_WORKERS)
    @rule()
    def worker_ready(self) -> None:
        self.fleet.book()
        self.fleet.start_worker()

    @rule(index=indices, ends=st.lists(st.sampled_from(End), min_size=1, max_size=12))
    def step(self, index: int, ends: list[End]) -> None:
        worker = self.worker(index)
        for end in ends:
            if worker is not None:
                worker.step(end)

    @rule(index=indices, duration=st.sampled_from([1e-6, 1e-3, 0.0, 2.0]))
    def pace_changes(self, index: int, duration: float) -> None:
        worker = self.worker(index)
        if worker is not None:
            worker.duration = duration

    @rule(index=indices)
    def group_is_over(self, index: int) -> None:
        worker = self.worker(index)
        if worker is not None and worker.at is Step.CLAIMED:
            worker.log_held(worker.duration)

    @rule(index=indices)
    def ring(self, index: int) -> None:
        worker = self.worker(index)
        if worker is not None:
            self.fleet.collect(worker)

    @rule(moved=moves)
    def look(self, moved: list[Move]) -> None:
        self.moves.extend(moved)
        self.fleet.observe()
        self.moves.clear()

    @rule(index=indices, exitcode=st.sampled_from([-9, -11, 0, 1]))
    def kill(self, index: int, exitcode: int) -> None:
        worker = self.worker(index)
        if worker is not None:
            worker.die(exitcode)

    @rule(index=indices)
    def retire(self, index: int) -> None:
        worker = self.worker(index)
        if worker is not None:
            worker.retiring = True

    @rule(moved=moves)
    def reap(self, moved: list[Move]) -> None:
        self.moves.extend(moved)
        self.reap_all()
        self.moves.clear()

    def reap_all(self) -> None:
        for worker in list(self.fleet.workers.values()):
            if worker.at is Step.DEAD:
                self.fleet.reap(worker)

    # ---- what queue, time and chance do ------------------------------------------------------------------------------

    @rule(capacity=st.sampled_from([None, 1, 2, 3]))
    def queue_has_room(self, capacity: int | None) -> None:
        self.fleet.capacity = capacity

    @rule()
    def next_put_fails(self) -> None:
        self.fleet.put_errors.append(OSError("no room"))

    @rule(moved=moves)
    def retract(self, moved: list[Move]) -> None:
        self.fleet.book()
        seqs = [ticket.seq for ticket in self.fleet.queue]
        self.fleet.queue.clear()
        self.moves.extend(moved)
        self.fleet.tell(ev.Retracted(seqs))
        self.moves.clear()

    @rule(seconds=st.sampled_from([1e-4, 0.003, 0.006, 0.006, 0.025, 0.1, 0.6, 5.0, 1e5]), moved=moves)
    def time_passes(self, seconds: float, moved: list[Move]) -> None:
        self.clock.advance(seconds)
        self.moves.extend(moved)
        self.fleet.wake()
        self.moves.clear()

    @precondition(lambda self: self.fleet.told)
    @rule(index=indices)
    def repeat(self, index: int) -> None:
        """A message comes again, or so late that what it speaks of is over."""
        kinds = ev.Reported | ev.GaveBack | ev.Retracted | ev.WorkerExited | ev.Observed
        told = [event for event in self.fleet.told if isinstance(event, kinds)]
        if told:
            old = told[-1 - index % len(told)]
            if not isinstance(old, ev.Observed) or old.batch not in self.books.batches:
                self.fleet.tell(old)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        self.moves.clear()
        self.fleet.put_errors.clear()
        self.submit(3, UNKNOWN, None, None, 0, 0.0, 0, None, None, False, False)
        first = self.worker(0)
        for _ in range(3):
            if first is not None and first.at is not Step.RUNNING:
                first.step()
        hanging = [worker for worker in self.fleet.workers.values() if worker.at is Step.RUNNING]
        self.run_down(hanging)
        self.check_only_hanging_is_open(hanging)
        self.run_down([])
        assert self.books.open == 0, f"{self.books.open} jobs are stuck: {list(self.books.records())}"
        assert not self.books.batches
        assert self.fleet.puts == self.fleet.forgets
        assert self.ledger.next_wakeup() is None
        for sink in self.sinks:
            assert sink.outcome is not None, "never settled"
        for call in self.calls:
            assert call.status is not None, f"{call} never ended"
        assert not self.books.dooms
        for mapped in self.maps:
            if mapped.jobs is not None:
                assert mapped.ended_jobs == {job.id for job in mapped.jobs}
            if not mapped.closed:
                told = mapped.values | mapped.errors.keys()
                assert told == set(range(mapped.calls)), f"of {mapped.calls} calls only {sorted(told)} were told"

    def run_down(self, hanging: list[FakeWorker]) -> None:
        """Let good workers do all that can be done while those keep on hanging in what they run."""
        fleet = self.fleet
        for _ in range(2000):
            while self.inbox:
                fleet.decide(self.inbox.popleft())
            self.reap_all()
            while len(fleet.workers) <= len(hanging):
                fleet.start_worker()
            good = [worker for worker in fleet.workers.values() if worker not in hanging]
            for worker in good:
                for _ in range(40):
                    worker.step()
            for worker in list(fleet.workers.values()):
                fleet.collect(worker)
            busy = bool(fleet.queue) or any(worker.at not in (Step.IDLE, Step.DEAD) for worker in good)
            fleet.book()
            due = self.ledger.next_wakeup()
            if not busy and due is None:
                return
            if not busy and due is not None:
                assert math.isfinite(due)
                self.clock.advance_to(due)
            fleet.wake()
        raise AssertionError(f"it never comes to rest: {fleet.workers}, {self.books.batches}")

    def check_only_hanging_is_open(self, hanging: list[FakeWorker]) -> None:
        """What hangs holds up nothing but itself, and that only if nothing limits it."""
        running = {worker.item for worker in hanging if worker.at is Step.RUNNING}
        for record in self.books.records():
            assert record in running, f"{record.job.id} waits for a job that hangs"
            assert record.doom is None, f"{record.job.id} was given up and still hangs"
            assert record.timeout is None, f"{record.job.id} has a timeout and still hangs"
            assert record.deadline is None, f"{record.job.id} has a deadline and still hangs"
        for batch in self.books.batches.values():
            if batch.span is not None and batch.span.payload is None:
                waiting = set(batch.jobs(batch.done))
                assert waiting <= running, f"calls {waiting - running} wait for one that hangs"
                assert not waiting & self.books.dooms.keys(), "a call was given up and still hangs"
            elif batch.span is not None:
                start = batch.span.position + batch.span.first
                calls = {(batch.span.sink, start + index) for index in range(batch.done, batch.size)}
                assert calls <= running, f"calls {calls - running} wait for one that hangs"
                assert not batch.span.cancelled, "a call of a closed map hangs for ever"
        assert not self.books.backlog


def test_any_order_of_events() -> None:
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=120, stateful_step_count=40))


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_any_order_of_very_many_events() -> None:
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=10_000, stateful_step_count=60))
