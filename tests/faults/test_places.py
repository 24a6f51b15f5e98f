"""Engines in odd places: in a fork of the program, in a job, where children are reaped by others."""

import os
import re
import signal
from typing import Any

import pytest

from tests.faults.programs import program, read_line
from tests.runtime.fixtures import MakeEngine
from tests.support import ROOT, START_METHODS, WAIT_S, run_python, wait_gone

# ---- forks of the user's ---------------------------------------------------------------------------------

FORK = """
import os, sys
from mpengine import Engine, EngineClosed

engine = Engine(2, {method!r})
pids = engine.submit(os.getpid).result()
values = engine.map(abs, range(100))
next(values)
child = os.fork()
if not child:
    code = 0
    for use in (
        lambda: engine.submit(abs, 1), lambda: engine.map(abs, [1]), lambda: engine.run([]),
        engine.stats, engine.workers, engine.join,
    ):
        try:
            use()
        except EngineClosed as error:
            if str(os.getppid()) not in str(error) or "make a new Engine" not in str(error):
                code = 2
        else:
            code = 3
    engine.shutdown()
    with Engine(1, {method!r}) as mine:
        if mine.submit(abs, -4).result() != 4:
            code = 4
    del values
    {end}
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert list(values) == list(range(1, 100))
assert [engine.submit(abs, -n).result(10) for n in range(20)] == list(range(20))
report = engine.shutdown()
assert report.lost == 0 and {{end.rung for end in report.workers}} == {{"pill"}}, report
print("fine")
"""


@pytest.mark.parametrize(
    ("method", "end"),
    [("forkserver", "os._exit(code)"), ("forkserver", "sys.exit(code)"), ("spawn", "sys.exit(code)"),
     ("fork", "sys.exit(code)")],
)  # fmt: skip
def test_a_forked_copy_refuses_and_does_not_disturb(method: str, end: str) -> None:
    done = run_python("-W", "ignore", "-c", FORK.format(method=method, end=end))
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_a_forked_copy_does_not_keep_workers_alive() -> None:
    """The copy outlives its parent: it must not hold the ends whose closing ends the workers."""
    code = (
        "import os, time\nfrom mpengine import Engine\n"
        "engine = Engine(2)\nengine.submit(abs, 1).result()\n"
        # One write a line: `print` may take several, and the two would mix.
        "if not os.fork():\n    os.write(1, f'copy {os.getpid()}\\n'.encode())\n    time.sleep(600)\n"
        "pids = ' '.join(str(row.pid) for row in engine.workers())\n"
        "os.write(1, f'workers {pids}\\n'.encode())\ntime.sleep(600)\n"
    )
    with program(code) as process:
        lines = dict(line.split(" ", 1) for line in (read_line(process), read_line(process)))
        workers = [int(pid) for pid in lines["workers"].split()]
        process.kill()
        process.wait(WAIT_S)
        try:
            wait_gone(*workers, timeout=2.0)
        finally:
            os.kill(int(lines["copy"]), signal.SIGKILL)


# ---- engines below engines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", START_METHODS)
def test_a_nested_engine_in_a_job(method: str) -> None:
    code = (
        "import os\nfrom mpengine import Engine\n"
        "def inner(n):\n"
        f"    with Engine(1, {method!r}) as engine:\n"
        "        assert engine.submit(os._exit, 3).outcome(20).status == 'lost'\n"
        "        return engine.submit(abs, -n).result()\n"
        f"with Engine(2, {method!r}) as engine: print(list(engine.map(inner, range(4))))\n"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == ("[0, 1, 2, 3]\n", "")


DAEMONIC = """
import multiprocessing, os, time
from mpengine import Engine

def work():
    with Engine(1, {method!r}) as engine:
        assert list(engine.map(abs, range(100))) == list(range(100))
        assert engine.submit(os._exit, 3).outcome(20).status == "lost"
        assert not engine.submit(lambda: multiprocessing.current_process().daemon).result(20)
    engine = Engine(2, {method!r})
    engine.submit(abs, 1).result()
    while [row.state for row in engine.workers()] != ["idle"] * 2:
        pass
    print(*[row.pid for row in engine.workers()], flush=True)
    engine.submit(time.sleep, 600).result()

process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
process.start()
input()
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_an_engine_in_a_daemonic_process_works_and_goes_with_it(method: str) -> None:
    with program(DAEMONIC.format(method=method)) as process:
        workers = [int(pid) for pid in read_line(process).split()]
        assert len(workers) == 2
        _, err = process.communicate(b"\n", timeout=WAIT_S)  # it ends, and terminates its daemonic children
        assert (process.returncode, err) == (0, b"")
        wait_gone(*workers, timeout=2.0)


def test_a_job_that_would_wait_for_a_job_of_its_own_engine_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine(1)

    def wait_for_another() -> Any:
        return engine.submit(abs, -1).result()

    future = engine.submit(wait_for_another)
    with pytest.raises(TypeError, match="an Engine cannot be sent to a worker; make one there") as caught:
        future.result(WAIT_S)
    assert any("the function" in note and "variable 'engine'` (a Engine)" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError, match="cannot be sent to a worker"):
        engine.submit(abs, engine).result(WAIT_S)


def test_an_engine_that_a_forked_worker_has_inherited_refuses_at_once() -> None:
    code = (
        "import sys, types\nfrom mpengine import Engine, EngineClosed\n"
        "shared = sys.modules['shared'] = types.ModuleType('shared')\n"  # found in a forked worker alone
        "shared.engine = Engine(1, 'fork')\n"
        "def use():\n    import shared; return shared.engine.submit(abs, -1).result()\n"
        "with shared.engine as engine:\n"
        "    second = Engine(1, 'fork')\n"
        "    for each in (engine, second):\n"
        "        error = each.submit(use).exception(20)\n"
        "        print(type(error).__name__, 'make a new Engine here' in str(error))\n"
        "    second.shutdown()\n"
        "    print(engine.submit(abs, -2).result())\n"
    )
    done = run_python("-c", code)
    assert done.stderr == ""
    first, second, last = done.stdout.splitlines()
    # Its own engine it does not even have: it was forked before that was whole.
    assert first in ("AttributeError False", "EngineClosed True")
    assert (second, last) == ("EngineClosed True", "2")


LOCKED = """
import io, logging, os, sys, threading
from mpengine import Engine

class Slow(io.RawIOBase):  # whose writer holds the stream's lock, and logging's, until it may go on
    def writable(self): return True
    def write(self, data):
        inside.set()
        go_on.wait(20)
        return len(data)

inside, go_on = threading.Event(), threading.Event()
logging.basicConfig(stream=io.TextIOWrapper(io.BufferedWriter(Slow(), 1), write_through=True))
holder = threading.Thread(target=logging.getLogger("mpengine").warning, args=("x" * 10,))
holder.start()
assert inside.wait(20)
with Engine(2, {method!r}) as engine:
    assert list(engine.map(abs, range(100))) == list(range(100))
    assert [f.outcome(20).status for f in [engine.submit(os._exit, 3) for _ in range(2)]] == ["lost"] * 2
    assert engine.submit(abs, -1).result(20) == 1
    report = engine.shutdown(timeout=20)
assert {{end.rung for end in report.workers}} == {{"pill"}}, report
go_on.set()
holder.join()
print("fine")
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_threads_that_hold_locks_while_workers_start(method: str) -> None:
    done = run_python("-c", LOCKED.format(method=method))
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


# ---- where others reap ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", START_METHODS)
def test_a_program_that_ignores_sigchld_or_reaps_all_children(method: str) -> None:
    code = (
        "import os, signal, threading\nfrom mpengine import Engine\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"with Engine(2, {method!r}) as engine:\n"
        "    assert list(engine.map(abs, range(100))) == list(range(100))\n"
        "    assert engine.submit(os._exit, 3).outcome(10).status == 'lost'\n"
        "    assert list(engine.map(abs, range(100))) == list(range(100))\n"
        "print('fine')\n"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_the_wall_clock_is_not_used() -> None:
    """All times are monotonic: nothing of the package reads the wall clock."""
    for path in (ROOT / "mpengine").rglob("*.py"):
        if "cli" in path.parts or "report" in path.parts:
            continue
        assert not re.search(r"\btime\.time\(|datetime\.now|time_ns\(", path.read_text()), path
