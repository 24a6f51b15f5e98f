"""What the ledger asks for. Imperative, frozen; the dispatcher carries them out in order."""

from __future__ import annotations

from typing import NamedTuple

from mpengine.core.job import Outcome
from mpengine.core.records import Batch, Record, SpanEnd, SpanSink


class PutBatch(NamedTuple):
    """Write this batch to the queue. Answered by `QueueFull` or `PutFailed` if it cannot be."""

    batch: Batch


class Settle(NamedTuple):
    """Deliver the outcome to the record's sink."""

    record: Record
    outcome: Outcome


class EndCalls(NamedTuple):
    """Tell the sink of a span that some of its calls have ended. `wanted`: somebody waits for that."""

    sink: SpanSink
    part: SpanEnd
    wanted: bool


class Retried(NamedTuple):
    """Nothing to do but tell observers: this attempt ended badly and another will follow after `delay` seconds.

    `duration`: seconds it ran.
    """

    record: Record
    attempt: int
    started_at: float | None
    error: BaseException
    delay: float
    duration: float


class Retract(NamedTuple):
    """Take back every batch no worker has claimed. Answered by `Retracted`."""


class Revoke(NamedTuple):
    """Ask a worker to start no further item of this batch. Answered by `GaveBack` or by the board."""

    worker: int
    batch: int


class Flush(NamedTuple):
    """Ask a worker to log the values it holds back for a group of calls."""

    worker: int
    batch: int


class Interrupt(NamedTuple):
    """Break off this item from inside, if it is still the one that runs."""

    worker: int
    batch: int
    item: int


class Kill(NamedTuple):
    """Kill this worker with its process tree if this item still runs; take its Python stack first.

    Answered by `WorkerExited`, or by a report of the item.
    """

    worker: int
    batch: int
    item: int
    reason: str


class Examine(NamedTuple):
    """Nobody takes what waits: replace workers that run nothing and are stopped (SIGSTOP)."""


class Forget(NamedTuple):
    """No worker will read this batch any more: its room in the arena is free."""

    batch: Batch


Action = (
    PutBatch | Settle | EndCalls | Retried | Retract | Revoke | Flush | Interrupt | Kill | Examine
    | Forget
)  # fmt: skip
