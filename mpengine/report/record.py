"""What a report has to tell, gathered from events. Pure: no clock, no files; bounded memory, however many jobs.

What is kept in full are counts and sums. Of the rest, what is left out is counted as well, and the page says so: bars
of the timeline are merged when they become many, so are points of the throughput; of workers, causes of failure, ids
and slow jobs the first, or the worst, so many are kept.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field

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
from mpengine.report.failures import describe
from mpengine.report.worktime import WorkClock

BARS_KEPT = 240  # of a worker
MARKS_KEPT = 60  # attempts of a worker that ended badly
WORKERS_KEPT = 40
CAUSES_KEPT = 50
IDS_KEPT = 5
SLOWEST_KEPT = 10
POINTS_KEPT = 96
NAMES_KEPT = 20
TRACEBACK_CHARACTERS = 8_000
ID_CHARACTERS = 200
FIRST_POINT_S = 0.01
BINS_PER_DECADE = 20
_SHORTEST_S = 1e-7


@dataclass(slots=True)
class Bar:
    """A stretch of a worker's time: one attempt, or several that were merged."""

    start: float
    end: float
    jobs: int
    busy: float
    label: str  # of the longest of them
    longest: float


class Timeline:
    """The bars of one worker. When there are too many, those with the smallest gaps between them become one."""

    def __init__(self, most: int = BARS_KEPT) -> None:
        self.bars: list[Bar] = []
        self.gap = -1.0  # bars nearer than this to each other are merged; seconds
        self._most = most

    def add(self, start: float, end: float, label: str) -> None:
        """An attempt. They come in order."""
        self._append(Bar(start, end, 1, end - start, label, end - start))
        while len(self.bars) > self._most:
            gaps = sorted(after.start - before.end for before, after in zip(self.bars, self.bars[1:], strict=False))
            self.gap = max(self.gap, gaps[len(gaps) // 2], 0.0)
            bars, self.bars = self.bars, []
            for bar in bars:
                self._append(bar)

    def _append(self, bar: Bar) -> None:
        last = self.bars[-1] if self.bars else None
        if last is None or bar.start - last.end > self.gap:
            self.bars.append(bar)
            return
        last.end = max(last.end, bar.end)
        last.jobs += bar.jobs
        last.busy += bar.busy
        if bar.longest > last.longest:
            last.label, last.longest = bar.label, bar.longest


@dataclass(slots=True)
class WorkerStory:
    """One worker process. Times are monotonic seconds; `peak_memory` is in bytes."""

    pid: int
    started_at: float
    ready_at: float | None = None
    ended_at: float | None = None
    exitcode: int | None = None
    attempts: int = 0
    bad: int = 0
    busy: float = 0.0
    peak_memory: int = 0
    timeline: Timeline = field(default_factory=Timeline)
    marks: list[tuple[float, str]] = field(default_factory=list)  # attempts that ended badly: when, what


@dataclass(slots=True)
class Cause:
    """Attempts that ended badly for the same reason."""

    status: str  # of the jobs' ends; "retried" if none of them was an end so far
    type: str
    where: str
    message: str
    traceback: str
    jobs: int = 0  # whose end it was
    retried: int = 0  # attempts that were followed by another
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, order=True)
class Slow:
    """A finished job among the slowest."""

    duration: float
    number: int  # negative: of equals, the earlier counts as slower
    id: str
    name: str
    status: str
    pid: int | None


class Points:
    """Counts over time, in at most `POINTS_KEPT` intervals of equal width, which doubles as time goes on."""

    def __init__(self) -> None:
        self.width = FIRST_POINT_S
        self.good: list[int] = []
        self.bad: list[int] = []

    def add(self, after: float, *, ok: bool) -> None:
        """One job that ended so many seconds after the beginning."""
        index = int(max(0.0, after) / self.width)
        while index >= POINTS_KEPT:
            self.width *= 2
            index //= 2
            for counts in (self.good, self.bad):
                counts[:] = [sum(counts[at : at + 2]) for at in range(0, len(counts), 2)]
        for counts in (self.good, self.bad):
            counts.extend([0] * (index + 1 - len(counts)))
        (self.good if ok else self.bad)[index] += 1


class Durations:
    """How long jobs took, in bins of equal width on a logarithmic scale: `BINS_PER_DECADE` to a factor of ten."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.shortest = math.inf
        self.longest = 0.0

    def add(self, duration: float) -> None:
        """One job's."""
        self.bins[math.floor(math.log10(max(duration, _SHORTEST_S)) * BINS_PER_DECADE)] += 1
        self.shortest = min(self.shortest, duration)
        self.longest = max(self.longest, duration)

    def quantile(self, part: float) -> float:
        """Seconds that this part of the jobs did not exceed, within 6 %; 0 if there are none."""
        left = part * self.bins.total()
        for at in sorted(self.bins):
            left -= self.bins[at]
            if left <= 0:
                middle = float(10 ** ((at + 0.5) / BINS_PER_DECADE))
                return min(self.longest, max(self.shortest, middle))
        return 0.0


class RunRecord:
    """See the module's text. Tell it every event of one engine, in order."""

    def __init__(self) -> None:
        self.clock = WorkClock()
        self.state = "open"
        self.first_at: float | None = None  # of all events
        self.last_at = 0.0
        self.accepted = 0
        self.statuses: Counter[str] = Counter()
        self.retried = 0
        self.names: Counter[str] = Counter()
        self.other_names = 0  # jobs of functions that came after the first so many
        self.workers: dict[int, WorkerStory] = {}
        self.other_workers = 0  # those of which nothing more is kept
        self.other_attempts = 0  # of theirs
        self.peak_memory = 0
        self.causes: dict[tuple[str, str], Cause] = {}
        self.other_failures = 0
        self.slowest: list[Slow] = []  # a heap
        self.points = Points()
        self.durations = Durations()
        self._running: dict[str, JobStarted] = {}

    def add(self, event: PublicEvent) -> None:
        """Take in one event."""
        self.clock.add(event)
        if self.first_at is None:
            self.first_at = event.at
        self.first_at = min(self.first_at, event.at)
        self.last_at = max(self.last_at, event.at)
        match event:
            case JobAccepted():
                self.accepted += 1
            case JobStarted():
                self._running[event.job.id] = event
            case JobRetried():
                self._retried(event)
            case JobFinished():
                self._finished(event)
            case WorkerStarted(pid=pid, at=at):
                self._worker_started(pid, at)
            case WorkerReady(pid=pid, at=at):
                if pid in self.workers:
                    self.workers[pid].ready_at = at
            case WorkerEnded(pid=pid, at=at, exitcode=exitcode):
                if pid in self.workers:
                    self.workers[pid].ended_at, self.workers[pid].exitcode = at, exitcode
            case EngineState(state=state):
                self.state = state

    @property
    def finished(self) -> int:
        """Jobs."""
        return self.statuses.total()

    def _worker_started(self, pid: int, at: float) -> None:
        if len(self.workers) < WORKERS_KEPT or pid in self.workers:
            self.workers[pid] = WorkerStory(pid, at)
            return
        self.other_workers += 1
        # Those that are there now are more telling than those that came and went.
        for gone in self.workers.values():
            if gone.ended_at is not None and not gone.bad and gone.exitcode == 0:
                self.other_attempts += gone.attempts
                del self.workers[gone.pid]
                self.workers[pid] = WorkerStory(pid, at)
                return

    def _retried(self, event: JobRetried) -> None:
        self.retried += 1
        self._ran(event.job.id, event.job.name, "retried", event.worker_pid, event.duration, event.at)
        cause = self._cause("retried", event.error)
        if cause is not None:
            cause.retried += 1
            _note(cause, event.job.id)

    def _finished(self, event: JobFinished) -> None:
        outcome = event.outcome
        id_, name, status = outcome.job.id, outcome.job.name[:ID_CHARACTERS], str(outcome.status)
        self.statuses[status] += 1
        if name in self.names or len(self.names) < NAMES_KEPT:
            self.names[name] += 1
        else:
            self.other_names += 1
        began_at = self.clock.began_at
        self.points.add(event.at - (event.at if began_at is None else began_at), ok=outcome.ok)
        if outcome.attempts:
            self._ran(id_, name, status, outcome.worker_pid, outcome.duration, event.at)
            self.durations.add(outcome.duration)
            slow = Slow(outcome.duration, -self.finished, id_[:ID_CHARACTERS], name, status, outcome.worker_pid)
            if len(self.slowest) < SLOWEST_KEPT:
                heapq.heappush(self.slowest, slow)
            elif slow > self.slowest[0]:
                heapq.heapreplace(self.slowest, slow)
        worker = self.workers.get(outcome.worker_pid or 0)
        if worker is not None:
            worker.peak_memory = max(worker.peak_memory, outcome.peak_memory)
        self.peak_memory = max(self.peak_memory, outcome.peak_memory)
        if outcome.error is not None and status != "cancelled":
            cause = self._cause(status, outcome.error)
            if cause is not None:
                cause.jobs += 1
                cause.status = status
                _note(cause, id_)

    def _ran(self, id_: str, name: str, status: str, pid: int | None, duration: float, at: float) -> None:
        begun = self._running.pop(id_, None)
        worker = self.workers.get(pid or 0)
        if worker is None:
            self.other_attempts += pid is not None
            return
        start = at - duration if begun is None else begun.at
        worker.attempts += 1
        worker.busy += duration
        worker.timeline.add(start, start + duration, f"{id_[:ID_CHARACTERS]} ({name[:ID_CHARACTERS]})")
        if status != "succeeded":
            worker.bad += 1
            if len(worker.marks) < MARKS_KEPT:
                worker.marks.append((start + duration, f"{id_[:ID_CHARACTERS]}: {status}"))

    def _cause(self, status: str, error: BaseException) -> Cause | None:
        failure = describe(error)
        key = (failure.type, failure.where)
        cause = self.causes.get(key)
        if cause is None:
            if len(self.causes) >= CAUSES_KEPT:
                self.other_failures += 1
                return None
            text = failure.traceback
            if len(text) > TRACEBACK_CHARACTERS:
                half = TRACEBACK_CHARACTERS // 2
                text = f"{text[:half]}\n... ({len(text) - 2 * half:,} characters left out) ...\n{text[-half:]}"
            cause = self.causes[key] = Cause(status, failure.type, failure.where, failure.message[:2000], text)
        return cause


def _note(cause: Cause, id_: str) -> None:
    if len(cause.ids) < IDS_KEPT and id_ not in cause.ids:
        cause.ids.append(id_[:ID_CHARACTERS])
