"""A summary as text: a few lines for stderr, in colour when a terminal reads them."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text

from mpengine.report.summary import Summary
from mpengine.report.text import one_line

# In the order in which they are told, whatever came first.
_STYLES = {
    "succeeded": "green",
    "failed": "bold red",
    "expired": "bold red",
    "lost": "bold red",
    "cancelled": "yellow",
}


def print_summary(summary: Summary, *, wall_s: float, workers: int, file: TextIO | None = None) -> None:
    """Writes the lines of `render` to ``file`` (default: stderr). Nobody there to read them is no error."""
    target = file if file is not None else sys.stderr
    if target is None:  # started without a stderr
        return
    console = Console(file=target, soft_wrap=True, highlight=False, markup=False, emoji=False)
    try:
        for line in render(summary, wall_s=wall_s, workers=workers):
            console.print(line)
        target.flush()
    except OSError:
        pass


def render(summary: Summary, *, wall_s: float, workers: int) -> list[Text]:
    """One `Text` per line."""
    lines = [headline(summary, wall_s=wall_s, workers=workers)]
    if summary.finished > 1:
        lines.append(Text("slowest:", style="bold"))
        lines += [
            Text.assemble(f"  {duration:9.3f} s  ", _clean(id_)) for id_, duration in summary.slowest if duration > 0
        ]
        if len(lines) == 2:
            lines.pop()
    if summary.failures:
        more = summary.failed - len(summary.failures)
        lines.append(Text("first errors:" if more > 0 else "errors:", style="bold"))
        for id_, failure in summary.failures:
            where = f" ({_clean(failure.where)})" if failure.where else ""
            what = one_line(f"{failure.type}: {failure.message}")
            lines.append(Text.assemble("  ", (_clean(id_), "bold"), "  ", (what, "red"), where))
        if more > 0:
            lines.append(Text(f"  and {more:,} more"))
    return lines


def headline(summary: Summary, *, wall_s: float, workers: int) -> Text:
    """Counts, throughput, what became of the jobs."""
    jobs = _plural(summary.finished, "job")
    rate = f"{summary.finished / wall_s:,.1f} a second, " if wall_s > 0 and summary.finished else ""
    line = Text(f"{jobs} in {wall_s:.2f} s ({rate}{_plural(workers, 'worker')})")
    parts = [
        Text(f"{summary.counts[status]:,} {status}", style=style)
        for status, style in _STYLES.items()
        if summary.counts[status]
    ]
    if summary.retried:
        parts.append(Text(f"{summary.retried:,} tried more than once"))
    if summary.stopped:
        parts.append(Text(f"{summary.stopped:,} stopped unfinished", style="yellow"))
    if parts:
        line.append(": ")
        line.append_text(Text(", ").join(parts))
    return line


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _clean(text: str) -> str:
    return one_line(text, limit=200)
