"""When a run takes no more jobs, and under what limits its jobs run."""

import json
import os
from pathlib import Path

import psutil
import pytest

from mpengine.cli.run import Halt
from tests.cli.support import mpengine, write_lines
from tests.cli.test_resume import JOBS, numbers, run


def test_halt_at_the_first_failure_and_go_on(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1", "bad", *map(str, range(2, 10_000))])
    first = run(f"{JOBS}:refuse", "in.txt", "-o", "out.txt", "--halt", "1", cwd=tmp_path)
    assert first.code == 1
    last = first.err.splitlines()[-1]
    assert last.startswith("mpengine: halted: 1 of ")
    assert last.endswith(" jobs have ended; to go on, run it again with --resume")
    done = len((tmp_path / "out.txt").read_text().splitlines())
    assert done < 9_999
    second = run(f"{JOBS}:refuse", "in.txt", "-o", "out.txt", "--resume", cwd=tmp_path)
    assert second.code == 1
    assert (tmp_path / "out.txt").read_text().splitlines() == ["1", *map(str, range(2, 10_000))]


@pytest.mark.parametrize(
    ("halt", "failed", "finished", "reached"),
    [
        (Halt(), 10**6, 10**6, False),
        (Halt(count=3), 2, 2, False),
        (Halt(count=3), 3, 10**6, True),
        (Halt(part=0.05), 99, 99, False),
        (Halt(part=0.05), 5, 100, True),
        (Halt(part=0.05), 5, 101, False),
    ],
)
def test_when_failures_are_too_many(halt: Halt, failed: int, finished: int, reached: bool) -> None:
    assert halt.reached(failed, finished) is reached


def test_halt_at_a_part(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["bad"] * 5_000)
    done = run(f"{JOBS}:refuse", "in.txt", "-o", "out.txt", "--halt", "50%", cwd=tmp_path)
    assert done.code == 1
    assert "mpengine: halted: " in done.err


def test_nice(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["a"])
    done = mpengine("run", f"{JOBS}:niceness", "in.txt", "--to", "jsonl", "--nice", "7", cwd=tmp_path)
    assert (done.code, done.out) == (0, "7\n")


def test_a_part_of_the_cpus(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["a"])
    done = mpengine("run", f"{JOBS}:echo", "in.txt", "--workers", "300%", cwd=tmp_path)
    assert f", {3 * len(os.sched_getaffinity(0))} workers)" in done.err


def test_a_job_past_the_memory_limit_fails(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["10", "2000", "10"])
    done = mpengine("run", f"{JOBS}:fill", "in.txt", "--memory-limit", "500MB", cwd=tmp_path)
    assert done.code == 1
    assert [record["status"] for record in done.records.values()] == ["succeeded", "lost", "succeeded"]
    assert done.records["in.txt:2"]["error"]["type"] == "MemoryLimitExceeded"


def test_no_job_is_begun_without_the_memory_that_is_to_be_free(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["a"])
    enough = mpengine("run", f"{JOBS}:echo", "in.txt", "--min-free-memory", "1MB", cwd=tmp_path)
    assert enough.code == 0
    from tests.cli.support import next_message, started

    more = psutil.virtual_memory().total * 2
    with started("run", f"{JOBS}:echo", "in.txt", "--min-free-memory", str(more), cwd=tmp_path) as process:
        assert next_message(process) == (
            f"mpengine: less than {more:,} bytes of memory are free; no more jobs are begun until there are\n"
        )
        process.terminate()
        assert process.wait(20) == 143


def test_a_dry_run_runs_nothing(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1", "2", "3"])
    done = mpengine("run", f"{JOBS}:hang", "in.txt", "-o", "out.txt", "--dry-run", "--limit", "2", cwd=tmp_path)
    assert (done.code, done.message) == (0, "2 jobs would be run; nothing was")
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["in.txt:1", "in.txt:2"]
    assert sorted(os.listdir(tmp_path)) == ["in.txt"]


def test_failures_in_a_file_as_they_come(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1", "bad 2", "3", "bad 4"])
    done = run(f"{JOBS}:refuse", "in.txt", "-o", "out.txt", "--errors", "bad.jsonl", cwd=tmp_path)
    assert done.code == 1
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [one["id"] for one in bad] == ["in.txt:2", "in.txt:4"]
    assert bad[0]["error"]["message"] == "will not take 'bad 2'"
    assert bad[0]["error"]["traceback"].splitlines()[1].startswith(f'  File "{JOBS}", line ')


def test_failures_of_a_run_that_goes_on_are_all_there_and_the_mended_are_not(tmp_path: Path) -> None:
    numbers(tmp_path / "in.jsonl", 3_000)
    arguments = (f"{JOBS}:mend", "in.jsonl", "-o", "out.jsonl", "--errors", "bad.jsonl")
    assert run(*arguments, "--limit", "1500", cwd=tmp_path).code == 1
    assert run(*arguments, "--resume", cwd=tmp_path).code == 1
    found = [json.loads(line)["id"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert found == ["in.jsonl:8", "in.jsonl:1008", "in.jsonl:2008"]
    (tmp_path / "mended").touch()
    assert run(*arguments, "--resume-failed", cwd=tmp_path).code == 0
    assert (tmp_path / "bad.jsonl").read_text() == ""


def test_a_full_disk_for_the_failures_ends_the_run(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["bad"])
    done = run(f"{JOBS}:refuse", "in.txt", "-o", "out.txt", "--errors", "/dev/full", cwd=tmp_path)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("mpengine: --errors '/dev/full' cannot be written: No space left")


def test_every_option_can_be_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "in.txt", ["1", "2", "3"])
    monkeypatch.setenv("MPENGINE_RUN_LIMIT", "2")
    monkeypatch.setenv("MPENGINE_RUN_CHUNK", "2")
    monkeypatch.setenv("MPENGINE_RUN_AS", "table")
    done = mpengine("run", f"{JOBS}:count", "in.txt", "--to", "jsonl", cwd=tmp_path)
    assert done.out == "2\n1\n"
