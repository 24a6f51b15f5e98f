"""The public stream of events, for progress bars, traces, metrics and logs.

An observer is any callable. It is called with one event at a time by the engine's dispatcher thread, so it must be
quick; one that raises is logged and dropped. Times are monotonic seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mpengine.core.actions import Retried
from mpengine.core.job import Job, Outcome
from mpengine.core.records import Record

logger = logging.getLogger("mpengine")


@dataclass(frozen=True, slots=True)
class JobAccepted:
    """The engine has taken a job in."""

    job: Job
    at: float


@dataclass(frozen=True, slots=True)
class JobStarted:
    """An attempt has started; told when the engine learns of it, at the latest before its end. `at` is the start."""

    job: Job
    attempt: int
    worker_pid: int | None
    at: float


@dataclass(frozen=True, slots=True)
class JobRetried:
    """An attempt ended badly and another follows after `delay` seconds."""

    job: Job
    attempt: int
    error: BaseException
    delay: float
    at: float


@dataclass(frozen=True, slots=True)
class JobFinished:
    """A job has its outcome. Exactly one per accepted job."""

    outcome: Outcome
    at: float


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A worker's process was started."""

    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker has finished its start and takes jobs."""

    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A worker's process is gone."""

    pid: int
    exitcode: int | None
    at: float


@dataclass(frozen=True, slots=True)
class EngineState:
    """The engine is now "open", "closing", "broken" or "closed"."""

    state: str
    at: float


PublicEvent = (
    JobAccepted | JobStarted | JobRetried | JobFinished | WorkerStarted | WorkerReady | WorkerEnded | EngineState
)  # fmt: skip
Observer = Callable[[PublicEvent], None]


class Observers:
    """Calls observers; false when there are none, so that nobody makes events nobody looks at."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)
        self._started: dict[Record, int] = {}  # the attempt last told

    def __bool__(self) -> bool:
        return bool(self._observers)

    def emit(self, event: PublicEvent) -> None:
        """Tell everyone."""
        for observer in list(self._observers):
            try:
                observer(event)
            except Exception:
                logger.exception("observer %r raised and is dropped", observer)
                self._observers.remove(observer)

    def started(self, record: Record, attempt: int, at: float | None) -> None:
        """An attempt is known to have started; told once."""
        if at is not None and self._started.get(record) != attempt:
            self._started[record] = attempt
            self.emit(JobStarted(record.job, attempt, record.worker_pid, at))

    def retried(self, action: Retried, now: float) -> None:
        """An attempt ended and another follows."""
        self.started(action.record, action.attempt, action.started_at)
        self.emit(JobRetried(action.record.job, action.attempt, action.error, action.delay, now))

    def finished(self, record: Record, outcome: Outcome, now: float) -> None:
        """A job has its outcome."""
        if outcome.attempts:
            self.started(record, outcome.attempts, record.started_at)
        self._started.pop(record, None)
        self.emit(JobFinished(outcome, now))
