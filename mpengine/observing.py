"""The public stream of events, for progress bars, traces, metrics and logs.

An observer is any callable, given to an engine when it is made, or to `Engine.observe` later. It is called with one
event at a time by the engine's dispatcher thread, so it must be quick; one that raises is logged and dropped. Times are
monotonic seconds.

Of each job it is told of, an observer hears the whole story: accepted, then for each attempt started (unless it ended
before it could start) and, if another follows, retried; and in the end finished, once. Of each worker: started, ready
(unless its start failed), ended. The last event of all is the engine's state "closed".
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
    """An attempt has started. Told when the engine learns of it, within about 1 s and before its end; `at` is the
    start."""

    job: Job
    attempt: int
    worker_pid: int | None
    at: float


@dataclass(frozen=True, slots=True)
class JobRetried:
    """An attempt ended badly and another follows after `delay` seconds.

    Attributes:
        worker_pid: The process that ran the attempt; None if it never started.
        duration: Seconds the attempt ran, as its worker measured them where it could.
    """

    job: Job
    attempt: int
    error: BaseException
    delay: float
    at: float
    worker_pid: int | None = None
    duration: float = 0.0


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


@dataclass(frozen=True, slots=True)
class JobOutput:
    """Lines that a job has printed, for the `output` of an `Engine`.

    Attributes:
        job_id: None: no job ran: a module was imported, or the initializer called.
        worker_pid: Of its worker.
        stream: "stdout" or "stderr", for what came through `sys.stdout` and `sys.stderr`; "other" for what was written
            to the descriptors below them, by C code or a child process: then `job_id` is the job that runs when it is
            read, a moment later.
        text: One or more whole lines, without the last one's end.
    """

    job_id: str | None
    worker_pid: int
    stream: str
    text: str

    @property
    def tag(self) -> str:
        """What to put before a line of it."""
        return f"[{self.job_id}]" if self.job_id is not None else f"[worker {self.worker_pid}]"


PublicEvent = (
    JobAccepted | JobStarted | JobRetried | JobFinished | WorkerStarted | WorkerReady | WorkerEnded | EngineState
)  # fmt: skip
Observer = Callable[[PublicEvent], None]


class Observation:
    """That an observer looks at an engine. Ends with `end`, with the block of a `with`, or with the engine.

    It goes on when this object is dropped.
    """

    __slots__ = ("_end", "observer")

    def __init__(self, observer: Observer, end: Callable[[Observation], None]) -> None:
        self.observer = observer
        self._end = end

    def end(self) -> None:
        """Look no longer: once this has returned, the observer is not called again. Does nothing the second time.

        From any thread, also inside the observer. It waits for the call in which the observer is, if that is another
        thread's: so do not hold a lock that the observer takes.
        """
        self._end(self)

    def __enter__(self) -> Observation:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"<Observation by {self.observer!r}>"


class Observers:
    """Calls observers; false when there are none, so that nobody makes events nobody looks at.

    Only the dispatcher thread uses it, but for `looking`, which any thread reads.

    Attributes:
        looking: Whether there are any. Plain, for those who ask with each job.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observations = [Observation(observer, self.remove) for observer in observers]
        self.looking = bool(self._observations)
        self._started: dict[Record, int] = {}  # the attempt last told
        self._state: EngineState | None = None  # last told, be it to nobody

    def __bool__(self) -> bool:
        return self.looking

    def add(
        self, observation: Observation, workers: Iterable[tuple[int, float, float | None]], records: Iterable[Record]
    ) -> None:
        """One more, who is first told how things stand.

        Args:
            workers: Of those alive: pid, start, when it was ready (None: it is not).
            records: Of the jobs that are open.
        """
        self._observations.append(observation)
        self.looking = True
        past: list[PublicEvent] = [] if self._state is None else [self._state]
        for pid, started_at, ready_at in workers:
            past.append(WorkerStarted(pid, started_at))
            if ready_at is not None:
                past.append(WorkerReady(pid, ready_at))
        for record in records:
            past.append(JobAccepted(record.job, record.accepted_at))
            told = self._started.get(record)
            if told is not None and record.started_at is not None and told == record.attempt + 1:
                past.append(JobStarted(record.job, told, record.worker_pid, record.started_at))
        for event in past:
            self._call(observation, event)

    def remove(self, observation: Observation) -> None:
        """One less, if it is still there."""
        if observation in self._observations:
            self._observations.remove(observation)
            self.looking = bool(self._observations)
            if not self.looking:
                self._started.clear()  # nobody tells the ends of these

    def emit(self, event: PublicEvent) -> None:
        """Tell everyone."""
        for observation in list(self._observations):
            self._call(observation, event)

    def _call(self, observation: Observation, event: PublicEvent) -> None:
        if observation not in self._observations:
            return  # an observer that was called before it has ended it
        try:
            observation.observer(event)
        except Exception:
            logger.exception("observer %r raised and is dropped", observation.observer)
            self.remove(observation)

    def state(self, state: str, at: float) -> None:
        """The engine's state is this from now on."""
        self._state = EngineState(state, at)
        self.emit(self._state)

    def started(self, record: Record, attempt: int, at: float | None) -> None:
        """An attempt is known to have started; told once."""
        if at is not None and self._started.get(record) != attempt:
            self._started[record] = attempt
            self.emit(JobStarted(record.job, attempt, record.worker_pid, at))

    def retried(self, action: Retried, now: float) -> None:
        """An attempt ended and another follows."""
        record = action.record
        self.started(record, action.attempt, action.started_at)
        pid = None if action.started_at is None else record.worker_pid
        self.emit(JobRetried(record.job, action.attempt, action.error, action.delay, now, pid, action.duration))

    def finished(self, record: Record, outcome: Outcome, now: float) -> None:
        """A job has its outcome."""
        if outcome.attempts:
            self.started(record, outcome.attempts, record.started_at)
        self._started.pop(record, None)
        self.emit(JobFinished(outcome, now))
