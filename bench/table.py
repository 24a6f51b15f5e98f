"""Turns the answers of a run into tables in Markdown: medians, spread, ratios."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.case import Case, Column
from bench.cases import CASES

Round = dict[str, dict[str, Any]]  # by contender, as rounds.py yields them


def render(results: dict[str, Any], cases: Sequence[Case] = CASES) -> str:
    """All of a run: what it was made on, and a table for each of these cases that it has."""
    parts = [
        heading_of(results),
        "A figure is the median over the rounds, the spread is from the lowest to the highest; a ratio is the median "
        "of the rounds' own ratios. Who is slow is measured in every fourth round only.",
    ]
    for case in cases:
        if rounds := results["cases"].get(case.name):
            parts.append(table(case, rounds, case.workers or results["options"]["workers"]))
    return "\n\n".join(parts) + "\n"


def heading_of(results: dict[str, Any]) -> str:
    """What a run was made on, and how."""
    facts, options = results["facts"], results["options"]
    versions = "".join(f", {name} {version}" for name, version in facts["versions"].items())
    start = options["start_method"] or "each peer's own"
    scale = f", jobs scaled by {options['scale']:g}" if options["scale"] != 1 else ""
    nice = f", niceness {options['nice']}" if options["nice"] else ""
    done = max((len(rounds) for rounds in results["cases"].values()), default=0)
    rounds = f"{done}" if done == options["rounds"] else f"{done} of {options['rounds']}"
    out = f" Not installed: {', '.join(results['left_out'])}." if results.get("left_out") else ""
    return (
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['system']}, {facts['python']}{versions}. "
        f"{options['workers']} workers, start method: {start}, {rounds} interleaved rounds of "
        f"fresh processes{scale}{nice}. Begun: {results['begun']}, load {facts['load']}.{out}"
    )


def table(case: Case, rounds: Sequence[Round], workers: int) -> str:
    """One case, a row a contender."""
    columns = [column for column in case.columns if any(column.against in answers for answers in rounds)]
    heading = ["", "n", "start method"]
    for metric, unit in case.metrics.items():
        heading += [f"{metric}, {unit}", "spread"]
    heading += [column.heading for column in columns]
    rows = [heading, ["---", *["---:"] * (len(heading) - 1)]]
    # The first round has those that are measured seldom, too.
    rows += [row(case, contender, rounds, columns, workers) for contender in rounds[0]]
    lines = [f"### {case.title}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    if case.note:
        lines += ["", case.note]
    return "\n".join(lines)


def row(case: Case, contender: str, rounds: Sequence[Round], columns: Sequence[Column], workers: int) -> list[str]:
    """A contender's cells. One that failed in any round has no figure, but the reason."""
    answers = [answers[contender] for answers in rounds if contender in answers]
    chunk = f", chunks of {answers[0]['chunk']:,}" if "chunk" in answers[0] else ""
    cells = [f"`{contender}`{chunk}", f"{answers[0]['n']:,}"]
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        reason = errors[0].replace("|", "\\|")
        width = 1 + 2 * len(case.metrics) + len(columns)
        return [*cells, f"failed: {reason}", *[""] * (width - 1)]
    cells.append(answers[0]["start_method"])
    for metric in case.metrics:
        # A short run may not have come to the longest streams.
        values = [answer["metrics"][metric] for answer in answers if metric in answer["metrics"]]
        cells += [number(statistics.median(values)), spread(values)] if values else ["", ""]
    for column in columns:
        metric = column.metric or next(iter(case.metrics))
        found = ratios(rounds, contender, column.against, metric, partial(on, column, workers))
        cells.append(derived(found, column.percent))
    return cells


def ratios(
    rounds: Sequence[Round], mine: str, against: str, metric: str, ratio: Callable[[float, float], float]
) -> list[float]:
    """One for each round that has both; none at all where one of them failed in any."""
    pairs = [(answers[mine], answers[against]) for answers in rounds if mine in answers and against in answers]
    if any("error" in answer for pair in pairs for answer in pair):
        return []
    figures = [(one["metrics"].get(metric), other["metrics"].get(metric)) for one, other in pairs]
    return [ratio(one, other) for one, other in figures if one is not None and other]


def on(column: Column, workers: int, mine: float, other: float) -> float:
    return column.ratio(mine, other, workers)


def derived(found: Sequence[float], percent: bool) -> str:
    if not found:
        return ""
    ratio = statistics.median(found)
    return f"{ratio:.1%}" if percent else f"{number(ratio)} x"


def spread(values: Sequence[float]) -> str:
    return f"{number(min(values))} … {number(max(values))}"


def number(value: float) -> str:
    """Three significant digits, with separators where there are thousands."""
    if value >= 99.95:
        return f"{round(value, 3 - len(str(int(value)))):,.0f}"
    return f"{value:#.3g}" if value else "0"
