"""How far a benchmark has come, on stderr: a bar in a terminal, a line for each measurement elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mpengine.cli.problems import say
from mpengine.report.charts import seconds

# Called before a measurement with what it is, and after it with that and its seconds.
Tell = Callable[[str, float | None], None]


@contextlib.contextmanager
def telling(total: int, shown: bool | None) -> Iterator[Tell]:
    """What tells of `total` measurements until the block ends.

    Args:
        shown: False: nothing is told.
    """
    if shown is False or sys.stderr is None:
        yield lambda what, took: None
    elif sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task("", total=total)

            def tell(what: str, took: float | None) -> None:
                bar.update(task, description=what, advance=0 if took is None else 1)

            yield tell
    else:

        def say_it(what: str, took: float | None) -> None:
            if took is not None:
                say(f"{what}: {seconds(took)}")

        yield say_it


def _bar() -> Progress:
    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        refresh_per_second=2,  # each takes a millisecond of a CPU that is being measured
        redirect_stdout=False,
        redirect_stderr=False,
    )
