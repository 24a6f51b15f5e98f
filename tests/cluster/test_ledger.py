"""The ledger of a cluster's engine: plain examples, and a Hypothesis state machine. No processes, no sleeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpengine.cluster.ledger import (
    AHEAD_S,
    AttemptEnded,
    ClusterLedger,
    NodeLost,
    NodeReady,
    Recall,
    Refused,
    Send,
    Withdraw,
)
from mpengine.context import Context
from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.job import Job, Outcome, Status
from mpengine.core.records import Batch, Record, Report, State
from mpengine.errors import EngineBroken, JobCancelled, JobLost
from mpengine.testing.fake_clock import FakeClock
from tests.core.makers import KEY, make_record, outcome_of

SHORT, LONG = KEY + 1, KEY + 2  # keys of functions whose pace is known


class Scene:
    """A ledger and its clock; does what it asks, which is to remember it."""

    def __init__(self, *slots: int) -> None:
        self.clock = FakeClock()
        self.ledger = ClusterLedger(jitter=lambda: 0.5)
        self.ledger.books.pace.observe(SHORT, 1, AHEAD_S / 3.5)
        self.ledger.books.pace.observe(LONG, 1, 10.0)
        self.sent: list[Send] = []
        self.asked: list[Any] = []
        for id, size in enumerate(slots, 1):
            self.tell(NodeReady(id, size))

    def tell(self, event: Any) -> list[Any]:
        actions = list(self.ledger.handle(event, self.clock()))
        self.asked += actions
        for action in actions:
            if isinstance(action, Send):
                self.sent.append(action)
            elif isinstance(action, do.Settle):
                action.record.sink.settle(action.record, action.outcome)
        return actions

    def jobs(self, count: int, **about: Any) -> list[Record]:
        records = [make_record(**about) for _ in range(count)]
        self.tell(ev.Accepted(records))
        return records

    def batch_of(self, record: Record) -> Batch:
        assert record.batch is not None
        return record.batch

    def end(self, record: Record, status: Status = Status.SUCCEEDED, *, started: bool = True) -> None:
        batch = self.batch_of(record)
        error = None if status is Status.SUCCEEDED else ValueError("no")
        report = Report(0, "value", error=error, duration=1.0)
        assert batch.worker is not None
        self.tell(AttemptEnded(batch.worker, batch.seq, status, report, started, 42))


def test_one_job_for_each_slot_as_long_as_nothing_is_known():
    scene = Scene(2, 3)
    scene.jobs(10)
    assert sorted(send.node for send in scene.sent) == [1, 1, 2, 2, 2]


def test_short_jobs_are_sent_ahead():
    scene = Scene(2)
    scene.jobs(20, key=SHORT)
    assert len(scene.sent) == 2 * 4


def test_a_long_job_is_not():
    scene = Scene(2)
    scene.jobs(20, key=LONG)
    assert len(scene.sent) == 2


def test_each_goes_to_the_node_with_the_least_to_do_for_its_size():
    scene = Scene(1, 4)
    scene.jobs(5)
    assert sorted(send.node for send in scene.sent) == [1, 2, 2, 2, 2]


def test_a_higher_priority_is_sent_first():
    scene = Scene()
    (low,), (high,) = scene.jobs(1), scene.jobs(1, priority=5)
    scene.tell(NodeReady(1, 1))
    assert [send.batch.records for send in scene.sent] == [[high]]
    scene.end(high)
    assert scene.sent[-1].batch.records == [low]


def test_what_was_not_handed_over_goes_back_to_the_front_and_is_no_attempt():
    scene = Scene(2)
    first, second, third = scene.jobs(3)
    unsent = {scene.batch_of(first).seq, scene.batch_of(second).seq}
    scene.tell(NodeLost(1, "node a", "its cable was pulled", unsent))
    scene.tell(NodeReady(2, 2))
    assert [send.batch.records for send in scene.sent[-2:]] == [[first], [second]]
    for record in (first, second, third):
        scene.end(record)
        assert outcome_of(record).attempts == 1


def test_what_was_handed_over_is_lost_with_its_node():
    scene = Scene(1)
    (job,) = scene.jobs(1)
    scene.tell(NodeLost(1, "node a", "its cable was pulled"))
    outcome = outcome_of(job)
    assert (outcome.status, outcome.attempts) == (Status.LOST, 1)
    assert isinstance(outcome.error, JobLost)
    assert "node a is gone, its cable was pulled" in str(outcome.error)


def test_a_retry_runs_elsewhere():
    scene = Scene(1)
    (job,) = scene.jobs(1, retries=1)
    scene.tell(NodeLost(1, "node a", "its cable was pulled"))
    scene.tell(NodeReady(2, 1))
    scene.end(job)
    assert (outcome_of(job).status, outcome_of(job).attempts) == (Status.SUCCEEDED, 2)


def test_a_job_that_its_node_gives_up_by_itself_is_lost():
    scene = Scene(1)
    (job,) = scene.jobs(1)
    scene.end(job, Status.CANCELLED)
    assert outcome_of(job).status is Status.LOST
    assert "its node gave it up" in str(outcome_of(job).error)


def test_a_node_that_gives_back_what_it_has_not_begun_is_sent_no_more():
    """It is about to leave. What never started runs elsewhere, also without `retries`."""
    scene = Scene(1)
    job, other = scene.jobs(2)
    scene.end(job, Status.CANCELLED, started=False)
    assert job.state is State.PENDING
    assert len(scene.sent) == 1
    scene.tell(NodeReady(2, 2))
    assert [(send.node, send.batch.records) for send in scene.sent[1:]] == [(2, [job]), (2, [other])]
    scene.end(job)
    assert outcome_of(job).attempts == 1


def test_a_deadline_that_passed_on_the_node_before_the_start_is_no_attempt():
    scene = Scene(1)
    (job,) = scene.jobs(1, deadline=scene.clock() + 1.0, retries=3)
    scene.end(job, Status.EXPIRED, started=False)  # its clock is a little ahead of ours
    assert (outcome_of(job).status, outcome_of(job).attempts) == (Status.EXPIRED, 0)


def test_nothing_past_its_deadline_is_sent():
    """The end of another job makes room at the very moment."""
    scene = Scene(1)
    (running,), (late,) = scene.jobs(1), scene.jobs(1, deadline=scene.clock() + 1.0)
    scene.clock.advance(1.0)
    scene.end(running)
    assert len(scene.sent) == 1
    assert (outcome_of(late).status, outcome_of(late).attempts) == (Status.EXPIRED, 0)


def test_a_doomed_job_whose_attempt_succeeds_keeps_its_doom():
    scene = Scene(1)
    (job,) = scene.jobs(1)
    assert any(
        isinstance(action, Withdraw) for action in scene.tell(ev.CancelRequested(job, "not wanted", running=True))
    )
    assert not job.sink.outcomes  # type: ignore[attr-defined]
    scene.end(job)
    assert outcome_of(job).status is Status.CANCELLED


def test_a_job_whose_future_was_cancelled_is_not_sent_and_frees_its_slot():
    scene = Scene(1)
    job, other = scene.jobs(2)
    actions = scene.tell(Refused(1, scene.batch_of(job).seq, "its future was cancelled"))
    assert not any(isinstance(action, Withdraw) for action in actions)
    assert (outcome_of(job).status, outcome_of(job).attempts) == (Status.CANCELLED, 0)
    assert isinstance(outcome_of(job).error, JobCancelled)
    assert scene.sent[-1].batch.records == [other]


# ---- anything, in any order ------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Told:
    """A future, and what the test knows of its job."""

    outcome: Outcome | None = None
    handed_over: int = 0  # sends that were not taken back
    may_cancel: bool = False
    context_cancelled: bool = False
    record: Record = field(init=False)

    def start(self, record: Record) -> bool:
        return True

    def settle(self, record: Record, outcome: Outcome) -> None:
        assert self.outcome is None, f"settled twice: {self.outcome}, {outcome}"
        self.outcome = outcome


@dataclass
class FakeNode:
    """What it holds: by batch, whether it was handed over, and whether it was asked back."""

    id: int
    slots: int
    held: dict[int, Record] = field(default_factory=dict)
    unsent: set[int] = field(default_factory=set)
    withdrawn: set[int] = field(default_factory=set)
    recalled: set[int] = field(default_factory=set)


spoken = st.sampled_from([None, None, 0.001, 0.5, 30.0])
indices = st.integers(0, 1000)


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.ledger = ClusterLedger(jitter=lambda: 0.5)
        self.books = self.ledger.books
        self.books.pace.observe(SHORT, 1, AHEAD_S / 3.5)
        self.books.pace.observe(LONG, 1, 10.0)
        self.sinks: list[Told] = []
        self.nodes: dict[int, FakeNode] = {}
        self.last_node = 0
        self.contexts = [Context() for _ in range(2)]
        self.streams = [object() for _ in range(2)]
        self.old: list[AttemptEnded] = []
        self.leaving: set[int] = set()
        self.broken = self.stopped = False

    def tell(self, event: Any) -> None:
        due = self.ledger.next_wakeup()
        for action in self.ledger.handle(event, self.clock()):
            match action:
                case Send(id, batch):
                    self.on_send(id, batch)
                case Withdraw(id, seq):
                    assert id in self.nodes, "asked back from a node that is gone"
                    assert seq in self.nodes[id].held, "asked back what the node does not hold"
                    assert seq not in self.nodes[id].withdrawn, "asked back twice"
                    self.nodes[id].withdrawn.add(seq)
                case Recall(id, seq):
                    assert seq in self.nodes[id].held, "recalled from a node that does not hold it"
                    assert seq not in self.nodes[id].recalled, "recalled twice"
                    self.nodes[id].recalled.add(seq)
                case do.Settle(record, outcome):
                    self.on_settle(record, outcome)
                case do.Retried(record):
                    assert self.of(record).outcome is None
                    assert record.attempt <= record.retries
        if isinstance(event, ev.TimePassed):
            later = self.ledger.next_wakeup()
            assert later is None or later > self.clock(), f"woken for nothing: due {due}, now {self.clock()}"

    def on_send(self, id: int, batch: Batch) -> None:
        assert not (self.broken)
        assert not (self.stopped)
        assert id in self.nodes, "sent to a node that is gone"
        assert id not in self.leaving, "sent to a node that gave something back"
        (record,) = batch.records
        told = self.of(record)
        assert told.outcome is None
        assert record.deadline is None or record.deadline > self.clock(), "sent past its deadline"
        told.handed_over += 1
        assert told.handed_over <= record.retries + 1, "sent more often than it may run"
        node = self.nodes[id]
        node.held[batch.seq] = record
        node.unsent.add(batch.seq)

    def on_settle(self, record: Record, outcome: Outcome) -> None:
        told = self.of(record)
        told.settle(record, outcome)
        assert record.state is State.SETTLED
        assert (outcome.error is None) == (outcome.status is Status.SUCCEEDED)
        assert outcome.waited >= 0
        assert outcome.duration >= 0
        assert outcome.attempts <= record.retries + 1
        if not self.broken:
            assert outcome.attempts == told.handed_over or outcome.attempts == told.handed_over - 1
        if outcome.status is Status.CANCELLED:
            assert told.may_cancel or self.stopped, "nobody asked for that"
        if outcome.status is Status.EXPIRED and record.timeout is None:
            assert record.deadline is not None

    def of(self, record: Record) -> Told:
        assert isinstance(record.sink, Told)
        return record.sink

    # ---- users -------------------------------------------------------------------------------------------------------

    @initialize(slots=st.lists(st.integers(1, 3), max_size=2))
    def begin(self, slots: list[int]) -> None:
        for one in slots:
            self.node_comes(one)

    @rule(
        count=st.integers(1, 6), key=st.sampled_from([KEY, SHORT, LONG]), deadline=spoken,
        retries=st.sampled_from([0, 0, 1, 2]), backoff=st.sampled_from([0.0, 0.0, 0.3]),
        priority=st.sampled_from([0, 0, 5]), context=st.sampled_from([None, None, 0, 1]),
        stream=st.sampled_from([None, None, 0, 1]), problem=st.sampled_from([False, False, False, True]),
    )  # fmt: skip
    def accept(self, count, key, deadline, retries, backoff, priority, context, stream, problem) -> None:
        records = []
        for _ in range(count):
            told = Told()
            told.record = Record(
                Job(max, context=None if context is None else self.contexts[context], backoff=backoff,
                    priority=priority),
                told, payload=b"", key=key, retries=retries, timeout=1.0,
                deadline=None if deadline is None else self.clock() + deadline,
                stream=None if stream is None else self.streams[stream],
                problem=ValueError() if problem else None,
            )  # fmt: skip
            self.sinks.append(told)
            records.append(told.record)
        self.tell(ev.Accepted(records))

    @precondition(lambda self: self.sinks)
    @rule(index=indices, running=st.booleans())
    def cancel(self, index: int, running: bool) -> None:
        told = self.sinks[index % len(self.sinks)]
        told.may_cancel = True
        self.tell(ev.CancelRequested(told.record, "not wanted", running))

    @rule(index=st.integers(0, 1))
    def cancel_context(self, index: int) -> None:
        for told in self.sinks:
            told.may_cancel |= told.record.context is self.contexts[index]
        self.tell(ev.ContextCancelled(self.contexts[index], "enough"))

    @rule(index=st.integers(0, 1))
    def close_stream(self, index: int) -> None:
        for told in self.sinks:
            told.may_cancel |= told.record.stream is self.streams[index]
        self.tell(ev.StreamClosed(self.streams[index]))

    @precondition(lambda self: not (self.broken or self.stopped) and len(self.sinks) > 20)
    @rule(broken=st.booleans())
    def stop(self, broken: bool) -> None:
        if broken:
            self.broken = True
            for node in self.nodes.values():
                node.held.clear()
                node.unsent.clear()
                node.withdrawn.clear()
            self.tell(ev.Broke(EngineBroken("no node can be started")))
        else:
            self.stopped = True
            self.tell(ev.PendingCancelled("the engine was shut down"))

    # ---- nodes -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.nodes) < 4)
    @rule(slots=st.integers(1, 3))
    def node_comes(self, slots: int) -> None:
        self.last_node += 1
        self.nodes[self.last_node] = FakeNode(self.last_node, slots)
        self.tell(NodeReady(self.last_node, slots))

    def node(self, index: int) -> FakeNode:
        return list(self.nodes.values())[index % len(self.nodes)]

    @precondition(lambda self: self.nodes)
    @rule(index=indices)
    def hand_over(self, index: int) -> None:
        self.node(index).unsent.clear()

    @precondition(lambda self: self.nodes)
    @rule(index=indices)
    def node_goes(self, index: int) -> None:
        node = self.node(index)
        del self.nodes[node.id]
        for seq in node.unsent:
            self.of(node.held[seq]).handed_over -= 1
        self.tell(NodeLost(node.id, "node", "it fell over", node.unsent))

    @precondition(lambda self: any(node.held for node in self.nodes.values()))
    @rule(
        index=indices, which=indices, status=st.sampled_from([Status.SUCCEEDED] * 3 + list(Status)),
        started=st.sampled_from([True, True, True, False]),
        duration=st.sampled_from([0.0, 1e-9, 0.01, 5.0, 1e300]),
    )  # fmt: skip
    def end(self, index: int, which: int, status: Status, started: bool, duration: float) -> None:
        nodes = [node for node in self.nodes.values() if node.held]
        node = nodes[index % len(nodes)]
        seq = list(node.held)[which % len(node.held)]
        record = node.held.pop(seq)
        node.unsent.discard(seq)
        node.withdrawn.discard(seq)
        started = started or status in (Status.SUCCEEDED, Status.FAILED)
        if (
            not started
            and seq not in node.recalled
            and status in (Status.CANCELLED, Status.LOST)
            and record.doom is None
        ):
            self.leaving.add(node.id)
        if not started:
            self.of(record).handed_over -= 1
        error = None if status is Status.SUCCEEDED else ValueError("no")
        event = AttemptEnded(node.id, seq, status, Report(0, 1, error=error, duration=duration), started, 7)
        self.old.append(event)
        self.tell(event)

    @precondition(lambda self: any(node.unsent for node in self.nodes.values()))
    @rule(which=indices)
    def refuse(self, which: int) -> None:
        """The future of a job that is about to be sent turns out to be cancelled."""
        node = next(node for node in self.nodes.values() if node.unsent)
        seq = sorted(node.unsent)[which % len(node.unsent)]
        told = self.of(node.held.pop(seq))
        node.unsent.discard(seq)
        node.withdrawn.discard(seq)
        told.may_cancel = True
        told.handed_over -= 1
        self.tell(Refused(node.id, seq, "its future was cancelled"))
        assert told.outcome is not None

    @precondition(lambda self: self.old)
    @rule(index=indices, elsewhere=st.booleans())
    def repeat(self, index: int, elsewhere: bool) -> None:
        """Something comes again, or so late that it is over, or from a node that never had it."""
        event = self.old[index % len(self.old)]
        self.tell(event._replace(node=event.node + 1) if elsewhere else event)

    @rule(seconds=st.sampled_from([1e-4, 0.01, 0.6, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        due = self.ledger.next_wakeup()
        if due is not None and due <= self.clock():
            self.tell(ev.TimePassed())

    # ---- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def all_is_in_order(self) -> None:
        books = self.books
        places = [entry for entry in books.backlog if isinstance(entry, Record)]
        places += books.delayed
        places += [batch.records[0] for batch in books.batches.values()]
        wanted = {told.record for told in self.sinks if told.outcome is None}
        assert len(places) == len(set(places)) == books.open
        assert set(places) == wanted
        assert {node: dict.fromkeys(held.held) for node, held in self.ledger.nodes.items()} == {
            id: dict.fromkeys(node.held) for id, node in self.nodes.items()
        }
        held = {seq: batch for node in self.ledger.nodes.values() for seq, batch in node.held.items()}
        assert held == books.batches
        waiting = books.backlog.peek()
        for node in self.ledger.nodes.values():
            assert node.leaving == (node.id in self.leaving)
            idle = len(node.held) < node.slots and not node.leaving
            assert not (idle and waiting is not None and not self.broken and not self.stopped)
        for record in places:
            if record.doom is not None:
                assert record.batch is not None
                assert record.batch.worker is not None
                assert record.batch.seq in self.nodes[record.batch.worker].withdrawn, (
                    "given up, and nobody asked for it"
                )
            elif record.deadline is not None:
                when = self.ledger.next_wakeup()
                assert when is not None
                assert when <= record.deadline
        for _ in books.delayed:
            assert self.ledger.next_wakeup() is not None

    def teardown(self) -> None:
        """Let all come to an end: a good node, and time."""
        if not (self.broken or self.stopped):
            self.last_node += 1
            self.nodes[self.last_node] = FakeNode(self.last_node, 3)
            self.tell(NodeReady(self.last_node, 3))
        for _ in range(10_000):
            busy = next((node for node in self.nodes.values() if node.held), None)
            if busy is not None:
                seq = next(iter(busy.held))
                busy.held.pop(seq)
                busy.unsent.discard(seq)
                busy.withdrawn.discard(seq)
                self.tell(AttemptEnded(busy.id, seq, Status.SUCCEEDED, Report(0, 1, duration=0.1)))
            elif (due := self.ledger.next_wakeup()) is not None:
                self.clock.advance_to(due)
                self.tell(ev.TimePassed())
            else:
                break
        assert self.books.open == 0
        assert all(told.outcome is not None for told in self.sinks)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLedgerMachine = LedgerMachine.TestCase
