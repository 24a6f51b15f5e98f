"""Shutdown: who asked for what, up the ladder rung by rung, and the report of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpengine.core import events as ev
from mpengine.core.books import Books
from mpengine.core.job import Status
from mpengine.core.policy import Rung, StopLadder
from mpengine.runtime.outbox import Outbox
from mpengine.runtime.signals import STACK_SIGNAL
from mpengine.runtime.supervisor import Supervisor, WorkerHandle
from mpengine.runtime.workforce import Workforce

_REASON = "the engine was shut down"


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
    """A shutdown under way. Dispatcher thread; it is the workforce's mourner.

    Args:
        tell: Tell the ledger something.
    """

    def __init__(
        self,
        books: Books,
        outbox: Outbox,
        supervisor: Supervisor,
        workforce: Workforce,
        tell: Callable[[ev.Event], None],
    ) -> None:
        self.ladder = StopLadder()
        self.ends: list[WorkerEnd] = []
        self._books = books
        self._outbox = outbox
        self._supervisor = supervisor
        self._workforce = workforce
        self._tell = tell
        self._stuck: dict[int, tuple[str, str]] = {}  # worker -> (job, stack)

    def asked(self, request: ShutdownRequest) -> None:
        """A caller of shutdown has this wish; there may be several."""
        if request.deadline is not None:
            self.ladder.hurry(request.deadline)
        if request.cancel_pending is not None:
            self._workforce.observe()
            self._tell(ev.PendingCancelled(request.cancel_pending))

    def climb(self, now: float, *, drained: bool) -> bool:
        """Go up the ladder as far as it is time to; True at its end. `drained`: no job is open or about to be."""
        while True:
            alive = len(self._supervisor.handles) + self._supervisor.starting
            phase = self.ladder.next_phase(now, drained=drained, alive=alive)
            if phase is None:
                return False
            if phase == "gone":
                for handle in self._supervisor.alive():  # stuck in the kernel: nothing can be done from here
                    handle.rung = Rung.UNKILLABLE
                    self.ended(handle)
                return True
            if phase == "terminate":
                self._note_stuck()
                self._tell(ev.PendingCancelled(_REASON))
            for handle in self._supervisor.alive():
                self.send_off(handle)

    def send_off(self, handle: WorkerHandle) -> None:
        """Ask a worker to go, as the present rung does. Also for one that comes only now."""
        phase = self.ladder.phase
        if phase == "pill":
            handle.rung = Rung.PILL
            self._outbox.put_pill()
        elif phase == "terminate":
            self._supervisor.terminate(handle, _REASON)
        elif phase == "kill":
            self._supervisor.kill(handle, _REASON)

    def _note_stuck(self) -> None:
        """Before the first rung that hurts: which job each worker is in."""
        self._workforce.observe()
        for handle in self._supervisor.alive():
            job, _ = self._workforce.job_of(handle)
            if job is not None:
                handle.stack = handle.stack or handle.request_stack(STACK_SIGNAL)
                self._stuck[handle.id] = (job, handle.stack)

    # ---- as a mourner ----------------------------------------------------------------------------------------------

    def wants_workers(self) -> bool:
        """As long as there are jobs to finish."""
        return self.ladder.phase == "drain" and self._books.open > 0

    def died_in_job(self, handle: WorkerHandle, job: str) -> None:
        """For the report."""
        self._stuck.setdefault(handle.id, (job, handle.stack))

    def ended(self, handle: WorkerHandle) -> None:
        """For the report; and if a pill was out for it, that is taken."""
        self._outbox.pill_taken()
        job, stack = self._stuck.get(handle.id, (None, ""))
        self.ends.append(WorkerEnd(handle.pid, handle.rung, handle.exitcode, job, stack or handle.stack))


def report(books: Books, supervisor: Supervisor, stopping: Stopping | None) -> ShutdownReport:
    """What it has come to so far."""
    counts = books.counts
    return ShutdownReport(
        finished=counts[Status.SUCCEEDED] + books.handed_over + counts[Status.FAILED] + counts[Status.EXPIRED],
        cancelled=counts[Status.CANCELLED],
        lost=counts[Status.LOST],
        workers=() if stopping is None else tuple(stopping.ends),
        complete=not supervisor.handles and not supervisor.starting,
    )
