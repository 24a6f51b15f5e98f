"""Looking at an engine: `stats()` and `workers()`. Reads what the dispatcher thread writes; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from mpengine.core.job import Status
from mpengine.runtime.clock import monotonic
from mpengine.runtime.dispatcher import Dispatcher
from mpengine.runtime.supervisor import WorkerHandle, WorkerState, memory_of


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Shared memory, in bytes.

    Attributes:
        size: What the system holds for it: what is in use, what is kept to be used again, and the workers' logs.
        in_use: Arguments on their way, or still looked at by a worker; results that are still looked at here; shared
            objects.
        peak: The most that was ever in use.
    """

    size: int
    in_use: int
    peak: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts of jobs by state, calls of `map` included.

    Attributes:
        pending: Accepted and not sent to the workers yet.
        queued: Sent; waiting in the queue or in a worker's hand, or running.
        running: Workers that run a job now.
        succeeded, failed, expired, cancelled, lost: Ended so.
        retried: Attempts that ended badly and were followed by another.
        throughput: Jobs ended per second of the engine's life.
        uptime: Seconds since it was made.
        memory: Of arguments, results and shared objects that cross in shared memory.
    """

    pending: int
    queued: int
    running: int
    succeeded: int
    failed: int
    expired: int
    cancelled: int
    lost: int
    retried: int
    throughput: float
    uptime: float
    memory: MemoryStats


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker.

    Attributes:
        pid: Its process.
        state: "starting", "idle" or "busy".
        job: The id of the job it runs, or the call of a map; None: none.
        job_age: Seconds that job has been running, as far as it is known.
        age: Seconds since it was started.
        memory: Resident bytes of its process and all below it.
        done, total: What the job said of its own progress, see `CurrentJob.progress`.
    """

    pid: int
    state: str
    job: str | None
    job_age: float | None
    age: float
    memory: int
    done: float
    total: float


def engine_stats(dispatcher: Dispatcher) -> EngineStats:
    """See `Engine.stats`."""
    books = dispatcher.books
    counts = dict(books.counts)
    workforce = dispatcher.workforce
    # What is taken directly is counted where it is taken: its owner has it, whether the books know yet or not.
    # The larger: a KeyboardInterrupt may have come between the taking and the counting.
    counts[Status.SUCCEEDED] += max(dispatcher.answers.taken, books.handed_over)
    ended = sum(counts.values())
    queued = sum(batch.size - batch.done for batch in list(books.batches.values()) if not workforce.is_over(batch))
    uptime = monotonic() - dispatcher.started_at
    memory = dispatcher.memory
    return EngineStats(
        pending=max(0, dispatcher.lane.admitted + len(dispatcher.lane.calls) - ended - queued),
        queued=queued,
        running=sum(row.state == "busy" for row in _rows(dispatcher, memory=False)),
        succeeded=counts[Status.SUCCEEDED],
        failed=counts[Status.FAILED],
        expired=counts[Status.EXPIRED],
        cancelled=counts[Status.CANCELLED],
        lost=counts[Status.LOST],
        retried=books.retried,
        throughput=ended / uptime if uptime > 0 else 0.0,
        uptime=uptime,
        memory=MemoryStats(memory.size(), memory.in_use(), memory.peak),
    )


def worker_rows(dispatcher: Dispatcher) -> list[WorkerRow]:
    """See `Engine.workers`."""
    return _rows(dispatcher, memory=True)


def _rows(dispatcher: Dispatcher, *, memory: bool) -> list[WorkerRow]:
    rows = []
    for handle in list(dispatcher.supervisor.handles.values()):
        try:
            rows.append(_row(dispatcher, handle, memory=memory))
        except ValueError:
            continue  # it has just been buried: its memory is unmapped
    return rows


def _row(dispatcher: Dispatcher, handle: WorkerHandle, *, memory: bool) -> WorkerRow:
    now = monotonic()
    job, since = dispatcher.workforce.job_of(handle)
    done, total = handle.log.progress() if job is not None else (0.0, 0.0)
    state = "starting" if handle.state is WorkerState.STARTING else "idle" if job is None else "busy"
    return WorkerRow(
        handle.pid, state, job, None if since is None else max(0.0, now - since), now - handle.started_at,
        memory_of(handle) if memory else 0, done, total,
    )  # fmt: skip
