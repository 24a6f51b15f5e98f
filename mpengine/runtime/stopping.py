"""Shutdown: who asked for what, how far it has come, and the report of it."""

from __future__ import annotations

from dataclasses import dataclass

from mpengine.core.policy import Rung, StopLadder
from mpengine.runtime.supervisor import WorkerHandle


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How one worker left.

    Attributes:
        pid: Its process.
        rung: What it took: "pill", "terminated", "killed"; "died": it was gone before it was asked; "unkillable".
        exitcode: As in `multiprocessing.Process`; None: unknown.
        job: The id of the job it was stuck in, if it was.
        stack: The Python lines it was on then, if they could be told.
    """

    pid: int
    rung: Rung
    exitcode: int | None
    job: str | None = None
    stack: str = ""


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """What a shutdown came to.

    Attributes:
        finished: Jobs of this engine's life that ended by themselves or by their own limits.
        cancelled: Jobs that were given up before their end.
        lost: Jobs whose worker died under them, at the shutdown's own hands included.
        workers: One per worker that was there when the engine closed.
        complete: Whether every worker is gone; False in the report of `wait=False`, or from inside a callback.
    """

    finished: int
    cancelled: int
    lost: int
    workers: tuple[WorkerEnd, ...]
    complete: bool

    def __str__(self) -> str:
        rungs = ", ".join(f"pid {w.pid} {w.rung}" + (f" in job {w.job!r}" if w.job else "") for w in self.workers)
        state = "every worker is gone" if self.complete else "still closing"
        jobs = f"{self.finished} jobs finished, {self.cancelled} cancelled, {self.lost} lost"
        return f"{jobs}; {state}" + (f" ({rungs})" if rungs else "")


@dataclass(frozen=True, slots=True)
class ShutdownRequest:
    """A wish put to the dispatcher. `deadline`: monotonic seconds, None: as long as the jobs take."""

    deadline: float | None
    cancel_pending: str | None  # why what has not started is cancelled; None: it is not


class Stopping:
    """The dispatcher's notes on a shutdown under way."""

    def __init__(self) -> None:
        self.ladder = StopLadder()
        self.ends: list[WorkerEnd] = []
        self.stuck: dict[int, tuple[str, str]] = {}  # worker -> (job id, stack)

    def ended(self, handle: WorkerHandle, rung: Rung | None = None) -> None:
        """A worker is gone, or given up."""
        job, stack = self.stuck.get(handle.id, (None, ""))
        self.ends.append(WorkerEnd(handle.pid, rung or handle.rung, handle.exitcode, job, stack))
