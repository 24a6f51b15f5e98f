"""Ctrl-C and SIGTERM: what had ended is in OUT, whole; one line says how to go on; nothing is left running."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.cli.support import Pipe, by_id, ended, next_line, next_message, started, values, write_lines
from tests.support import ROOT, wait_for, wait_gone

JOBS = str(ROOT / "tests" / "cli" / "jobs.py")


def hanging(folder: Path, count: int) -> list[int]:
    """The pids of the workers whose jobs hang, as soon as there are so many."""
    wait_for(lambda: len(list(folder.glob("hangs-*"))) == count, about=f"{count} hanging jobs")
    return [int(path.name.removeprefix("hangs-")) for path in folder.glob("hangs-*")]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("whole_group", [False, True], ids=["one", "group"])  # a terminal tells the whole group
def test_a_signal_while_jobs_run(signum: signal.Signals, code: int, whole_group: bool, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", [str(number) for number in range(100)])
    out = tmp_path / "out.jsonl"
    arguments = ("run", f"{JOBS}:hang_after_two", "in.txt", "-o", "out.jsonl", "--workers", "2")
    with started(*arguments, cwd=tmp_path) as process:
        workers = hanging(tmp_path, 2)
        wait_for(lambda: out.read_text().count("\n") == 3, about="three result lines")
        kill = os.killpg if whole_group else os.kill
        kill(process.pid, signum)
        assert next_message(process) == (
            f"mpengine: {signum.name}: no more jobs are begun, and those that run may finish; once more ends them\n"
        )
        assert all(psutil.pid_exists(worker) for worker in workers)
        kill(process.pid, signum)
        run = ended(process)
    wait_gone(*workers)
    assert run.code == code
    assert values(by_id(out.read_text())) == {f"in.txt:{number + 1}": str(number) for number in range(3)}
    assert len(by_id(out.read_text())) == 3
    assert run.message == f"interrupted ({signum.name}); 3 jobs have ended; to go on, run it again with --resume"


def test_what_runs_at_the_first_signal_may_finish(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", [str(number) for number in range(100)])
    arguments = ("run", f"{JOBS}:wait_for_leave", "in.txt", "-o", "out.jsonl", "--workers", "2")
    with started(*arguments, cwd=tmp_path) as process:
        hanging(tmp_path, 2)
        process.send_signal(signal.SIGINT)
        next_message(process)
        (tmp_path / "leave").touch()
        run = ended(process)
    assert run.code == 130
    assert values(by_id((tmp_path / "out.jsonl").read_text())) == {"in.txt:1": "0", "in.txt:2": "1"}
    *summary, last = run.err.splitlines()
    assert summary[0].startswith("2 jobs in ")
    assert "stopped unfinished" in summary[0]
    assert last == "mpengine: interrupted (SIGINT); 2 jobs have ended; to go on, run it again with --resume"


def test_a_signal_while_the_input_is_waited_for(tmp_path: Path) -> None:
    with Pipe() as pipe, started("run", f"{JOBS}:echo", "-", cwd=tmp_path, stdin=pipe.reader) as process:
        pipe.write("a\n")
        first = next_line(process)
        process.send_signal(signal.SIGINT)
        run = ended(process)
    assert run.code == 130
    assert values(by_id(first + run.out)) == {"stdin:1": "a"}
    last = run.err.splitlines()[-1]
    assert last.startswith("mpengine: interrupted (SIGINT); 1 job has ended, and the results are written; to go on, ")


def test_a_signal_while_nobody_reads_the_results(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", [str(number) for number in range(10_000)])
    with started("run", f"{JOBS}:long", "in.txt", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)  # it runs; no more is read, and the pipe is soon full
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    assert lines[-1].startswith("mpengine: interrupted (SIGTERM); ")


def test_a_signal_while_the_command_itself_is_being_imported(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(
        "import pathlib, threading\npathlib.Path('hangs-0').touch()\nthreading.Event().wait()\n"
    )
    with started("run", "x:f", "in.txt", cwd=tmp_path) as process:  # `-m` puts the current folder first
        hanging(tmp_path, 1)
        process.send_signal(signal.SIGINT)
        run = ended(process)
    assert run.code == 130
    assert run.message == "interrupted (SIGINT) before any job had ended; to go on, run it again"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_any_job(signum: signal.Signals, code: int, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, threading\npathlib.Path('hangs-0').touch()\nthreading.Event().wait()\n"
    )
    write_lines(tmp_path / "in.txt", ["a"])
    with started("run", "slow.py:f", "in.txt", "-o", "out.jsonl", cwd=tmp_path) as process:
        hanging(tmp_path, 1)
        process.send_signal(signum)
        run = ended(process)
    assert run.code == code
    assert run.message == f"interrupted ({signum.name}) before any job had ended; to go on, run it again"
    assert not (tmp_path / "out.jsonl").exists()


def test_a_job_that_will_not_be_interrupted_is_killed(tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(
        "import os, pathlib, signal, threading\n"
        "def f(line):\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "    pathlib.Path(f'hangs-{os.getpid()}').touch()\n"
        "    while True:\n"
        "        try:\n"
        "            threading.Event().wait()\n"
        "        except BaseException:\n"
        "            pass\n"
    )
    write_lines(tmp_path / "in.txt", ["a"])
    with started("run", "deaf.py:f", "in.txt", cwd=tmp_path) as process:
        workers = hanging(tmp_path, 1)
        process.send_signal(signal.SIGINT)
        next_message(process)
        process.send_signal(signal.SIGINT)
        run = ended(process)
    wait_gone(*workers)
    assert (run.code, run.out) == (130, "")


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["9"])
    with started("run", f"{JOBS}:hang_after_two", "in.txt", cwd=tmp_path) as process:
        workers = hanging(tmp_path, 1)
        process.send_signal(signal.SIGINT)
        next_message(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (130, -signal.SIGINT)
    wait_gone(*workers)


def test_a_signal_when_all_is_said_and_done(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\ndef f(line): return line\n"
    )
    write_lines(tmp_path / "in.txt", ["a"])
    with started("run", "late.py:f", "in.txt", cwd=tmp_path) as process:
        run = ended(process)  # which fails for a traceback
    assert values(run.records) == {"in.txt:1": "a"}
    assert run.code == -signal.SIGINT
    assert run.err.splitlines()[0].endswith(": 1 succeeded")
