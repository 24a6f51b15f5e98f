"""How well work is spread and how soon results arrive, in virtual time: against perfect greedy list scheduling.

Greedy: each call, in the order given, goes to the worker that is free first, at no cost. Durations are from 10 us to
0.3 s, as even and as uneven as they come; nothing here is measured on this machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.core.timeline import Timeline, greedy

MOST = 1.03  # times greedy
SOON_S = 0.005  # from the end of a call to the consumer
EACH_S = 0.25  # of work per worker, about

Durations = Callable[[float], list[float]]  # for so many seconds of work


def even(each: float) -> Durations:
    return lambda work: [each] * int(work / each)


def drawn(one: Callable[[random.Random], float]) -> Durations:
    """Of a random kind, between 10 us and 100 ms."""

    def durations(work: float) -> list[float]:
        chance, left, found = random.Random(7), 2 * work, []  # some are long: twice the work, not to be all tail
        while left > 0:
            found.append(min(0.1, max(1e-5, one(chance))))
            left -= found[-1]
        return found

    return durations


def joined(*parts: Durations | float) -> Durations:
    """One after the other; a number is a single call."""
    kinds = sum(not isinstance(part, float) for part in parts)

    def durations(work: float) -> list[float]:
        found: list[float] = []
        for part in parts:
            found += [part] if isinstance(part, float) else part(work / kinds)
        return found

    return durations


CASES = {
    "10 us": even(1e-5),
    "100 us": even(1e-4),
    "1 ms": even(1e-3),
    "10 ms": even(1e-2),
    "Pareto, heavy": drawn(lambda chance: 1e-5 * chance.paretovariate(1.1)),
    "Pareto, very heavy": drawn(lambda chance: 1e-5 * chance.paretovariate(0.7)),
    "lognormal": drawn(lambda chance: chance.lognormvariate(-8, 2)),
    "one of 100 is 10,000 times longer": drawn(lambda chance: 0.1 if chance.random() < 0.01 else 1e-5),
    "one of 10 is 200 times longer": drawn(lambda chance: 0.02 if chance.random() < 0.1 else 1e-4),
    "a long one first": joined(0.3, even(1e-3)),
    "a long one first, then tiny ones": joined(0.3, even(2e-5)),
    "a long one last": joined(even(1e-4), 0.1),
    "tiny ones, and a long one last": joined(even(1e-5), 0.1),
    "a slow one in the middle of fast ones": joined(even(1e-5), 0.1, even(1e-5)),
    "slower from the middle on": joined(even(1e-5), even(1e-2)),
    "faster from the middle on": joined(even(1e-2), even(1e-5)),
    "slower at the very end": joined(even(2e-5), *[0.002] * 16),
}


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_map_takes_hardly_longer_than_perfect_greedy_scheduling(
    case: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    durations = CASES[case](EACH_S * workers)
    took = Timeline(durations, workers, monkeypatch).map()
    assert took <= MOST * greedy(durations, workers)


@pytest.mark.parametrize("case", CASES)
def test_each_value_is_there_soon_after_its_call_has_ended(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that ended before a slow call in the same batch."""
    timeline = Timeline(CASES[case](EACH_S * 2), 2, monkeypatch)
    timeline.map(ordered=False)
    assert max(timeline.arrived[call] - ended for call, ended in timeline.ended.items()) <= SOON_S


def test_greedy() -> None:
    assert greedy([3.0, 1.0, 1.0, 2.0], 2) == 4.0
    assert greedy([1.0] * 9, 3) == 3.0
