"""The census counts what a person would count, and is not put off by files that are not Python."""

import importlib.util
import json
import subprocess
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.cli.support import mpengine, write_lines
from tests.support import ROOT, run_python

SCRIPT = ROOT / "scripts" / "census.py"


@pytest.fixture(scope="module")
def census() -> ModuleType:
    spec = importlib.util.spec_from_file_location("census_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(census: ModuleType, path: Path, source: str) -> dict[str, Any]:
    path.write_text(source)
    found: dict[str, Any] = census.census(str(path))
    return found


BY_HAND = '''\
"""A module whose numbers were counted by hand."""
import os

LIMIT = 1 if os.name == "nt" else 2                      # 1 branch


class Outer:                                             # class 1
    items = [n for n in range(3) if n if n > 1]          # 3: for, if, if

    def walk(self, root, deep=True or False):            # function 1; 1: or, evaluated outside
        for name in root:                                # 1
            if name and deep and self:                   # 1 + 2
                yield name
            elif name:                                   # 1
                yield None
            else:
                while True:                              # 1
                    break

        class Inner:                                     # class 2
            async def later(self):                       # function 2
                async for _ in self:                     # 1
                    pass

        def helper():                                    # function 3
            try:
                pass
            except ValueError:                           # 1
                pass
            except (OSError, KeyError):                  # 1
                pass
            finally:
                pass
            return lambda x: x or 1                      # 1


def route(command):                                      # function 4
    match command:
        case "go":                                       # 1
            return 1
        case [first, *_] if first:                       # 1
            return 2
        case _:
            return {k: v for k, v in command}            # 1
'''


def test_a_module_counted_by_hand(census: ModuleType, tmp_path: Path) -> None:
    assert counted(census, tmp_path / "by_hand.py", BY_HAND) == {
        "module": "by_hand",
        "path": str(tmp_path / "by_hand.py"),
        "lines": 44,
        "functions": 4,
        "classes": 2,
        "branches": 1 + 3 + 1 + 6 + 1 + 3 + 3,
        "most_complex": {"name": "Outer.walk", "line": 10, "complexity": 1 + 6},
    }


def test_what_is_inside_a_function_is_counted_as_its_own(census: ModuleType, tmp_path: Path) -> None:
    source = "def plain(x):\n    @decorate(1 and 2)\n    def branched(y=x or 1):\n        return y if y else x\n"
    found = counted(census, tmp_path / "m.py", source)
    assert found["branches"] == 3
    # `and` and `or` are evaluated by plain: 3; the conditional expression by branched: 2.
    assert found["most_complex"] == {"name": "plain", "line": 1, "complexity": 3}


def test_of_equals_the_first_is_the_most_complex(census: ModuleType, tmp_path: Path) -> None:
    found = counted(census, tmp_path / "m.py", "def a(): pass\ndef b(): pass\n")
    assert found["most_complex"]["name"] == "a"


@pytest.mark.parametrize(
    ("source", "lines"),
    [("", 0), ("\n", 1), ("x = 1", 1), ("x = 1\n\f\n# \u2028\n", 3), ("x = '''\n\n'''", 3)],
)
def test_lines_are_as_wc_counts_them(census: ModuleType, source: str, lines: int, tmp_path: Path) -> None:
    found = counted(census, tmp_path / "m.py", source)
    assert (found["lines"], found["functions"], found["most_complex"]) == (lines, 0, None)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"print 'python 2'\n", "SyntaxError: Missing parentheses"),
        (b"# coding: no-such-coding\n", "SyntaxError: unknown encoding"),
        (b"x = '\xff'\n", "SyntaxError: invalid or missing encoding declaration"),
        (b"# coding: utf-8\nx = '\xff'\n", "UnicodeDecodeError: "),
        (b"x = 1\n" * 200 + b"y = '\xff'\n", "UnicodeDecodeError: "),
        (b"x = '\0'\n", "rror: source code "),
        (b"(" * 1_000, "rror: "),
        (b"-" * 100_000 + b"1\n", "rror: "),
    ],
    ids=["python2", "coding", "latin", "declared", "late", "null", "open", "deep"],
)
def test_what_is_not_python_says_so(census: ModuleType, content: bytes, error: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_bytes(content)
    found = census.census(str(tmp_path / "bad.py"))
    assert set(found) == {"module", "path", "error"}
    assert error in found["error"]


def test_a_declared_encoding_is_honoured(census: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_bytes("# coding: latin-1\nä = 1\n".encode("latin-1"))
    assert census.census(str(tmp_path / "m.py"))["lines"] == 2


def test_dubious_escapes_warn_nobody(census: ModuleType, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counted(census, tmp_path / "m.py", "x = '\\d'\n")["lines"] == 1


def test_the_standard_library_is_listed_once_and_without_what_was_installed(census: ModuleType) -> None:
    files = list(census.stdlib_files())
    assert len(files) == len(set(files)) > 200
    names = {census.module_name(path) for path in files}
    assert {"abc", "json", "json.decoder", "asyncio.events"} <= names
    assert not [path for path in files if "/site-packages/" in path or "/dist-packages/" in path]
    assert [path for path in files if not path.endswith(".py")] == []


def test_numbers_of_a_real_module(census: ModuleType) -> None:
    path = next(path for path in census.stdlib_files() if census.module_name(path) == "heapq")
    found = census.census(path)
    text = Path(path).read_text()
    assert found["lines"] == text.count("\n")
    assert found["functions"] == sum(line.lstrip().startswith("def ") for line in text.splitlines())
    assert found["classes"] == 0
    # 7 `if`, 2 `for`, 4 comprehensions, an `except` and a conditional expression, counted by hand in the source.
    assert found["most_complex"]["name"] == "nsmallest"
    assert found["most_complex"]["complexity"] == 16


def test_a_run_its_report_and_the_comparison(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(BY_HAND)
    (tmp_path / "b.py").write_text("print 'python 2'\n")
    run = mpengine("run", f"{SCRIPT}:census", "--as", "path", "?.py", "-o", "census.jsonl", cwd=tmp_path)
    assert run.code == 0, run.err
    found = run_python(str(SCRIPT), "found", "census.jsonl", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[0] == "1 module: 44 lines, 4 functions, 2 classes, 18 branches"
    assert "b: SyntaxError: Missing parentheses" in found.stdout
    assert "7  a.Outer.walk (line 10)" in found.stdout
    compared = run_python(str(SCRIPT), "compare", "census.jsonl", "12.5", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "mpengine        12.50 s" in compared.stdout
    assert "the results are the same, module by module" in compared.stdout


def test_a_result_that_differs_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    record = {"id": "a.py", "status": "succeeded", "value": {"lines": 2}, "worker_pid": 1}
    write_lines(tmp_path / "census.jsonl", [json.dumps(record)])
    compared = run_python(str(SCRIPT), "compare", "census.jsonl", "1", cwd=tmp_path)
    assert compared.returncode == 1
    assert "differ for 1 module, the first: a.py" in compared.stdout


@pytest.mark.parametrize("python", ["no-such-python", "./python-2"])
def test_the_demo_needs_a_python_that_suits(python: str, tmp_path: Path) -> None:
    old = tmp_path / "python-2"
    old.write_text("#!/bin/sh\ncase $1 in --version) echo Python 2.7.18 ;; *) exit 1 ;; esac\n")
    old.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python}
    done = subprocess.run(
        [str(ROOT / "scripts" / "demo")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"scripts/demo: PYTHON={python} is not a Python 3.11 or newer (")
    assert line.endswith("); set it to one")
