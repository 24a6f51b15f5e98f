"""Libraries that take an executor, a pool, or a `map`: each with the real one."""

import concurrent.futures
import copyreg
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import tqdm
import tqdm.contrib.concurrent

from mpengine import Engine
from tests.api import jobs
from tests.runtime.gates import Gate
from tests.support import WAIT_S

# ---- concurrent.futures ----------------------------------------------------------------------------------------------


def test_wait_and_as_completed_take_futures_of_several_kinds(engine: Engine, gate: Gate) -> None:
    own: Future[str] = Future()
    with ThreadPoolExecutor(1) as threads:
        ours = engine.submit(jobs.enter, gate.door, value="ours")
        gate.arrival()
        theirs = threads.submit(str, "theirs")
        futures = {ours, theirs, own}
        done, open_ = concurrent.futures.wait(futures, WAIT_S, FIRST_COMPLETED)
        assert (done, open_) == ({theirs}, {ours, own})
        coming = concurrent.futures.as_completed(futures, WAIT_S)
        assert next(coming) is theirs
        gate.open()
        assert next(coming) is ours
        own.set_result("own")
        assert next(coming) is own
        assert [future.result() for future in (ours, theirs, own)] == ["ours", "theirs", "own"]


def test_wait_until_the_first_exception(engine: Engine, gate: Gate) -> None:
    held = engine.submit(jobs.enter, gate.door)
    gate.arrival()
    failing = engine.submit(jobs.fail, "now")
    done, open_ = concurrent.futures.wait([held, failing], WAIT_S, concurrent.futures.FIRST_EXCEPTION)
    assert (done, open_) == ({failing}, {held})
    gate.open()


# ---- dask ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dask() -> Iterator[Any]:
    """With Dask comes tblib, which has all exceptions pickled in its own way from then on: not those of other tests."""
    before = copyreg.dispatch_table.copy()
    import dask
    import dask.array
    import dask.bag

    yield dask
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


@pytest.fixture(params=[{}, {"scheduler": "processes"}])
def dask_on(request: pytest.FixtureRequest, engine: Engine, dask: Any) -> Iterator[Engine]:
    """Dask's schedulers of this process run their tasks on the engine."""
    with dask.config.set(pool=engine, **request.param):
        yield engine


def pid_and(*values: int) -> tuple[int, int]:
    return os.getpid(), sum(values)


def test_dask_delayed(dask: Any, dask_on: Engine) -> None:
    parts = [dask.delayed(pid_and)(n) for n in range(10)]
    total = dask.delayed(lambda found: (os.getpid(), sum(value for _, value in found)))(parts)
    pid, value = total.compute()
    assert value == sum(range(10))
    assert {pid, *(pid for pid, _ in dask.compute(*parts))} <= {row.pid for row in dask_on.workers()}


def test_dask_bag(dask: Any, dask_on: Engine) -> None:
    before = dask_on.stats().succeeded
    bag = dask.bag.from_sequence(range(100), npartitions=5)
    assert bag.map(lambda n: n * n).filter(lambda n: n % 2 == 0).sum().compute() == sum(n * n for n in range(0, 100, 2))
    assert dask_on.stats().succeeded > before


def test_dask_array(dask: Any, dask_on: Engine) -> None:
    before = dask_on.stats().succeeded
    array = dask.array.arange(10_000, chunks=1_000)
    assert int((array * 2).sum().compute()) == 2 * sum(range(10_000))
    assert dask_on.stats().succeeded > before


def test_an_error_of_a_dask_task_is_its_own(dask: Any, dask_on: Engine) -> None:
    with pytest.raises(jobs.CustomError, match="seen"):
        dask.delayed(jobs.fail)("seen").compute()
    assert dask.delayed(pid_and)(1).compute()[1] == 1


def test_dask_takes_it_as_an_argument_too(dask: Any, engine: Engine) -> None:
    assert dask.delayed(pid_and)(1, 2).compute(scheduler=engine)[1] == 3


# ---- SciPy -----------------------------------------------------------------------------------------------------------


def bowl(x: Any) -> float:
    return float(np.sum((np.asarray(x) - 0.5) ** 2))


def wave(x: float) -> Any:
    return np.array([np.sin(x), np.cos(x)])


def test_scipy_differential_evolution(engine: Engine) -> None:
    before = engine.stats().succeeded
    arguments: Any = {"bounds": [(-2, 2), (-2, 2)], "updating": "deferred", "seed": 3, "maxiter": 20, "polish": False}
    found = scipy.optimize.differential_evolution(bowl, workers=engine.map, **arguments)
    alone = scipy.optimize.differential_evolution(bowl, **arguments)
    assert engine.stats().succeeded >= before + found.nfev
    assert np.array_equal(found.x, alone.x)


def test_scipy_quad_vec(engine: Engine) -> None:
    before = engine.stats().succeeded
    found, _error = scipy.integrate.quad_vec(wave, 0.0, np.pi, workers=engine.map)
    assert np.allclose(found, [2.0, 0.0])
    assert engine.stats().succeeded > before


def test_scipy_brute(engine: Engine) -> None:
    before = engine.stats().succeeded
    found = scipy.optimize.brute(bowl, [slice(-1, 1, 0.25)] * 2, workers=engine.map, finish=None)
    assert np.allclose(found, [0.5, 0.5])
    assert engine.stats().succeeded == before + 64


# ---- objects with a `map`, and progress ------------------------------------------------------------------------------


class Sampler:
    """As those of emcee, dynesty and others: an object with a `map` is all they ask for."""

    def __init__(self, log_probability: Callable[[Any], float], pool: Any = None) -> None:
        self.log_probability = log_probability
        self.map: Callable[..., Iterable[float]] = map if pool is None else pool.map

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "map": map}  # so that a bound method crosses without the pool, as emcee does it

    def probability(self, position: Any) -> float:
        return self.log_probability(position) - 1.0

    def probabilities(self, positions: Any) -> list[float]:
        return list(self.map(self.probability, (position for position in positions)))


def test_an_object_with_a_map_is_all_they_ask_for(engine: Engine) -> None:
    positions = np.random.default_rng(1).normal(size=(100, 3))
    assert Sampler(bowl, engine).probabilities(positions) == Sampler(bowl).probabilities(positions)


def test_tqdm_around_values_as_they_come(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    values = list(tqdm.tqdm(engine.map_unordered(jobs.square, iter(range(200))), total=200, mininterval=0.0))
    assert sorted(values) == [n * n for n in range(200)]
    assert "200/200" in capfd.readouterr().err


def test_tqdm_around_as_completed(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    futures = [engine.submit(jobs.square, n) for n in range(50)]
    done = tqdm.tqdm(concurrent.futures.as_completed(futures, WAIT_S), total=50, mininterval=0.0)
    assert sorted(future.result() for future in done) == [n * n for n in range(50)]
    assert "50/50" in capfd.readouterr().err


def test_tqdm_process_map(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It makes a pool of its own: one import there is enough to move, with what it gives to the initializer."""
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Engine)
    values = tqdm.contrib.concurrent.process_map(jobs.square, range(20), max_workers=2, chunksize=3)
    assert values == [n * n for n in range(20)]
    assert "20/20" in capfd.readouterr().err
