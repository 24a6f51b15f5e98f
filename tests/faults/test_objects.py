"""Objects that do not behave: they cost their own job, or nothing, and never a worker, the parent or a neighbour."""

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest

from mpengine import Engine, Job, RemoteError
from tests.faults import jobs, odd
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.support import WAIT_S

GIB = 1 << 30


@pytest.fixture(autouse=True)
def workers_stay(engine: Engine) -> Any:
    """Whatever an object does, the workers that had it to do with are there afterwards."""
    pids = wait_ready(engine)
    yield
    assert engine.submit(jobs.echo, "after").result(WAIT_S) == "after"
    assert sorted(wait_ready(engine)) == sorted(pids)


def three_ways(engine: Engine, fn: Callable[..., Any], arg: Any) -> list[Callable[[], Any]]:
    """To have `fn(arg)` computed: by submit, by run, and by map, beside a neighbour that is not to be harmed."""

    def by_map() -> Any:
        neighbour, value = engine.map(jobs.call, [(jobs.echo, 1), (fn, arg)])
        assert neighbour == 1
        return value

    return [
        lambda: engine.submit(fn, arg).result(WAIT_S),
        lambda: next(engine.run([Job(fn, (arg,))])).unwrap(),
        by_map,
    ]


@pytest.mark.parametrize("kind", odd.SENDABLE)
def test_what_can_be_sent_arrives_whatever_else_it_cannot(engine: Engine, kind: type) -> None:
    for way in three_ways(engine, jobs.echo, kind()):
        assert type(way()) is kind
    outcome = engine.dispatch(Job(jobs.echo, (kind(),), meta=kind())).outcome(WAIT_S)
    assert outcome.ok
    assert type(outcome.value) is kind


@pytest.mark.parametrize("kind", [odd.Stateless, odd.Untouchable, odd.Anonymous])
def test_what_cannot_be_sent_is_named(engine: Engine, kind: type) -> None:
    for fn, arg, part in ((jobs.echo, kind(), "argument 1 (a "), (jobs.make, kind, "result (a ")):
        for way in three_ways(engine, fn, arg):
            with pytest.raises((RuntimeError, TypeError)) as caught:
                way()
            assert any(part in note for note in caught.value.__notes__)


@pytest.mark.parametrize("kind", [odd.NotRebuilt, odd.LeavesWhenRebuilt, odd.RebuiltBadly])
def test_what_cannot_be_rebuilt_fails_its_job(engine: Engine, kind: type) -> None:
    error = (RuntimeError, SystemExit, odd.ForbidsNotes)
    for fn, arg in ((jobs.echo, kind()), (jobs.make, kind)):
        for way in three_ways(engine, fn, arg):
            with pytest.raises(error):
                way()


def test_a_generator_as_a_result(engine: Engine) -> None:
    for way in three_ways(engine, jobs.make, lambda: (n for n in range(3))):
        with pytest.raises(TypeError, match="generator") as caught:
            way()
        assert any("result (a generator)" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("value", [odd, os.path.join, odd.Base, None, KeyError("returned"), (), odd.Base("returned")])
def test_results_of_every_kind(engine: Engine, value: Any) -> None:
    for way in three_ways(engine, jobs.echo, value):
        got = way()
        assert type(got) is type(value)
        assert got is value or got.args == value.args


def test_arrays_that_answer_a_comparison_by_an_array(engine: Engine) -> None:
    array = np.arange(60_000.0).reshape(300, 200)
    for way in three_ways(engine, np.negative, array):
        assert np.array_equal(way(), -array)
    assert [value.shape for value in engine.map(np.transpose, [array, array[:1]])] == [(200, 300), (200, 1)]


@pytest.mark.parametrize("depth", [400, 200_000])
def test_nesting(engine: Engine, depth: int) -> None:
    for fn, arg in ((jobs.depth_of, jobs.nest(depth)), (jobs.nest, depth)):
        for way in three_ways(engine, fn, arg):
            if depth < 1000:
                value = way()
                assert depth == (value if fn is jobs.depth_of else jobs.depth_of(value))
                continue
            with pytest.raises((RecursionError, pickle.PicklingError)) as caught:
                way()
            assert any("nested too deeply" in note for note in caught.value.__notes__)


# ---- exceptions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", odd.ARRIVE)
def test_exceptions_that_do_not_behave_are_raised_as_they_are(engine: Engine, kind: type[BaseException]) -> None:
    for way in three_ways(engine, odd.throw, kind("mine")):
        with pytest.raises(kind) as caught:
            way()
        assert type(caught.value) is kind
        assert caught.value.args == ("mine",)
    outcome = engine.dispatch(Job(odd.throw, (kind("mine"),), retries=1)).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts) == ("failed", 2)


@pytest.mark.parametrize("kind", odd.REPLACED)
def test_exceptions_that_cannot_be_sent_come_as_their_text(engine: Engine, kind: type[BaseException]) -> None:
    for way in three_ways(engine, jobs.throw_new, kind):
        with pytest.raises(RemoteError, match=f"{kind.__name__}: new") as caught:
            way()
        assert "in throw_new" in caught.value.traceback


def test_a_chain_of_causes_is_shown(engine: Engine) -> None:
    with pytest.raises(ValueError, match="outer") as caught:
        engine.submit(odd.chain).result(WAIT_S)
    assert caught.value.__notes__[0] == "of the job"
    text = str(caught.value.__cause__)
    assert text.index("ZeroDivisionError") < text.index("KeyError: 'middle'") < text.index("ValueError: outer")


def test_a_group_of_errors_that_are_no_exceptions(engine: Engine) -> None:
    group = BaseExceptionGroup("several", [KeyboardInterrupt(), ExceptionGroup("inner", [ValueError(1)])])
    with pytest.raises(BaseExceptionGroup) as caught:
        engine.submit(odd.throw, group).result(WAIT_S)
    assert type(caught.value) is BaseExceptionGroup
    assert repr(caught.value.exceptions) == repr(group.exceptions)


# ---- sizes -----------------------------------------------------------------------------------------------


@pytest.mark.stress  # it takes seconds or minutes, as the machine has its memory at hand
@pytest.mark.timeout(300)
def test_two_gibibytes_and_more(make_engine: MakeEngine) -> None:
    """More than one call to the kernel moves, and than 31 bits count."""
    if psutil.virtual_memory().available < 12 * GIB:
        pytest.skip("it needs 10 GiB of memory")
    engine = make_engine(1)
    size = 2 * GIB + 4099
    blob = bytearray(size)
    blob[-1] = 7
    assert engine.submit(bytearray.find, blob, b"\7").result(200) == size - 1
    del blob
    assert engine.submit(bytes, size).result(200).count(0) == size
