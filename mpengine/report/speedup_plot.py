"""A speed-up curve as a picture: an SVG that stands alone, on white, for documents of any kind. Pure.

Linear axes show how far the curve is from the ideal line; for more than `_LINEAR_TO` workers they are logarithmic, so
that the small numbers do not lie on top of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from mpengine.report.charts import seconds, text, ticks
from mpengine.report.speedup import Curve, amdahl
from mpengine.report.speedup_text import percent, workers

WIDTH, HEIGHT = 900, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 60, 104, 58  # around the plot
_LINEAR_TO = 16
_STEPS = 60  # of the fitted curve
_CHARACTER = 6.6  # its width in a line of 12 px, near enough for the legend
_LABEL_PX = 34  # labels closer than this are left out

_STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#5c6670}"
    ".title{font-size:18px;font-weight:600;fill:#1d2329}"
    ".value{fill:#1d2329;paint-order:stroke;stroke:#fff;stroke-width:3px}"
    "path,line{fill:none}.grid{stroke:#e6eaee}.axis{stroke:#8a949d}"
    ".ideal{stroke:#8a949d;stroke-dasharray:6 5;stroke-width:1.5}"
    ".law{stroke:#d55e00;stroke-width:2}.loop{stroke:#009e73;stroke-dasharray:2 4;stroke-width:2}"
    ".spread{stroke:#2f6fae;stroke-width:1.5}.measured{fill:#2f6fae}.cpus{stroke:#b9c2ca;stroke-dasharray:2 3}"
)

Scale = Callable[[float], float]


def plot(found: Curve, title: str, subtitle: str) -> str:
    """The whole file.

    Args:
        title, subtitle: A user's text.
    """
    most = max(row.workers for row in found.rows)
    top = max(min(most, found.cpus), *(row.speedup.upper for row in found.rows), _loop(found))
    logarithmic = most > _LINEAR_TO
    if logarithmic:
        low = 0.8 * min(1.0, *(row.speedup.lower for row in found.rows), _loop(found) or 1.0)  # room for its label
        x, y = _log(1, most, _LEFT + 24, WIDTH - _RIGHT), _log(low, top, HEIGHT - _BOTTOM, _TOP)
    else:
        x, y = _linear(most, _LEFT, WIDTH - _RIGHT), _linear(top, HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text class="title" x="24" y="34">{_text(title, 90)}</text>',
        f'<text x="24" y="56">{_text(subtitle, 140)}</text>',
        *_axes(found, x, y, top, logarithmic),
        *_lines(found, x, y, most),
        *_points(found, x, y),
        *_legend(found),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{_text(title, 90)}"><style>{_STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(value: str, limit: int) -> str:
    """XML is stricter than HTML: it has no place for these, however they are written."""
    return text(value, limit).translate({0xFFFE: "?", 0xFFFF: "?"})


def _loop(found: Curve) -> float:
    return 0.0 if found.loop_speedup is None else found.loop_speedup.median


def _linear(end: float, first: float, last: float) -> Scale:
    return lambda value: first + value / end * (last - first)


def _log(start: float, end: float, first: float, last: float) -> Scale:
    width = math.log(end / start) or 1.0
    return lambda value: first + math.log(value / start) / width * (last - first)


def _axes(found: Curve, x: Scale, y: Scale, top: float, logarithmic: bool) -> Iterable[str]:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    for at in [float(2**power) for power in range(int(math.log2(top)) + 1)] if logarithmic else ticks(top):
        yield f'<path class="grid" d="M{_LEFT} {y(at):.1f}H{right}"/>'
        yield f'<text x="{_LEFT - 10}" y="{y(at) + 4:.1f}" text-anchor="end">{at:,g}</text>'
    yield f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>'
    last = -math.inf
    for row in found.rows:
        at = x(row.workers)
        yield f'<path class="axis" d="M{at:.1f} {bottom}v5"/>'
        if at - last >= 24:
            yield f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle">{row.workers:,}</text>'
            last = at
    yield f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">workers</text>'
    middle = (_TOP + bottom) / 2
    yield (
        f'<text x="22" y="{middle}" text-anchor="middle" transform="rotate(-90 22 {middle})">'
        "speed-up over 1 worker</text>"
    )
    if found.rows[-1].workers > found.cpus:
        at = x(found.cpus)
        yield f'<path class="cpus" d="M{at:.1f} {_TOP}V{bottom}"/>'
        name = "1 CPU" if found.cpus == 1 else f"{found.cpus:,} CPUs"
        yield f'<text x="{at + 6:.1f}" y="{bottom - 8}">{name}</text>'


def _lines(found: Curve, x: Scale, y: Scale, most: int) -> Iterable[str]:
    """The ideal, which more workers than CPUs do not raise; the law, as far as it was fitted; the plain loop."""
    ideal = min(most, found.cpus)
    yield f'<path class="ideal" d="M{x(1):.1f} {y(1):.1f}L{x(ideal):.1f} {y(ideal):.1f}H{x(most):.1f}"/>'
    if found.serial is not None:
        end = max(row.workers for row in found.rows if row.workers <= found.cpus)
        steps = [1 + (end - 1) * step / _STEPS for step in range(_STEPS + 1)]
        points = [f"{x(at):.1f} {y(amdahl(found.serial.median, at)):.1f}" for at in steps]
        yield f'<path class="law" d="M{"L".join(points)}"/>'
    if found.loop_speedup is not None:
        yield f'<path class="loop" d="M{_LEFT} {y(found.loop_speedup.median):.1f}H{WIDTH - _RIGHT}"/>'


def _points(found: Curve, x: Scale, y: Scale) -> Iterable[str]:
    last = -math.inf
    for row in found.rows:
        at, spread = x(row.workers), row.speedup
        yield (
            f'<path class="spread" d="M{at:.1f} {y(spread.lower):.1f}V{y(spread.upper):.1f}'
            f'M{at - 5:.1f} {y(spread.lower):.1f}h10M{at - 5:.1f} {y(spread.upper):.1f}h10"/>'
        )
        title = f"{workers(row.workers)}: {spread.median:.2f} ({spread.lower:.2f} … {spread.upper:.2f})"
        title += f", {seconds(row.seconds.median)}, efficiency {100 * row.efficiency:.0f} %"
        dot = f'<circle class="measured" cx="{at:.1f}" cy="{y(spread.median):.1f}" r="4.5">'
        yield f"{dot}<title>{title}</title></circle>"
        if at - last >= _LABEL_PX:
            yield f'<text class="value" x="{at + 9:.1f}" y="{y(spread.lower) + 16:.1f}">{spread.median:.2f}</text>'
            last = at


def _legend(found: Curve) -> Iterable[str]:
    at, y = 24.0, 84
    entries = [("", "measured: median and quartiles"), ("ideal", "ideal")]
    if found.serial is not None:
        entries.append(("law", f"Amdahl's law, serial part {percent(found.serial.median)}"))
    if found.loop_speedup is not None:
        entries.append(("loop", "plain loop, without the engine"))
    for kind, name in entries:
        if kind:
            yield f'<path class="{kind}" d="M{at} {y - 4}h24"/>'
        else:
            yield f'<circle class="measured" cx="{at + 12}" cy="{y - 4}" r="4.5"/>'
            yield f'<path class="spread" d="M{at + 12} {y - 12}v16m-5 0h10m-10 -16h10"/>'
        yield f'<text x="{at + 32}" y="{y}">{name}</text>'
        at += 32 + len(name) * _CHARACTER + 24
