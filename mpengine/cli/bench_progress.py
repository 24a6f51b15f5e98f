"""How far a benchmark has come: a line on stderr for each measurement.

No bar: to draw it takes time of a CPU that is being measured.
"""

from __future__ import annotations

from collections.abc import Callable

from mpengine.cli.problems import say
from mpengine.report.charts import seconds

# Called after a measurement with what it was, and its seconds.
Tell = Callable[[str, float], None]


def telling(total: int, shown: bool | None) -> Tell:
    """What tells of `total` measurements; nothing if `shown` is False."""
    if shown is False:
        return lambda what, took: None
    count = 0

    def tell(what: str, took: float) -> None:
        nonlocal count
        count += 1
        say(f"{count} of {total}: {what}: {seconds(took)}")

    return tell
