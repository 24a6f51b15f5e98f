"""Where the workers' time went: what they ran, and why they ran nothing the rest of it. Pure.

The time counts from the acceptance of the first job to the end of the last, times the workers there were at most:

    workers x wall = busy                     attempts of jobs, those that came to nothing included
                   + startup, restarts        not all workers were there yet; or not all any more
                   + input, backoff, tail     workers, but no job for them: not yet; not before a retry's time; no more
                   + overhead                 workers and jobs: what it takes to bring them together
"""

from __future__ import annotations

from dataclasses import dataclass

from mpengine.observing import JobAccepted, JobFinished, JobRetried, PublicEvent
from mpengine.report.tally import Tally

GOOD_EFFICIENCY = 0.9  # above, what is lost is not worth a search


@dataclass(frozen=True, slots=True)
class WorkTime:
    """See the module's text. All in seconds of one worker, but for `wall`.

    Attributes:
        workers: The most that were ready at once.
        jobs: That have finished.
        wasted: The part of `busy` that went into attempts which failed, were retried or were lost.
        longest: The longest attempt.
    """

    workers: int
    wall: float
    jobs: int
    busy: float
    startup: float
    restarts: float
    input: float
    backoff: float
    tail: float
    overhead: float
    wasted: float
    longest: float

    @property
    def capacity(self) -> float:
        return self.workers * self.wall

    @property
    def efficiency(self) -> float:
        """The part of the workers' time in which they ran jobs: 0 to 1."""
        return min(1.0, self.busy / self.capacity) if self.capacity > 0 else 0.0


def limited_by(time: WorkTime) -> str:
    """One sentence on what kept the workers from running jobs all the time."""
    if not time.jobs or time.capacity <= 0:
        return "No job has finished yet."
    if time.wasted > time.capacity / 4:
        return f"{_part(time.wasted, time)} went into attempts that failed: mend those first."
    if time.efficiency >= GOOD_EFFICIENCY:
        return "Nothing worth a search: the workers ran jobs nearly all the time."
    lost = {
        "startup": time.startup, "restarts": time.restarts, "input": time.input, "backoff": time.backoff,
        "tail": time.tail, "overhead": time.overhead,
    }  # fmt: skip
    cause = max(lost, key=lost.__getitem__)
    part = _part(lost[cause], time)
    if cause in ("input", "tail") and time.jobs < 2 * time.workers:
        return f"Too few jobs: {time.jobs} for {time.workers} workers; {part} passed without one. Cut the work finer."
    if cause == "tail":
        if time.longest > time.wall / 4:
            return (
                f"Stragglers: {part} passed after the last jobs had begun, waiting for the slowest; the longest took "
                f"{time.longest:.3g} s. Cut it finer, or give the long jobs first (or a higher priority)."
            )
        return f"The end: {part} passed after the last jobs had begun. More jobs make it matter less."
    return {
        "startup": f"Start-up: {part} passed before all workers were ready. Keep one engine for more work.",
        "restarts": f"Restarts: {part} passed until workers that had ended were replaced.",
        "input": f"Waiting for input: {part} passed with fewer open jobs than workers. Give them faster.",
        "backoff": f"Backoff: {part} passed in the delays before retries.",
        "overhead": (
            f"Overhead: {part} passed between jobs, on {_each(time.overhead / time.jobs)} for each: larger jobs, or "
            f"smaller arguments and results, make it matter less."
        ),
    }[cause]


def _part(seconds: float, time: WorkTime) -> str:
    return f"{100 * seconds / time.capacity:.0f} % of the workers' time"


def _each(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


class WorkClock:
    """Measures it from events: tell it every event of one engine, in order. Constant memory."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.began_at: float | None = None  # the first job
        self.ended_at = 0.0  # the last end of a job so far
        self._at = 0.0  # up to here all is measured
        self._ready = 0.0  # worker seconds there were
        self._most = 0  # workers ready at once
        self._most_at = 0.0
        self._ready_then = 0.0
        self._idle = 0.0  # worker seconds without a job, since a job was last accepted
        self._idle_before = 0.0
        self._backoff = 0.0
        self._now = (0.0, 0.0, 0.0, 0.0)  # ready, idle before, idle, backoff: as they were at `ended_at`
        self._busy = 0.0
        self._wasted = 0.0
        self._longest = 0.0
        self._jobs = 0

    def add(self, event: PublicEvent) -> None:
        """Take in one event."""
        kind = type(event)
        if self.began_at is not None:
            self._advance(event.at)
        elif kind is JobAccepted:
            self.began_at = self.ended_at = self._at = self._most_at = event.at
        self.tally.add(event)
        if self.began_at is not None and len(self.tally.ready) > self._most:
            self._most, self._most_at, self._ready_then = len(self.tally.ready), self._at, self._ready
        match event:
            case JobAccepted():
                self._idle_before += self._idle
                self._idle = 0.0
            case JobRetried():
                self._ran(event.duration, wasted=True)
            case JobFinished(outcome=outcome):
                self._jobs += 1
                self._ran(outcome.duration, wasted=not outcome.ok)
                self.ended_at = self._at
                self._now = (self._ready, self._idle_before, self._idle, self._backoff)

    def measured(self) -> WorkTime:
        """Up to the last end of a job."""
        ready, input_, tail, backoff = self._now
        wall = self.ended_at - (self.began_at or 0.0) if self.began_at is not None else 0.0
        startup = max(0.0, self._most * (self._most_at - (self.began_at or 0.0)) - self._ready_then)
        restarts = max(0.0, self._most * wall - ready - startup)
        overhead = max(0.0, ready - input_ - tail - backoff - self._busy)
        return WorkTime(
            self._most, wall, self._jobs, self._busy, startup, restarts, input_, backoff, tail, overhead,
            self._wasted, self._longest,
        )  # fmt: skip

    def _ran(self, duration: float, *, wasted: bool) -> None:
        self._busy += duration
        self._longest = max(self._longest, duration)
        if wasted:
            self._wasted += duration

    def _advance(self, at: float) -> None:
        """Some events are told late; time goes on only."""
        while self._at < at:
            end = self.tally.next_backoff_end()
            until = at if end is None or not self._at < end < at else end
            ready = len(self.tally.ready)
            runnable = self.tally.runnable(self._at)
            free = max(0, ready - runnable)
            delayed = min(free, self.tally.open - runnable)
            for_s = until - self._at
            self._ready += ready * for_s
            self._backoff += delayed * for_s
            self._idle += (free - delayed) * for_s
            self._at = until
