"""Long streams: memory that does not grow with their length, and workers that go on behind a long job."""

import gc
import itertools
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from mpengine import Engine, Job, drawing
from tests.runtime.gates import Door, Gate
from tests.support import WAIT_S, wait_for

WINDOW = 1 << 19  # more than any window the engine says it opens
LEAST_LEAK = 4  # bytes a job


class Counted:
    """Input that tells how much of it was drawn."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.drawn = 0
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.drawn += 1
            yield item

    def wait_until_drawing_has_stopped(self) -> None:
        pause = threading.Event()

        def has_stopped() -> bool:
            before = self.drawn
            pause.wait(0.1)
            return self.drawn == before

        wait_for(has_stopped, about="the drawing to stop")


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_of_any_length_takes_the_same_memory(engine: Engine, ordered: bool) -> None:
    """The consumer pauses early and late; at both moments all that the window may hold is there."""
    map_ = engine.map if ordered else engine.map_unordered
    first, second, end = 150_000, 550_000, 700_000
    assert sum(1 for _ in map_(abs, iter(range(first)))) == first  # the pace is known
    given = Counted(range(end))
    held = []
    taken = 0
    tracemalloc.start()
    try:
        for _ in map_(abs, given):
            taken += 1
            if taken in (first, second):
                given.wait_until_drawing_has_stopped()
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert taken == end
    assert held[1] - held[0] < LEAST_LEAK * (second - first)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_run_of_any_length_keeps_a_bounded_number_of_jobs(engine: Engine, ordered: bool) -> None:
    alive: weakref.WeakSet[Job] = weakref.WeakSet()
    most = 0

    def given() -> Iterator[Job]:
        for number in range(2 * WINDOW):
            job = Job(abs, (number,))
            alive.add(job)
            yield job

    for taken, outcome in enumerate(engine.run(given(), ordered=ordered), 1):
        assert outcome.ok
        if taken % 10_000 == 0:
            most = max(most, len(alive))
    del outcome
    assert most < WINDOW
    assert engine.join(WAIT_S)
    wait_for(lambda: not alive, about="the last jobs to be forgotten")
    books = engine._dispatcher.books
    assert not any([books.batches, books.backlog, books.timers, books.of_context, engine._dispatcher.ids])


def wait_if_zero(door: Door, x: int) -> int:
    if not x:
        door.enter()
    return x


@pytest.mark.parametrize("form", [list, iter])
def test_workers_go_on_behind_a_long_call_whose_value_is_next(
    engine: Engine, gate: Gate, form: Callable[[range], Iterable[int]]
) -> None:
    assert list(engine.map(abs, range(50_000))) == list(range(50_000))
    got: list[int] = []
    already = engine.stats().succeeded  # before the map, which begins at the call
    values = engine.map(lambda x, door=gate.door: wait_if_zero(door, x), form(range(WINDOW)))
    consumer = threading.Thread(target=lambda: got.extend(values))
    consumer.start()
    gate.arrivals(1)
    wait_for(lambda: engine.stats().succeeded - already == WINDOW - 1, about="all but the first")
    assert not got
    gate.open()
    consumer.join(WAIT_S)
    assert got == list(range(WINDOW))


@pytest.mark.parametrize("call", ["map", "run"])
def test_results_that_wait_for_their_turn_are_bounded_in_bytes(
    engine: Engine, gate: Gate, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "AHEAD_BYTES", 1 << 20)

    def large(x: int, door: Door = gate.door) -> bytes:
        sum(range(10_000))  # long enough for a window of hundreds
        return bytes([wait_if_zero(door, x) % 256]) * 10_000

    given = Counted(itertools.count())
    values: Any
    if call == "map":
        values = engine.map(large, given)
    else:
        values = (outcome.value for outcome in engine.run((Job(large, (x,)) for x in given), ordered=True))
    got: list[bytes] = []
    consumer = threading.Thread(target=lambda: got.extend(itertools.islice(values, 2000)))
    consumer.start()
    gate.arrivals(1)
    given.wait_until_drawing_has_stopped()  # without a bound it goes on to a million
    assert given.drawn < 5000
    gate.open()
    consumer.join(WAIT_S)
    assert [value[0] for value in got] == [x % 256 for x in range(2000)]
    values.close()
