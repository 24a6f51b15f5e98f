"""Large data: it crosses in shared memory, and nobody can tell, but for the time it takes."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pytest

from mpengine import Engine, EngineClosed, Job
from mpengine.arrays.parcel import LARGE
from tests.api import array_jobs as jobs
from tests.runtime.fixtures import MakeEngine, open_engine, wait_ready
from tests.runtime.gates import Gate
from tests.support import WAIT_S, run_python, wait_for, wait_gone

MIB = 1 << 20
SMALL = 4096


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    yield from open_engine("forkserver")


def nothing_in_use(engine: Engine) -> None:
    """Waits until nothing large is in use: pickles of functions, which the engine knows, may be."""
    gc.collect()
    wait_for(lambda: engine.stats().memory.in_use < SMALL, about="nothing to be in use")


def numbers(size: int, seed: int = 0) -> Any:
    """So many random bytes."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


# ---- every kind ------------------------------------------------------------------------------------------------------


def structured() -> Any:
    array = np.zeros(100_000, [("name", "S8"), ("at", "<f8", (2,))])
    array["at"] = np.arange(200_000.0).reshape(-1, 2)
    return array


def read_only() -> Any:
    array = np.arange(100_000.0)
    array.flags.writeable = False
    return array


def masked() -> Any:
    return np.ma.masked_less(np.arange(100_000.0), 50_000)


ARRAYS: dict[str, Callable[[], Any]] = {
    "C order": lambda: np.arange(600_000.0).reshape(600, 1000),
    "Fortran order": lambda: np.asfortranarray(np.arange(600_000.0).reshape(600, 1000)),
    "with gaps": lambda: np.arange(600_000.0).reshape(600, 1000)[::2, ::3],
    "transposed in part": lambda: np.arange(600_000.0).reshape(60, 100, 100).transpose(1, 0, 2),
    "backwards": lambda: np.arange(600_000.0)[::-1],
    "broadcast": lambda: np.broadcast_to(np.arange(1000.0), (500, 1000)),
    "a part of it": lambda: np.arange(600_000.0)[100_000:400_000],
    "structured": structured,
    "record": lambda: structured().view(np.recarray),
    "of no size": lambda: np.zeros((0, 5)),
    "of no dimension": lambda: np.array(3.5),
    "scalar": lambda: np.float64(3.5),
    "objects": lambda: np.array([None, "x", (1, 2)] * 50_000, dtype=object),
    "texts": lambda: np.array(["x" * 20] * 50_000),
    "other byte order": lambda: np.arange(100_000, dtype=">f8"),
    "bool": lambda: np.arange(300_000) % 3 == 0,
    "complex": lambda: np.arange(100_000) * 1j,
    "datetime": lambda: np.arange(100_000).astype("datetime64[s]"),
    "timedelta": lambda: np.arange(100_000).astype("timedelta64[ms]"),
    "read-only": read_only,
    "masked": masked,
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind_cross_both_ways(engine: Engine, kind: str) -> None:
    array = ARRAYS[kind]()
    found = engine.submit(jobs.echo, array).result(WAIT_S)
    assert type(found) is type(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.ma.allequal(found, array) if kind == "masked" else np.array_equal(found, array)
    if kind == "masked":
        assert np.array_equal(found.mask, array.mask)
    if type(array) is np.ndarray:
        assert engine.submit(jobs.is_writable, array).result(WAIT_S)
        assert found.flags.writeable
        assert found.flags.forc
        if array.flags.forc:
            assert found.flags.c_contiguous == array.flags.c_contiguous


OTHERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: numbers(MIB).tobytes(),
    "bytearray": lambda: bytearray(numbers(MIB)),
    "memoryview": lambda: memoryview(bytearray(numbers(MIB))),
    "memoryview of floats": lambda: np.arange(100_000.0).reshape(100, 1000).data,
    "memoryview with gaps": lambda: memoryview(bytearray(numbers(MIB)))[::3],
    "text": lambda: "\N{SNOWMAN}abc" * 200_000,
    "many small": lambda: [numbers(1000, n).tobytes() for n in range(2000)],
    "inside": lambda: {"a": [numbers(MIB).tobytes(), (bytearray(MIB), {"b": "c" * MIB})]},
    "out of band": lambda: jobs.Buffered("mine", numbers(MIB).tobytes()),
    "out of band, writable": lambda: jobs.Buffered("mine", bytearray(numbers(MIB))),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_large_things_cross_both_ways(engine: Engine, kind: str) -> None:
    thing = OTHERS[kind]()
    found = engine.submit(jobs.echo, thing).result(WAIT_S)
    assert type(found) is type(thing)
    assert found == thing
    if type(thing) is memoryview:
        assert (found.format, found.shape, found.readonly) == (thing.format, thing.shape, False)


def frame() -> Any:
    count = 50_000
    return pd.DataFrame(
        {
            "number": np.arange(count), "weight": np.arange(count) / 7, "flag": np.arange(count) % 2 == 0,
            "name": [f"name {n}" for n in range(count)], "at": pd.date_range("2020-01-01", periods=count, freq="s"),
            "kind": pd.Categorical(["a", "b"] * (count // 2)), "maybe": pd.array([1, None] * (count // 2), "Int64"),
        },
        index=pd.Index(np.arange(count) * 2, name="key"),
    )  # fmt: skip


def test_pandas_objects_cross_both_ways_and_can_be_changed(engine: Engine) -> None:
    table = frame()
    found = engine.submit(jobs.echo, table).result(WAIT_S)
    pd.testing.assert_frame_equal(found, table)
    found.loc[0, "weight"] = 3.0
    found["more"] = found["number"] + 1
    pd.testing.assert_series_equal(engine.submit(jobs.echo, table["weight"]).result(WAIT_S), table["weight"])
    assert table.loc[0, "weight"] == 0.0


def test_pyarrow_objects_cross_both_ways(engine: Engine) -> None:
    table = pa.table({"a": np.arange(200_000), "b": [f"name {n}" for n in range(200_000)], "c": [None, 1.5] * 100_000})
    assert engine.submit(jobs.echo, table).result(WAIT_S).equals(table)
    array = pa.array(np.arange(200_000.0))
    assert engine.submit(jobs.echo, array).result(WAIT_S).equals(array)
    part = table.slice(1000, 50_000)
    assert engine.submit(jobs.echo, part).result(WAIT_S).equals(part)


SIZES = [LARGE - 1, LARGE, LARGE + 1, 300_000, 5_000_000, 67_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_every_threshold(engine: Engine, size: int) -> None:
    for thing in (numbers(size), numbers(size).tobytes()):
        found = engine.submit(jobs.echo, thing).result(WAIT_S)
        assert len(found) == size
        assert np.array_equal(found, thing) if type(thing) is np.ndarray else found == thing


def test_a_size_of_200_mb(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(1, start_method)
    array = np.arange(25_000_000)
    found = engine.submit(jobs.echo, array).result(WAIT_S)
    assert np.array_equal(found, array)
    assert engine.stats().memory.in_use >= array.nbytes
    del found
    nothing_in_use(engine)


# ---- every way in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, LARGE, MIB])
def test_every_way_in(make_engine: MakeEngine, start_method: str, size: int) -> None:
    engine = make_engine(2, start_method)
    inputs = [numbers(size, seed) for seed in range(12)]
    sums = [float(array.sum()) for array in inputs]

    def same(found: Any, wanted: Any) -> bool:
        found = list(found)
        assert len(found) == len(wanted)
        return all(map(np.array_equal, found, wanted))

    assert same((engine.submit(jobs.echo, array).result(WAIT_S) for array in inputs), inputs)
    futures = [engine.submit(jobs.echo, array) for array in inputs]
    assert same((future.result(WAIT_S) for future in futures), inputs)
    assert same(engine.map(jobs.echo, inputs), inputs)
    assert same(engine.map(jobs.echo, iter(inputs)), inputs)
    assert same(engine.map(jobs.second, range(12), inputs), inputs)
    for one, other in engine.map(jobs.pair, inputs[:6], inputs[6:]):
        assert len(one) == len(other) == size
    assert same(engine.map(lambda array: array, inputs), inputs)
    assert list(engine.map(jobs.total, inputs)) == sums
    assert sorted(engine.map_unordered(jobs.total, inputs)) == sorted(sums)
    assert sorted(float(array.sum()) for array in engine.map_unordered(jobs.echo, inputs)) == sorted(sums)
    assert same((one.value for one in engine.run([Job(jobs.echo, (x,)) for x in inputs], ordered=True)), inputs)
    assert sorted(one.value for one in engine.run(Job(jobs.total, (x,)) for x in inputs)) == sorted(sums)
    named = engine.dispatch(Job(jobs.with_names, kwargs={"one": inputs[0], "other": inputs[1]})).result(WAIT_S)
    assert np.array_equal(named["one"], inputs[0])
    assert np.array_equal(named["other"], inputs[1])
    named = engine.submit(jobs.with_names, one=inputs[2], other=bytes(inputs[3])).result(WAIT_S)
    assert np.array_equal(named["one"], inputs[2])
    assert named["other"] == bytes(inputs[3])
    assert np.array_equal(engine.submit(lambda: inputs[4]).result(WAIT_S), inputs[4])
    made = engine.run([Job(jobs.filled, (size, n)) for n in range(12)], ordered=True)
    assert [int(outcome.value.max()) for outcome in made] == list(range(12))
    assert [len(array) for array in engine.map(jobs.filled, [size] * 300, [1] * 300)] == [size] * 300
    assert all(len(engine.submit(jobs.filled, size, 1).result(WAIT_S)) == size for _ in range(10))
    del futures, named, made, one, other
    nothing_in_use(engine)


SCRIPT = """
import numpy as np
from mpengine import Engine, Job

TABLE = np.arange(500_000.0)

class Model:
    def __init__(self, weights):
        self.weights = weights

def double(array):
    array *= 2
    return array

def apply(model):
    return Model(model.weights + TABLE)

def row(n):
    return TABLE[n:n + 100_000]

with Engine(2, METHOD) as engine:
    assert np.array_equal(engine.submit(double, TABLE).result(), TABLE * 2)
    assert [int(a[1]) for a in engine.map(double, [TABLE + n for n in range(5)])] == [2, 4, 6, 8, 10]
    model = engine.submit(apply, Model(TABLE)).result()
    assert type(model) is Model and np.array_equal(model.weights, TABLE * 2)
    model.weights += 1
    assert [int(a[0]) for a in engine.map(row, range(20))] == list(range(20))
    shared = engine.share(Model(TABLE))
    assert engine.submit(lambda: float(shared.weights[5])).result() == 5.0
    assert list(engine.map(lambda n: float(shared.weights[n]), range(20))) == list(range(20))
    late = [outcome.value for outcome in engine.run([Job(double, (TABLE,), retries=1)] * 1)]
assert TABLE[1] == 1 and late[0][1] == 2
print("done")
"""


def test_functions_and_classes_of_a_script(start_method: str) -> None:
    done = run_python("-W", "error", "-c", f"METHOD = {start_method!r}\n{SCRIPT}")
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_an_argument_is_the_jobs_own(engine: Engine) -> None:
    array = np.zeros(MIB, np.uint8)
    results = [engine.submit(jobs.add_in_place, array) for _ in range(4)]
    results += [engine.dispatch(Job(jobs.add_in_place, (array,), retries=1)) for _ in range(4)]
    for future in results:
        assert set(np.unique(future.result(WAIT_S))) == {1}
    assert [int(one.max()) for one in engine.map(jobs.add_in_place, [array] * 10)] == [1] * 10
    assert not array.any()


def test_what_the_caller_changes_after_submit_changes_nothing(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    held = engine.submit(gate.door.enter)
    gate.arrival()
    array = np.ones(MIB, np.uint8)
    future = engine.submit(jobs.total, array)
    others = engine.map(jobs.total, [array, array])
    array[:] = 9
    gate.open()
    held.result(WAIT_S)
    assert future.result(WAIT_S) == MIB
    assert list(others) == [MIB, MIB]


@pytest.mark.parametrize("fail", [jobs.fail_the_first_time, jobs.die_the_first_time])
@pytest.mark.parametrize("size", [1000, MIB])
def test_the_second_attempt_gets_the_original(
    make_engine: MakeEngine, tmp_path: Path, fail: Callable[..., Any], size: int
) -> None:
    engine = make_engine(1, retries=1)  # the same worker, which has the block mapped
    array = np.zeros(size, np.uint8)
    outcome = engine.dispatch(Job(fail, (str(tmp_path / "been here"), array))).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts) == ("succeeded", 2)
    assert set(np.unique(outcome.value)) == {1}
    os.remove(tmp_path / "been here")
    (value,) = engine.map(fail, [str(tmp_path / "been here")], [array])
    assert set(np.unique(value)) == {1}


def test_what_a_job_keeps_of_its_argument_stays_as_it_was(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(1, start_method)
    for value in range(10):
        engine.submit(jobs.keep_a_view, np.full(MIB, value, np.uint8)).result(WAIT_S)
    engine.submit(jobs.echo, 0).result(WAIT_S)
    for value in range(100, 150):
        assert engine.submit(jobs.total, np.full(MIB, value, np.uint8)).result(WAIT_S) == value * MIB
        assert int(engine.submit(jobs.filled, MIB, value).result(WAIT_S).max()) == value
    list(engine.map(jobs.total, [np.full(MIB, 200, np.uint8)] * 20))
    assert engine.submit(jobs.ends_of_kept).result(WAIT_S) == [(value, value) for value in range(10)]
    assert engine.stats().memory.in_use >= 10 * MIB
    engine.submit(jobs.drop_kept).result(WAIT_S)
    nothing_in_use(engine)


# ---- results ---------------------------------------------------------------------------------------------------------


def test_results_are_ours_and_do_not_share_memory(engine: Engine) -> None:
    results = [engine.submit(jobs.filled, MIB, value).result(WAIT_S) for value in range(20)]
    for value, result in enumerate(results):
        assert result.flags.writeable
        assert set(np.unique(result)) == {value}
        result += 100
    assert [int(result.max()) for result in results] == list(range(100, 120))
    assert not any(np.shares_memory(one, other) for one in results for other in results if one is not other)


def test_some_results_are_kept_while_others_come_and_go(engine: Engine) -> None:
    kept: list[Any] = []
    for number in range(300):
        result = engine.submit(jobs.filled, 200_000 + 5000 * (number % 40), number % 251).result(WAIT_S)
        if number % 10 == 0:
            kept.append(result if number % 20 else result[1000:150_000:3])
        del result
    for at, result in enumerate(kept):
        assert set(np.unique(result)) == {at * 10 % 251}
    in_use = engine.stats().memory.in_use
    assert in_use >= sum(map(len, kept))
    del kept, result
    nothing_in_use(engine)


def test_results_outlive_their_worker_and_their_engine(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(1, start_method)
    (pid,) = wait_ready(engine)
    before = [engine.submit(jobs.filled, 5 * MIB, value).result(WAIT_S) for value in (1, 2)]
    waiting = engine.submit(jobs.filled, 5 * MIB, 3)
    engine.join(WAIT_S)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    after = engine.submit(jobs.filled, 5 * MIB, 4).result(WAIT_S)
    engine.shutdown()
    results = [*before, waiting.result(), after]
    assert [(int(one.min()), int(one.max())) for one in results] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    part = results[1][100:]
    part += 50
    del results, before, after, waiting
    gc.collect()
    assert set(np.unique(part)) == {52}


def test_the_memory_of_a_dead_workers_results_goes_with_them(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    (pid,) = wait_ready(engine)
    kept = engine.submit(jobs.filled, 5 * MIB, 1).result(WAIT_S)
    dropped = engine.submit(jobs.filled, 5 * MIB, 2).result(WAIT_S)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: [row.pid for row in engine.workers()] != [pid], about="the worker to be replaced")
    assert engine.stats().memory.in_use == 10 * MIB
    del dropped
    gc.collect()
    assert engine.stats().memory.in_use == 5 * MIB
    assert set(np.unique(kept)) == {1}
    del kept
    nothing_in_use(engine)


# ---- share -----------------------------------------------------------------------------------------------------------


def item_of(thing: Any) -> Callable[[Any], Any]:
    """A function that has it in its closure."""
    return lambda key: thing[key]


def test_what_can_be_shared(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method)
    array = np.arange(500_000.0)
    shared = engine.share(array)
    assert shared.nbytes >= array.nbytes
    array[:] = 0  # what was shared is what it was
    expected = float(np.arange(500_000.0).sum())
    assert engine.submit(jobs.total, shared).result(WAIT_S) == expected
    assert engine.submit(jobs.with_names, one=1, other=[shared]).result(WAIT_S)["other"][0][3] == 3.0
    assert list(engine.map(functools.partial(jobs.total_of_row, shared), range(100))) == list(range(100))
    assert list(engine.map(jobs.total, [shared] * 5)) == [expected] * 5
    assert list(engine.map(jobs.total_of_row, [shared] * 5, range(5))) == list(range(5))
    assert engine.submit(item_of(shared), 7).result(WAIT_S) == 7.0
    assert list(engine.map(item_of(shared), range(10))) == list(range(10))
    outcomes = engine.run([Job(jobs.total, (shared,), retries=1)] * 1 + [Job(jobs.total, kwargs={"array": shared})])
    assert [outcome.value for outcome in outcomes] == [expected] * 2
    del shared, outcomes
    nothing_in_use(engine)


def test_graphs_of_objects_can_be_shared(engine: Engine) -> None:
    arrays = {"a": np.arange(100_000), "b": [np.ones(5), numbers(MIB)], "c": ("text", {"d": bytes(MIB)})}
    arrays["again"] = arrays["a"]
    shared = engine.share(arrays)

    def look(graph: Any) -> Any:
        return graph["a"] is graph["again"], int(graph["a"].sum()), graph["c"][0], len(graph["c"][1]["d"])

    assert engine.submit(look, shared).result(WAIT_S) == (True, int(np.arange(100_000).sum()), "text", MIB)
    assert engine.submit(jobs.pair, shared, shared).result(WAIT_S)[0]["b"][1].sum() == arrays["b"][1].sum()  # type: ignore[index]


def test_frames_can_be_shared(engine: Engine) -> None:
    table = frame()
    shared = engine.share(table)
    pd.testing.assert_frame_equal(engine.submit(jobs.echo, shared).result(WAIT_S), table)
    total = engine.submit(lambda: float(shared["weight"].sum())).result(WAIT_S)  # type: ignore[index]
    assert total == float(table["weight"].sum())


def test_one_inside_another(engine: Engine) -> None:
    inner = engine.share(np.arange(100_000))
    outer = engine.share({"inner": inner, "more": np.ones(100_000)})
    del inner
    gc.collect()
    for _ in range(3):
        assert engine.submit(item_of(outer), "inner").result(WAIT_S)[500] == 500
        engine.submit(jobs.total, np.ones(100_000)).result(WAIT_S)
    del outer
    nothing_in_use(engine)


def test_it_is_read_only_and_the_error_says_why(engine: Engine) -> None:
    shared = engine.share(np.arange(100_000.0))
    assert not engine.submit(jobs.is_writable, shared).result(WAIT_S)
    for way in (
        lambda: engine.submit(jobs.write_to, shared).result(WAIT_S),
        lambda: list(engine.map(jobs.write_to, [shared])),
        lambda: list(engine.map(lambda _: jobs.write_to(shared), range(1))),
    ):
        with pytest.raises(ValueError, match="read-only") as caught:
            way()
        assert any("share()" in note for note in caught.value.__notes__)
    assert engine.submit(jobs.total_of_row, shared, 0).result(WAIT_S) == 0.0


def test_arrays_with_gaps_inside_are_read_only_and_not_copied(engine: Engine) -> None:
    """Of each worker's own copy one job could change what the next one sees."""
    table = np.arange(2_000_000).reshape(1000, 2000)
    shared = engine.share({"large": table[:, ::2], "small": [np.arange(100)[::2]], "F": np.asfortranarray(table)})
    assert shared.nbytes >= table.nbytes * 1.5
    for key in ("large", "F"):
        found = engine.submit(item_of(shared), key)
        assert np.array_equal(found.result(WAIT_S), table[:, ::2] if key == "large" else table)

    def are_writable(graph: Any) -> list[bool]:
        return [array.flags.writeable for array in (graph["large"], graph["small"][0], graph["F"])]

    assert engine.submit(are_writable, shared).result(WAIT_S) == [False] * 3


def test_it_survives_workers_that_are_killed(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method)
    shared = engine.share(np.arange(500_000.0))
    for _ in range(3):
        for pid in wait_ready(engine):
            engine.submit(jobs.total_of_row, shared, 1).result(WAIT_S)
            os.kill(pid, signal.SIGKILL)
        assert list(engine.map(functools.partial(jobs.total_of_row, shared), range(20))) == list(range(20))
    del shared
    nothing_in_use(engine)


def test_its_memory_goes_back_to_the_system(make_engine: MakeEngine) -> None:
    engine = make_engine(2)
    wait_ready(engine)
    before = engine.stats().memory.size
    shared = engine.share(np.ones(50 * MIB, np.uint8))
    assert list(engine.map(functools.partial(jobs.total_of_row, shared), range(100))) == [1.0] * 100
    memory = engine.stats().memory
    assert memory.in_use >= 50 * MIB
    assert memory.size >= 50 * MIB
    assert memory.peak >= memory.in_use
    del shared
    nothing_in_use(engine)
    wait_for(lambda: engine.stats().memory.size < before + MIB, about="the memory to go back")


def test_one_that_no_worker_has_seen_goes_back_too(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    wait_ready(engine)
    before = engine.stats().memory.size
    shared = engine.share(np.ones(50 * MIB, np.uint8))
    assert engine.join(WAIT_S)
    wait_for(lambda: engine._dispatcher._inbox.is_asleep, about="the engine to be at rest")
    del shared
    wait_for(lambda: engine.stats().memory.size < before + MIB, about="the memory to go back")


def test_a_block_is_looked_for_also_if_it_is_dropped_before_it_is_free(make_engine: MakeEngine) -> None:
    """The word that it is dropped may come a step before."""
    engine = make_engine(1)
    wait_ready(engine)
    memory = engine._dispatcher.memory
    wait_for(lambda: memory._cool_at is None, about="nothing to be warm")
    looked: list[float | None] = []

    def drop() -> None:
        memory.dropped(12345)
        looked.append(memory.due())

    engine._dispatcher.post(drop)
    assert engine.join(WAIT_S)
    assert looked != [None]


def test_the_memory_of_a_result_goes_back_however_late_it_is_dropped(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    wait_ready(engine)
    before = engine.stats().memory.size
    results = [engine.submit(jobs.filled, 50 * MIB, 1).result(WAIT_S) for _ in range(2)]
    while results:
        results.pop()
        most = before + len(results) * 50 * MIB + MIB
        wait_for(functools.partial(is_at_most, engine, most), about="what is free to go back")
        wait_for(lambda: engine._dispatcher._inbox.is_asleep, about="the engine to be at rest")


def is_at_most(engine: Engine, size: int) -> bool:
    return engine.stats().memory.size < size


@pytest.mark.parametrize("when", ["before it runs", "while it runs"])
@pytest.mark.parametrize("way", ["job", "map", "partial"])
def test_one_that_is_dropped_stays_for_the_job_that_has_it(
    make_engine: MakeEngine, make_gate: Callable[[], Gate], when: str, way: str
) -> None:
    engine = make_engine(1)
    (pid,) = wait_ready(engine)
    first, then = make_gate(), make_gate()
    held = engine.submit(jobs.call, first.door.enter)
    first.arrival()
    shared = engine.share(np.ones(MIB, np.uint8))
    futures: list[Any] = []
    values: Iterator[float] = iter(())
    if way == "job":
        futures.append(engine.submit(jobs.enter_and_sum, then.door, shared))
    elif way == "map":
        values = engine.map(jobs.enter_and_sum, [then.door], [shared])
    else:
        values = engine.map(functools.partial(jobs.enter_and_sum, then.door), [shared])
    if when == "before it runs":
        del shared
    first.open()
    then.arrival()
    if when == "while it runs":
        del shared
    gc.collect()
    assert engine.stats().memory.in_use >= MIB
    then.open()
    assert [future.result(WAIT_S) for future in futures] + list(values) == [MIB]
    held.result(WAIT_S)
    futures.clear()  # and with them their jobs, which hold their arguments
    nothing_in_use(engine)
    assert wait_ready(engine) == [pid]


def test_wrong_uses_of_what_is_shared(make_engine: MakeEngine) -> None:
    engine, another = make_engine(1), make_engine(1)
    shared = engine.share(np.ones(MIB, np.uint8))
    for way in (
        lambda: pickle.dumps(shared),
        lambda: another.submit(jobs.total, shared).result(WAIT_S),
        lambda: list(another.map(jobs.total, [shared])),
        lambda: another.share([shared]),
    ):
        with pytest.raises(TypeError, match="only be sent to jobs of the engine that made it") as caught:
            way()
        assert "\n" not in str(caught.value)
    assert engine.submit(jobs.total, shared).result(WAIT_S) == MIB
    engine.shutdown()
    with pytest.raises(EngineClosed):
        engine.share(np.ones(5))
    with pytest.raises(EngineClosed):
        engine.submit(jobs.total, shared)
    assert "Shared" in repr(shared)
    with pytest.raises(TypeError) as caught:
        another.share({"lock": threading.Lock()})
    assert any("the object to be shared" in note for note in caught.value.__notes__)


def test_what_a_worker_has_opened_again_is_not_given_to_others(make_engine: MakeEngine) -> None:
    """Workers keep few shared objects rebuilt: one that was told of is let go, and opened again, by one job."""
    engine = make_engine(1)
    wait_ready(engine)
    first = engine.share(np.full(MIB, 1, np.uint8))
    engine.submit(jobs.size_of, first).result(WAIT_S)
    others = [engine.share(np.full(200_000, 2, np.uint8)) for _ in range(16)]
    engine.submit(jobs.keep, *others, first).result(WAIT_S)
    del first
    for value in range(10, 16):
        engine.submit(jobs.size_of, np.full(MIB, value, np.uint8)).result(WAIT_S)
        engine.submit(jobs.size_of, engine.share(np.full(MIB, value, np.uint8))).result(WAIT_S)
    assert engine.submit(jobs.ends_of_kept).result(WAIT_S) == [(1, 1)]
    others.clear()
    engine.submit(jobs.drop_kept).result(WAIT_S)
    nothing_in_use(engine)


def test_many_shared_objects_dropped_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    pids = wait_ready(engine)
    for _ in range(30):
        shared = [engine.share(np.ones(20_000)) for _ in range(16)]
        assert engine.submit(jobs.keep, *shared).result(WAIT_S)
        engine.submit(jobs.drop_kept).result(WAIT_S)
        shared.clear()
        nothing_in_use(engine)
    assert wait_ready(engine) == pids


# ---- mapped functions ------------------------------------------------------------------------------------------------


def test_what_a_mapped_function_is_bound_to_crosses_once_per_worker(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method)
    wait_ready(engine)
    fn = functools.partial(jobs.times_loaded, jobs.Counted(np.ones(MIB, np.uint8)))
    found = dict(engine.map(fn, range(20_000)))
    assert set(found.values()) == {1}
    assert engine.stats().memory.peak < 3 * MIB
    del fn
    nothing_in_use(engine)


def test_what_it_is_bound_to_is_each_workers_own(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method)
    wait_ready(engine)
    array = np.zeros(40_000, np.int64)
    seen: dict[int, list[int]] = {}
    for pid, first in engine.map(functools.partial(jobs.add_and_say, array), [1] * 2000):
        seen.setdefault(pid, []).append(first)
    for said in seen.values():
        assert sorted(said) == list(range(1, len(said) + 1))
    assert sum(map(len, seen.values())) == 2000
    assert not array.any()
    again = list(engine.map(functools.partial(jobs.add_and_say, array), [1] * 1))
    assert [first for _, first in again] == [1]


def test_the_figures(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    wait_ready(engine)
    memory = engine.stats().memory
    assert (memory.in_use, memory.peak) == (0, 0)
    held = engine.submit(jobs.call, gate.door.enter)
    gate.arrival()
    waiting = [engine.submit(jobs.size_of, np.ones(MIB, np.uint8)) for _ in range(3)]
    memory = engine.stats().memory
    assert 3 * MIB <= memory.in_use < 4 * MIB
    assert memory.peak == memory.in_use <= memory.size
    gate.open()
    assert [future.result(WAIT_S) for future in waiting] == [MIB] * 3
    held.result(WAIT_S)
    nothing_in_use(engine)
    result = engine.submit(jobs.filled, 5 * MIB, 1).result(WAIT_S)
    memory = engine.stats().memory
    assert (memory.in_use, memory.peak) == (5 * MIB, 5 * MIB)
    assert memory.size >= 5 * MIB
    del result
    nothing_in_use(engine)
    assert engine.stats().memory.peak == 5 * MIB


# ---- forks -----------------------------------------------------------------------------------------------------------


def test_a_job_that_forks(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(1, start_method)
    for retries in (0, 1):  # an argument that is its own, and one that is copied on write
        job = Job(jobs.fork_and_change, (np.full(MIB, 1, np.uint8), np.full(MIB, 2, np.uint8)), retries=retries)
        assert engine.dispatch(job).result(WAIT_S) == (1, 2, 5, 6)
    nothing_in_use(engine)


FORK = """
import os, numpy as np
from mpengine import Engine
from tests.api import array_jobs as jobs

def say(text):
    os.write(1, f"{text}\\n".encode())

def child(body):
    pid = os.fork()
    if not pid:
        try:
            body()
            os._exit(0)
        except BaseException as error:
            say(repr(error))
            os._exit(1)
    return pid

def wait(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

with Engine(2, METHOD) as engine:
    results = [engine.submit(jobs.filled, 1 << 20, n).result(20) for n in range(8)]
    dropped = [engine.submit(jobs.filled, 1 << 20, 99).result(20) for n in range(8)]
    pending = engine.submit(jobs.filled, 1 << 20, 50)
    assert pending.outcome(20).ok
    shared = engine.share(np.full(1 << 20, 3, np.uint8))
    goes_on, say_go = os.pipe()

    def look():
        os.read(goes_on, 1)  # by then the parent has run many jobs, and changed its own
        assert [(int(r.min()), int(r.max())) for r in results] == [(n, n) for n in range(8)]
        for r in results:
            r[:] = 200
        value = pending.result(0)
        assert int(value.max()) == 50
        value[:] = 51
        del results[4:], value
        try:
            engine.submit(abs, 1)
        except RuntimeError:
            pass
        with Engine(1, METHOD) as own:
            assert own.submit(jobs.total, np.ones(1 << 20)).result(20) == 1 << 20
        assert [int(r.min()) for r in results] == [200] * 4

    pid = child(look)
    assert [(int(r.min()), int(r.max())) for r in results] == [(n, n) for n in range(8)]
    for r in results[:4]:
        r += 100
    dropped.clear()
    for n in range(60):
        assert int(engine.submit(jobs.filled, 1 << 20, 77).result(20).max()) == 77
        assert engine.submit(jobs.total, np.full(1 << 20, 1, np.uint8)).result(20) == 1 << 20
    os.write(say_go, b"x")
    wait(pid)
    assert [int(r.max()) for r in results] == [100, 101, 102, 103, 4, 5, 6, 7]
    assert int(pending.result(0).max()) == 50
    wait(child(lambda: results[0].fill(9)))  # once more
    assert int(results[0].max()) == 100
    assert engine.submit(jobs.total, shared).result(20) == 3 << 20
    del results, pending, r
    print(engine.stats().memory.in_use - shared.nbytes < 4096)
"""


def test_a_program_that_forks(start_method: str) -> None:
    done = run_python("-W", "error", "-c", f"METHOD = {start_method!r}\n{FORK}")
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


RACE = """
import os, threading, numpy as np
from mpengine import Engine
from mpengine.arrays import reader
from tests.api import array_jobs as jobs

inside, go_on = threading.Event(), threading.Event()
opened = []

class Slow:  # between what a fork waits for and the fork
    def make_private(self):
        threading.Thread(target=lambda: opened.append(future.result())).start()
        inside.wait(0.2)

with Engine(1, METHOD) as engine:
    engine.submit(jobs.filled, 1 << 20, 1).result()
    future = engine.submit(jobs.filled, 1 << 20, 2)
    slow = Slow()
    reader._readers.add(slow)
    pid = os.fork()
    if not pid:
        for array in opened:
            array[:] = 9
        if future.done():
            future.result()[:] = 9
        os._exit(0)
    reader._readers.discard(slow)
    os.waitpid(pid, 0)
    print(int(future.result().max()))
"""


def test_a_result_that_comes_while_the_program_forks_is_not_the_childs(start_method: str) -> None:
    done = run_python("-W", "ignore::DeprecationWarning", "-c", f"METHOD = {start_method!r}\n{RACE}")
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)
