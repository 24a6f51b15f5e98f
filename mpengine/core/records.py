"""The ledger's own entries. Mutable, owned by the ledger; other threads only hand them in and pass them on.

    Record  one accepted job                              state: PENDING -> QUEUED -> settled
    Span    a run of calls of one function                state: the same, as a whole
    Batch   what travels in one queue message: records, or one span

A batch's items are numbered from 0 in the order they run. A worker reports them in that order, so three numbers tell
everything: items below `done` are reported, item `index` is the one last seen started, those above were not.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from mpengine.core.job import Job, Outcome, Status

if TYPE_CHECKING:
    from mpengine.context import Context


class State(Enum):
    """Where a record is. Claimed or running is known of its batch, not of the record."""

    PENDING = "pending"
    QUEUED = "queued"
    SETTLED = "settled"


class Sink(Protocol):
    """Where outcomes go: a future or an iterator. Opaque to the ledger."""

    def start(self, record: Record) -> bool:
        """The record is about to be sent; False: it was cancelled, do not run it."""

    def settle(self, record: Record, outcome: Outcome) -> None:
        """Deliver the outcome. Called once per record, by the dispatcher thread."""


class Call(Protocol):
    """What there is to know of a job that travels as a call of a span."""

    @property
    def args(self) -> tuple[Any, ...]:
        """All positional, and plain."""

    @property
    def label(self) -> int | str:
        """The number of an id that was made for it, or the id it was given."""

    @property
    def id(self) -> str:
        """The job's id."""


class SpanSink(Protocol):
    """Where the ends of calls go. Opaque to the ledger."""

    def start_calls(self, span: Span) -> Sequence[Call]:
        """The jobs of this span are about to be sent; returns those that were cancelled: then none of it is sent."""

    def ended(self, part: SpanEnd) -> None:
        """Some calls have ended. Called by the dispatcher thread."""


class SpanEnd:
    """The end of `count` calls of a span, from number `position` of its sink's on: all in the same way.

    Attributes:
        jobs: The jobs that the calls are; None: they are a map's.
        report: What their worker told; its `value` holds all their values, pickled, of a map in a list of blobs. None:
            they did not run.
        skipped: The values in there that come before theirs.
        accepted_at: When they were taken in.
    """

    __slots__ = ("accepted_at", "count", "error", "jobs", "position", "report", "skipped", "status", "worker_pid")

    def __init__(
        self,
        span: Span,
        first: int,
        count: int,
        status: Status,
        error: BaseException | None,
        report: Report | None,
        worker_pid: int | None,
        skipped: int,
    ) -> None:
        self.position = span.position + first
        self.count = count
        self.jobs = None if span.jobs is None else span.jobs[first : first + count]
        self.accepted_at = span.accepted_at
        self.status = status
        self.error = error
        self.report = report
        self.worker_pid = worker_pid
        self.skipped = skipped


class Doom:
    """Why a job has to end before its time: decided once, first come first served."""

    __slots__ = ("error", "retry", "status")

    def __init__(self, status: Status, error: BaseException, *, retry: bool = False) -> None:
        self.status = status
        self.error = error
        self.retry = retry  # it ends the attempt only: a timeout, not a deadline or a cancellation


class Record:
    """One accepted job, with the engine's defaults filled in."""

    __slots__ = (
        "accepted_at", "attempt", "batch", "deadline", "doom", "errors", "job", "key", "payload", "position", "problem",
        "retries", "seq", "sink", "size", "started_at", "state", "stream", "timeout", "worker_pid",
    )  # fmt: skip

    def __init__(
        self,
        job: Job,
        sink: Sink,
        *,
        payload: bytes | None,
        key: int = 0,
        timeout: float | None = None,
        retries: int = 0,
        deadline: float | None = None,
        problem: BaseException | None = None,
        stream: object | None = None,
    ) -> None:
        self.job = job
        self.sink = sink
        self.payload = payload
        self.problem = problem  # why it could not be pickled, if so
        self.key = key  # of the function, for the pace
        self.timeout = timeout
        self.retries = retries
        self.deadline = deadline
        self.stream = stream  # the iterator it was drawn for, if any
        self.position = 0  # in that one's input
        # Of a parcel (`arrays.parcel`): with all that lies in its blocks.
        self.size = 0 if payload is None else getattr(payload, "size", len(payload))
        self.seq = 0  # given by the ledger
        self.state = State.PENDING
        self.attempt = 0
        self.errors: tuple[BaseException, ...] = ()
        self.batch: Batch | None = None
        self.doom: Doom | None = None
        self.accepted_at = 0.0
        self.started_at: float | None = None
        self.worker_pid: int | None = None

    @property
    def context(self) -> Context | None:
        return self.job.context

    @property
    def priority(self) -> int:
        return self.job.priority


class Span:
    """Calls of one function: those of a map, or jobs without limits of their own.

    A map's: calls [first, stop) of a payload that holds the arguments of many, cut to size by its iterator.

    Jobs: [first, stop) of `jobs`; their arguments are packed when they are sent (`payload` is None), so that the ledger
    can cut a batch as it sees fit, and take single ones out. `size` is about how many bytes of text all of them have.

    `position` is the place of call 0 in its iterator's input. Parts of a span share payload and jobs.
    """

    __slots__ = (
        "accepted_at", "cancelled", "first", "fn", "jobs", "key", "payload", "position", "priority", "sink", "size",
        "state", "stop", "stream", "total",
    )  # fmt: skip

    def __init__(
        self, sink: SpanSink, fn: Any, payload: bytes | None, *, position: int, first: int, stop: int, key: int = 0,
        jobs: Sequence[Call] | None = None, size: int = 0, total: int | None = None,
    ) -> None:  # fmt: skip
        self.sink = sink
        self.stream: object = sink
        self.fn = fn  # an opaque handle on the pickled function, for the transport
        self.payload = payload
        self.position = position
        self.first = first
        self.stop = stop
        self.total = stop if total is None else total  # calls in the payload
        self.key = key
        self.jobs = jobs
        self.size = size
        self.accepted_at = 0.0
        self.priority = 0
        self.state = State.PENDING
        self.cancelled = False

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def name(self) -> str:
        """The function's name, for people."""
        return str(self.fn.name)

    @property
    def open_jobs(self) -> Sequence[Call]:
        """The jobs [first, stop); none if the calls are a map's."""
        return () if self.jobs is None else self.jobs[self.first : self.stop]

    def part(self, first: int, stop: int) -> Span:
        """The calls [first, stop) of the same payload or jobs, as a span of its own."""
        part = Span(
            self.sink, self.fn, self.payload, position=self.position, first=first, stop=stop, key=self.key,
            jobs=self.jobs, size=self.size, total=self.total,
        )  # fmt: skip
        part.accepted_at = self.accepted_at
        return part

    def of(self, jobs: Sequence[Call]) -> Span:
        """Some of its jobs, as a span of its own. Their positions are lost: only for jobs whose sink needs none."""
        part = Span(self.sink, self.fn, None, position=0, first=0, stop=len(jobs), key=self.key, jobs=jobs)
        part.size = self.size * len(jobs) // max(1, len(self.jobs or ()))
        part.accepted_at = self.accepted_at
        return part


Entry = Record | Span


class Batch:
    """What one worker claims at once. See the module's text for `done` and `index`."""

    __slots__ = (
        "ahead", "check_at", "done", "heard_at", "index", "index_since", "interrupted", "kill_at", "killed", "lone",
        "records", "revoked_at", "sent_at", "seq", "size", "span", "worker",
    )  # fmt: skip

    def __init__(
        self, seq: int, *, records: Sequence[Record] = (), span: Span | None = None, lone: bool = False,
        ahead: bool = False, now: float,
    ) -> None:  # fmt: skip
        self.seq = seq
        self.ahead = ahead  # when it was sent, every worker had another
        self.lone = lone  # its job came by the short way, and its worker answers directly
        self.records = records
        self.span = span
        self.size = len(span) if span is not None else len(records)
        self.sent_at = now
        self.done = 0
        self.heard_at = now  # of it, or of its worker's last batch
        self.index = -1
        self.index_since = now
        self.worker: int | None = None
        self.revoked_at: float | None = None
        self.interrupted = -1  # the item a worker was asked to break off
        self.kill_at: float | None = None
        self.killed = False
        self.check_at: float | None = None

    def has_started(self, record: Record) -> bool:
        """Whether this is the item last seen started."""
        return 0 <= self.index < len(self.records) and self.records[self.index] is record

    def jobs(self, first: int, stop: int | None = None) -> Sequence[Call]:
        """Of its span: the jobs that items [first, stop) are; None: to the end. None of a map's."""
        if self.span is None or self.span.jobs is None:
            return ()
        start = self.span.first
        return self.span.jobs[start + first : start + (self.size if stop is None else stop)]

    def open_span(self, first: int = 0) -> Span | None:
        """Its calls from item `first` on, as a span of their own; None if it holds jobs."""
        if self.span is None:
            return None
        part = self.span.part(self.span.first + first, self.span.first + self.size)
        part.cancelled = self.span.cancelled
        return part


class Report:
    """The end of one item, or the values of `count` calls of a span, as a worker told it and the collector read it."""

    __slots__ = (
        "count",
        "duration",
        "error",
        "handed_over",
        "index",
        "interrupted",
        "peak_memory",
        "skipped",
        "stack",
        "started_at",
        "value",
    )

    def __init__(
        self,
        index: int,
        value: Any = None,
        *,
        count: int = 1,
        error: BaseException | None = None,
        interrupted: bool = False,
        skipped: bool = False,
        handed_over: bool = False,
        stack: str = "",
        started_at: float = 0.0,
        duration: float = 0.0,
        peak_memory: int = 0,
    ) -> None:
        self.index = index
        self.value = value
        self.count = count
        self.error = error
        self.interrupted = interrupted  # broken off from inside, as it was asked to be
        self.stack = stack  # where it was when it was broken off
        self.handed_over = handed_over  # the job's owner has the value by now
        self.skipped = skipped  # never started: its future was cancelled while the batch was being sent
        self.started_at = started_at
        self.duration = duration
        self.peak_memory = peak_memory
