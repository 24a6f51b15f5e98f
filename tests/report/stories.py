"""Events put together by hand: what happens in a test, at times the test gives."""

from __future__ import annotations

from typing import Any

from mpengine import Job, Outcome, Status
from mpengine.observing import (
    EngineState,
    JobAccepted,
    JobFinished,
    JobRetried,
    JobStarted,
    PublicEvent,
    WorkerEnded,
    WorkerReady,
    WorkerStarted,
)


def work(*args: Any) -> None:
    """What the jobs are of."""


class Story:
    """Events in the order in which they were told here."""

    def __init__(self) -> None:
        self.events: list[PublicEvent] = []
        self._jobs: dict[str, Job] = {}
        self._attempts: dict[str, tuple[int, float, int]] = {}

    def tell(self, *observers: Any) -> None:
        for event in self.events:
            for observer in observers:
                observer(event)

    def state(self, state: str, at: float) -> Story:
        self.events.append(EngineState(state, at))
        return self

    def worker(self, pid: int, started: float, ready: float | None = None, ended: float | None = None) -> Story:
        self.events.append(WorkerStarted(pid, started))
        if ready is not None:
            self.events.append(WorkerReady(pid, ready))
        if ended is not None:
            self.ended(pid, ended)
        return self

    def ended(self, pid: int, at: float, exitcode: int | None = 0) -> Story:
        self.events.append(WorkerEnded(pid, exitcode, at))
        return self

    def accepted(self, id: str, at: float, fn: Any = work) -> Story:
        self._jobs[id] = Job(fn, id=id)
        self._attempts[id] = (0, 0.0, 0)
        self.events.append(JobAccepted(self._jobs[id], at))
        return self

    def started(self, id: str, at: float, pid: int = 1) -> Story:
        attempt = self._attempts[id][0] + 1
        self._attempts[id] = (attempt, at, pid)
        self.events.append(JobStarted(self._jobs[id], attempt, pid, at))
        return self

    def retried(self, id: str, at: float, delay: float = 0.0, error: BaseException | None = None) -> Story:
        attempt, since, pid = self._attempts[id]
        error = error or ValueError("again")
        self.events.append(JobRetried(self._jobs[id], attempt, error, delay, at, pid, at - since))
        return self

    def finished(
        self, id: str, at: float, status: str = "succeeded", error: BaseException | None = None, peak: int = 0
    ) -> Story:
        attempt, since, pid = self._attempts[id]
        if status != "succeeded" and error is None:
            error = ValueError("bad")
        outcome = Outcome(
            self._jobs[id], Status(status), error=error, attempts=attempt, duration=at - since if attempt else 0.0,
            worker_pid=pid if attempt else None, peak_memory=peak,
        )  # fmt: skip
        self.events.append(JobFinished(outcome, at))
        return self

    def job(
        self, id: str, accepted: float, start: float, end: float, pid: int = 1, fn: Any = work, **how: Any
    ) -> Story:  # fmt: skip
        """All of it. Only where nothing happens meanwhile: events are told in the order of calls."""
        return self.accepted(id, accepted, fn).started(id, start, pid).finished(id, end, **how)
