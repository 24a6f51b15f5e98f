"""How things stand, for whoever watches a run: a few rows for a terminal, or one line. Pure: no clock, no terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mpengine import WorkerRow
from mpengine.report.text import one_line

FAILURES_SHOWN = 3
_LEAST_ROWS = 1  # of workers, in a terminal of few lines
_OVER_ROWS = 3  # the bar, the counts, the line below the last worker
_RATE_S = 15.0  # the time over which a rate is taken
_BAR_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand.

    Attributes:
        total: Of all jobs; None: it is not known.
        open: Whether there is anything to watch.
        elapsed: Seconds.
        rate: Jobs a second, of late; None: it is not known yet.
        failures: Of the last few, the latest last: id, and what went wrong.
    """

    finished: int
    total: int | None
    failed: int
    retried: int
    open: bool
    elapsed: float
    rate: float | None
    workers: Sequence[WorkerRow] = ()
    failures: Sequence[tuple[str, str]] = ()

    @property
    def left(self) -> float | None:
        """Seconds until the end, if it goes on like this."""
        if self.total is None or not self.rate or self.finished >= self.total:
            return None
        return (self.total - self.finished) / self.rate


class Rate:
    """Jobs a second of late, from counts at times."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, at: float, finished: int) -> float | None:
        """Note a count, and return the rate; None before anything can be said."""
        seen = self._seen
        seen.append((at, finished))
        while len(seen) > 2 and seen[1][0] <= at - _RATE_S:
            seen.popleft()
        since, before = seen[0]
        return (finished - before) / (at - since) if at > since and finished > before else None


class Ages:
    """The ages of jobs whose start nobody knows, such as those that travel together: since they were first seen."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float]] = {}  # by pid

    def fill(self, workers: Sequence[WorkerRow], now: float) -> list[WorkerRow]:
        """The rows, each with the age of its job."""
        before, self._seen = self._seen, {}
        filled = []
        for row in workers:
            if row.job is not None and row.job_age is None:
                job, since = before.get(row.pid, ("", now))
                since = since if job == row.job else now
                self._seen[row.pid] = row.job, since
                row = replace(row, job_age=now - since)
            filled.append(row)
        return filled


def rows(standing: Standing, *, height: int) -> RenderableType:
    """For a terminal of so many lines: the bar, the counts, a row for each worker, the last failures."""
    failures = standing.failures[-FAILURES_SHOWN:]
    room = max(_LEAST_ROWS, height - _OVER_ROWS - len(failures))
    parts: list[RenderableType] = [_bar(standing)]
    if standing.failed or standing.retried:
        parts.append(_counts(standing))
    workers = sorted(standing.workers, key=lambda row: row.pid)
    if workers:
        hidden = 0
        if len(workers) > room:
            longest = sorted(workers, key=lambda row: -(row.job_age or 0.0))[: max(_LEAST_ROWS, room - 1)]
            hidden = len(workers) - len(longest)
            workers = [row for row in workers if row in longest]
        parts.append(_table(workers))
        if hidden:
            parts.append(Text(f"  and {hidden:,} more workers", style="dim"))
    for id_, what in failures:
        line = Text.assemble(("  ✗ ", "red"), (one_line(id_), "bold"), "  ", (one_line(what), "red"))
        line.no_wrap, line.overflow = True, "ellipsis"
        parts.append(line)
    return Group(*parts)


def line(standing: Standing) -> str:
    """For a file, or a pipe."""
    parts = [_progress(standing)]
    if standing.failed:
        parts.append(f"{standing.failed:,} failed")
    if standing.retried:
        parts.append(f"{standing.retried:,} tried again")
    if standing.rate is not None:
        parts.append(f"{_number(standing.rate)} a second")
    left = standing.left
    parts.append(f"{_span(standing.elapsed)} so far" if left is None else f"{_span(left)} left")
    return ", ".join(parts)


def _progress(standing: Standing) -> str:
    if standing.total is None:
        return f"{standing.finished:,} jobs"
    return f"{standing.finished:,} of {standing.total:,} jobs"


def _bar(standing: Standing) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    for _ in range(3):
        grid.add_column(no_wrap=True, justify="right")
    left = standing.left
    total = standing.total
    grid.add_row(
        Text(_progress(standing), style="bold"),
        ProgressBar(
            total=total, completed=standing.finished, pulse=total is None, animation_time=standing.elapsed
        ),
        Text("" if not total else f"{100 * min(1.0, standing.finished / total):.0f} %"),
        Text("" if standing.rate is None else f"{_number(standing.rate)}/s"),
        Text(f"{_span(standing.elapsed)} so far" if left is None else f"{_span(left)} left", style="cyan"),
    )  # fmt: skip
    return grid


def _counts(standing: Standing) -> Text:
    text = Text("  ")
    if standing.failed:
        text.append(f"{standing.failed:,} failed", "bold red")
    if standing.retried:
        text.append(("; " if standing.failed else "") + f"{standing.retried:,} tried again", "yellow")
    return text


def _table(workers: Sequence[WorkerRow]) -> Table:
    """A row each: pid, job, how far that is, its age, the worker's memory."""
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True, justify="right", style="dim")
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(no_wrap=True)
    for _ in range(2):
        grid.add_column(no_wrap=True, justify="right")
    for row in workers:
        job = Text(row.state, style="dim") if row.job is None else Text(one_line(row.job))
        age = "" if row.job_age is None else _span(row.job_age)
        grid.add_row(Text(str(row.pid)), job, _own_progress(row), Text(age), Text(_size(row.memory)))
    return grid


def _own_progress(row: WorkerRow) -> RenderableType:
    if row.total > 0:
        return ProgressBar(total=row.total, completed=min(row.done, row.total), width=_BAR_WIDTH)
    return Text(f"{row.done:,g}" if row.done else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _size(size: int) -> str:
    if not size:
        return ""
    mib = size / (1 << 20)
    return f"{mib:,.0f} MiB" if mib < 10_000 else f"{mib / 1024:,.1f} GiB"


def _span(seconds: float) -> str:
    """Seconds as people say them: 8.3 s, 2:05, 3:07:00."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
