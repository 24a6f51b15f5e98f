"""Outcomes folded into the numbers of a run. Pure: no clock, no terminal; constant memory, however many jobs."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass, field

from mpengine.report.failures import Failure

SLOWEST_KEPT = 5
FAILURES_KEPT = 5
RECENT_KEPT = 3


@dataclass(slots=True)
class Summary:
    """What became of the jobs of one run. ``add`` once per finished job, ``stopped`` counts the unfinished."""

    counts: Counter[str] = field(default_factory=Counter)  # by status
    finished: int = 0
    failures: list[tuple[str, Failure]] = field(default_factory=list)  # the first few: id and error
    recent: deque[tuple[str, Failure]] = field(default_factory=lambda: deque(maxlen=RECENT_KEPT))  # the last few
    retried: int = 0  # jobs that took more than one attempt
    busy_s: float = 0.0  # sum of the durations
    stopped: int = 0  # jobs that were waiting or running when the run was ended early
    _slowest: list[tuple[float, int, str]] = field(default_factory=list)  # a heap, the fastest of them first

    def add(self, id_: str, status: str, *, duration: float, attempts: int, failure: Failure | None) -> None:
        self.counts[status] += 1
        self.finished += 1
        self.busy_s += duration
        if attempts > 1:
            self.retried += 1
        if failure is not None:
            self._note(id_, failure)
        slowest = self._slowest  # of equals, the earlier is kept
        if len(slowest) < SLOWEST_KEPT:
            heapq.heappush(slowest, (duration, -self.finished, id_))
        elif duration > slowest[0][0]:
            heapq.heapreplace(slowest, (duration, -self.finished, id_))

    def refuse(self, id_: str, failure: Failure) -> None:
        """A job that was added as succeeded has not, after all: its result could not be used."""
        self.counts["succeeded"] -= 1
        self.counts["failed"] += 1
        self._note(id_, failure)

    def _note(self, id_: str, failure: Failure) -> None:
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append((id_, failure))
        self.recent.append((id_, failure))

    @property
    def failed(self) -> int:
        """All that finished and did not succeed."""
        return self.finished - self.counts["succeeded"]

    @property
    def slowest(self) -> list[tuple[str, float]]:
        """Ids and durations in seconds, the slowest first."""
        return [(id_, duration) for duration, _, id_ in sorted(self._slowest, reverse=True)]
