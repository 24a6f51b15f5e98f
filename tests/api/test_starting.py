"""Which workers start when: the first one alone, as long as there is no work for more."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpengine.observing import WorkerReady, WorkerStarted
from mpengine.runtime import leash
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine
from tests.support import WAIT_S, run_python, wait_for, wait_gone

METHODS = ("forkserver", "spawn")
take_hold = leash.take_hold


class Held:
    """Workers that are there, and may not begin before they are let go."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self.free = False

    def take_hold(self, write_fd: int) -> None:
        if self.free:
            take_hold(write_fd)
        else:
            self._fds.append(write_fd)

    def count(self) -> int:
        return len(self._fds)

    def forget(self) -> None:
        self._fds.clear()

    def let_go(self) -> None:
        self.free = True
        while self._fds:
            take_hold(self._fds.pop())


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held()
    monkeypatch.setattr(leash, "take_hold", made.take_hold)
    yield made
    made.let_go()


def pids_of(kind: Any, events: list[Any]) -> list[int]:
    return [event.pid for event in events if type(event) is kind]


def are_there(kind: Any, count: int, events: list[Any]) -> Callable[[], bool]:
    return lambda: len(pids_of(kind, events)) == count


@pytest.mark.parametrize("method", METHODS)
def test_the_others_follow_when_the_first_is_ready(make_engine: MakeEngine, method: str) -> None:
    events: list[Any] = []
    make_engine(3, method, observers=[events.append])
    wait_for(are_there(WorkerReady, 3, events))
    kinds = [type(event) for event in events if type(event) in (WorkerStarted, WorkerReady)]
    assert kinds[:3] == [WorkerStarted, WorkerReady, WorkerStarted]


@pytest.mark.parametrize("method", METHODS)
def test_or_as_soon_as_there_is_more_than_one_job(make_engine: MakeEngine, held: Held, method: str) -> None:
    events: list[Any] = []
    engine = make_engine(3, method, observers=[events.append])
    futures = [engine.submit(jobs.square, n) for n in range(2)]
    wait_for(are_there(WorkerStarted, 3, events))
    assert not pids_of(WorkerReady, events)
    held.let_go()
    assert [future.result(WAIT_S) for future in futures] == [0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_or_when_the_first_is_gone(make_engine: MakeEngine, held: Held, method: str) -> None:
    events: list[Any] = []
    engine = make_engine(3, method, observers=[events.append])
    wait_for(are_there(WorkerStarted, 1, events))
    os.kill(pids_of(WorkerStarted, events)[0], signal.SIGKILL)
    wait_for(are_there(WorkerStarted, 4, events))
    held.let_go()
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9


@pytest.mark.parametrize("method", [*METHODS, "fork"])
def test_with_an_initializer_that_may_take_long_all_start_at_once(
    make_engine: MakeEngine, held: Held, method: str
) -> None:
    events: list[Any] = []
    make_engine(3, method, jobs.remember, ("given",), observers=[events.append])
    wait_for(are_there(WorkerStarted, 3, events))
    wait_for(lambda: held.count() == 3, about="all of them")
    held.let_go()


def test_under_fork_the_first_begins_in_the_constructor_and_the_others_stand_by_until_it_is_ready(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    threads: list[tuple[threading.Thread, int]] = []

    def take_hold_and_tell(write_fd: int) -> None:
        threads.append((threading.current_thread(), len(pids_of(WorkerReady, events))))
        take_hold(write_fd)

    monkeypatch.setattr(leash, "take_hold", take_hold_and_tell)
    engine = make_engine(3, "fork", observers=[events.append])
    assert threads[0] == (threading.current_thread(), 0)
    assert len(engine.workers()) == 3
    wait_for(are_there(WorkerReady, 3, events))
    assert threads[1:] == [(engine._dispatcher._thread, 1)] * 2


def test_under_fork_they_begin_for_a_second_job(make_engine: MakeEngine, held: Held) -> None:
    engine = make_engine(3, "fork")
    assert held.count() == 1
    futures = [engine.submit(jobs.square, n) for n in range(2)]
    wait_for(lambda: held.count() == 3, about="the others")
    held.let_go()
    assert [future.result(WAIT_S) for future in futures] == [0, 1]


def test_under_fork_they_begin_if_the_first_is_gone(make_engine: MakeEngine, held: Held) -> None:
    engine = make_engine(2, "fork")
    held.forget()
    os.kill(engine.workers()[0].pid, signal.SIGKILL)
    wait_for(lambda: held.count() == 2, about="the second, and a replacement")
    held.let_go()
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9


def test_under_fork_they_begin_in_order_to_end(make_engine: MakeEngine, held: Held) -> None:
    engine = make_engine(2, "fork")
    engine.shutdown(wait=False)
    wait_for(lambda: held.count() == 2, about="the second")
    held.let_go()
    assert [end.exitcode for end in engine.shutdown().workers] == [0, 0]


def test_the_fork_server_loads_cloudpickle_when_a_worker_has_needed_it() -> None:
    code = """
from mpengine import Engine
from tests.api import jobs
for fn in (jobs.square, lambda x: x, jobs.square):
    with Engine(1, "forkserver") as engine:
        print(engine.submit(jobs.has_loaded, "cloudpickle").result(), engine.submit(fn, 1).result())
        print(engine.submit(jobs.log_in_a_fork).result())
"""
    done = run_python("-c", code)
    assert done.stderr == ""
    assert done.stdout.split() == ["False", "1", "0", "False", "1", "0", "True", "1", "0"]


def test_workers_that_stand_by_end_with_their_parent() -> None:
    code = """
import os, signal
from mpengine import Engine
from mpengine.runtime import leash
leash.take_hold = lambda write_fd: None
print(*[row.pid for row in Engine(3, "fork").workers()], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    pids = [int(pid) for pid in run_python("-c", code).stdout.split()]
    assert len(pids) == 3
    wait_gone(*pids)
