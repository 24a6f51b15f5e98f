"""The cases: what is asked, of whom, and what their answers are held against.

A contender is `peer.method`. Its number of jobs is chosen so that one measurement takes about a
second, also for the slow: rates and times per job are compared, and they do not depend on it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A derived column: each contender's first metric held against one contender's of the same round."""

    heading: str
    against: str
    ratio: Callable[[float, float, int], float]  # of a contender's figure, the other's, and the workers
    percent: bool = False


def over(figure: float, against: float, workers: int) -> float:
    return figure / against


def under(figure: float, against: float, workers: int) -> float:
    return against / figure


def of_the_ideal(figure: float, serial: float, workers: int) -> float:
    return serial / workers / figure


@dataclass(frozen=True)
class Case:
    """One question.

    Attributes:
        kind: The function of measure.py that answers it.
        metrics: What it returns, the figure for the ratios first, with the unit for the heading.
        contenders: Each with its number of jobs.
        columns: What the table has beside them.
        seconds: How long one job should take, if that matters.
        note: What a reader of the table must know.
    """

    name: str
    title: str
    kind: str
    metrics: Mapping[str, str]
    contenders: Mapping[str, int]
    columns: tuple[Column, ...] = ()
    seconds: float = 0.0
    note: str = ""


def cpu_case(label: str, seconds: float, n: int) -> Case:
    return Case(
        name=f"cpu-{label.replace(' ', '')}",
        title=f"CPU-bound jobs of about {label}",
        kind="wall_time",
        metrics={"wall": "s"},
        contenders=dict.fromkeys(
            (
                "bare.serial",
                "bare.forks",
                "engine.map",
                "engine.map_unordered",
                "pool.map",
                "pool.imap_unordered",
                "executor.map",
                "loky.map",
            ),
            n,
        ),
        columns=(
            Column("of the ideal", "bare.serial", of_the_ideal, percent=True),
            Column("wall / bare.forks", "bare.forks", over),
            Column("wall / engine.map", "engine.map", over),
        ),
        seconds=seconds,
        note="The ideal is the serial time divided by the number of workers.",
    )


CASES = (
    Case(
        name="tiny",
        title="Tiny jobs, `x -> x + 1`",
        kind="rate",
        metrics={"rate": "jobs/s"},
        contenders={
            "bare.batches": 4_000_000,
            "engine.map": 2_000_000,
            "engine.map_unordered": 2_000_000,
            "engine.run": 500_000,
            "engine.submit": 200_000,
            "pool.map": 2_000_000,
            "pool.imap": 50_000,
            "pool.imap_unordered": 50_000,
            "pool.apply_async": 20_000,
            "executor.map": 10_000,
            "executor.submit": 10_000,
            "loky.map": 10_000,
            "loky.submit": 10_000,
        },
        columns=tuple(
            Column(f"engine.{method} is", f"engine.{method}", under)
            for method in ("map", "map_unordered", "run", "submit")
        ),
    ),
    Case(
        name="round-trip",
        title="Round trip, one job at a time through idle workers",
        kind="round_trips",
        metrics={"p50": "µs", "p99": "µs"},
        contenders={
            "bare.pipe": 10_000,
            "engine.submit": 5_000,
            "pool.apply": 5_000,
            "executor.submit": 5_000,
            "loky.submit": 2_000,
        },
        columns=(Column("p50 / bare.pipe", "bare.pipe", over), Column("p50 / engine", "engine.submit", over)),
        note="`submit(...).result()`; `bare.pipe` is a bare multiprocessing.Pipe, there and back.",
    ),
    cpu_case("10 ms", 0.010, 200),
    cpu_case("1 ms", 0.001, 2_000),
    cpu_case("100 us", 0.000_1, 10_000),
    Case(
        name="start",
        title="Start-up",
        kind="start_up",
        metrics={"life": "ms", "first": "ms"},
        contenders=dict.fromkeys(("engine.map", "pool.map", "executor.map", "loky.map"), 10),
        columns=(Column("life / engine", "engine.map", over),),
        note="`first`: from the constructor to the first result; `life`: ten jobs and the shutdown as well. "
        "Imports are done before.",
    ),
    Case(
        name="import",
        title="Import, in a fresh Python",
        kind="import_time",
        metrics={"time": "ms"},
        contenders=dict.fromkeys(("engine.package", "engine.names", "pool.names", "executor.names", "loky.names"), 1),
        note="`engine.package` is `import mpengine` alone; `names` what a program that uses the peer begins with.",
    ),
)
