"""Whole programs: scripts without a guard, how programs end, Ctrl-C, the parent's death, forks of the user's."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support import ROOT, START_METHODS, WAIT_S, process_tree, run_python, still_running, wait_gone

# ---- scripts without a guard -----------------------------------------------------------------------------

SCRIPT = """
import functools, os, sys
from dataclasses import dataclass
from mpengine import Engine, Job

print("module level")

@dataclass
class Point:
    x: int
    y: int = 0

class MyError(Exception):
    def __init__(self, text, code):
        super().__init__(text, code)
        self.code = code

OFFSET = 100

def shift(point):
    return Point(point.x + OFFSET, helper(point.y))

def helper(y):
    return y - 1

def fail():
    raise MyError("from main", 7)

def make_adder(n):
    return lambda x: x + n

with Engine(2, METHOD) as engine:
    point = engine.submit(shift, Point(1, 2)).result()
    assert type(point) is Point and point == Point(101, 1), point
    assert list(engine.map(make_adder(5), range(4))) == [5, 6, 7, 8]
    assert list(engine.map(shift, [Point(n) for n in range(50)])) == [Point(n + 100, -1) for n in range(50)]
    powers = engine.run([Job(functools.partial(pow, 2), (n,)) for n in range(5)], ordered=True)
    assert [outcome.value for outcome in powers] == [1, 2, 4, 8, 16]
    try:
        engine.submit(fail).result()
    except MyError as error:
        assert type(error) is MyError and error.code == 7 and error.args == ("from main", 7)
    else:
        raise AssertionError("no error")
    assert engine.submit(lambda: MyError).result() is MyError
    OFFSET = 1000
    assert engine.submit(shift, Point(1)).result().x == 1001
print("done")
"""


@pytest.mark.parametrize(
    ("how", "method"),
    [("file", "forkserver"), ("file", "spawn"), ("file", "fork"), ("-c", "forkserver"), ("-c", "spawn"),
     ("stdin", "forkserver"), ("stdin", "fork")],
)  # fmt: skip
def test_scripts_without_a_guard(tmp_path: Path, how: str, method: str) -> None:
    code = f"METHOD = {method!r}\n{SCRIPT}"
    if how == "file":
        script = tmp_path / "script.py"
        script.write_text(code)
        done = run_python(str(script), cwd=tmp_path)
    elif how == "-c":
        done = run_python("-c", code, cwd=tmp_path)
    else:
        done = run_python("-", stdin=code, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.split("\n") == ["module level", "done", ""]  # once: workers do not import it again
    assert done.returncode == 0


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_script_that_chose_its_start_method(tmp_path: Path, method: str) -> None:
    code = (
        "import multiprocessing\n"
        f"multiprocessing.set_start_method({method!r})\n"
        "from mpengine import Engine\n"
        "print('top')\n"
        "with Engine(1) as engine: print(engine.submit(lambda: multiprocessing.get_start_method()).result())\n"
    )
    (tmp_path / "script.py").write_text(code)
    done = run_python("script.py", cwd=tmp_path)
    assert (done.stdout, done.stderr) == (f"top\n{method}\n", "")


def test_a_package_run_with_dash_m(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__init__.py").write_text("")
    (tmp_path / "tool" / "helper.py").write_text("def half(x): return x / 2\n")
    (tmp_path / "tool" / "__main__.py").write_text(
        "from mpengine import Engine\nfrom tool.helper import half\nprint('top')\n"
        "with Engine(1) as engine: print(engine.submit(lambda x: half(x), 8).result())\n"
    )
    done = run_python("-m", "tool", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("top\n4.0\n", "")


def test_warnings_as_errors_and_a_deleted_folder(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    bare = run_python("-c", f"import os; os.rmdir({str(gone)!r}); import socket", cwd=gone)
    if bare.returncode:  # CPython 3.13.0: SystemError, without anything of ours
        pytest.skip("this Python cannot import its own socket module in a deleted folder")
    gone.mkdir()
    code = (
        f"import os; os.rmdir({str(gone)!r})\nfrom mpengine import Engine\n"
        "for method in ('forkserver', 'fork'):\n"
        "    with Engine(1, method) as engine: print(engine.submit(len, 'abc').result())\n"
    )
    done = run_python("-W", "error", "-c", code, cwd=gone)
    assert (done.stdout, done.stderr) == ("3\n3\n", "")


def test_standard_streams_closed(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfor fd in (0, 1, 2): os.close(fd)\nfrom mpengine import Engine\n"
        f"with Engine(1) as engine: value = engine.submit(len, 'abc').result()\n"
        f"with open({str(tmp_path / 'out')!r}, 'w') as file: file.write(str(value))\n"
    )
    done = run_python("-c", code)
    assert (tmp_path / "out").read_text() == "3"
    assert done.returncode == 0


# ---- the end of the interpreter --------------------------------------------------------------------------


@pytest.mark.parametrize("method", START_METHODS)
def test_jobs_accepted_before_a_plain_exit_are_finished(tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    code = (
        "import os, time\nfrom mpengine import Engine\n"
        "def body(n):\n"
        "    time.sleep(0.01)\n"
        f"    fd = os.open({str(out)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "    os.write(fd, b'%d\\n' % n)\n"
        f"engine = Engine(2, {method!r})\n"
        "for n in range(40): engine.submit(body, n)\n"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(map(int, out.read_text().split())) == list(range(40))


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "values = engine.map(abs, itertools.count()); next(values)",
        "values = engine.run(Job(abs, (n,)) for n in itertools.count()); next(values)",
        "engine.shutdown(wait=False)",
        "del engine",
        "globals()['keep'] = [engine]; engine.submit(time.sleep, 0.1)",
        "engine.submit(os._exit, 3)",
        "f = engine.submit(time.sleep, 0.05); f.engine = engine; engine.f = f",
    ],
)
def test_a_normal_exit_is_quick_and_quiet(end: str) -> None:
    imports = "import itertools, os, time\nfrom mpengine import Engine, Job\n"
    code = f"{imports}engine = Engine(2)\nengine.submit(abs, 1)\n{end}\n"
    started = time.monotonic()
    done = run_python("-W", "error", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 8


def test_an_exit_by_an_error_is_prompt_and_shows_that_error_alone() -> None:
    code = (
        "import time\nfrom mpengine import Engine\n"
        "with Engine(2) as engine:\n"
        "    futures = [engine.submit(time.sleep, 0.2) for _ in range(500)]\n"
        "    raise LookupError('mine')\n"
    )
    started = time.monotonic()
    done = run_python("-c", code)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.strip().endswith("LookupError: mine")
    assert time.monotonic() - started < 5


def test_a_system_exit_with_a_full_engine(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom mpengine import Engine\n"
        "with Engine(2) as engine:\n"
        "    futures = [engine.submit(time.sleep, 100) for _ in range(5)]\n"
        "    sys.exit(5)\n"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (5, "")


# ---- programs that are looked at while they run ----------------------------------------------------------


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A script in a process group of its own, as a shell's job is; killed at the end if it has not ended."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_line(process: subprocess.Popen[bytes]) -> str:
    """A line of its output, within a bound."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what a buffer holds, no select sees
        ready, _, _ = select.select([process.stdout], [], [], WAIT_S)
        assert ready, f"no output but {line!r}\n{process_tree()}"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"it ended after {line!r}"
        line += byte
    return line.decode().strip()


def below(process: subprocess.Popen[bytes]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]


LONG = """
import os, sys, time
from mpengine import Engine, Job

def body(n):
    if n < 2:
        os.write(1, b"running\\n")  # one write: those of two workers do not mix
        time.sleep(600)
    return n

def main():
    with Engine(2, {method!r}) as engine:
        {use}

main()
"""
USES = {
    "map": "list(engine.map(body, range(1000)))",
    "run": "list(engine.run(Job(body, (n,)) for n in range(1000)))",
    "result": "engine.submit(body, 0); engine.submit(body, 1).result()",
    "join": "engine.submit(body, 0); engine.submit(body, 1); engine.join()",
    "leaving": "engine.submit(body, 0); engine.submit(body, 1)",
}


def assert_interrupted(process: subprocess.Popen[bytes], group: list[int], started: float) -> None:
    err = process.communicate(timeout=WAIT_S)[1].decode()
    took = time.monotonic() - started
    assert process.returncode == -signal.SIGINT, err
    assert took < 3.0
    assert err.count("Traceback") == 1, err
    assert err.strip().endswith("KeyboardInterrupt"), err
    assert "leaked" not in err
    wait_gone(*group, timeout=2.0)


@pytest.mark.parametrize(("use", "whole_group"), [*((use, True) for use in USES), ("map", False), ("leaving", False)])
def test_ctrl_c_ends_the_program_at_once(use: str, whole_group: bool) -> None:
    with program(LONG.format(method="forkserver", use=USES[use])) as process:
        for _ in range(2):
            assert read_line(process).startswith("running")
        group = below(process)
        assert len(group) >= 2
        started = time.monotonic()
        if whole_group:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.send_signal(signal.SIGINT)
        assert_interrupted(process, group, started)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_ctrl_c_under_the_other_start_methods(method: str) -> None:
    with program(LONG.format(method=method, use=USES["map"])) as process:
        for _ in range(2):
            assert read_line(process).startswith("running")
        group = below(process)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert_interrupted(process, group, started)


def test_ctrl_c_without_a_with_block() -> None:
    code = (
        "import time\nfrom mpengine import Engine\n"
        "def body():\n    print('running', flush=True)\n    time.sleep(600)\n"
        "engine = Engine(2)\nengine.submit(body).result()\n"
    )
    with program(code) as process:
        assert read_line(process) == "running"
        group = below(process)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert_interrupted(process, group, started)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_what_is_started_inherits_that_ctrl_c_is_blocked(method: str) -> None:
    # Seen once, under load: a Ctrl-C met a worker before it could ignore it, and the worker showed a traceback.
    code = (
        "import signal\nfrom multiprocessing import util\nfrom mpengine import Engine\n"
        "start = util.spawnv_passfds\n"
        "def watch(path, args, fds):\n"
        "    if 'resource_tracker' not in str(args):\n"
        "        print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "    return start(path, args, fds)\n"
        "util.spawnv_passfds = watch\n"
        f"with Engine(1, {method!r}) as engine:\n"
        "    engine.submit(abs, 1).result()\n"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_ctrl_c_while_the_interpreter_waits_for_the_last_jobs() -> None:
    code = (
        "import time\nfrom mpengine import Engine\n"
        "def body():\n    print('running', flush=True)\n    time.sleep(600)\n"
        "engine = Engine(1)\nengine.submit(body)\nprint('end of script', flush=True)\n"
    )
    with program(code) as process:
        assert {read_line(process), read_line(process)} == {"running", "end of script"}
        group = below(process)
        os.killpg(process.pid, signal.SIGINT)
        err = process.communicate(timeout=WAIT_S)[1].decode()
        assert err.count("Traceback") <= 1, err
        wait_gone(*group, timeout=2.0)


BODIES = {
    "idle": "pass",
    "sleeping": "time.sleep(600)",
    "busy": "\n    while True: pass",
    "holding the GIL in C": (
        "library = ctypes.PyDLL(None); m = ctypes.create_string_buffer(128); "
        "library.pthread_mutex_lock(m); library.pthread_mutex_lock(m)"
    ),
    "with a child": "subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])",
    "with signals ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
}


@pytest.mark.parametrize(
    ("method", "signum"), [*((method, signal.SIGKILL) for method in START_METHODS), ("forkserver", signal.SIGTERM)]
)
def test_when_the_parent_is_killed_its_workers_are_gone(method: str, signum: int) -> None:
    assert_workers_die_with_parent(BODIES["sleeping"], method, signum)


@pytest.mark.parametrize("body", [name for name in BODIES if name != "sleeping"])
def test_when_the_parent_is_killed_its_workers_are_gone_whatever_they_do(body: str) -> None:
    assert_workers_die_with_parent(BODIES[body], "forkserver", signal.SIGKILL)


def assert_workers_die_with_parent(body: str, method: str, signum: int) -> None:
    code = (
        "import ctypes, os, signal, subprocess, sys, time\nfrom mpengine import Engine\n"
        f"def body():\n    os.write(1, b'pid %d\\n' % os.getpid())\n    {body}\n"
        f"engine = Engine(2, {method!r})\n"
        "futures = [engine.submit(body) for _ in range(2)]\n"
        "time.sleep(600)\n"
    )
    with program(code) as process:
        workers = {int(read_line(process).split()[1]) for _ in range(2)}
        if "subprocess.run" in body:
            deadline = time.monotonic() + WAIT_S
            while not any(psutil.Process(pid).children() for pid in workers) and time.monotonic() < deadline:
                select.select([], [], [], 0.01)
        group = below(process)
        assert workers <= set(group)
        process.send_signal(signum)
        assert process.wait(WAIT_S) == -signum
        left = still_running(group, 2.0)
        assert not left, process_tree()


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
