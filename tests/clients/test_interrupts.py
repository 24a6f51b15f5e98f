"""Interrupting a cell of a notebook, in a real kernel: its jobs are over, the engine is not.

IPython keeps the traceback of the last error, and with it all frames and what they hold.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpengine import Engine, Job
from tests.api import jobs
from tests.runtime.gates import Gate
from tests.support import ROOT, WAIT_S


class Notebook:
    """A kernel, seen from its user."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, code: str) -> None:
        """Execute a cell."""
        self._tell("execute", code)

    def interrupt(self) -> None:
        """As its button does."""
        self._tell("interrupt")

    def end(self) -> dict[str, Any]:
        """Wait until the cell has ended."""
        self._tell("reply")
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the kernel's client is gone; see its stderr"
        reply = json.loads(line)
        assert isinstance(reply, dict)
        return reply

    def run(self, code: str) -> str:
        """Execute a cell that is to succeed; what it prints."""
        self.begin(code)
        reply = self.end()
        assert reply["status"] == "ok", reply
        return str(reply["printed"])

    def _tell(self, *order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


# `stay` looks up every now and then: a signal that comes just before a call that blocks is heard when that returns.
SETUP = """
import time
from mpengine import Engine, Job
from tests.runtime.gates import Door

door, ends, second, in_body = map(Door, {doors!r})

def work(n):
    try:
        if n:
            door.enter(n)
    finally:
        ends.announce(n)
    return n

def stay(n):
    in_body.announce(n)
    for _ in range(2000):
        time.sleep(0.01)

def consume(values):
    for n in values:
        stay(n)

def loop(call):
    for n in call():
        stay(n)

engine = Engine(2)
before = [row.pid for row in engine.workers()]
print(list(engine.map(second.announce, range(2))))
"""


class Doors:
    """Those of `SETUP`."""

    def __init__(self, make_gate: Callable[[], Gate]) -> None:
        self.gates = [make_gate() for _ in range(4)]
        self.door, self.ends, self.second, self.in_body = self.gates


@pytest.fixture
def doors(make_gate: Callable[[], Gate]) -> Doors:
    return Doors(make_gate)


@pytest.fixture
def notebook(tmp_path: Path, doors: Doors) -> Iterator[Notebook]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.clients.kernel"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)},
    )  # fmt: skip
    with process:
        notebook = Notebook(process)
        notebook.run(SETUP.format(doors=[gate.door.path for gate in doors.gates]))
        doors.second.arrivals(2)
        yield notebook
        for gate in doors.gates:
            gate.open()
        assert process.stdin is not None
        process.stdin.close()
        process.wait(WAIT_S)


def assert_its_jobs_are_over(notebook: Notebook, doors: Doors, running: int) -> None:
    """Those that ran are interrupted, those that waited do not start; the next cell has all workers, the same."""
    assert len(doors.ends.arrivals(running)) == running
    notebook.begin("list(engine.map(second.enter, range(2)))")
    found = [doors.second.arrival().pid for _ in range(2)]
    assert len(set(found)) == 2
    doors.second.release(2)
    assert notebook.end()["status"] == "ok"
    assert notebook.run("print(engine.join(10), engine.stats().running)") == "True 0\n"
    assert doors.door.arrival_or_none(0.0) is None
    assert doors.ends.arrival_or_none(0.0) is None
    assert set(json.loads(notebook.run("print([row.pid for row in engine.workers()])"))) == set(found)


WAITING = {
    "map": "for n in engine.map(work, range(1, 1000)): pass",
    "map of a list": "got = list(engine.map(work, list(range(1, 1000))))",
    "map_unordered": "for n in engine.map_unordered(work, iter(range(1, 1000))): pass",
    "run": "got = list(engine.run(Job(work, (n,)) for n in range(1, 1000)))",
    "run in order": "got = list(engine.run([Job(work, (n,)) for n in range(1, 1000)], ordered=True))",
    "by name": "values = engine.map(work, range(1, 1000))\nfor n in values: pass",
    "run by name": "outcomes = engine.run(Job(work, (n,)) for n in range(1, 1000))\nfor n in outcomes: pass",
    "in a function": "consume(engine.map(work, range(1, 1000)))",
    "next by name": "values = engine.map(work, range(1, 1000))\nnext(values)",
}


@pytest.mark.slow
def test_a_cell_that_waits_for_results_ends_at_once_and_its_jobs_with_it(notebook: Notebook, doors: Doors) -> None:
    for what, code in WAITING.items():
        notebook.begin(code)
        doors.door.arrivals(2)
        notebook.interrupt()
        assert (what, notebook.end()["error"]) == (what, "KeyboardInterrupt")
        assert_its_jobs_are_over(notebook, doors, 2)


IN_BODY = {
    "map": "for n in engine.map(work, range(1000)): stay(n)",
    "map_unordered": "for n in engine.map_unordered(work, iter(range(1000))): stay(n)",
    "run": "for outcome in engine.run(Job(work, (n,)) for n in range(1000)): stay(outcome.value)",
    "in a function": "loop(lambda: engine.map(work, range(1000)))",
    "tqdm": "import tqdm\nfor n in tqdm.tqdm(engine.map(work, range(1000))): stay(n)",
}


@pytest.mark.slow
def test_a_loop_over_the_call_itself_ends_its_jobs_also_from_its_body(notebook: Notebook, doors: Doors) -> None:
    for what, code in IN_BODY.items():
        notebook.begin(code)
        doors.in_body.arrival()
        doors.door.arrivals(2)
        notebook.interrupt()
        assert (what, notebook.end()["error"]) == (what, "KeyboardInterrupt")
        assert_its_jobs_are_over(notebook, doors, 3)  # one had ended, and two are interrupted


def test_an_iterator_that_has_a_name_goes_on_after_an_interrupt_in_the_body(notebook: Notebook, doors: Doors) -> None:
    """It is the user's, who may want the rest; `close` is the end of its jobs."""
    notebook.begin("values = engine.map_unordered(work, range(1000))\nfor n in values: stay(n)")
    doors.in_body.arrival()
    doors.door.arrivals(2)
    notebook.interrupt()
    assert notebook.end()["error"] == "KeyboardInterrupt"
    doors.door.release(2)
    assert notebook.run("print(len({0, next(values), next(values)}))") == "3\n"
    doors.door.arrivals(2)
    doors.ends.arrivals(3)
    notebook.run("values.close()")
    assert_its_jobs_are_over(notebook, doors, 2)


def test_futures_and_the_engine_itself_outlive_an_interrupted_wait(notebook: Notebook, doors: Doors) -> None:
    for waiting in ("future.result()", "engine.join()", "from concurrent.futures import wait; wait([future])"):
        notebook.begin(f"future = engine.submit(work, 7)\nin_body.announce()\n{waiting}")
        doors.in_body.arrival()  # the call is over; an interrupt that meets that leaves no future
        doors.door.arrival()
        notebook.interrupt()
        assert notebook.end()["error"] == "KeyboardInterrupt"
        assert notebook.run("print(future.running())") == "True\n"
        doors.door.release()
        assert notebook.run("print(future.result())") == "7\n"
        doors.ends.arrival()
    notebook.begin("future = engine.submit(work, 8)\nin_body.announce()\nfuture.result()")
    doors.in_body.arrival()
    doors.door.arrival()
    notebook.interrupt()
    assert notebook.end()["error"] == "KeyboardInterrupt"
    assert notebook.run("print(future.cancel(running=True))") == "True\n"
    assert_its_jobs_are_over(notebook, doors, 1)


class InterruptedWhenPickled:
    """Ctrl-C while an argument is being pickled."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class InterruptedWhenRebuilt:
    """Ctrl-C while a result is being rebuilt: in the parent, for the worker only pickles it."""

    def __reduce__(self) -> Any:
        return interrupt, ()


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_while_arguments_are_pickled_does_not_wait_for_results(engine: Engine, gate: Gate) -> None:
    """In the consumer's own thread, at the call; the jobs before it would never end."""
    items = [gate.door.path, gate.door.path, InterruptedWhenPickled()]
    with pytest.raises(KeyboardInterrupt):
        list(engine.map(jobs.enter_at, items))
    assert engine.join(WAIT_S)


@pytest.mark.parametrize("call", ["map", "run"])
def test_an_interrupt_at_the_call_itself_ends_its_jobs(
    engine: Engine, gate: Gate, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def interrupted(*args: object) -> None:
        gate.arrivals(2)
        raise KeyboardInterrupt

    monkeypatch.setattr("mpengine.engine.Values", interrupted)
    monkeypatch.setattr("mpengine.engine.iterate_outcomes", interrupted)
    begin: dict[str, Callable[[], object]] = {
        "map": lambda: engine.map(jobs.enter, [gate.door] * 50),
        "run": lambda: engine.run([Job(jobs.enter, (gate.door,)) for _ in range(50)]),
    }
    with pytest.raises(KeyboardInterrupt) as kept:
        begin[call]()
    assert engine.join(WAIT_S)  # though the traceback holds the stream
    del kept


@pytest.mark.parametrize("call", ["map", "run"])
def test_an_interrupt_while_a_result_is_rebuilt_is_no_failure_of_its_job(engine: Engine, call: str) -> None:
    values: Any
    if call == "map":
        values = engine.map(lambda n: InterruptedWhenRebuilt() if n == 5 else n, range(10))
    else:
        values = engine.run([Job(lambda: InterruptedWhenRebuilt())])
    with pytest.raises(KeyboardInterrupt):
        list(values)
    assert list(values) == []  # it has ended
    assert engine.join(WAIT_S)
