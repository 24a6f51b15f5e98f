"""Real runs: one result line for each job, the numbers on stderr, the exit code that fits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import Pipe, by_id, ended, mpengine, next_line, started, values, write_lines
from tests.support import ROOT

JOBS = str(ROOT / "tests" / "cli" / "jobs.py")


def test_text_json_lines_and_a_pattern_in_one_run(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.txt", ["one", "", "thrée"])
    write_lines(tmp_path / "b.jsonl", ['{"k": [1]}', "", "2"])
    os.mkdir(tmp_path / "sub")
    write_lines(tmp_path / "sub" / "c.txt", ["deep"])
    run = mpengine("run", f"{JOBS}:echo", "a.txt", "b.jsonl", "**/c.txt", "-o", "out.jsonl", cwd=tmp_path)
    assert (run.code, run.out) == (0, "")
    records = by_id((tmp_path / "out.jsonl").read_text("utf-8"))
    assert values(records) == {
        "a.txt:1": "one",
        "a.txt:2": "",
        "a.txt:3": "thrée",
        "b.jsonl:1": {"k": [1]},
        "b.jsonl:3": 2,
        "sub/c.txt:1": "deep",
    }
    for record in records.values():
        assert record["status"] == "succeeded"
        assert record["attempts"] == 1
        assert record["duration"] >= 0
        assert record["waited"] >= 0
        assert record["worker_pid"] > 0
    assert run.err.splitlines()[0].startswith("6 jobs in ")
    assert run.err.splitlines()[0].endswith(": 6 succeeded")


def test_paths_limit_and_workers(tmp_path: Path) -> None:
    for name in ("a.dat", "b.dat", "c.dat"):
        (tmp_path / name).write_bytes(b"\xff")  # which is never read as text
    arguments = ("--as", "path", "?.dat", "--workers", "1", "--limit", "2")
    run = mpengine("run", f"{JOBS}:echo", *arguments, cwd=tmp_path)
    assert run.code == 0
    assert values(run.records) == {"a.dat": "a.dat", "b.dat": "b.dat"}
    assert len({record["worker_pid"] for record in run.records.values()}) == 1
    assert ", 1 worker)" in run.err


def test_a_file_target_with_siblings_and_a_library_s_name(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "sibling.py").write_text("def twice(n): return 2 * n\n")
    (folder / "json.py").write_text(
        "import os, threading\n"
        "from dataclasses import dataclass\n"
        "from sibling import twice\n"
        "LOCK = threading.Lock()\n"  # a global that cannot be pickled
        "LOADED_BY = os.getpid()\n"
        "@dataclass\n"
        "class Number:\n"
        "    n: int\n"
        "def helper(line): return Number(twice(len(line)))\n"
        "class Space:\n"
        "    @staticmethod\n"
        "    def job(line):\n"
        "        with LOCK:\n"
        "            return [helper(line).n, LOADED_BY == os.getpid()]\n"
    )
    write_lines(tmp_path / "in.txt", ["abc", "a"])
    run = mpengine("run", "with space/json.py:Space.job", "in.txt", cwd=tmp_path)
    assert run.code == 0, run.err
    assert values(run.records) == {"in.txt:1": [6, True], "in.txt:2": [2, True]}


def test_a_module_target_is_found_here_and_in_python(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "part.py").write_text("from . import other\ndef f(line): return other.G[line]\n")
    (tmp_path / "package" / "other.py").write_text("G = {'a': 1}\n")
    write_lines(tmp_path / "in.txt", ["a"])
    assert values(mpengine("run", "package.part:f", "in.txt", cwd=tmp_path).records) == {"in.txt:1": 1}
    run = mpengine("run", "os.path:basename", "--as", "path", "package/part.py", cwd=tmp_path)
    assert values(run.records) == {"package/part.py": "part.py"}


def test_errors_have_their_type_their_text_and_the_users_line(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["good", "bad one"])
    run = mpengine("run", f"{JOBS}:refuse", "in.txt", cwd=tmp_path)
    assert run.code == 1
    assert values(run.records) == {"in.txt:1": "good"}
    bad = run.records["in.txt:2"]
    assert bad["status"] == "failed"
    assert bad["error"]["type"] == "Refused"
    assert bad["error"]["message"] == "will not take 'bad one'"
    traceback = bad["error"]["traceback"].splitlines()
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[1].startswith(f'  File "{JOBS}", line ')  # no frame of ours before it
    assert traceback[-1].endswith("Refused: will not take 'bad one'")
    line = next(n for n, text in enumerate(Path(JOBS).read_text().splitlines(), 1) if "raise Refused" in text)
    assert f"  in.txt:2  Refused: will not take 'bad one' ({JOBS}:{line})" in run.err
    assert ": 1 succeeded, 1 failed\n" in run.err


def test_every_bad_end_costs_only_its_job(tmp_path: Path) -> None:
    lines = ["one", "kill", "two", "exit", "hang", "unpicklable", "system exit", "three"]
    write_lines(tmp_path / "in.txt", lines)
    run = mpengine("run", f"{JOBS}:end_badly", "in.txt", "--timeout", "1", cwd=tmp_path)
    assert run.code == 1
    found = {lines[int(id_.split(":")[1]) - 1]: record for id_, record in run.records.items()}
    assert {line: record["status"] for line, record in found.items()} == {
        "one": "succeeded",
        "kill": "lost",
        "two": "succeeded",
        "exit": "lost",
        "hang": "expired",
        "unpicklable": "succeeded",  # it is told as text
        "system exit": "failed",
        "three": "succeeded",
    }
    assert "SIGKILL" in found["kill"]["error"]["message"]
    assert found["kill"]["error"]["type"] == "JobLost"
    assert found["hang"]["error"]["type"] == "JobExpired"
    assert found["system exit"]["error"]["type"] == "SystemExit"
    assert all("error" not in found[line] for line in ("one", "two", "three"))


def test_retries(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1", "2"])
    run = mpengine("run", f"{JOBS}:fail_once", "in.txt", "--retries", "1", cwd=tmp_path)
    assert run.code == 0
    assert [record["attempts"] for record in run.records.values()] == [2, 2]
    assert "2 tried more than once" in run.err


def test_a_line_that_is_not_json_fails_alone(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", ["1", "{", "3"])
    run = mpengine("run", f"{JOBS}:echo", "in.jsonl", "--retries", "1", cwd=tmp_path)
    assert run.code == 1
    assert values(run.records) == {"in.jsonl:1": 1, "in.jsonl:3": 3}
    bad = run.records["in.jsonl:2"]
    assert (bad["status"], bad["attempts"]) == ("failed", 1)
    assert bad["error"]["type"] == "MalformedRecord"
    assert bad["error"]["message"].startswith("not JSON: ")
    assert bad["error"]["traceback"] is None


def test_a_line_that_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"1\n2\n3\n\xff\n5\n")
    run = mpengine("run", f"{JOBS}:echo", "in.txt", cwd=tmp_path)
    assert run.code == 1
    assert values(run.records) == {"in.txt:1": "1", "in.txt:2": "2", "in.txt:3": "3", "in.txt:5": "5"}
    assert run.records["in.txt:4"]["error"]["message"].startswith("not UTF-8: byte 0xff at its byte 1; convert ")


def test_a_file_of_utf16_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes("1\n2\n".encode("utf-16"))
    run = mpengine("run", f"{JOBS}:echo", "in.txt", cwd=tmp_path)
    assert run.code == 2
    assert run.message.startswith("INPUT in.txt:1: the file is UTF-16, not UTF-8; convert it first")


def test_an_empty_input_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "in.txt").touch()
    (tmp_path / "out.jsonl").write_text("old\n")
    run = mpengine("run", f"{JOBS}:echo", "in.txt", "-o", "out.jsonl", cwd=tmp_path)
    assert (run.code, (tmp_path / "out.jsonl").read_text()) == (0, "")
    assert run.err.startswith("0 jobs in ")


def test_what_jobs_print_and_read_is_kept_from_results_and_input(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("print('imported')\nfrom tests.cli.jobs import talk\n")
    run = mpengine("run", "loud.py:talk", "-", cwd=tmp_path, stdin="a\nb\n")
    assert values(run.records) == {"stdin:1": "a", "stdin:2": "b"}  # and nothing else on stdout
    for text in ("imported", "printed", "written", "by a child"):
        assert text in run.err
    with Pipe() as pipe, started("run", f"{JOBS}:listen", "-", cwd=tmp_path, stdin=pipe.reader) as process:
        pipe.write("a\n")
        assert json.loads(next_line(process))["value"] == ""  # its child found stdin at its end; ours stays open
        pipe.write("b\n")
        assert json.loads(next_line(process))["value"] == ""
        pipe.close()
        assert ended(process).code == 0


def test_results_come_while_the_input_is_still_open(tmp_path: Path) -> None:
    with Pipe() as pipe, started("run", f"{JOBS}:echo", "-", cwd=tmp_path, stdin=pipe.reader) as process:
        for line in ("a", "b"):
            pipe.write(line + "\n")
            assert json.loads(next_line(process))["value"] == line
        pipe.close()
        assert ended(process).code == 0


def test_the_limit_ends_a_run_whose_input_stays_open(tmp_path: Path) -> None:
    arguments = ("run", f"{JOBS}:echo", "-", "--limit", "2")
    with Pipe() as pipe, started(*arguments, cwd=tmp_path, stdin=pipe.reader) as process:
        pipe.write("a\nb\nc\n")
        run = ended(process)
    assert (run.code, values(run.records)) == (0, {"stdin:1": "a", "stdin:2": "b"})


def test_a_full_disk(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["a"] * 100)
    run = mpengine("run", f"{JOBS}:echo", "in.txt", "-o", "/dev/full", cwd=tmp_path)
    assert run.code == 2
    assert run.message.startswith("OUT '/dev/full' cannot be written: No space left on device")


def test_a_full_disk_while_the_input_is_still_open(tmp_path: Path) -> None:
    arguments = ("run", f"{JOBS}:echo", "-", "-o", "/dev/full")
    with Pipe() as pipe, started(*arguments, cwd=tmp_path, stdin=pipe.reader) as process:
        pipe.write("a\n")
        run = ended(process)
    assert run.code == 2
    assert run.message.startswith("OUT '/dev/full' cannot be written: No space left on device")


def test_a_full_disk_ends_what_still_runs(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["9", "1"])  # of which the first never ends by itself
    arguments = (f"{JOBS}:hang_after_two", "in.txt", "-o", "/dev/full", "--workers", "2", "--unordered")
    run = mpengine("run", *arguments, cwd=tmp_path)
    assert run.code == 2
    assert run.message.startswith("OUT '/dev/full' cannot be written: ")


def test_more_lines_on_stdin_than_are_read_ahead(tmp_path: Path) -> None:
    lines = [str(number) for number in range(3_000)]
    run = mpengine("run", f"{JOBS}:echo", "-", cwd=tmp_path, stdin="\n".join(lines))
    assert run.code == 0
    assert values(run.records) == {f"stdin:{number}": line for number, line in enumerate(lines, 1)}


def test_an_out_that_may_not_be_written(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["a"])
    run = mpengine("run", f"{JOBS}:echo", "in.txt", "-o", "/proc/version", cwd=tmp_path)
    assert run.code == 2
    assert run.message.startswith("the journal '/proc/version.journal' cannot be written: ")


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", [str(number) for number in range(1_000)])
    with started("run", f"{JOBS}:long", "in.txt", cwd=tmp_path) as process:
        assert json.loads(next_line(process))["status"] == "succeeded"
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        run = ended(process)
    assert (run.code, run.err) == (141, "")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams(closed: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["a", "bad"])
    command = f'exec "$0" -m mpengine run "{JOBS}:make_noise" in.txt --to outcomes -o out.jsonl {closed}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], cwd=tmp_path, env=environment, capture_output=True, timeout=30
    )
    assert done.returncode == 1
    assert len(by_id((tmp_path / "out.jsonl").read_text())) == 2  # and no noise among the lines


@pytest.mark.parametrize("source", ["in.txt", "-"])
def test_a_worker_that_cannot_import_the_target_breaks_the_engine(source: str, tmp_path: Path) -> None:
    (tmp_path / "shy.py").write_text(
        "import multiprocessing\n"
        "if multiprocessing.parent_process() is not None:\n"
        "    raise RuntimeError('not in a worker')\n"
        "def f(line): return line\n"
    )
    write_lines(tmp_path / "in.txt", ["a"])
    run = mpengine("run", "shy.py:f", source, cwd=tmp_path, stdin="a\n")
    assert (run.code, run.out) == (3, "")
    where = f"{tmp_path}/shy.py:3: RuntimeError: not in a worker"
    assert run.message.startswith(f"TARGET 'shy.py:f' cannot be imported in a worker: {where}; ")


def test_closed_standard_streams_are_not_taken_by_what_is_opened_next(tmp_path: Path) -> None:
    code = (
        "import os; from mpengine.cli.streams import fill_closed; fill_closed();"
        "fd = os.open('out', os.O_WRONLY | os.O_CREAT); os.write(fd, str(fd).encode());"
        "[os.write(each, b'noise') for each in (0, 1, 2)]"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=30)
    assert int((tmp_path / "out").read_text()) > 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [("in.txt >&-", "stdout is closed"), ("- -o out.jsonl <&-", "INPUT '-': stdin is closed")],
)
def test_a_closed_stream_that_is_needed(arguments: str, part: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["a"])
    command = f'exec "$0" -m mpengine run "{JOBS}:echo" {arguments}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], cwd=tmp_path, env=environment, capture_output=True, timeout=30
    )
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"mpengine: {part}")


BREAKS_LATER = """
import multiprocessing, os, signal
from pathlib import Path
if multiprocessing.parent_process() is not None and Path("broken").exists():
    raise RuntimeError("not any more")
def f(line):
    if line == "break":
        Path("broken").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return line
"""


@pytest.mark.parametrize("source", ["in.txt", "-"])
def test_an_engine_that_breaks_half_way_keeps_what_had_ended(source: str, tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(BREAKS_LATER)
    lines = [*"abc", "break", *["z"] * 10_000]
    write_lines(tmp_path / "in.txt", lines)
    arguments = ("target.py:f", source, "--workers", "1", "-o", "out.jsonl")
    run = mpengine("run", *arguments, cwd=tmp_path, stdin="\n".join(lines))
    records = by_id((tmp_path / "out.jsonl").read_text())
    assert sorted(values(records).values()) == ["a", "b", "c"]
    assert run.code == 3
    last = run.err.splitlines()[-1]
    assert last.startswith("mpengine: TARGET 'target.py:f' cannot be imported in a worker: ")
    assert ": RuntimeError: not any more; " in last
    assert last.endswith(f"; {len(records)} jobs have ended; to go on, run it again with --resume")
