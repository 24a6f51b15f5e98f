"""Turns the answers of a run into tables in Markdown: medians, spread, ratios."""

import statistics
from collections.abc import Sequence
from typing import Any

from bench.cases import CASES, Case, Column

Round = dict[str, dict[str, Any]]  # by contender, as rounds.py yields them


def render(results: dict[str, Any]) -> str:
    """All of a run: what it was made on, and a table for each of its cases."""
    facts, options = results["facts"], results["options"]
    versions = "".join(f", {name} {version}" for name, version in facts["versions"].items())
    start = options["start_method"] or "each peer's own"
    scale = f", jobs scaled by {options['scale']:g}" if options["scale"] != 1 else ""
    head = [
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['system']}, {facts['python']}{versions}. "
        f"{options['workers']} workers, start method: {start}, {options['rounds']} interleaved rounds of "
        f"fresh processes{scale}. Load when it began: {facts['load']}.",
        "",
        "A figure is the median over the rounds, the spread is from the lowest to the highest; a ratio is "
        "the median of the rounds' own ratios.",
    ]
    parts = ["\n".join(head)]
    for case in CASES:
        if rounds := results["cases"].get(case.name):
            parts.append(table(case, rounds, options["workers"]))
    return "\n\n".join(parts) + "\n"


def table(case: Case, rounds: Sequence[Round], workers: int) -> str:
    """One case, a row a contender."""
    columns = [column for column in case.columns if any(column.against in answers for answers in rounds)]
    heading = ["", "n", "start method"]
    for metric, unit in case.metrics.items():
        heading += [f"{metric}, {unit}", "spread"]
    heading += [column.heading for column in columns]
    rows = [heading, ["---", *["---:"] * (len(heading) - 1)]]
    rows += [row(case, contender, rounds, columns, workers) for contender in rounds[0]]
    lines = [f"### {case.title}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    if case.note:
        lines += ["", case.note]
    return "\n".join(lines)


def row(case: Case, contender: str, rounds: Sequence[Round], columns: Sequence[Column], workers: int) -> list[str]:
    """A contender's cells. One that failed in any round has no figure, but the reason."""
    answers = [answers[contender] for answers in rounds]
    cells = [f"`{contender}`", f"{answers[0]['n']:,}"]
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        reason = errors[0].replace("|", "\\|")
        width = 1 + 2 * len(case.metrics) + len(columns)
        return [*cells, f"failed: {reason}", *[""] * (width - 1)]
    cells.append(answers[0]["start_method"])
    for metric in case.metrics:
        values = [answer["metrics"][metric] for answer in answers]
        cells += [number(statistics.median(values)), f"{number(min(values))} … {number(max(values))}"]
    for column in columns:
        cells.append(derived(case, contender, rounds, column, workers))
    return cells


def derived(case: Case, contender: str, rounds: Sequence[Round], column: Column, workers: int) -> str:
    """A ratio to another contender; empty where that one failed."""
    metric = next(iter(case.metrics))
    pairs = [(answers[contender], answers[column.against]) for answers in rounds]
    if any("error" in against for _, against in pairs):
        return ""
    ratio = statistics.median(
        column.ratio(mine["metrics"][metric], against["metrics"][metric], workers) for mine, against in pairs
    )
    return f"{ratio:.1%}" if column.percent else f"{number(ratio)} x"


def number(value: float) -> str:
    """Three significant digits, with separators where there are thousands."""
    if value >= 99.95:
        return f"{round(value, 3 - len(str(int(value)))):,.0f}"
    return f"{value:#.3g}"
