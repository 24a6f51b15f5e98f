"""`map` and `map_unordered`: order, laziness, a bounded window, errors, early ends."""

import concurrent.futures
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from mpengine import Engine, EngineClosed
from mpengine.drawing import CallSource, Source
from tests.api import jobs
from tests.api.support import keep
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for

WINDOW = 1 << 19  # more than any window the engine says it opens


class Counted:
    """Endless input that tells how much of it was drawn."""

    def __init__(self, make: Callable[[int], Any] = int) -> None:
        self.drawn = 0
        self._make = make

    def __iter__(self) -> "Counted":
        return self

    def __next__(self) -> Any:
        self.drawn += 1
        return self._make(self.drawn - 1)


def test_values_come_in_order_whatever_their_calls_take(engine: Engine, gate: Gate) -> None:
    values = engine.map(lambda door, n: (door.enter() if n == 0 else None, n)[1], [gate.door] * 50, range(50))
    gate.arrival()
    gate.open()
    assert list(values) == list(range(50))
    assert list(engine.map(jobs.square, range(20_000))) == [n * n for n in range(20_000)]


def test_several_iterables_end_with_the_shortest(engine: Engine) -> None:
    assert list(engine.map(jobs.add, [1, 2, 3], itertools.count(10))) == [11, 13, 15]
    assert list(engine.map(jobs.add, [], [1])) == []
    assert list(engine.map(jobs.call_of)) == []
    assert list(engine.map(jobs.call_of, [(1, 2)])) == [(((1, 2),), {})]


def test_unordered_values_come_as_they_come_and_all_of_them(engine: Engine, gate: Gate) -> None:
    values = engine.map_unordered(lambda door, n: (door.enter() if n == 0 else None, n)[1], [gate.door] * 30, range(30))
    early = [next(values) for _ in range(29)]  # the first is held
    assert sorted(early) == list(range(1, 30))
    gate.open()
    assert list(values) == [0]
    assert sorted(engine.map_unordered(jobs.square, range(5000))) == [n * n for n in range(5000)]


def test_values_of_every_kind_arrive_unchanged(engine: Engine) -> None:
    given: list[Any] = [None, 1, -(2**80), 1.5, "é", b"\0", True, 2j, [1, [2]], {"a": (1,)}, ValueError, {3}, range(4)]
    for _ in range(3):
        assert list(engine.map(jobs.echo, given * 20)) == given * 20
    types = [type(value) for value in engine.map(jobs.echo, [True, 1, 1.0, None, (), [], "", b""])]
    assert types == [bool, int, float, type(None), tuple, list, str, bytes]


def test_bound_arguments_and_closures_may_be_mapped(engine: Engine) -> None:
    offset = [100]
    assert list(engine.map(functools.partial(jobs.add, 5), [1, 2])) == [6, 7]
    assert list(engine.map(lambda x: x + offset[0], [1, 2])) == [101, 102]
    assert list(engine.map("{}-{}".format, [1, 2], [3, 4])) == ["1-3", "2-4"]


# ---- laziness ----------------------------------------


def test_endless_input_is_read_a_bounded_window_ahead(engine: Engine) -> None:
    for map_ in (engine.map, engine.map_unordered):
        given = Counted()
        values = map_(jobs.square, given)
        taken = 0
        for _ in values:
            taken += 1
            assert given.drawn - taken < WINDOW
            if taken == 30_000:
                break
        values.close()


def test_a_consumer_that_does_not_ask_has_no_more_drawn_for_it_than_fits(engine: Engine) -> None:
    given = Counted()
    values = engine.map(jobs.square, given, buffersize=7)
    wait_for(lambda: given.drawn == 7, about="the first window, drawn at the call")
    assert engine.join(WAIT_S)  # all of it is done, and still nobody has asked
    assert given.drawn == 7
    assert [next(values) for _ in range(8)] == [n * n for n in range(8)]
    assert given.drawn <= 8 + 7
    values.close()


def test_free_calls_of_a_consumer_that_thinks_are_bounded_too(engine: Engine) -> None:
    """What workers could do in the engine's measure of time would be more than memory should hold."""
    list(engine.map(abs, range(50_000)))  # the pace is known now: well under a microsecond
    given = Counted()
    values = engine.map(abs, given)
    assert next(values) == 0
    pause = threading.Event()

    def has_stopped() -> bool:
        before = given.drawn
        pause.wait(0.1)
        return given.drawn == before

    wait_for(has_stopped, about="the drawing to stop")
    assert given.drawn < WINDOW
    values.close()


@pytest.mark.parametrize("form", [list, iter])
def test_large_arguments_narrow_the_window_only_while_they_are_on_their_way(
    engine: Engine, form: Callable[[list[str]], Iterable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Source] = []
    start = Source.start

    def note_and_start(source: Source) -> None:
        sources.append(source)
        start(source)

    monkeypatch.setattr(Source, "start", note_and_start)
    assert sum(engine.map(len, form(["x" * (1 << 19)] * 200))) == 200 << 19
    assert sources[0]._ahead_bytes == 0


@pytest.mark.parametrize("first", [0, "a string", (1, 2)])
def test_what_was_drawn_before_the_input_failed_is_worth_its_values(engine: Engine, first: Any) -> None:
    given = dict.fromkeys([first, *range(1, 2 * CallSource.most_ahead)])
    values = engine.map(str, given)
    got = [next(values)]
    given["one more"] = None
    with pytest.raises(RuntimeError, match="changed size"):
        got.extend(values)
    assert got == [str(key) for key in itertools.islice(given, len(got))]


@pytest.mark.parametrize("buffersize", [1, 3, 10])
def test_buffersize_bounds_what_is_drawn_and_not_handed_out(engine: Engine, buffersize: int) -> None:
    given = Counted()
    values = engine.map(jobs.square, given, buffersize=buffersize)
    for taken in range(1, 500):
        assert next(values) == (taken - 1) ** 2
        assert given.drawn - taken <= buffersize
    values.close()
    listed = engine.map(jobs.square, list(range(500)), buffersize=buffersize)
    assert list(listed) == [n * n for n in range(500)]


def test_a_slow_input_does_not_hold_up_what_is_there(engine: Engine) -> None:
    # The consumer has its value before the input is asked for more than the idle workers need.
    go_on = threading.Event()
    blocked = threading.Event()

    def slow() -> Iterator[int]:
        for n in range(100):
            if n == 40:
                blocked.set()
                assert go_on.wait(WAIT_S)
            threading.Event().wait(0.002)  # an input slower than the calls
            yield n

    values = engine.map(jobs.square, slow())
    got = []
    for value in values:
        got.append(value)
        if len(got) == 40 - 2 * engine._max_workers:  # without these the input would be at 40 by now
            break
    assert not blocked.is_set()
    go_on.set()
    assert got + list(values) == [n * n for n in range(100)]


def test_the_first_results_come_at_once_though_the_input_is_slow(engine: Engine) -> None:
    drawn = []

    def slow() -> Iterator[int]:
        for n in range(1000):
            threading.Event().wait(0.02)
            drawn.append(n)
            yield n

    values = engine.map(jobs.square, slow())
    assert next(values) == 0
    assert len(drawn) <= 3 * engine._max_workers
    values.close()


@pytest.mark.parametrize("good", [0, 1, 5, 3000])
def test_an_input_that_raises_is_heard_after_the_results_of_what_it_gave(engine: Engine, good: int) -> None:
    def given() -> Iterator[int]:
        yield from range(good)
        raise LookupError("the input is broken")

    for map_, expected in ((engine.map, list), (engine.map_unordered, sorted)):
        got: list[int] = []
        with pytest.raises(LookupError, match="the input is broken"):
            keep(got, map_(jobs.square, given()))
        assert expected(got) == [n * n for n in range(good)]


def test_iterables_that_are_none_are_refused_at_the_call(engine: Engine) -> None:
    with pytest.raises(TypeError):
        engine.map(jobs.square, 3)  # type: ignore[arg-type]


# ---- early ends ----------------------------------------


def test_closing_an_iterator_ends_its_jobs_also_the_running(
    engine: Engine, gate: Gate, make_gate: Callable[[], Gate]
) -> None:
    ends = make_gate()
    pids = {row.pid for row in engine.workers()}
    values = engine.map(lambda pair: jobs.enter_finally(*pair), itertools.repeat((gate.door, ends.door)))
    gate.arrivals(2)
    values.close()
    assert [ends.arrival().token for _ in range(2)] == ["finally"] * 2  # interrupted: nobody opened the gate
    assert engine.join(WAIT_S)
    assert gate.arrival_or_none(0.0) is None  # those that waited did not start
    assert {row.pid for row in engine.workers()} == pids


@pytest.mark.parametrize("end", ["dropped", "never started", "exhausted by error"])
def test_an_iterator_that_is_given_up_ends_its_jobs(
    engine: Engine, gate: Gate, make_gate: Callable[[], Gate], end: str
) -> None:
    first = make_gate()

    def body(way_in: Any, door: Any, n: int) -> int:
        if n == 0:
            way_in.enter(n)
            if end == "exhausted by error":
                raise ValueError("first")
            return n
        door.enter(n)
        return n

    values = engine.map(body, itertools.repeat(first.door), itertools.repeat(gate.door), itertools.count())
    gate.arrival()  # while the first still runs: afterwards none would have to start
    first.open()
    if end == "dropped":
        assert next(values) == 0
    elif end == "exhausted by error":
        with pytest.raises(ValueError, match="first"):
            next(values)
    del values
    assert engine.join(WAIT_S)  # nobody opens the gate
    stats = engine.stats()
    assert (stats.pending, stats.queued, stats.running) == (0, 0, 0)


def test_next_after_the_end_is_the_end(engine: Engine) -> None:
    values = engine.map(jobs.square, [1])
    assert list(values) == [1]
    with pytest.raises(StopIteration):
        next(values)
    values = engine.map(functools.partial(jobs.fail_at, 1), range(5))
    assert next(values) == 0
    with pytest.raises(ValueError, match="1 is bad"):
        next(values)
    with pytest.raises(StopIteration):
        next(values)


def test_jobs_of_others_are_not_touched_by_the_end_of_an_iterator(engine: Engine, gate: Gate) -> None:
    mine = engine.submit(jobs.enter, gate.door, "mine", 1)
    gate.arrival()
    values = engine.map(jobs.square, range(1000))
    others = [engine.submit(jobs.square, n) for n in range(20)]
    values.close()
    gate.open()
    assert mine.result(WAIT_S) == 1
    assert [f.result(WAIT_S) for f in others] == [n * n for n in range(20)]


# ---- time ----------------------------------------


def test_timeout_runs_from_the_call_and_ends_the_jobs(engine: Engine, gate: Gate) -> None:
    def body(door: Any, n: int) -> int:
        if n == 3:
            door.enter()
        return n

    values = engine.map(body, itertools.repeat(gate.door), range(50), timeout=0.3)
    got: list[int] = []
    with pytest.raises(TimeoutError):
        keep(got, values)
    assert got == [0, 1, 2]
    assert engine.join(WAIT_S)


def test_values_that_are_there_in_time_are_handed_out_later_than_the_timeout(engine: Engine) -> None:
    values = engine.map(jobs.square, range(4), timeout=WAIT_S)
    assert list(values) == [0, 1, 4, 9]


@pytest.mark.parametrize("buffersize", [None, 9])
def test_a_loop_over_values_that_are_closed_ends(engine: Engine, buffersize: int | None) -> None:
    values = engine.map(abs, range(10_000), buffersize=buffersize)
    seen = []
    for value in values:
        seen.append(value)
        if value == 5:
            values.close()
    assert seen == [0, 1, 2, 3, 4, 5]
    assert next(values, "over") == "over"


# ---- references ----------------------------------------


class Value:
    """What a weak reference can look at."""


@pytest.mark.parametrize("unordered", [False, True])
def test_no_reference_to_a_value_that_was_yielded(engine: Engine, unordered: bool) -> None:
    map_ = engine.map_unordered if unordered else engine.map
    values = map_(jobs.echo, (jobs.Big() for _ in range(500)))
    for _ in range(500):
        value = next(values)
        ref = weakref.ref(value)
        del value
        assert ref() is None
    values.close()


def test_no_reference_to_a_value_with_limits_either(make_engine: MakeEngine) -> None:
    values = make_engine(timeout=WAIT_S).map(jobs.echo, (jobs.Big() for _ in range(50)))
    for _ in range(50):
        value = next(values)
        ref = weakref.ref(value)
        del value
        wait_for(lambda r=ref: r() is None, 2.0, about="the value to be dropped")  # type: ignore[misc]


def test_no_reference_to_a_result_whose_future_is_gone(engine: Engine) -> None:
    future = engine.submit(jobs.echo, jobs.Big())
    ref = weakref.ref(future.result(WAIT_S))
    del future
    wait_for(lambda: ref() is None, about="the dispatcher to drop the result")


def test_input_is_dropped_once_its_call_is_done(engine: Engine) -> None:
    refs: list[Any] = []

    def given() -> Iterator[jobs.Big]:
        for _ in range(50):
            big = jobs.Big()
            refs.append(weakref.ref(big))
            yield big
            del big

    for value in engine.map(jobs.echo, given()):
        del value
    assert all(ref() is None for ref in refs)


# ---- snapshots ----------------------------------------


def test_an_input_that_yields_one_changing_list_is_seen_as_it_was(engine: Engine) -> None:
    def given() -> Iterator[list[int]]:
        one: list[int] = []
        for n in range(300):
            one.append(n)
            yield one
            if n % 7 == 0:
                one.clear()

    def expected() -> list[list[int]]:
        return [list(one) for one in given()]

    assert list(engine.map(jobs.echo, given())) == expected()
    assert [v[0][0] for v in engine.map(jobs.call_of, given())] == expected()


def test_a_function_that_returns_one_changing_list_is_seen_as_it_was(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    lengths = [len(value) for value in engine.map(jobs.grow_and_return, range(400))]
    assert lengths == list(range(1, 401))
    engine.submit(jobs.shared_list_starts_anew).result(WAIT_S)
    futures = [engine.submit(jobs.grow_and_return, None) for _ in range(50)]
    assert [len(f.result(WAIT_S)) for f in futures] == list(range(1, 51))


# ---- subclasses, limits ----------------------------------------


class Recording(Engine):
    """A subclass as there are in the wild."""

    calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().submit(fn, *args, **kwargs)


def test_map_goes_through_the_submit_of_a_subclass() -> None:
    with Recording(2) as engine:
        given = Counted()
        values = engine.map(jobs.square, given)
        assert [next(values) for _ in range(10)] == [n * n for n in range(10)]
        assert 10 <= engine.calls <= 30
        assert given.drawn == engine.calls
        values.close()


def test_map_goes_through_a_submit_that_was_put_in_place(make_engine: MakeEngine) -> None:
    engine = make_engine()
    seen: list[Any] = []
    real = engine.submit

    def submit(fn: Any, /, *args: Any) -> concurrent.futures.Future[Any]:
        seen.append(args)
        return real(fn, *args)

    engine.submit = submit  # type: ignore[assignment, method-assign]
    assert list(engine.map(jobs.square, range(3))) == [0, 1, 4]
    assert seen == [(0,), (1,), (2,)]


def test_calls_of_map_have_the_engines_timeout_and_retries(make_engine: MakeEngine, gate: Gate, tmp_path: Any) -> None:
    engine = make_engine(timeout=0.2)
    with pytest.raises(TimeoutError):
        list(engine.map(jobs.enter, [gate.door]))
    engine = make_engine(retries=2)
    assert list(engine.map(jobs.fail_until, [str(tmp_path / "count")], [2])) == ["3 3"]


def test_map_after_shutdown_is_refused_at_the_call(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.shutdown()
    for use in (engine.map, engine.map_unordered):
        with pytest.raises(EngineClosed, match="cannot schedule new futures"):
            use(jobs.square, [1])
    with pytest.raises(EngineClosed, match="cannot schedule new futures"):
        engine.run([])


def test_a_map_that_is_under_way_at_shutdown_hands_out_what_was_accepted(make_engine: MakeEngine) -> None:
    engine = make_engine()
    values = engine.map(jobs.square, itertools.count(), buffersize=4)
    engine.shutdown()
    got: list[int] = []
    with pytest.raises(EngineClosed):
        keep(got, values)
    assert got == [0, 1, 4, 9][: len(got)]


@pytest.mark.parametrize("first", ["the engine", "the iterator"])
def test_a_drawer_does_not_outlive_its_iterator_and_engine(make_engine: MakeEngine, first: str) -> None:
    engine = make_engine()
    values = engine.map(jobs.square, itertools.count(), buffersize=4)
    assert next(values) == 0
    if first == "the engine":
        engine.shutdown()
        del values
    else:
        del values
        engine.shutdown()
    prefix = engine._options.name
    wait_for(
        lambda: not [thread for thread in threading.enumerate() if thread.name.startswith(prefix)], 5.0,
        about="the engine's threads to end",
    )  # fmt: skip


def test_an_input_that_blocks_does_not_hold_up_results_nor_a_shutdown(make_engine: MakeEngine) -> None:
    engine = make_engine()
    go_on = threading.Event()

    def given() -> Iterator[int]:
        yield from range(10)
        assert go_on.wait(WAIT_S)
        yield 10

    values = engine.map(jobs.square, given())
    assert [next(values) for _ in range(10)] == [n * n for n in range(10)]
    engine.shutdown()
    go_on.set()
    with pytest.raises(EngineClosed):
        next(values)
