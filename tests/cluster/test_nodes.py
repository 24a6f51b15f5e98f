"""Nodes over a line that fails, and over a driver that does as it is told. The agents are real, and in this process."""

import concurrent.futures
import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpengine import EngineBroken, Job
from mpengine.cluster import agent as agents
from mpengine.cluster import dispatcher, nodes
from mpengine.cluster.agent import Agent, NoSuchAgent
from mpengine.cluster.driver import Done, NodeGone
from mpengine.cluster.engine import ClusterEngine
from tests.cluster import jobs
from tests.cluster.conformance import Gate, lines_of
from tests.support import WAIT_S, wait_for


class FakeDriver:
    """See `driver.Driver`.

    Attributes:
        there: Nodes and their slots.
        start_error: Why none can start.
        starting: Held back until this is set.
        rate: How often a call fails; of these, half after it was carried out.
        silent: Nodes that answer no call.
    """

    what = "the fake cluster"

    def __init__(self, there: dict[str, int], *, rate: float = 0.0, seed: int = 0) -> None:
        self.there = there
        self.rate = rate
        self.start_error: Exception | None = None
        self.look_error: Exception | None = None
        self.starting = threading.Event()
        self.starting.set()
        self.silent: set[str] = set()
        self.agents: list[tuple[str, Agent]] = []
        self._random = random.Random(seed)
        self._threads = concurrent.futures.ThreadPoolExecutor(32)

    def nodes(self) -> dict[str, int]:
        if self.look_error is not None:
            raise self.look_error
        return dict(self.there)

    def start(self, key: str, slots: int, spec: bytes, done: Done) -> None:
        def start() -> None:
            self.starting.wait(WAIT_S)
            if self.start_error is not None:
                done(None, self.start_error)
                return
            agent = Agent(spec, slots)
            self.agents.append((key, agent))
            done(((key, agent), agent.about()), None)

        self._threads.submit(start)

    def call(self, handle: Any, method: str, args: tuple[Any, ...], done: Done) -> None:
        key, agent = handle
        fails = method != "close" and self._random.random() < self.rate
        afterwards = self._random.random() < 0.5

        def call() -> None:
            if key in self.silent:
                return
            if fails and not afterwards:
                done(None, OSError("lost on its way there"))
                return
            try:
                result = getattr(agent, method)(*args)
            except NoSuchAgent as error:
                done(None, NodeGone(str(error)))
                return
            done(*((None, OSError("lost on its way back")) if fails else (result, None)))

        self._threads.submit(call)

    def kill(self, handle: Any) -> None:
        self._threads.submit(handle[1].close, 0.0)

    def close(self) -> None:
        for _, agent in self.agents:
            agent.close(0.0)
        self._threads.shutdown(wait=True)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"RETRY_S": 0.01, "LOOK_S": 0.02, "REST_S": 0.02, "WAIT_S": 0.1}.items():
        monkeypatch.setattr(nodes, name, seconds)


@pytest.fixture
def make() -> Iterator[Callable[..., ClusterEngine]]:
    made: list[ClusterEngine] = []

    def make(driver: FakeDriver, **options: Any) -> ClusterEngine:
        made.append(ClusterEngine(driver, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.shutdown(cancel_futures=True, timeout=1.0)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.close()


@pytest.mark.parametrize("seed", range(3))
def test_over_a_line_that_fails_nothing_runs_twice_and_nothing_is_told_twice(
    make: Callable[..., ClusterEngine], tmp_path: Path, seed: int
) -> None:
    engine = make(FakeDriver({"a": 1, "b": 1}, rate=0.4, seed=seed))
    path = str(tmp_path / "ran")
    outcomes = list(engine.run(Job(jobs.noted, (path, str(x)), id=str(x)) for x in range(200)))
    assert Counter(outcome.job.id for outcome in outcomes) == Counter(map(str, range(200)))
    assert all(outcome.value == outcome.job.id for outcome in outcomes)
    assert Counter(lines_of(path)) == Counter(map(str, range(200)))
    assert list(engine.map(jobs.square, range(300))) == [x * x for x in range(300)]


def test_a_node_that_does_not_answer_is_lost(
    make: Callable[..., ClusterEngine], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver({"a": 1})
    engine = make(driver)
    once, twice = engine.dispatch(gate.job()), engine.dispatch(gate.job(retries=1))
    gate.wait_for(1)
    monkeypatch.setattr(nodes, "SILENCE_S", 0.3)
    driver.silent.add("a")
    driver.there = {"b": 2}
    outcome = once.outcome(WAIT_S)
    assert outcome.status == "lost"
    assert "has not answered for 0.3 s" in str(outcome.error) or "has taken it off" in str(outcome.error)
    assert "allow it `retries`" in str(outcome.error)
    gate.open()
    assert twice.result(WAIT_S) == "let through"


def test_a_node_that_is_taken_off_loses_what_it_had_and_nothing_else(
    make: Callable[..., ClusterEngine], gate: Gate
) -> None:
    driver = FakeDriver({"a": 1})
    engine = make(driver)
    running, waiting = engine.dispatch(gate.job()), engine.submit(jobs.square, 3)
    gate.wait_for(1)
    driver.there = {}
    assert running.outcome(WAIT_S).status == "lost"
    assert not waiting.done()
    driver.there = {"b": 1}
    assert waiting.result(WAIT_S) == 9


def test_nodes_that_cannot_start_break_the_engine_with_the_cause(make: Callable[..., ClusterEngine]) -> None:
    driver = FakeDriver({"a": 1})
    driver.start_error = ModuleNotFoundError("No module named 'mpengine'")
    engine = make(driver)
    with pytest.raises(EngineBroken, match="node a could not start: ModuleNotFoundError") as caught:
        engine.submit(jobs.square, 2).result(WAIT_S)
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__cause__ is driver.start_error


def test_a_node_with_another_python_is_refused_in_a_sentence(
    make: Callable[..., ClusterEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agent, "about", lambda agent: agents.About(1, "there", python="3.9"))
    engine = make(FakeDriver({"a": 1}))
    with pytest.raises(EngineBroken, match=r"node a could not start: it has Python 3\.9 and mpengine .*; use the same"):
        engine.submit(jobs.square, 2).result(WAIT_S)


def test_a_node_that_cannot_start_is_nothing_as_long_as_there_is_another(make: Callable[..., ClusterEngine]) -> None:
    driver = FakeDriver({"a": 1})
    engine = make(driver)
    assert engine.submit(jobs.square, 2).result(WAIT_S) == 4
    driver.start_error = OSError("no room")
    driver.there = {"a": 1, "b": 1}
    for _ in range(10):
        assert engine.submit(jobs.sleep_for, 0.02).result(WAIT_S) == ""


def test_a_cluster_that_cannot_tell_who_is_there_breaks_the_engine(
    make: Callable[..., ClusterEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakeDriver({"a": 1})
    engine = make(driver)
    assert engine.submit(jobs.square, 2).result(WAIT_S) == 4
    driver.look_error = OSError("no answer")
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9  # for a while that is nothing
    monkeypatch.setattr(nodes, "CLUSTER_GONE_S", 0.1)
    wait_for(lambda: engine._broken, about="the engine is broken")
    with pytest.raises(EngineBroken, match="the fake cluster does not answer"):
        engine.submit(jobs.square, 2)


def test_the_agent_ends_its_jobs_when_nobody_asks_for_long(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, make: Callable[..., ClusterEngine]
) -> None:
    driver = FakeDriver({"a": 1})
    engine = make(driver)
    future = engine.dispatch(gate.job())
    gate.wait_for(1)
    monkeypatch.setattr(agents, "LEASE_S", 0.3)
    driver.silent.add("a")
    wait_for(lambda: "left" in gate.lines() or driver.agents[0][1]._ended.is_set(), about="the job was ended")
    driver.silent.clear()
    monkeypatch.setattr(nodes, "SILENCE_S", 0.3)
    assert future.outcome(WAIT_S).status == "lost"


def test_a_share_that_found_no_room_fails_the_jobs_that_need_it(
    make: Callable[..., ClusterEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(FakeDriver({"a": 1}))
    assert engine.submit(jobs.square, 2).result(WAIT_S) == 4
    shared = engine.share([1, 2, 3])

    def no_room(*args: Any) -> None:
        raise MemoryError("no room in shared memory")

    monkeypatch.setattr(Agent, "_take_share", no_room)
    outcome = engine.submit(sum, shared).outcome(WAIT_S)
    assert outcome.status == "failed"
    assert isinstance(outcome.error, MemoryError)
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9


@pytest.mark.parametrize("options", [{}, {"timeout": 0.0}, {"cancel_futures": True}])
def test_a_shutdown_while_a_node_is_starting_is_bounded_and_leaves_nothing(
    make: Callable[..., ClusterEngine], options: dict[str, Any]
) -> None:
    driver = FakeDriver({"a": 1})
    driver.starting.clear()
    engine = make(driver)
    wait_for(lambda: engine._dispatcher.nodes.starting)
    stopper = threading.Timer(0.1, driver.starting.set)
    stopper.start()
    assert engine.shutdown(**options).complete
    stopper.join()


def test_jobs_that_wait_without_a_node_are_told_of_once_also_during_a_shutdown(
    make: Callable[..., ClusterEngine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatcher, "_LONELY_S", 0.05)
    driver = FakeDriver({})
    engine = make(driver)
    future = engine.submit(jobs.square, 2)
    engine.shutdown(wait=False)
    wait_for(lambda: "1 jobs wait, and the fake cluster has no node for them" in caplog.text)
    driver.there = {"a": 1}
    assert future.result(WAIT_S) == 4
    assert engine.shutdown().finished == 1
    assert caplog.text.count("jobs wait") == 1


def test_a_dropped_engine_is_collected_and_its_nodes_go(make: Callable[..., ClusterEngine]) -> None:
    driver = FakeDriver({"a": 1})
    engine = ClusterEngine(driver)
    future = engine.submit(jobs.square, 2)
    closed = engine._dispatcher.closed
    dropped = weakref.ref(engine)
    del engine
    gc.collect()
    assert dropped() is None
    assert future.result(WAIT_S) == 4
    wait_for(closed)


def test_a_done_callback_may_shut_the_engine_down(make: Callable[..., ClusterEngine]) -> None:
    engine = make(FakeDriver({"a": 1}))
    closed = threading.Event()

    def shut_down(future: Any) -> None:
        engine.shutdown()
        closed.set()

    engine.submit(jobs.square, 2).add_done_callback(shut_down)
    wait_for(closed)
    assert engine.shutdown(timeout=WAIT_S).complete


def test_an_error_whose_attributes_cannot_be_read_is_its_jobs_own(make: Callable[..., ClusterEngine]) -> None:
    class Odd(Exception):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    def fail() -> None:
        raise Odd

    engine = make(FakeDriver({"a": 1}))
    assert type(engine.submit(fail).exception(WAIT_S)).__name__ == "Odd"
    assert engine.submit(jobs.square, 3).result(WAIT_S) == 9
