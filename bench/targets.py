"""What the engine is to reach, and whether it did: a row for each, readable without the tables.

Every ratio is formed within the rounds that have both sides; what is shown is the median and the spread.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.case import TUNED, Case
from bench.cases import CASES, CPU_SECONDS, START_METHODS
from bench.table import Round, number, ratios, spread

BEST = "the best peer"
FUTURES = ("pool.apply_async", "executor.submit", "loky.submit", "pebble.schedule", "ray.remote")
# Wall time against two bare forks, by the length of the jobs.
CPU_GOALS = {"10us": 1.15, "100us": 1.05, "1ms": 1.03, "10ms": 1.02, "100ms": 1.02}


@dataclass(frozen=True)
class Target:
    """One figure of one of the engine's methods.

    Attributes:
        factor: What it is held against: so many times the other's figure, or that very figure.
        against: A contender, or the best of the peers; nobody if the factor is a figure.
        limit: The contender that shows what the machine allows.
        peers: Who is compared (None: all but the bare ones and this engine).
        main: Whether the summary has it, too.
    """

    label: str
    case: str
    metric: str
    mine: str
    factor: float
    against: str = ""
    limit: str = ""
    peers: tuple[str, ...] | None = None
    main: bool = True


def start_targets(start_method: str) -> Iterator[Target]:
    labels = {"first": "first result", "second": "first result of the second", "life": "ten jobs and shutdown"}
    for metric, label in labels.items():
        yield Target(
            f"start-up, {start_method}: {label}", f"start-{start_method}", metric, "engine.map", 1.0, "executor.map",
            main=metric == "life",
        )  # fmt: skip


TARGETS = (
    Target("`map`, tiny jobs", "tiny", "rate", "engine.map", 1.0, BEST, "bare.batches"),
    Target("`map_unordered`, tiny jobs", "tiny", "rate", "engine.map_unordered", 1.0, BEST, "bare.batches"),
    Target("`run`, tiny jobs", "tiny", "rate", "engine.run", 500_000, "", "bare.batches", FUTURES),
    Target("`submit`, 50,000 tiny jobs", "tiny", "rate", "engine.submit", 20, "executor.submit", "", FUTURES),
    Target("round trip, p50", "round-trip", "p50", "engine.submit", 0.5, "pool.apply", "bare.pipe"),
    Target("round trip, p50", "round-trip", "p50", "engine.submit", 0.25, "executor.submit", "bare.pipe"),
    Target("round trip, p99", "round-trip", "p99", "engine.submit", 0.6, "executor.submit", "bare.pipe"),
    Target("round trip, p50", "round-trip", "p50", "engine.submit", 1.5, "bare.pipe", "bare.pipe", main=False),
    *(
        Target(
            f"jobs of {label.replace('us', ' µs').replace('ms', ' ms')}", f"cpu-{label}", "wall per job", "engine.map",
            CPU_GOALS[label], "bare.forks", "bare.forks",
        )
        for label in CPU_SECONDS
    ),
    *(
        Target(
            f"heavy-tailed, longest {where}", f"tail-{where}", "wall", "engine.map", 1.03, "bare.greedy", "bare.greedy"
        )
        for where in ("first", "last")
    ),
    Target("first result of a stream", "first-results", "first", "engine.map", 5.0),
    Target("worst of the first 100", "first-results", "worst", "engine.map", 5.0, main=False),
    *(target for start_method in START_METHODS for target in start_targets(start_method)),
    Target("growth of the parent, long stream", "memory", "growth", "engine.map", 20.0),
    Target("cost of a job, longest stream over 100,000 jobs", "cost", "longest / 100,000", "engine.map", 1.1),
)  # fmt: skip


def render(
    results: dict[str, Any], main_only: bool, targets: Sequence[Target] = TARGETS, among: Sequence[Case] = CASES
) -> str:
    """The targets whose cases were run, as a table in Markdown."""
    cases = {case.name: case for case in among}
    heading = ["", "mpengine", "best peer, as it comes", "best peer, tuned", "limit", "to reach", "reached"]
    rows = [heading, ["---", *["---:"] * (len(heading) - 1)]]
    for target in targets:
        rounds = results["cases"].get(target.case)
        if rounds and (target.main or not main_only):
            rows.append(row(target, cases[target.case], rounds))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def row(target: Target, case: Case, rounds: Sequence[Round]) -> list[str]:
    peers = peers_of(target, case)
    best_default = best(case, rounds, target.metric, [one for one in peers if not one.endswith(TUNED)])
    best_tuned = best(case, rounds, target.metric, [one for one in peers if one.endswith(TUNED)])
    limit = number(statistics.median(found)) if (found := figures(rounds, target.limit, target.metric)) else ""
    mine = figures(rounds, target.mine, target.metric)
    return [
        f"{target.label}, {case.metrics[target.metric]}",
        f"{number(statistics.median(mine))} ({spread(mine)})" if mine else "failed",
        named(rounds, best_default, target.metric),
        named(rounds, best_tuned, target.metric),
        limit,
        goal(target, case),
        verdict(target, case, rounds),
    ]


def peers_of(target: Target, case: Case) -> list[str]:
    if target.peers is not None:
        return [one for one in target.peers if one in case.contenders]
    return [one for one in case.contenders if not one.startswith(("bare.", "engine."))]


def figures(rounds: Sequence[Round], contender: str, metric: str) -> list[float]:
    """A contender's, one for each round that has it; none if it failed in any."""
    answers = [answers[contender] for answers in rounds if contender in answers]
    if any("error" in answer for answer in answers):
        return []
    return [answer["metrics"][metric] for answer in answers if metric in answer["metrics"]]


def best(case: Case, rounds: Sequence[Round], metric: str, peers: Sequence[str]) -> str:
    """The one with the best median; nobody if none has a figure."""
    medians = {one: statistics.median(found) for one in peers if (found := figures(rounds, one, metric))}
    choose = max if case.better == "high" else min
    return choose(medians, key=lambda one: medians[one]) if medians else ""


def named(rounds: Sequence[Round], contender: str, metric: str) -> str:
    if not contender:
        return ""
    return f"{number(statistics.median(figures(rounds, contender, metric)))} `{contender.removesuffix(TUNED)}`"


def goal(target: Target, case: Case) -> str:
    sign = "≥" if case.better == "high" else "≤"
    if not target.against:
        return f"{sign} {target.factor:,g}"
    against = target.against if target.against == BEST else f"`{target.against}`"
    return f"{sign} {target.factor:g} x {against}"


def verdict(target: Target, case: Case, rounds: Sequence[Round]) -> str:
    """What was reached, and yes or no by the median."""
    if target.against:
        against = target.against
        if against == BEST:
            against = best(case, rounds, target.metric, peers_of(target, case))
        found = ratios(rounds, target.mine, against, target.metric, lambda mine, other: mine / other)
        unit = " x"
    else:
        found, unit = figures(rounds, target.mine, target.metric), ""
    if not found:
        return "not measured"
    median = statistics.median(found)
    reached = median >= target.factor if case.better == "high" else median <= target.factor
    return f"{'yes' if reached else '**no**'}: {number(median)}{unit} ({spread(found)})"
