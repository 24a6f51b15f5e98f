"""The jobs that are measured. They live in a module of their own, which every peer's workers can import."""

import time
from collections.abc import Callable
from typing import Any


def increment(x: int) -> int:
    """As little as a job can do: what is measured is the way there and back."""
    return x + 1


def spin(turns: int) -> int:
    """Keeps one CPU busy, and touches next to no memory, so that two of them do not slow each other down."""
    state = 0
    for turn in range(turns):
        state = (state * 31 + turn) & 0xFFFF
    return state


def timed(turns: int) -> float:
    """Spins, and says when it ended, on the clock that all processes of a machine share."""
    spin(turns)
    return time.perf_counter()


def apply_to_all(fn: Callable[[Any], Any], values: list[Any]) -> list[Any]:
    """A batch cut by hand, for the peers that have no chunk size."""
    return [fn(value) for value in values]


def warm_up(_: object) -> int:
    """A few milliseconds, before anything is measured."""
    return spin(100_000)


def turns_for(seconds: float) -> int:
    """How many turns of `spin` last about this long on this machine now.

    All contenders of a run get the same number, so that its error falls on all alike.
    """
    turns = 200_000
    fastest = min(seconds_for(turns) for _ in range(7))
    return max(1, round(turns * seconds / fastest))


def seconds_for(turns: int) -> float:
    start = time.perf_counter()
    spin(turns)
    return time.perf_counter() - start
