"""The progress bar on stderr. It reads the summary when it redraws, so that a job costs it nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mpengine.report.summary import Summary


class _SummaryProgress(Progress):
    def __init__(self, summary: Summary, total: int | None, console: Console) -> None:
        self._summary = summary
        self._task: TaskID | None = None
        super().__init__(
            SpinnerColumn(),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            TimeElapsedColumn(),
            TextColumn("left:") if total is not None else TextColumn(""),
            TimeRemainingColumn() if total is not None else TextColumn(""),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self.add_task("jobs", total=total, failed="")

    def get_renderables(self) -> Iterable[RenderableType]:
        if self._task is not None:  # the base class draws while it is being made
            failed = f"{self._summary.failed:,} failed" if self._summary.failed else ""
            self.update(self._task, completed=self._summary.finished, failed=failed)
        yield from super().get_renderables()


@contextlib.contextmanager
def progress_bar(summary: Summary, *, total: int | None, shown: bool) -> Iterator[None]:
    """Shows how far ``summary`` has come, of ``total`` jobs (None: unknown), until the block ends."""
    if not shown or sys.stderr is None:
        yield
        return
    with _SummaryProgress(summary, total, Console(file=sys.stderr)):
        yield
