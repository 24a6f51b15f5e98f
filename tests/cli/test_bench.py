"""`mpengine bench`: what it measures, what it tells of it, and what it refuses to tell."""

import json
import os
import signal
import stat
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from mpengine.cli.bench import counts_of
from mpengine.cli.commands import commands
from mpengine.cli.machine import CpuTime, look
from mpengine.cli.problems import Problem
from mpengine.cli.signals import Stop
from mpengine.report.speedup import schedule
from tests.cli.support import Run, ended, mpengine, started, write_lines
from tests.support import ROOT, run_python, wait_for, wait_gone

JOBS = str(ROOT / "tests" / "cli" / "jobs.py")
QUICK = ("--workers", "2", "--rounds", "1", "--no-progress")

# What a target can do in the process of the plain loop alone.
IN_LOOP = "import pathlib, sys, threading\nin_loop = lambda: 'mpengine.cli.loop' in sys.modules\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "in.txt", [str(number) for number in range(20)])
    return tmp_path


def bench(*arguments: str) -> Run:
    """A run to its end, without what depends on the other load of the machine."""
    run = mpengine("bench", *arguments, cwd=Path.cwd())
    lines = run.err.splitlines(keepends=True)
    return Run(run.code, run.out, "".join(line for line in lines if "busy" not in line and "uneven" not in line))


def told(name: str = "out.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(name).read_text())
    return found


def columns(line: str) -> list[str]:
    return line.replace("* ", "").replace(" … ", "…").split()


def test_a_benchmark() -> None:
    run = bench(f"{JOBS}:echo", "in.txt", "--workers", "2", "--rounds", "2", "--json", "out.json", "--plot", "out.svg")
    assert run.code == 0
    assert sorted(os.listdir()) == ["in.txt", "out.json", "out.svg"]

    found = told()
    order = [[workers or None for workers in one] for one in schedule([0, 1, 2], 2)]
    runs = found["runs"]
    assert [[one["workers"] for one in runs if one["round"] == number] for number in (1, 2)] == order
    assert all(one["jobs"] == 20 and one["seconds"] > 0 and one["start_s"] > 0 for one in runs)
    assert all(one["peak_memory"] > 1 << 20 for one in runs)
    assert (found["jobs"], found["rounds"], found["target"], found["inputs"]) == (20, 2, f"{JOBS}:echo", ["in.txt"])
    assert found["machine"]["cpus"] >= 1
    times = {n: [one["seconds"] for one in runs if one["workers"] == n] for n in (None, 1, 2)}
    assert [row["workers"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        seconds = times[row["workers"]]
        assert row["seconds"]["median"] == pytest.approx(statistics.median(seconds))
        ratios = [one / its for one, its in zip(times[1], seconds, strict=True)]
        assert row["speedup"]["median"] == pytest.approx(statistics.median(ratios))
    assert found["loop"]["seconds"]["median"] == pytest.approx(statistics.median(times[None]))
    assert found["best"] in (1, 2)

    lines = run.out.splitlines()
    assert lines[0].startswith("mpengine bench ")
    assert lines[1] == "20 jobs, 2 rounds after a warm-up, interleaved"
    head = next(at for at, line in enumerate(lines) if line.startswith("workers"))
    assert [columns(line)[0] for line in lines[head + 2 : head + 5]] == ["loop", "1", "2"]
    assert float(columns(lines[head + 4])[4]) == pytest.approx(found["rows"][1]["speedup"]["median"], abs=0.006)
    assert any(line.startswith("Best: ") for line in lines)
    assert any(line.startswith("Serial part: ") for line in lines)
    assert all(len(line) <= 80 for line in lines)

    said = run.err.splitlines()
    names = ["plain loop" if n is None else "1 worker" if n == 1 else "2 workers" for one in order for n in one]
    assert said[0].startswith("mpengine: 1 of 7: warm-up, 2 workers: ")
    for number, (line, name) in enumerate(zip(said[1:7], names, strict=True)):
        assert line.startswith(f"mpengine: {2 + number} of 7: round {1 + number // 3} of 2, {name}: ")
    assert said[7].startswith("mpengine: the batch takes ")
    assert len(said) == 8

    circles = [one for one in ElementTree.parse("out.svg").iter() if one.tag.endswith("circle")]
    assert len(circles) == 2 + 1  # and one in the legend


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        ([f"{JOBS}:echo", "in.txt", "in.txt", "--as", "path"], 2),
        ([f"{JOBS}:total", "rows.jsonl", "--chunk", "4"], 3),
        ([f"{JOBS}:total", "rows.jsonl", "--as", "table", "--to", "parquet"], 1),
        ([f"{JOBS}:echo", "rows.jsonl", "--from", "text", "--limit", "5", "--timeout", "60"], 5),
    ],
)
def test_records_are_those_of_run(arguments: list[str], jobs: int) -> None:
    if "table" in arguments:
        pytest.importorskip("pyarrow")
    write_lines(Path("rows.jsonl"), [json.dumps({"n": n}) for n in range(10)])
    run = bench(*arguments, *QUICK, "--json", "out.json")
    assert run.code == 0, run.err
    assert {one["jobs"] for one in told()["runs"]} == {jobs}


def test_options_can_be_variables() -> None:
    names = {"WORKERS": "2,3", "ROUNDS": "1", "LIMIT": "4", "JSON": "out.json", "AS": "records", "PROGRESS": "0"}
    done = run_python(
        "-m", "mpengine", "bench", f"{JOBS}:echo", "in.txt",
        env={f"MPENGINE_BENCH_{name}": value for name, value in names.items()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = told()
    assert ([row["workers"] for row in found["rows"]], found["rounds"], found["jobs"]) == ([1, 2, 3], 1, 4)
    assert "round 1" not in done.stderr


def test_what_jobs_print_is_not_in_the_table() -> None:
    run = bench(f"{JOBS}:talk", "in.txt", "--limit", "1", *QUICK)
    assert run.code == 0
    assert "printed" not in run.out
    assert "written" not in run.out
    assert "printed 0" in run.err


def test_a_target_may_have_the_name_of_a_module_that_is_needed() -> None:
    os.mkdir("shadows")
    for name in ("json", "gzip", "csv", "statistics"):
        Path(f"shadows/{name}.py").write_text("def f(line): return line\n")
    run = bench("shadows/json.py:f", "in.txt", *QUICK)
    assert run.code == 0, run.err


# ---- what is measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "cpus", "counts"),
    [
        (None, 1, [1]),
        (None, 2, [1, 2]),
        (None, 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (None, 9, [1, 2, 4, 8, 9]),
        (None, 64, [1, 2, 4, 8, 16, 32, 64]),
        (None, 96, [1, 2, 4, 8, 16, 32, 64, 96]),
        ((8, 2, 2), 4, [1, 2, 8]),
    ],
)
def test_the_numbers_of_workers(asked: tuple[int, ...] | None, cpus: int, counts: list[int]) -> None:
    assert counts_of(asked, cpus) == counts


def test_far_more_workers_than_cpus_are_refused() -> None:
    assert counts_of((128,), 4)[-1] == 128
    with pytest.raises(Problem, match=r"--workers: 129 workers on 4 CPUs .*; ask for 128 at most"):
        counts_of((129,), 4)


def test_what_others_use_is_what_is_left_of_the_whole() -> None:
    before, after = CpuTime(100.0, 10.0), CpuTime(103.0, 12.5)
    assert after.of_others_since(before) == 0.5
    assert CpuTime(100.0, 12.5).of_others_since(before) == 0.0  # counted in steps, so it may be less than nothing


def test_what_this_process_uses_is_no_others() -> None:
    before = CpuTime.now()
    own = CpuTime.now()
    while own.own - before.own < 0.1:
        own = CpuTime.now()
    assert own.own - before.own < own.all - before.all + 0.05


def test_the_machine_is_looked_at() -> None:
    with Stop() as stop:
        machine = look(stop)
    assert machine.cpus >= 1
    assert machine.memory > 1 << 20
    assert 0 <= machine.busy_cpus <= machine.all_cpus + 1
    assert machine.cpu in machine.line
    assert machine.is_much(0.11 * machine.all_cpus)
    assert not machine.is_much(0.09 * machine.all_cpus)


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(*arguments: str) -> str:
    """The one line that the command says before it has measured anything."""
    with Stop() as stop:
        result = CliRunner().invoke(commands, ["bench", *arguments], prog_name="mpengine", obj=stop)
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    return line.removeprefix("mpengine: ")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-"], ["INPUT '-': every run reads the input from its beginning", "write it to a file"]),
        (["pipe"], ["INPUT 'pipe': every run", "no regular file"]),
        (["in.txt", "--workers", "two"], ["'two' is neither a number of workers nor"]),
        (["in.txt", "--workers", "1,,2"], ["'' is neither a number of workers nor"]),
        (["in.txt", "--workers", "0"], ["'0' is neither a number of workers nor"]),
        (["in.txt", "--workers", "1000000"], ["1,000,000 workers on", "at most"]),
        (["in.txt", "--rounds", "0"], ["--rounds"]),
        (["in.txt", "--plot", "out.png"], ["--plot 'out.png': the plot is an SVG", ".svg"]),
        (["in.txt", "--plot", "no/such.svg"], ["--plot 'no/such.svg' cannot be written: there is no folder"]),
        (["in.txt", "--json", "no/such"], ["--json 'no/such' cannot be written: there is no folder", "make it first"]),
        (["in.txt", "--json", "folder"], ["--json 'folder' is a directory", "'folder/bench'"]),
        (["in.txt", "--json", "in.txt"], ["--json 'in.txt' is the same file as 'in.txt'", "name another"]),
        (["in.txt", "--json", "./folder/../link"], ["is the same file as 'in.txt'"]),
        (["in.txt", "--json", "a.svg", "--plot", "./a.svg"], ["--plot './a.svg' is the same file as 'a.svg'"]),
        (["in.txt", "--json", "a\0b"], ["cannot be written"]),
        (["in.txt", "--as", "path", "--chunk", "2"], ["there is nothing for --chunk or --from to do"]),
        (["missing.txt"], ["'missing.txt' does not exist"]),
    ],
)
def test_wrong_use(arguments: list[str], parts: list[str]) -> None:
    os.mkfifo("pipe")
    os.mkdir("folder")
    os.link("in.txt", "link")
    line = refused(f"{JOBS}:echo", *arguments)
    for part in parts:
        assert part in line
    assert sorted(os.listdir()) == ["folder", "in.txt", "link", "pipe"]


def test_a_wrong_target() -> None:
    run = bench(f"{JOBS}:no_such_name", "in.txt", *QUICK)
    assert (run.code, run.out) == (2, "")
    assert "there is no 'no_such_name'" in run.message


def test_an_input_without_records() -> None:
    Path("empty.txt").touch()
    run = bench(f"{JOBS}:echo", "empty.txt", *QUICK)
    assert (run.code, run.out) == (2, "")
    assert run.message == "the INPUT has no records, so there is nothing to measure; name one that has some"


@pytest.mark.parametrize(
    ("target", "lines", "part"),
    [
        ("refuse", ["a", "bad", "c"], "did not succeed (failed): Refused: will not take 'bad' ("),
        ("end_badly", ["a", "exit", "c"], "did not succeed (lost): JobLost: "),
        ("as_set", ["a"], "did not succeed (failed): UnfitResult: the result is not JSON"),
    ],
)
def test_jobs_that_fail_are_not_measured(target: str, lines: list[str], part: str) -> None:
    write_lines(Path("bad.txt"), lines)
    run = bench(f"{JOBS}:{target}", "bad.txt", *QUICK, "--json", "out.json", "--plot", "out.svg")
    assert (run.code, run.out) == (1, "")
    assert run.message.startswith(f"bad.txt:{min(2, len(lines))} ")
    assert part in run.message
    assert run.message.endswith("put it right, or leave it out of the INPUT, and run it again")
    assert sorted(os.listdir()) == ["bad.txt", "in.txt"]


def test_nobody_waits_for_other_jobs_when_one_has_failed() -> None:
    Path("some.py").write_text(
        "import os, pathlib, threading, time\n"
        "def f(line):\n"
        "    if line == '0':\n"
        "        while not pathlib.Path('hangs').exists(): time.sleep(0.01)\n"
        "        raise LookupError(line)\n"
        "    pathlib.Path('hangs').touch()\n"
        "    threading.Event().wait()\n"
    )
    run = bench("some.py:f", "in.txt", *QUICK)
    assert (run.code, run.out) == (1, "")
    assert run.message.startswith("in.txt:1 did not succeed (failed): LookupError: 0 (")


def test_a_record_that_is_malformed_is_not_measured() -> None:
    write_lines(Path("bad.jsonl"), ["1", "{"])
    run = bench(f"{JOBS}:echo", "bad.jsonl", *QUICK)
    assert (run.code, run.out) == (1, "")
    assert run.message.startswith("bad.jsonl:2 did not succeed (failed): MalformedRecord: not JSON")


def test_a_job_that_fails_in_the_loop_alone() -> None:
    Path("odd.py").write_text(IN_LOOP + "def f(line):\n    if in_loop(): raise LookupError(line)\n    return line\n")
    run = bench("odd.py:f", "in.txt", *QUICK)
    assert (run.code, run.out) == (1, "")
    assert run.message.startswith("the plain loop did not succeed (failed): LookupError: 0 (")


def test_a_target_that_workers_cannot_import() -> None:
    Path("here.py").write_text(
        "import multiprocessing\n"
        "if multiprocessing.parent_process() is not None: raise RuntimeError('not here')\n"
        "def f(line): return line\n"
    )
    run = bench("here.py:f", "in.txt", *QUICK)
    assert (run.code, run.out) == (3, "")
    assert run.message.startswith("TARGET 'here.py:f' cannot be imported in a worker: ")
    assert run.message.endswith("here.py:2: RuntimeError: not here")


def test_an_input_that_grows_meanwhile() -> None:
    Path("grow.py").write_text(
        IN_LOOP + "def f(line):\n"
        "    if in_loop() and line == '0':\n"
        "        with open('in.txt', 'a') as file: file.write('more\\n')\n"
        "    return line\n"
    )
    run = bench("grow.py:f", "in.txt", "--workers", "2", "--rounds", "3", "--no-progress")
    assert (run.code, run.out) == (2, "")
    assert run.message.startswith("the INPUT has changed while it was measured: 20 jobs first, and others in round ")


# ---- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["engine", "loop"])
@pytest.mark.parametrize("whole_group", [False, True], ids=["one", "group"])  # a terminal tells the whole group
def test_a_signal_ends_it_at_once(
    whole_group: bool, where: str, signum: signal.Signals, code: int, folder: Path
) -> None:  # fmt: skip
    (folder / "waits.py").write_text(
        IN_LOOP + "import os\n"
        "def f(line):\n"
        f"    if in_loop() == {where == 'loop'}:\n"
        "        pathlib.Path(f'hangs-{os.getpid()}').touch()\n"
        "        threading.Event().wait()\n"
        "    return line\n"
    )
    arguments = ("bench", "waits.py:f", "in.txt", *QUICK, "--json", "out.json", "--plot", "out.svg")
    with started(*arguments, cwd=folder) as process:
        count = 1 if where == "loop" else 2
        wait_for(lambda: len(list(folder.glob("hangs-*"))) == count, about="jobs that hang")
        (os.killpg if whole_group else os.kill)(process.pid, signum)
        run = ended(process)
    wait_gone(*(int(path.name.removeprefix("hangs-")) for path in folder.glob("hangs-*")))
    assert (run.code, run.out) == (code, "")
    last = [line for line in run.err.splitlines() if "busy" not in line]
    assert last == [
        f"mpengine: interrupted ({signum.name}) before all was measured, so nothing is told; run it again, with "
        "--limit or fewer --rounds if it takes too long"
    ]
    assert not {"out.json", "out.svg"} & set(os.listdir())


def test_whoever_reads_the_table_may_leave() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "mpengine", "bench", f"{JOBS}:echo", "in.txt", *QUICK, "--json", "out.json"],
            stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=50, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert told()["jobs"] == 20  # what was asked for elsewhere is there


def test_files_are_replaced_as_a_whole_and_links_are_kept() -> None:
    Path("real.json").write_text("old")
    os.symlink("real.json", "out.json")
    assert bench(f"{JOBS}:echo", "in.txt", *QUICK, "--json", "out.json").code == 0
    assert os.path.islink("out.json")
    assert told("real.json")["jobs"] == 20
    assert sorted(os.listdir()) == ["in.txt", "out.json", "real.json"]


def test_a_file_may_be_a_pipe() -> None:
    os.mkfifo("out.json")
    reader = os.open("out.json", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert bench(f"{JOBS}:echo", "in.txt", *QUICK, "--json", "out.json").code == 0
        assert json.loads(os.read(reader, 1 << 16))["jobs"] == 20
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(os.stat("out.json").st_mode)
