"""What the tests of the core build again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core import invariants
from mpengine.core.job import Job, Outcome
from mpengine.core.ledger import Ledger
from mpengine.core.records import Call, Record, Span, SpanEnd
from mpengine.testing.fake_clock import FakeClock
from mpengine.testing.fake_workers import End, FakeWorker, FakeWorkers, Step

STOP_GRACE_S = 2.0
KEY = 7  # of the function of every job, unless told otherwise


def resize() -> None:
    """Stands for what is run; nothing is."""


@dataclass(eq=False)
class Sink:
    """Keeps the outcomes of a job."""

    outcomes: list[Outcome] = field(default_factory=list)
    wanted: bool = True

    def start(self, record: Record) -> bool:
        return self.wanted

    def settle(self, record: Record, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@dataclass(eq=False)
class MapSink:
    """Keeps what came for a map: values by position, errors by position."""

    values: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)

    def start_calls(self, span: Span) -> Sequence[Call]:
        return ()

    def ended(self, part: SpanEnd) -> None:
        if part.error is not None:
            self.errors[part.position] = part.error
        elif part.report is not None:
            values = zip(range(part.position, part.position + part.count), part.report.value, strict=True)
            self.values.update(values)


@dataclass
class Function:
    """What a span knows of its function."""

    name: str = "resize"


def make_record(
    *,
    size: int = 10,
    key: int = KEY,
    timeout: float | None = None,
    retries: int = 0,
    deadline: float | None = None,
    problem: BaseException | None = None,
    stream: object | None = None,
    sink: Sink | None = None,
    **job: Any,
) -> Record:
    return Record(
        Job(resize, **job), Sink() if sink is None else sink, payload=bytes(size), key=key, timeout=timeout,
        retries=retries, deadline=deadline, problem=problem, stream=stream,
    )  # fmt: skip


def make_span(calls: int, *, sink: MapSink | None = None, position: int = 0) -> Span:
    return Span(MapSink() if sink is None else sink, Function(), b"", position=position, first=0, stop=calls, key=KEY)


class Scene:
    """A ledger with fake workers. Jobs are known to take 0.1 ms, so that several travel together.

    Attributes:
        asked: Every action, in order.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        seconds: float | None = 1e-4,
        jitter: float = 0.5,
        stop_grace: float = STOP_GRACE_S,
    ) -> None:
        self.clock = FakeClock()
        self.ledger = Ledger(stop_grace=stop_grace, jitter=lambda: jitter)
        self.books = self.ledger.books
        if seconds is not None:
            self.books.pace.observe(KEY, 1, seconds)
        self.asked: list[do.Action] = []
        self.between: Callable[[], None] = lambda: None  # called wherever a worker may get ahead of the parent
        self.fleet = FakeWorkers(self.ledger, self.clock, between=lambda: self.between(), spy=self._spy)
        self.workers = [self.fleet.start_worker() for _ in range(workers)]

    def _spy(self, event: ev.Event, actions: Sequence[do.Action]) -> None:
        invariants.check(self.ledger)
        self.asked += actions

    def accept(self, *entries: Record | Span) -> None:
        self.fleet.tell(ev.Accepted(entries))

    def jobs(self, count: int, **about: Any) -> list[Record]:
        """Accept so many jobs at once."""
        records = [make_record(**about) for _ in range(count)]
        self.accept(*records)
        return records

    def all_asked(self, kind: type[Any]) -> list[Any]:
        return [action for action in self.asked if isinstance(action, kind)]

    def pass_time(self, seconds: float) -> None:
        """Let time pass; the ledger is woken whenever it wants to be."""
        until = self.clock() + seconds
        while (due := self.ledger.next_wakeup()) is not None and due <= until:
            self.clock.advance_to(due)
            self.fleet.wake()
        self.clock.advance_to(until)

    def work(self, *ends: End, worker: int = 0) -> None:
        """The worker begins an item, if it has none, and ends it, for each of these ends; it rings at the last."""
        for end in ends:
            self.begin(worker)
            self.workers[worker].step(end)
        self.fleet.collect(self.workers[worker])

    def begin(self, worker: int = 0) -> FakeWorker:
        """Bring a worker to where it runs an item."""
        found = self.workers[worker]
        for _ in range(10):
            if found.at is Step.RUNNING:
                return found
            if found.at is Step.IDLE and not self.fleet.queue:
                self.fleet.collect(found)
            found.step()
        raise AssertionError(f"{found} finds nothing to run")

    def die(self, exitcode: int = -9, *, worker: int = 0, problem: str = "") -> None:
        self.workers[worker].die(exitcode)
        self.fleet.reap(self.workers[worker], problem)


def outcome_of(record: Record) -> Outcome:
    """The one outcome of a job."""
    assert isinstance(record.sink, Sink)
    assert len(record.sink.outcomes) == 1, f"{len(record.sink.outcomes)} outcomes"
    return record.sink.outcomes[0]


def is_open(record: Record) -> bool:
    assert isinstance(record.sink, Sink)
    return not record.sink.outcomes
