"""Engines in odd places: in a fork of the program, in a job, where children are reaped by others."""

import os
import re
import signal

import pytest

from tests.faults.programs import program, read_line
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


def test_a_nested_engine_in_a_job() -> None:
    code = (
        "from mpengine import Engine\n"
        "def inner(n):\n"
        "    with Engine(1) as engine: return engine.submit(abs, -n).result()\n"
        "with Engine(2) as engine: print(list(engine.map(inner, range(4))))\n"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == ("[0, 1, 2, 3]\n", "")


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
