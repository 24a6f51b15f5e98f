"""How many jobs and workers there are at the moment, counted from events. Pure; memory for jobs in backoff only."""

from __future__ import annotations

import heapq

from mpengine.observing import (
    JobAccepted,
    JobFinished,
    JobRetried,
    PublicEvent,
    WorkerEnded,
    WorkerReady,
    WorkerStarted,
)


class Tally:
    """Tell it every event of one engine, in order.

    What runs is inferred: as many jobs as there are ready workers, if so many are open and not in backoff. Starts are
    told too late for that, those of short jobs together with their ends.

    Attributes:
        open: Jobs accepted and not finished.
        starting, ready: Pids of workers.
    """

    def __init__(self) -> None:
        self.open = 0
        self.starting: set[int] = set()
        self.ready: set[int] = set()
        self._backoffs: list[float] = []  # a heap: when they end

    def add(self, event: PublicEvent) -> None:
        """Count one event."""
        match event:
            case JobAccepted():
                self.open += 1
            case JobFinished():
                self.open -= 1
            case JobRetried(delay=delay, at=at):
                if delay > 0:
                    heapq.heappush(self._backoffs, at + delay)
            case WorkerStarted(pid=pid):
                self.starting.add(pid)
            case WorkerReady(pid=pid):
                self.starting.discard(pid)
                self.ready.add(pid)
            case WorkerEnded(pid=pid):
                self.starting.discard(pid)
                self.ready.discard(pid)

    def next_backoff_end(self) -> float | None:
        """When the first of the jobs in backoff may run again."""
        return self._backoffs[0] if self._backoffs else None

    def runnable(self, now: float) -> int:
        """Open jobs that are not in backoff."""
        while self._backoffs and self._backoffs[0] <= now:
            heapq.heappop(self._backoffs)
        return max(0, self.open - len(self._backoffs))  # one that is cancelled in backoff is counted there a while

    def running(self, now: float) -> int:
        """Jobs that run."""
        return min(self.runnable(now), len(self.ready))

    def waiting(self, now: float) -> int:
        """Open jobs that do not, those in backoff included."""
        return self.open - self.running(now)
