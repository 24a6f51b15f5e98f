"""The jobs that are measured. They live in a module of their own, which every peer's workers can import."""

import time
from collections.abc import Callable
from typing import Any


def increment(x: int) -> int:
    """As little as a job can do: what is measured is the way there and back."""
    return x + 1


def spin(turns: int) -> int:
    """Keeps one CPU busy, and touches next to no memory."""
    state = 0
    for turn in range(turns):
        state = (state * 31 + turn) & 0xFFFF
    return state


def busy(seconds: float) -> int:
    """Takes so much CPU time, and touches next to no memory.

    CPU time, not turns of a loop: those are up to a tenth faster or slower from process to process, by where code and
    objects happen to lie, and that is not a peer's doing.
    """
    turns = 0
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        turns += 1
    return turns


def timed(seconds: float) -> float:
    """As `busy`; says when it ended, on the clock that all processes of a machine share."""
    busy(seconds)
    return time.perf_counter()


def apply_to_all(fn: Callable[[Any], Any], values: list[Any]) -> list[Any]:
    """A batch cut by hand, for the peers that have no chunk size."""
    return [fn(value) for value in values]


def warm_up(_: object) -> int:
    """A few milliseconds, before anything is measured."""
    return spin(100_000)
