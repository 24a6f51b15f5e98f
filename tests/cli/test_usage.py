"""What is typed wrong ends in one line that names it, and exit code 2, before any job starts."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import mpengine
from mpengine.cli.commands import commands
from mpengine.cli.signals import Stop

TARGET = """
import asyncio
LIMIT = 3
class Holder:
    @staticmethod
    def inner(line): return line
def upper(line): return line.upper()
def two(first, second): pass
async def later(line): pass
def many(line): yield line
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a target and an input; what a target's import leaves in this process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = set(sys.modules)
    (tmp_path / "target.py").write_text(TARGET)
    (tmp_path / "lines.txt").write_text("a\nb\n")
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.startswith(("_mpengine_target_", "target", "broken")):
            del sys.modules[name]


def invoke(*arguments: str) -> Result:
    with Stop() as stop:
        return CliRunner().invoke(commands, arguments, prog_name="mpengine", obj=stop)


def refused(*arguments: str) -> str:
    """The one line that the command says before it exits with code 2."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("mpengine: ")
    return line


def run_refused(target: str, *inputs: str) -> str:
    return refused("run", target, *(inputs or ("lines.txt",)), "-o", "out.jsonl")


def test_version() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.output) == (0, f"mpengine, version {mpengine.__version__}\n")


def test_help_tells_the_exit_codes() -> None:
    result = invoke("run", "--help")
    assert result.exit_code == 0
    for part in ("TARGET", "INPUT", "--as", "path", "--retries", "130", "143"):
        assert part in result.output


def test_no_command_shows_the_help() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: " in result.output
    assert "run " in result.output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["walk"], "'walk'"),
        (["run"], "Missing argument 'TARGET'"),
        (["run", "target.py:upper"], "Missing argument 'INPUT...'"),
        (["run", "target.py:upper", "lines.txt", "--sideways"], "--sideways"),
        (["run", "target.py:upper", "lines.txt", "--workers", "0"], "--workers"),
        (["run", "target.py:upper", "lines.txt", "--workers", "two"], "'two'"),
        (["run", "target.py:upper", "lines.txt", "--timeout", "0"], "'0' is not a number of seconds"),
        (["run", "target.py:upper", "lines.txt", "--timeout", "nan"], "'nan' is not a number of seconds"),
        (["run", "target.py:upper", "lines.txt", "--timeout", "soon"], "'soon' is not a number of seconds"),
        (["run", "target.py:upper", "lines.txt", "--retries", "-1"], "--retries"),
        (["run", "target.py:upper", "lines.txt", "--limit", "0"], "--limit"),
        (["run", "target.py:upper", "lines.txt", "--workers", "0%"], "'0%' is neither a number of workers nor"),
        (
            ["run", "target.py:upper", "lines.txt", "--halt", "soon"],
            "'soon' is neither never, nor a number of failures",
        ),
        (
            ["run", "target.py:upper", "lines.txt", "--halt", "101%"],
            "'101%' is neither never, nor a number of failures",
        ),
        (["run", "target.py:upper", "lines.txt", "--memory-limit", "much"], "'much' is not a size such as '2GiB'"),
        (["run", "target.py:upper", "lines.txt", "--min-free-memory", "x"], "'x' is not a size such as '2GiB'"),
        (["run", "target.py:upper", "lines.txt", "--nice", "20"], "--nice"),
        (["run", "target.py:upper", "lines.txt", "--chunk", "0"], "--chunk"),
        (["run", "target.py:upper", "lines.txt", "--from", "xml"], "'xml'"),
        (["run", "target.py:upper", "lines.txt", "--to", "xml"], "'xml'"),
        (["run", "target.py:upper", "lines.txt", "--as", "frame"], "'frame'"),
        (["status"], "Missing argument 'JOURNAL'"),
        (["failures"], "Missing argument 'JOURNAL'"),
    ],
)
def test_a_wrong_option(arguments: list[str], part: str) -> None:
    line = refused(*arguments)
    assert part in line
    assert "--help`" in line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--as", "path", "--chunk", "2"], "there is nothing for --chunk or --from to do"),
        (["--as", "path", "--from", "csv"], "there is nothing for --chunk or --from to do"),
        (["--errors", "no/such"], "--errors 'no/such' cannot be written: No such file"),
    ],
)
def test_options_that_make_no_sense(options: list[str], part: str) -> None:
    assert part in run_refused("target.py:upper", "lines.txt", *options)


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("target.py", ["'target.py'", "module:function or path/file.py:function"]),
        ("target.py:", ["module:function or path/file.py:function"]),
        (":upper", ["module:function or path/file.py:function"]),
        ("target.py:upper.", ["module:function or path/file.py:function"]),
        ("missing.py:upper", ["'missing.py' does not exist"]),
        ("no/such/file.py:upper", ["'no/such/file.py' does not exist"]),
        (".:upper", ["'.' is not a module's name"]),
        ("./:upper", ["is not a file"]),
        ("not-a-name:upper", ["'not-a-name' is not a module's name"]),
        ("no_such_module_here:upper", ["there is no module 'no_such_module_here'", "install it"]),
        ("os.no_such_part:upper", ["there is no module 'os.no_such_part'"]),
        ("target.py:lower", ["there is no 'lower'", "target.py", "it has Holder, "]),
        ("target.py:Holder.outer", ["there is no 'outer'"]),
        ("target.py:LIMIT", ["is a int, which cannot be called"]),
        ("target.py:two", ["called with one argument", "(first, second)", "'second'"]),
        ("target.py:later", ["async function"]),
        ("target.py:many", ["generator function"]),
    ],
)
def test_a_wrong_target(target: str, parts: list[str]) -> None:
    line = run_refused(target)
    for part in parts:
        assert part in line
    assert not os.path.exists("out.jsonl")


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("x = 1\ny = 1 / 0\n", "broken.py:2: ZeroDivisionError: division by zero"),
        ("import json\njson.loads('[')\n", "broken.py:2: json.decoder.JSONDecodeError: Expecting value"),
        ("def f(line):\n    return (\n", "broken.py:2: SyntaxError: '(' was never closed"),
        (
            "import no_such_module_here\n",
            "broken.py:1: ModuleNotFoundError: No module named 'no_such_module_here'",
        ),
        ("\nimport sys\nsys.exit(5)\n", "broken.py:3: it ended the program (exit code 5)"),
        ("raise AttributeError('own')\n", "broken.py:1: AttributeError: own"),
        ("from . import sibling\n", "name it as module:function"),
        (
            "class Odd(Exception):\n    def __str__(self): raise KeyError\nraise Odd\n",
            "broken.py:3: Odd: <no message",
        ),
        ("raise ValueError('two\\nlines\\x1b[2J')\n", "broken.py:1: ValueError: two lines?[2J"),
    ],
)
@pytest.mark.parametrize("target", ["broken.py:f", "broken:f"])
def test_a_target_that_cannot_be_imported(target: str, source: str, part: str, folder: Path) -> None:
    (folder / "broken.py").write_text(source)
    line = run_refused(target).replace("broken.Odd", "Odd")
    assert "cannot be imported" in line
    assert part in line
    assert "broken.f" not in sys.modules


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        (["missing.txt"], ["'missing.txt' does not exist"]),
        (["lines.txt", "missing.txt"], ["'missing.txt' does not exist"]),
        (["*.nothing"], ["'*.nothing' matches no file"]),
        (["**/*.nothing"], ["matches no file"]),
        (["folder"], ["'folder' is a directory", "'folder/**/*'"]),
        (["--as", "path", "folder"], ["'folder' is a directory"]),
        (["--as", "path", "missing.txt"], ["'missing.txt' does not exist"]),
        (["--as", "path", "-"], ["'-' cannot be a path"]),
        (["-", "-"], ["'-' is given twice"]),
        (["a\0b"], ["cannot be read"]),
        (["loop"], ["'loop' cannot be read", "symbolic links"]),
    ],
)
def test_a_wrong_input(inputs: list[str], parts: list[str]) -> None:
    os.mkdir("folder")
    os.symlink("loop", "loop")
    line = run_refused("target.py:upper", *inputs)
    for part in parts:
        assert part in line
    assert not os.path.exists("out.jsonl")


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        ("no/such/folder/out.jsonl", ["there is no folder", "no/such/folder'"]),
        ("lines.txt", ["the same file as INPUT 'lines.txt'"]),
        ("./folder/../lines.txt", ["the same file as INPUT 'lines.txt'"]),
        ("link", ["the same file as INPUT 'lines.txt'"]),
        ("lines.txt/out.jsonl", ["'lines.txt/out.jsonl' cannot be written"]),
        ("a\0b", ["cannot be written"]),
    ],
)
def test_a_wrong_out(out: str, parts: list[str]) -> None:
    os.mkdir("folder")
    os.link("lines.txt", "link")
    line = refused("run", "target.py:upper", "lines.txt", "-o", out)
    for part in parts:
        assert part in line
    assert Path("lines.txt").read_text() == "a\nb\n"


def test_what_is_wrong_elsewhere_leaves_an_old_out_as_it_is() -> None:
    Path("out.jsonl").write_text("old\n")
    run_refused("target.py:lower")
    run_refused("target.py:upper", "missing.txt")
    assert Path("out.jsonl").read_text() == "old\n"


def test_a_bug_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("a bug\nof ours")

    monkeypatch.setattr("mpengine.cli.commands.run_request", broken)
    monkeypatch.delenv("MPENGINE_DEBUG", raising=False)
    result = invoke("run", "target.py:upper", "lines.txt")
    assert result.exit_code == 3
    (line,) = result.output.splitlines()
    assert "internal error: RuntimeError: a bug of ours; please report it" in line
