"""Fixtures of all tests with real workers: gates, and engines that are closed whatever a test does to them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from mpengine import Engine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for

CLOSE_S = 5.0  # for an engine that a failed test has left with jobs that never end


class MakeEngine(Protocol):
    """The type of the `make_engine` fixture."""

    def __call__(self, max_workers: int = 2, mp_context: Any = None, *args: Any, **options: Any) -> Engine: ...


def wait_ready(engine: Engine, size: int | None = None) -> list[int]:
    """Wait until all workers take jobs; their pids."""
    size = engine._max_workers if size is None else size

    def ready() -> list[int]:
        rows = engine.workers()
        pids = [row.pid for row in rows if row.state != "starting"]
        return pids if len(pids) == len(rows) == size else []

    found = wait_for(ready, about=f"{size} ready workers")
    assert isinstance(found, list)
    return found


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    """Makes gates; they are opened at the end of the test."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(tmp_path / f"gate-{len(gates)}"))
        return gates[-1]

    make.gates = gates  # type: ignore[attr-defined]
    yield make
    for gate in gates:
        gate.close()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    """One gate."""
    return make_gate()


@pytest.fixture
def make_engine(make_gate: Any) -> Iterator[MakeEngine]:
    """Makes engines; they are shut down at the end of the test, within a bound."""
    engines: list[Engine] = []

    def make(max_workers: int = 2, mp_context: Any = "forkserver", *args: Any, **options: Any) -> Engine:
        engines.append(Engine(max_workers, mp_context, *args, **options))
        return engines[-1]

    yield make
    for gate in make_gate.gates:
        gate.open()
    for engine in engines:
        engine.shutdown(cancel_futures=True, timeout=CLOSE_S)
        assert engine._dispatcher.closed.wait(WAIT_S)
    engines.clear()  # and with them what they were given


def open_engine(start_method: str, workers: int = 2, **options: Any) -> Iterator[Engine]:
    """For fixtures of a module: an engine with all its workers ready, so that no test sees them come."""
    engine = Engine(workers, start_method, **options)
    try:
        wait_ready(engine)
        yield engine
    finally:
        engine.shutdown(cancel_futures=True, timeout=CLOSE_S)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Two workers under forkserver, shared by the tests of a module: for those that replace no worker."""
    yield from open_engine("forkserver")
