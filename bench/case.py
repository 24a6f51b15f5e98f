"""What a case is: a question, those who are asked, and what their answers are held against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

TUNED = "/tuned"  # ends the name of a contender that has a chunk size from tuned.json


@dataclass(frozen=True)
class Column:
    """A derived column: each contender's metric held against one contender's of the same round."""

    heading: str
    against: str
    ratio: Callable[[float, float, int], float]  # of a contender's figure, the other's, and the workers
    percent: bool = False
    metric: str = ""  # the case's first


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
        kind: The function of kinds.py that answers it.
        metrics: What it returns, the figure for the ratios first, with the unit for the heading.
        contenders: Each, `peer.method` or `peer.method/tuned`, with its number of jobs.
        better: Whether the best has the highest figure or the lowest.
        seldom: Who is measured in every fourth round only: the slow, whose figures need no precision.
        columns: What the table has beside the metrics.
        seconds: How long one job should take, if that matters.
        start_method: For all peers in this case, whatever the run has for the others.
        scaled: Whether a short run has fewer jobs.
        fewest: So many jobs a short run has at least.
        workers: How many each contender has, whatever the run has for the other cases.
        note: What a reader of the table must know.
    """

    name: str
    title: str
    kind: str
    metrics: Mapping[str, str]
    contenders: Mapping[str, int]
    better: Literal["high", "low"] = "low"
    seldom: frozenset[str] = frozenset()
    columns: tuple[Column, ...] = ()
    seconds: float = 0.0
    start_method: str | None = None
    scaled: bool = True
    fewest: int = 10
    workers: int | None = None
    note: str = ""

    @property
    def tuned(self) -> list[str]:
        """The contenders that need a chunk size."""
        return [contender for contender in self.contenders if contender.endswith(TUNED)]
