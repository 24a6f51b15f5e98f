"""What the ledger can be told. Past tense, frozen; nothing here does anything."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mpengine.core.records import Call, Entry, Record, Report

if TYPE_CHECKING:
    from mpengine.context import Context


class Accepted(NamedTuple):
    """Jobs and spans were taken in, in this order."""

    entries: Sequence[Entry]


class Sent(NamedTuple):
    """A job was taken in that is in the queue already, as a batch of its own."""

    record: Record
    batch: int
    at: float


class Passed(NamedTuple):
    """Calls that were in the queue, each as a batch of its own, and have succeeded before they came to the books.

    For each, the key of its function, and how long it took.
    """

    calls: Sequence[tuple[int, float]]


class WorkerReady(NamedTuple):
    """A worker has finished its start and takes batches from now on."""

    worker: int
    pid: int


class Reported(NamedTuple):
    """A worker's log held these ends of items of a batch."""

    worker: int
    batch: int
    reports: Sequence[Report]


class GaveBack(NamedTuple):
    """A worker handed back the items of a batch from `item` on; it has not started them and will not."""

    worker: int
    batch: int
    item: int


class Observed(NamedTuple):
    """A worker's board row: the batch it claimed, the item it last started (-1: none), when (None: not told)."""

    worker: int
    batch: int
    item: int
    since: float | None


class WorkerExited(NamedTuple):
    """A worker is dead, its log read to the end. `batch`, `item`: its last claim and start, as in `Observed`."""

    worker: int
    pid: int
    exitcode: int | None
    batch: int = 0
    item: int = -1
    since: float | None = None
    peak_memory: int = 0
    stack: str = ""
    memory: int = 0  # bytes it held, if it was killed for that
    problem: str = ""  # what we know beyond the exit code, e.g. "it wrote a bad frame"


class Retracted(NamedTuple):
    """These batches were taken back out of the queue before any worker claimed them."""

    batches: Sequence[int]


class QueueFull(NamedTuple):
    """The queue had no room for this batch; no worker has seen it."""

    batch: int


class PutFailed(NamedTuple):
    """This batch could not be written (no memory, say); no worker has seen it."""

    batch: int
    error: BaseException


class CancelRequested(NamedTuple):
    """Someone gave up a job. `running`: also if it has started."""

    record: Record
    reason: str
    running: bool


class CallsCancelled(NamedTuple):
    """Someone gave up these jobs, which are calls of spans. `running`: also those that have started."""

    jobs: Collection[Call]
    reason: str
    running: bool


class Refused(NamedTuple):
    """This batch was not sent, because these calls of it turned out to be given up."""

    batch: int
    jobs: Sequence[Call]
    reason: str


class ContextCancelled(NamedTuple):
    """A context with open jobs was cancelled."""

    context: Context
    reason: str


class StreamClosed(NamedTuple):
    """An iterator was dropped or closed; nobody waits for what was drawn for it."""

    stream: object


class PendingCancelled(NamedTuple):
    """A shutdown cancels all that has not started; what runs is let be, and nothing starts any more."""

    reason: str


class Broke(NamedTuple):
    """Workers cannot be kept alive; everything open fails with this."""

    error: BaseException


class TimePassed(NamedTuple):
    """Nothing but the time has changed. Comes after an `Observed` of every worker."""


Event = (
    Accepted | Sent | Passed | WorkerReady | Reported | GaveBack | Observed | WorkerExited | Retracted | QueueFull
    | PutFailed | Refused | CancelRequested | CallsCancelled | ContextCancelled | StreamClosed | PendingCancelled
    | Broke | TimePassed
)  # fmt: skip
