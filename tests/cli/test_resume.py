"""Killed at any moment and run again: OUT is what an undisturbed run would have written."""

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpengine.batch.journal import Journal
from tests.cli.support import Run, ended, mpengine, next_message, started, write_lines
from tests.support import ROOT, wait_for

JOBS = str(ROOT / "tests" / "cli" / "jobs.py")
SQUARE, MEND = f"{JOBS}:square", f"{JOBS}:mend"
FORMATS = ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "parquet"]


def run(*arguments: str, cwd: Path) -> Run:
    """With results as they are, not as outcomes."""
    to = [] if "--to" in arguments else ["--to", told(arguments)]
    return mpengine("run", *arguments, *to, cwd=cwd)


def told(arguments: tuple[str, ...]) -> str:
    out = arguments[arguments.index("-o") + 1]
    return next((kind for kind in ("jsonl", "csv", "parquet") if f".{kind}" in out), "text")


def numbers(path: Path, count: int) -> Path:
    """An input of so many records with a number `n`, by the name's ending."""
    rows: list[dict[str, Any]] = [{"n": number} for number in range(count)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["n"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        write_lines(path, [json.dumps(row) for row in rows])
    return path


def kill_and_resume(folder: Path, ending: str, kills: int, seed: int, records: int = 20_000) -> None:
    chance = random.Random(f"{ending} {seed}")
    source = {"jsonl": "in.jsonl", "csv": "in.csv", "parquet": "in.parquet"}[ending.partition(".")[0]]
    numbers(folder / source, records)
    assert run(SQUARE, source, "-o", f"whole.{ending}", cwd=folder).code == 1
    arguments = ("run", SQUARE, source, "-o", f"out.{ending}", "--to", ending.partition(".")[0], "--resume")
    os.environ["SQUARE_S"] = str(2 * 0.5 / records * kills)  # so that the kills are spread over all of it
    killed = 0
    try:
        for _ in range(kills):
            with started(*arguments, cwd=folder, stderr=subprocess.DEVNULL) as process:
                try:
                    process.wait(chance.uniform(0.1, 0.9))
                except subprocess.TimeoutExpired:
                    process.kill()
                    killed += 1
                process.wait()
    finally:
        del os.environ["SQUARE_S"]
    last = run(*arguments[1:], cwd=folder)
    assert last.code == 1, last.err
    assert (folder / f"out.{ending}").read_bytes() == (folder / f"whole.{ending}").read_bytes()
    assert {path.name for path in folder.glob("out*")} == {f"out.{ending}", f"out.{ending}.journal"}
    failures = mpengine("failures", f"out.{ending}.journal", "--json", cwd=folder).out.splitlines()
    assert len({json.loads(line)["id"] for line in failures}) == len(failures) == records // 1000
    assert killed > kills // 2


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_killed_at_random_moments(ending: str, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, ending, kills=6, seed=0)


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("seed", range(int(os.environ.get("MPENGINE_RESUME_SEEDS", "1"))))
def test_killed_at_50_random_moments(ending: str, seed: int, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, ending, kills=50, seed=seed)


def test_the_first_run_may_be_one_that_is_to_resume(tmp_path: Path) -> None:
    numbers(tmp_path / "in.jsonl", 10)
    assert run(SQUARE, "in.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path).code == 1
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("order", ["--resume-failed", "--unordered"])
def test_what_failed_is_tried_again_and_put_in_its_place(ending: str, order: str, tmp_path: Path) -> None:
    numbers(tmp_path / "in.jsonl", 3_000)
    out = tmp_path / f"out.{ending}"
    arguments = (MEND, "in.jsonl", "-o", out.name, *([order] if order == "--unordered" else []))
    first = run(*arguments, cwd=tmp_path)
    assert first.code == 1
    assert ": 2,997 succeeded, 3 failed\n" in first.err
    assert run(*arguments, "--resume", cwd=tmp_path).code == 1  # which does not try them again
    (tmp_path / "mended").touch()
    second = run(*arguments, "--resume-failed", cwd=tmp_path)
    assert second.code == 0
    assert second.err.startswith("3 jobs in ")
    assert run(MEND, "in.jsonl", "-o", f"whole.{ending}", cwd=tmp_path).code == 0
    found, wanted = (rows(tmp_path / f"{name}.{ending}") for name in ("out", "whole"))
    if order == "--unordered":
        assert sorted(map(str, found)) == sorted(map(str, wanted))
    else:
        assert found == wanted
    third = run(*arguments, "--resume-failed", cwd=tmp_path)
    assert third.code == 0
    assert third.err.startswith("0 jobs in ")


def rows(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        found: list[Any] = pq.read_table(path).to_pylist()
        return found
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return data.decode().splitlines()


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", [str(number) for number in range(100)])
    arguments = (f"{JOBS}:hang_after_two", "in.txt", "-o", "out.txt", "--to", "text", "--workers", "1")
    with started("run", *arguments, cwd=tmp_path) as process:
        wait_for(lambda: len([*tmp_path.glob("hangs-*")]) == 1, about="a job that hangs")
        process.send_signal(signal.SIGINT)
        next_message(process)
        process.send_signal(signal.SIGINT)
        assert ended(process).message.endswith("3 jobs have ended; to go on, run it again with --resume")
    again = mpengine("run", *arguments, cwd=tmp_path)
    assert again.code == 2
    assert again.message == (
        "OUT 'out.txt' has a journal of a run that was cut off after 3 jobs; --resume goes on with it; to begin anew, "
        "remove 'out.txt.journal' first"
    )
    assert (tmp_path / "out.txt").read_text() == "0\n1\n2\n"
    status = mpengine("status", "out.txt.journal", cwd=tmp_path)
    assert "state     unfinished; --resume goes on\njobs      3 ended: 3 succeeded\n" in status.out
    assert mpengine("run", *arguments, "--resume", "--limit", "3", cwd=tmp_path).code == 0
    assert "state     complete\n" in mpengine("status", "out.txt.journal", cwd=tmp_path).out


def test_a_new_out_that_was_to_take_the_old_ones_place_does_so_first(tmp_path: Path) -> None:
    numbers(tmp_path / "in.jsonl", 30)
    assert run(SQUARE, "in.jsonl", "-o", "out.jsonl", "--limit", "5", cwd=tmp_path).code == 0
    (tmp_path / "out.jsonl").rename(tmp_path / "out.jsonl.new")
    (tmp_path / "out.jsonl").write_text("old\n" * 100)
    journal = Journal.open(str(tmp_path / "out.jsonl.journal"))
    journal.put("swap", [0])
    journal.close()
    assert run(SQUARE, "in.jsonl", "-o", "out.jsonl", "--limit", "7", "--resume", cwd=tmp_path).code == 0
    assert [json.loads(line)["n"] for line in rows(tmp_path / "out.jsonl")] == [*range(7)]
    assert not (tmp_path / "out.jsonl.new").exists()


def test_an_out_has_one_run_at_a_time(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1", "2"])
    arguments = ("run", f"{JOBS}:wait_for_leave", "in.txt", "-o", "out.txt", "--to", "text", "--resume")
    with started(*arguments, "--workers", "2", cwd=tmp_path) as process:
        wait_for(lambda: len([*tmp_path.glob("hangs-*")]) == 2, about="two jobs that run")
        other = mpengine(*arguments, cwd=tmp_path)
        assert (other.code, other.message) == (
            2, "OUT 'out.txt' is being written by another run; wait for its end, or name another"
        )  # fmt: skip
        (tmp_path / "leave").touch()
        assert process.wait(20) == 0
    assert (tmp_path / "out.txt").read_text() == "1\n2\n"


def test_a_complete_run_is_begun_anew_or_made_longer(tmp_path: Path) -> None:
    numbers(tmp_path / "in.jsonl", 30)
    assert run(SQUARE, "in.jsonl", "-o", "out.jsonl", "--limit", "5", cwd=tmp_path).code == 0
    longer = run(SQUARE, "in.jsonl", "-o", "out.jsonl", "--limit", "7", "--resume", cwd=tmp_path)
    assert (longer.code, longer.err.partition(" in ")[0]) == (0, "2 jobs")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 7
    anew = run(SQUARE, "in.jsonl", "-o", "out.jsonl", "--limit", "3", cwd=tmp_path)
    assert (anew.code, anew.err.partition(" in ")[0]) == (0, "3 jobs")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_what_has_changed_is_said(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def f(r):\n    return r\n")
    numbers(tmp_path / "in.jsonl", 5)
    arguments = ("f.py:f", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert run(*arguments, cwd=tmp_path).code == 0
    (tmp_path / "f.py").write_text("def f(r):\n    return 2\n")
    changed = run(*arguments, cwd=tmp_path)
    assert changed.code == 0
    assert changed.err.splitlines()[0] == (
        "mpengine: TARGET 'f.py:f' has changed since the journal was begun; what has ended stays as it was"
    )
    os.utime(tmp_path / "in.jsonl", (1, 1))
    assert "looks the same; going on" in run(*arguments, cwd=tmp_path).err
    for more, message in [
        (("--chunk", "2"), "--chunk is 2, and in the journal 'out.jsonl.journal' it is None; "),
        (("--unordered",), "--unordered is True, and in the journal 'out.jsonl.journal' it is False; "),
        (("--to", "text"), "--to is text, and in the journal 'out.jsonl.journal' it is jsonl; "),
    ]:
        wrong = run(*arguments, *more, cwd=tmp_path)
        assert wrong.code == 2
        assert wrong.message.startswith(message)
    (tmp_path / "g.jsonl").write_text("1\n")
    wrong = run("f.py:f", "in.jsonl", "g.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path)
    assert wrong.message.startswith(
        "the INPUTs are not those of the journal 'out.jsonl.journal': 2 files, of 1, g.jsonl;"
    )
    (tmp_path / "in.jsonl").write_text('{"n": 9}\n')
    wrong = run(*arguments, cwd=tmp_path)
    assert (wrong.code, wrong.message.partition(" (")[0]) == (
        2, "INPUT 'in.jsonl' has changed since the journal 'out.jsonl.journal' was begun"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in.jsonl", "--resume"), "--resume needs a file for OUT, with its journal beside it, and 'stdout' is none"),
        (("in.jsonl", "-o", "old", "--resume"), "OUT 'old' is there and has no journal that tells what is in it; "),
        (("in.jsonl", "-o", "odd"), "the journal '{folder}/odd.journal' is not a journal of a run; "),
        (("in.jsonl", "-o", "other"), "the journal '{folder}/other.journal' is of version 7, and this mpengine reads "),
        (("in.jsonl", "--to", "parquet"), "Parquet is written to its end, which 'stdout' has not; name a file"),
        (("-", "--from", "parquet"), "INPUT '-': Parquet is read from its end, and cannot be streamed; "),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    numbers(tmp_path / "in.jsonl", 5)
    (tmp_path / "old").write_text("old\n")
    (tmp_path / "odd.journal").write_text("this is not a database, and it is long enough to be looked at\n" * 10)
    code = "import sqlite3; db = sqlite3.connect('other.journal'); db.execute('PRAGMA user_version = 7')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    wrong = mpengine("run", SQUARE, *arguments, cwd=tmp_path)
    assert wrong.code == 2
    assert wrong.message.startswith(message.format(folder=tmp_path))
    assert (tmp_path / "old").read_text() == "old\n"


def test_a_journal_that_tells_of_more_than_there_is(tmp_path: Path) -> None:
    numbers(tmp_path / "in.jsonl", 5)
    assert run(SQUARE, "in.jsonl", "-o", "out.jsonl", cwd=tmp_path).code == 0
    os.truncate(tmp_path / "out.jsonl", 3)
    wrong = run(SQUARE, "in.jsonl", "-o", "out.jsonl", "--resume", cwd=tmp_path)
    assert wrong.code == 2
    assert wrong.message.startswith("OUT 'out.jsonl' has 3 bytes, and its journal tells of ")


def test_stdin_cannot_be_gone_on_with(tmp_path: Path) -> None:
    arguments = (SQUARE, "-", "--from", "jsonl", "-o", "out.jsonl", "--to", "jsonl", "--resume")
    assert mpengine("run", *arguments, cwd=tmp_path, stdin='{"n": 1}\n').code == 0
    wrong = mpengine("run", *arguments, cwd=tmp_path, stdin='{"n": 1}\n')
    assert (wrong.code, wrong.message) == (
        2, "stdin cannot be read again from its start, so its run cannot go on; save it to a file first"
    )  # fmt: skip


def test_what_failed_as_a_new_input(tmp_path: Path) -> None:
    for ending in ("jsonl", "csv", "parquet"):
        numbers(tmp_path / f"in.{ending}", 2_000)
        run(SQUARE, f"in.{ending}", "-o", f"{ending}.jsonl", cwd=tmp_path)
        journal = f"{ending}.jsonl.journal"
        listed = mpengine("failures", journal, "--inputs", f"again.{ending}", cwd=tmp_path)
        assert listed.code == 0
        line = 8 if ending != "csv" else 9
        assert listed.out.startswith(f"in.{ending}:{line}  failed after 1 attempts, ")
        assert 'raise Refused(f"will not take {number}")' in listed.out
        assert f"    {JOBS.replace('/jobs.py', '')}" not in listed.out.splitlines()[1]
        (tmp_path / "mended").touch()
        assert run(MEND, f"again.{ending}", "-o", f"mended-{ending}.jsonl", cwd=tmp_path).code == 0
        assert [json.loads(one)["n"] for one in rows(tmp_path / f"mended-{ending}.jsonl")] == [7, 1007]
        (tmp_path / "mended").unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "none"), "JOURNAL 'none' does not exist; check the path"),
        (("status", "in.jsonl"), "JOURNAL 'in.jsonl' is not a journal of a run; name OUT.journal"),
        (("failures", "out.jsonl"), "JOURNAL 'out.jsonl' is not a journal of a run; name OUT.journal"),
        (("failures", "out.jsonl.journal", "--inputs", "x.csv"), "--inputs 'x.csv': the INPUTs are jsonl, and "),
        (("failures", "out.jsonl.journal", "--inputs", "no/x"), "--inputs 'no/x' cannot be written: No such file"),
    ],
)
def test_wrong_use_of_a_journal(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    numbers(tmp_path / "in.jsonl", 5)
    run(SQUARE, "in.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    wrong = mpengine(*arguments, cwd=tmp_path)
    assert wrong.code == 2
    assert wrong.message.startswith(message)


def test_what_failed_is_all_in_the_new_input_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("not ok", "ok"):
        (tmp_path / name).touch()
    assert run(f"{JOBS}:fail", "not ok", "ok", "-o", "out.txt", "--as", "path", cwd=tmp_path).code == 1
    assert mpengine("failures", "out.txt.journal", "--inputs", "again", cwd=tmp_path).code == 0
    assert (tmp_path / "again").read_text() == "not ok\nok\n"


def test_a_malformed_record_of_a_chunk_is_in_the_new_input(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", ['{"n": 1}', "{", '{"n": 3}', '{"n": 4}'])
    assert run(f"{JOBS}:fail", "in.jsonl", "-o", "out.txt", "--chunk", "2", cwd=tmp_path).code == 1
    assert mpengine("failures", "out.txt.journal", "--inputs", "again.jsonl", cwd=tmp_path).code == 0
    assert sorted((tmp_path / "again.jsonl").read_text().splitlines()) == sorted(
        (tmp_path / "in.jsonl").read_text().splitlines()
    )


def test_rows_of_different_columns_are_not_written_under_one_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,m\n1,2\n")
    (tmp_path / "b.csv").write_text("m,n\n1,2\n")
    assert run(f"{JOBS}:fail", "a.csv", "b.csv", "-o", "out.txt", cwd=tmp_path).code == 1
    wrong = mpengine("failures", "out.txt.journal", "--json", "--inputs", "again.csv", cwd=tmp_path)
    assert wrong.code == 2
    assert wrong.message.startswith("--inputs 'again.csv': the INPUTs have different columns")


@pytest.mark.parametrize("file", ["in.txt", "out.txt", "out.txt.journal"])
def test_nothing_is_written_over_what_a_run_reads_or_has_written(file: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1"])
    assert run(f"{JOBS}:fail", "in.txt", "-o", "out.txt", cwd=tmp_path).code == 1
    before = (tmp_path / file).read_bytes()
    for option in ("--errors", "--report", "--trace"):
        wrong = run(f"{JOBS}:fail", "in.txt", "-o", "out.txt", option, file, cwd=tmp_path)
        assert wrong.code == 2
        assert wrong.message.startswith(f"{option} '{file}' is the same file as ")
    wrong = mpengine("failures", "out.txt.journal", "--json", "--inputs", file, cwd=tmp_path)
    assert wrong.code == 2
    assert wrong.message.startswith(f"--inputs '{file}' is a file of the run itself")
    assert (tmp_path / file).read_bytes() == before
