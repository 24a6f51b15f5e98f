"""The charts of a report, as SVG that needs no script. Pure. Everything that comes from users is escaped here.

Colours are classes of the page's style sheet, so that charts follow its light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from mpengine.report.record import BINS_PER_DECADE, Durations, Points, WorkerStory
from mpengine.report.text import one_line

WIDTH = 960
_LEFT = 96  # for labels
_ROW = 22
_AXIS = 26
_TICKS = 8
_MOST_BINS = 40
_TEXT_CHARACTERS = 120


def text(value: str, limit: int = _TEXT_CHARACTERS) -> str:
    """A user's text as HTML: one line, escaped."""
    return escape(one_line(value, limit=limit))


def seconds(value: float) -> str:
    """A duration for people."""
    if value <= 0:
        return "0 s"
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def size(value: float) -> str:
    """A number of bytes for people."""
    if value <= 0:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def ticks(end: float, most: int = _TICKS) -> list[float]:
    """Round numbers from 0 to `end`."""
    if not end > 0:
        return [0.0]
    step = 10.0 ** math.floor(math.log10(end / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if end / (step * factor) <= most)
    return [at * step for at in range(int(end / step + 1e-9) + 1)]


def timeline(workers: Iterable[WorkerStory], start: float, end: float) -> str:
    """One row per worker: its start-up, its jobs, the attempts that ended badly, its end."""
    rows = list(workers)
    height = len(rows) * _ROW + _AXIS
    scale = (WIDTH - _LEFT - 12) / max(end - start, 1e-9)

    def x(at: float) -> float:
        return _LEFT + (min(max(at, start), end) - start) * scale

    out = [_time_axis(end - start, scale, height)]
    for number, worker in enumerate(rows):
        y = number * _ROW
        gone_at = end if worker.ended_at is None else worker.ended_at
        ready_at = gone_at if worker.ready_at is None else worker.ready_at
        out.append(f'<text class="label" x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{worker.pid}</text>')
        out.append(_rect("alive", x(ready_at), y + 10, x(gone_at) - x(ready_at), 2))
        title = f"start-up, {seconds(max(0.0, ready_at - worker.started_at))}"
        out.append(_rect("startup", x(worker.started_at), y + 7, x(ready_at) - x(worker.started_at), 8, title))
        for bar in worker.timeline.bars:
            title = f"{text(bar.label)}: {seconds(bar.longest)}"
            if bar.jobs > 1:
                share = 100 * bar.busy / max(bar.end - bar.start, 1e-9)
                title = f"{bar.jobs:,} attempts, running {min(share, 100):.0f} % of it; the longest: {title}"
            out.append(_rect("job", x(bar.start), y + 4, x(bar.end) - x(bar.start), 14, title))
        out += [_rect("bad", x(at) - 1.5, y + 2, 3, 18, text(what)) for at, what in worker.marks]
        if worker.ended_at is not None and worker.exitcode != 0:
            how = "in a way that is not known" if worker.exitcode is None else f"with exit code {worker.exitcode}"
            out.append(
                f'<path class="died" d="M{x(gone_at) - 4:.1f} {y + 7}l8 8m0 -8l-8 8"><title>ended {how}</title></path>'
            )
    return _svg("timeline", "Jobs of each worker over time", height, out)


def throughput(points: Points, wall: float) -> str:
    """Jobs that ended per second, over time; stacked: those that ended badly on top."""
    total = [good + bad for good, bad in zip(points.good, points.bad, strict=True)]
    height, plot = 180, 180 - _AXIS
    wall = max(wall, len(total) * points.width)
    scale = (WIDTH - _LEFT - 12) / max(wall, 1e-9)
    peak = max(total, default=0) / points.width
    out = [_time_axis(wall, scale, height), _scale_y(peak, plot, " /s")]
    for at, (good, bad) in enumerate(zip(points.good, points.bad, strict=True)):
        top = float(plot)
        for kind, count in (("job", good), ("bad", bad)):
            tall = count / points.width / max(peak, 1e-9) * (plot - 12)
            top -= tall
            if count:
                when = f"{seconds(at * points.width)} to {seconds((at + 1) * points.width)}"
                title = f"{when}: {count:,} {'ended' if kind == 'job' else 'ended badly'}"
                out.append(_rect(kind, _LEFT + at * points.width * scale, top, points.width * scale, tall, title))
    return _svg("throughput", "Jobs that ended per second, over time", height, out)


def histogram(durations: Durations) -> str:
    """How many jobs took how long, on a logarithmic scale."""
    height, plot = 180, 180 - _AXIS
    first, last = min(durations.bins), max(durations.bins) + 1
    together = 1
    while (last - first) / together > _MOST_BINS:
        together += 1
    if last - first < 4:  # all alike: some room, so that the bar is no wall
        first, last = first - 4, last + 4
    counts = [
        sum(durations.bins[at] for at in range(low, low + together)) for low in range(first, last, together)
    ]  # fmt: skip
    wide = (WIDTH - _LEFT - 12) / len(counts)
    peak = max(counts)
    out = [_scale_y(peak, plot, "")]
    for at, count in enumerate(counts):
        low, high = (10 ** ((first + (at + end) * together) / BINS_PER_DECADE) for end in (0, 1))
        if at % max(1, len(counts) // _TICKS) == 0:
            out.append(f'<text class="label" x="{_LEFT + at * wide:.1f}" y="{height - 8}">{seconds(low)}</text>')
        if count:
            tall = max(1.0, count / peak * (plot - 12))
            title = f"{seconds(low)} to {seconds(high)}: {count:,}"
            out.append(_rect("job", _LEFT + at * wide, plot - tall, max(1.0, wide - 1), tall, title))
    return _svg("durations", "How many jobs took how long", height, out)


def shares(parts: Sequence[tuple[str, str, float]]) -> str:
    """One bar that is the whole, and its parts: class, name, size."""
    whole = sum(part for _, _, part in parts) or 1.0
    out, x = [], 0.0
    for kind, name, part in parts:
        wide = part / whole * WIDTH
        if wide > 0.2:
            out.append(_rect(kind, x, 0, wide, 22, f"{name}: {100 * part / whole:.1f} %"))
        x += wide
    return _svg("shares", "The workers' time", 22, out)


def _svg(id_: str, title: str, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg id="{id_}" role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {height}">'
        + "".join(parts)
        + "</svg>"
    )


def _rect(kind: str, x: float, y: float, width: float, height: float, title: str = "") -> str:
    """`title` is HTML already."""
    inner = f"<title>{title}</title>" if title else ""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(0.8, width):.1f}" height="{max(0.0, height):.1f}">'
        f"{inner}</rect>"
    )


def _time_axis(wall: float, scale: float, height: float) -> str:
    out = []
    for at in ticks(wall):
        x = _LEFT + at * scale
        out.append(f'<path class="grid" d="M{x:.1f} 0V{height - _AXIS + 4}"/>')
        label = "0" if at == 0 else seconds(at)
        out.append(f'<text class="label" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{label}</text>')
    return "".join(out)


def _scale_y(peak: float, plot: float, unit: str) -> str:
    """The base line, and the largest value."""
    return (
        f'<path class="grid" d="M{_LEFT} {plot}H{WIDTH - 12}M{_LEFT} 12H{WIDTH - 12}"/>'
        f'<text class="label" x="{_LEFT - 8}" y="16" text-anchor="end">{peak:,.4g}{unit}</text>'
        f'<text class="label" x="{_LEFT - 8}" y="{plot}" text-anchor="end">0</text>'
    )
