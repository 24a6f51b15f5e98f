"""Whole programs: scripts without a guard, odd surroundings, how programs end."""

import time
from pathlib import Path

import pytest

from tests.support import START_METHODS, run_python

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
        "for method in ('fork', 'forkserver', 'spawn'):\n"
        "    with Engine(1, method) as engine:\n"
        "        assert engine.submit(os._exit, 3).outcome(20).status == 'lost'\n"
        "        print(engine.submit(len, 'abc').result(20))\n"
    )
    done = run_python("-W", "error", "-c", code, cwd=gone)
    assert (done.stdout, done.stderr) == ("3\n3\n3\n", "")


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("close", ["for fd in (0, 1, 2): os.close(fd)", "for file in files: file.close()"])
def test_standard_streams_closed(tmp_path: Path, method: str, close: str) -> None:
    code = (
        f"import os, sys\nfiles = sys.stdin, sys.stdout, sys.stderr\n{close}\nfrom mpengine import Engine\n"
        f"with Engine(2, {method!r}) as engine:\n"
        "    values = [engine.submit(os._exit, 3).outcome(20).status, *engine.map(abs, range(3))]\n"
        f"with open({str(tmp_path / 'out')!r}, 'w') as file: file.write(str(values))\n"
    )
    done = run_python("-c", code)
    assert (tmp_path / "out").read_text() == "[<Status.LOST: 'lost'>, 0, 1, 2]"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_main_module_without_a_file() -> None:
    code = (
        "import sys\nmain = sys.modules['__main__']\nassert not hasattr(main, '__file__')\n"
        "from mpengine import Engine\n"
        "def name(): return __name__\n"
        "for method in ('fork', 'forkserver', 'spawn'):\n"
        "    with Engine(1, method) as engine: print(engine.submit(name).result(20))\n"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == ("__main__\n" * 3, "")


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


AT_EXIT = """
import atexit, time
from mpengine import Engine, EngineClosed

def late():
    for use in (lambda: engine.submit(abs, -3), lambda: engine.map(abs, [-3]), lambda: engine.run([])):
        try:
            use()
        except EngineClosed:
            print("closed")
    print(engine.shutdown().complete, slow.result(0), engine.stats().succeeded)
    try:
        with Engine(1) as another:
            print(another.submit(abs, -4).result(20))
    except RuntimeError as error:
        print(error)

engine = Engine(1)
atexit.register(late)
slow = engine.submit(abs, -2)
engine.submit(time.sleep, 0.1)
"""


def test_exit_handlers_that_still_use_the_engine() -> None:
    """By then it has finished what it had accepted, and says so."""
    done = run_python("-c", AT_EXIT)
    assert done.stderr == ""
    *said, last = done.stdout.splitlines()
    assert said == ["closed"] * 3 + ["True 2 2"]
    # From Python 3.12 on there may be no new thread by then, and no new engine.
    assert last in ("4", "can't create new thread at interpreter shutdown")
