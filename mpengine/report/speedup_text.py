"""A speed-up curve as text for 80 columns: a table, what it comes to, and what makes it doubtful. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from mpengine.report.charts import seconds, size
from mpengine.report.speedup import LOOP, Curve, Spread

WIDTH = 80
_SHORT_S = 0.05  # of a batch: below, starting and ending it are a good part of its time
_SHORT_JOB_S = 1e-4
_UNEVEN = 0.1  # between the quartiles, as a part of the median
_MISFIT = 0.1
_NO_PART = 0.0005  # shown as 0.0 %
_DECIMALS = 5


def table(found: Curve, memory: Mapping[int, float]) -> Table:
    """One row for each number of workers, and one for the plain loop; the best is marked.

    Args:
        memory: Bytes of a worker, by the number of workers.
    """
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), show_edge=False)
    for name in ("workers", "seconds", "quartiles", "jobs/s", "speed-up", "efficiency", "memory"):
        out.add_column(name, justify="right", no_wrap=True)
    if found.loop is not None and found.loop_speedup is not None:
        _add(out, "loop", found.loop, found.jobs, found.loop_speedup, "", memory.get(LOOP, 0), "")
    for row in found.rows:
        best = row.workers == found.best and len(found.rows) > 1
        _add(
            out, f"{'* ' if best else ''}{row.workers:,}", row.seconds, found.jobs, row.speedup,
            f"{100 * row.efficiency:.0f} %", memory.get(row.workers, 0), "bold green" if best else "",
        )  # fmt: skip
    return out


def _add(
    out: Table, name: str, time: Spread, jobs: int, speedup: Spread, efficiency: str, memory: float, style: str
) -> None:  # fmt: skip
    quartiles = f"{_figure(time.lower, 4)} … {_figure(time.upper, 4)}"
    out.add_row(
        name, _figure(time.median, 4), quartiles, rate(jobs / time.median), f"{speedup.median:.2f}", efficiency,
        size(memory), style=style,
    )  # fmt: skip


def conclusions(found: Curve) -> list[Text]:
    """What the table comes to, a sentence or two each."""
    lines = []
    if len(found.rows) > 1:
        best = found.row(found.best)
        over = ["as far as these rounds tell more are not faster"]
        if best.workers > 1:
            over = [f"{best.speedup.median:.2f} times as fast as 1 worker"]
        if found.over_loop is not None and found.over_loop.median >= 1:
            over.append(f"{found.over_loop.median:.2f} times as fast as the plain loop")
        lines.append(_line("Best", f"{workers(found.best)}, {', '.join(over)}.{_slower(found)}"))
    lines.append(_line("Serial part", _serial(found)))
    return lines


def _slower(found: Curve) -> str:
    if found.loop is None or found.over_loop is None or found.over_loop.median >= 1:
        return ""
    told = f" The plain loop is {1 / found.over_loop.median:.2f} times as fast as that"
    each = found.loop.median / found.jobs
    if each < _SHORT_JOB_S:
        told += f": a job takes {seconds(each)}, less than its way to a worker; --chunk makes longer ones"
    return f"{told}."


def _serial(found: Curve) -> str:
    part = found.serial
    if part is None:
        return f"not told; that takes 1 worker and others, as many as there are CPUs at most ({found.cpus:,})."
    told = f"{percent(part.median)} ({100 * part.lower:.1f} … {percent(part.upper)}) by Amdahl's law"
    if part.median <= _NO_PART:
        told += "."
    elif part.median >= 1:
        told += ": more workers do not make it faster."
    else:
        told += f": never more than {_times(1 / part.median)} times as fast as 1 worker."
    if found.misfit is not None and found.misfit > _MISFIT:
        told += (
            f" The law is off by up to {100 * found.misfit:.0f} %: something that grows with the workers counts, too."
        )
    return told


def doubts(found: Curve) -> list[str]:
    """What makes the figures doubtful, and what to do about it; a line each."""
    lines = []
    fastest = min(found.rows, key=lambda row: row.seconds.median)
    if fastest.seconds.median < _SHORT_S:
        lines.append(
            f"the batch takes {seconds(fastest.seconds.median)} with {workers(fastest.workers)}, of which much is the "
            "engine's own; give more input, for a second or more"
        )
    widths = {row.workers: (row.seconds.upper - row.seconds.lower) / row.seconds.median for row in found.rows}
    widest = max(widths, key=lambda number: widths[number])
    if widths[widest] > _UNEVEN:
        lines.append(
            f"the times with {workers(widest)} are uneven: their quartiles are {100 * widths[widest]:.0f} % apart; let "
            "the machine rest, give more input, or more --rounds"
        )
    return lines


def workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number:,} workers"


def percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def rate(value: float) -> str:
    """So many a second."""
    for unit in ("", " k", " M", " G"):
        if value < 9999.5 or unit == " G":
            break
        value /= 1000
    return f"{_figure(value, 3)}{unit}"


def _times(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _figure(value: float, digits: int) -> str:
    """With so many digits that count, all those before the point, and at most `_DECIMALS` behind it."""
    shown = float(f"{value:.{digits}g}")  # 0.9999 with three is 1.00
    decimals = min(_DECIMALS, max(0, digits - 1 - math.floor(math.log10(shown)))) if shown > 0 else 0
    return f"{value:,.{decimals}f}"


def _line(name: str, told: str) -> Text:
    return Text.assemble((f"{name}: ", "bold"), told)
