"""The plots of a report, as PNG and SVG: one for each question that a picture answers faster than a table."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.case import TUNED
from bench.cases import CPU_SECONDS, START_METHODS
from bench.streams import SIZES
from bench.targets import figures

# Okabe and Ito's colours, which can be told apart with any kind of colour vision.
ENGINE, DEFAULT, BY_HAND, LIMIT = "#0072B2", "#999999", "#E69F00", "#000000"
LINES = {
    "engine.map": (ENGINE, "o", "-"),
    "joblib.generator": ("#CC79A7", "P", "-"),
    "mpire.imap": ("#009E73", "v", "-"),
    "pool.imap": ("#E69F00", "s", "-"),
    "pool.imap/tuned": ("#E69F00", "s", "--"),
    "executor.map": ("#D55E00", "^", "-"),
    "executor.map/tuned": ("#D55E00", "^", "--"),
    "ray.remote": ("#56B4E9", "X", "-"),
    "dask.map": ("#555555", "D", "-"),
}
KINDS = {"mpengine": ENGINE, "as it comes": DEFAULT, "tuned by hand": BY_HAND, "limit, by hand and unsafe": LIMIT}
STYLE = {
    "figure.facecolor": "white",  # also where the page is dark
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "svg.hashsalt": "bench",  # the same results give the same file
}
WIDTH = 9.0  # inches; at 100 dpi as wide as a README is shown

Rounds = Sequence[dict[str, dict[str, Any]]]


def draw_all(results: dict[str, Any], folder: Path) -> list[str]:
    """Draws what the run has cases for.

    Returns:
        The names of the plots, each a .png and an .svg in the folder.
    """
    questions: dict[str, tuple[str, Callable[[dict[str, Rounds]], Figure]]] = {
        "tiny": ("tiny", tiny),
        "efficiency": ("cpu-10us", efficiency),
        "round-trip": ("round-trip", round_trip),
        "start": ("start-fork", start),
        "cost": ("cost", cost),
        "memory": ("memory", memory),
    }
    drawn = [name for name, (case, _) in questions.items() if results["cases"].get(case)]
    for name in drawn:
        with mpl.rc_context(STYLE):
            figure = questions[name][1](results["cases"])
            figure.savefig(folder / f"{name}.png", dpi=100)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return drawn


def medians(rounds: Rounds, metric: str) -> dict[str, float]:
    """By contender, of those that have not failed."""
    found = {one: figures(rounds, one, metric) for one in rounds[0]}
    return {one: statistics.median(values) for one, values in found.items() if values}


def colour(contender: str) -> str:
    if contender.startswith("engine."):
        return ENGINE
    if contender.startswith("bare."):
        return LIMIT
    return BY_HAND if TUNED in contender else DEFAULT


def readable(contender: str) -> str:
    return contender.replace(TUNED, " (tuned)")


def short(value: float) -> str:
    """Two or three digits, as there is room for."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def bars(
    rounds: Rounds, metric: str, label: str, title: str, best_first: Callable[[float], float], dots: str = ""
) -> Figure:
    """A bar for each contender on a logarithmic scale, the best on top, its spread and its figure beside it.

    Args:
        dots: A second metric, if there is one to show.
    """
    found = sorted(medians(rounds, metric).items(), key=lambda item: best_first(item[1]), reverse=True)
    figure = Figure(figsize=(WIDTH, 1.4 + 0.26 * len(found)), layout="constrained")
    axes = figure.subplots()
    values = [value for _, value in found]
    axes.barh([readable(name) for name, _ in found], values, color=[colour(name) for name, _ in found], height=0.72)
    for place, (name, value) in enumerate(found):
        spread = figures(rounds, name, metric)
        axes.plot([min(spread), max(spread)], [place, place], color="#444444", linewidth=1.2, alpha=0.8)
        said, end = short(value), max(spread)
        if dots:
            dot = statistics.median(figures(rounds, name, dots))
            axes.plot([dot], [place], marker="o", color=colour(name), markeredgecolor="white")
            said, end = f"{said}, {short(dot)}", max(end, dot)
        axes.annotate(
            said, (end, place), (7, 0), textcoords="offset points", va="center", fontsize=9.5,
            fontweight="bold" if name.startswith("engine.") else "normal",
        )  # fmt: skip
    longest = max(max(line.get_xdata()) for line in axes.lines)
    axes.set(xscale="log", xlabel=label, title=title, xlim=(min(values) / 2, longest * 3))
    axes.margins(y=0.01)
    axes.grid(visible=False, axis="y")
    present = {colour(name) for name, _ in found}
    handles = [Patch(color=shade, label=kind) for kind, shade in KINDS.items() if shade in present]
    axes.legend(handles=handles, loc="best", fontsize=10)
    return figure


def tiny(cases: dict[str, Rounds]) -> Figure:
    title = "Tiny jobs, x → x + 1: jobs per second (more is better)"
    return bars(cases["tiny"], "rate", "jobs per second, logarithmic", title, lambda value: -value)


def round_trip(cases: dict[str, Rounds]) -> Figure:
    title = "One job there and back through idle workers (less is better)"
    label = "µs, logarithmic: median (bar, first figure) and 99th percentile (dot, second figure)"
    return bars(cases["round-trip"], "p50", label, title, float, "p99")


def efficiency(cases: dict[str, Rounds]) -> Figure:
    """The wall time of two bare forks over the contender's, of the same round."""
    figure = Figure(figsize=(WIDTH, 5.0), layout="constrained")
    axes = figure.subplots()
    for contender, (shade, marker, line) in LINES.items():
        points = []
        for label, seconds in CPU_SECONDS.items():
            rounds = [one for one in cases.get(f"cpu-{label}", ()) if contender in one and "bare.forks" in one]
            mine, forks = (figures(rounds, one, "wall per job") for one in (contender, "bare.forks"))
            if mine and forks:
                points.append((seconds * 1e6, 100 * statistics.median(b / a for a, b in zip(mine, forks, strict=True))))
        if points:
            draw_line(axes, points, contender, shade, marker, line)
    axes.axhline(100, color=LIMIT, linewidth=1, linestyle=":")
    axes.set(
        xscale="log", ylim=(0, None), xlabel="length of a job, µs, logarithmic",
        ylabel="% of the speed of two bare forks",
        title="How much of two CPUs arrives at the jobs (more is better)",
    )  # fmt: skip
    axes.legend(fontsize=9.5, loc="lower right")
    return figure


def draw_line(axes: Any, points: Sequence[tuple[float, float]], name: str, shade: str, marker: str, line: str) -> None:
    width = 2.8 if name.startswith("engine.") else 1.5
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=shade, marker=marker, linestyle=line, linewidth=width, label=readable(name))


def start(cases: dict[str, Rounds]) -> Figure:
    """A panel for each question, a group for each start method."""
    questions = {"first": "first result", "second": "first result of a second one", "life": "ten jobs and shutdown"}
    peers = {"engine.map": ENGINE, "executor.map": "#D55E00", "pool.map": "#E69F00"}
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(1, len(questions), sharey=True)
    for panel, (metric, title) in zip(panels, questions.items(), strict=True):
        for offset, (contender, shade) in enumerate(peers.items()):
            for place, start_method in enumerate(START_METHODS):
                found = figures(cases.get(f"start-{start_method}", ()), contender, metric)
                if found:
                    at, value = place + (offset - 1) * 0.28, statistics.median(found)
                    panel.bar(at, value, 0.26, color=shade, label=contender if not place else None)
                    panel.annotate(
                        f"{value:.0f}", (at, value), (0, 2), textcoords="offset points", ha="center", fontsize=9
                    )
        panel.set_xticks(range(len(START_METHODS)), START_METHODS)
        panel.set_title(title, fontsize=11)
        panel.grid(visible=False, axis="x")
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(fontsize=9.5, loc="upper left")
    figure.suptitle("Start-up by start method (less is better)")
    return figure


def cost(cases: dict[str, Rounds]) -> Figure:
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    for contender, (shade, marker, line) in LINES.items():
        found = [(size, figures(cases["cost"], contender, f"{size:,}")) for size in SIZES]
        if points := [(float(size), statistics.median(values)) for size, values in found if values]:
            draw_line(axes, points, contender, shade, marker, line)
    axes.set(
        xscale="log", yscale="log", xlabel="jobs in the stream, logarithmic", ylabel="µs per job, logarithmic",
        title="Cost of a tiny job by the length of its stream (less is better)",
    )  # fmt: skip
    axes.legend(fontsize=9.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def memory(cases: dict[str, Rounds]) -> Figure:
    rounds = cases["memory"]
    title = "Growth of the parent, stream with a pause (less is better)"
    # A bar of no length cannot be drawn on a logarithmic scale.
    shown = [
        {
            f"{name}, {answer['n'] / 1e6:g} M jobs": answer
            if "error" in answer
            else answer | {"metrics": {"growth": max(answer["metrics"]["growth"], 0.1)}}
            for name, answer in one.items()
        }
        for one in rounds
    ]
    return bars(shown, "growth", "MiB, logarithmic", title, float)
