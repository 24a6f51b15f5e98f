"""`-o FOLDER/`: a file for each INPUT, whatever ends the run; and what is refused before anything is touched."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.support import MPENGINE, Run, mpengine, started, write_lines
from tests.cli.test_resume import JOBS, MEND, SQUARE, numbers, rows
from tests.cli.test_usage import refused
from tests.support import ROOT, wait_for

ECHO = f"{JOBS}:echo"


def run(*arguments: str, cwd: Path) -> Run:
    """As it is typed: without the outcomes that other tests ask for."""
    done = subprocess.run(
        [sys.executable, *MPENGINE, "run", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Run(done.returncode, done.stdout, done.stderr)


def content(folder: Path) -> dict[str, bytes]:
    """Of all files below a folder, by their paths there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tree(folder: Path) -> dict[str, bytes | None]:
    """All there is, folders too."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# ---- the same as an undisturbed run ----------------------------------------------------------------------------------

SIZES = {"a": 3_000, "b": 0, "c": 12_000, "d": 1, "sub/e": 5_000}


def kill_and_resume(folder: Path, ending: str, kills: int, seed: int) -> None:
    chance = random.Random(f"{ending} {seed}")
    (folder / "data" / "sub").mkdir(parents=True)
    for name, count in SIZES.items():
        path = folder / "data" / f"{name}.{ending}"
        if count or ending != "parquet":
            numbers(path, count)
        else:
            pq.write_table(pa.table({"n": pa.array([], pa.int64())}), path)
    inputs = f"data/**/*.{ending}"
    assert run(SQUARE, inputs, "-o", "whole/", cwd=folder).code == 1
    wanted = content(folder / "whole")
    assert wanted.keys() == {f"{name}.{ending}" for name in SIZES}
    arguments = ("run", SQUARE, inputs, "-o", "out/", "--resume")
    os.environ["SQUARE_S"] = str(2 * 0.5 / sum(SIZES.values()) * kills)  # so that the kills are spread over all of it
    killed = 0
    try:
        for _ in range(kills):
            with started(*arguments, plain=True, cwd=folder, stderr=subprocess.DEVNULL) as process:
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
    assert content(folder / "out") == wanted
    assert {path.name for path in folder.glob("out*")} == {"out", "out.journal"}
    assert {path.name for path in (folder / "out").iterdir() if path.is_dir()} == {"sub"}
    failures = mpengine("failures", "out.journal", "--json", cwd=folder).out.splitlines()
    assert len({json.loads(line)["id"] for line in failures}) == len(failures) == 3 + 12 + 5
    assert killed > kills // 2


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_killed_at_random_moments(ending: str, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, ending, kills=6, seed=0)


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("seed", range(int(os.environ.get("MPENGINE_RESUME_SEEDS", "1"))))
def test_killed_at_50_random_moments(ending: str, seed: int, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, ending, kills=50, seed=seed)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_what_failed_is_tried_again_and_put_in_its_place(ending: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, count in (("a", 1_500), ("b", 20), ("c", 1_100)):
        numbers(tmp_path / "data" / f"{name}.jsonl", count)
    kind, _, packed = ending.partition(".")
    if packed:
        for path in (tmp_path / "data").iterdir():
            path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    arguments = (MEND, "data/*", "--to", kind)
    first = run(*arguments, "-o", "out", "--resume", cwd=tmp_path)  # no folder yet, and no slash
    assert (first.code, (tmp_path / "out").is_file()) == (1, True)
    for name in ("out", "out.journal"):
        (tmp_path / name).unlink()
    first = run(*arguments, "-o", "out/", "--resume", cwd=tmp_path)
    assert first.code == 1
    assert ": 2,615 succeeded, 5 failed\n" in first.err
    (tmp_path / "mended").touch()
    second = run(*arguments, "-o", "out", "--resume-failed", cwd=tmp_path)
    assert second.code == 0
    assert second.err.startswith("5 jobs in ")
    assert run(*arguments, "-o", "whole/", cwd=tmp_path).code == 0
    names = {f"{name}.{ending}" for name in "abc"}
    assert {*os.listdir(tmp_path / "out")} == {*os.listdir(tmp_path / "whole")} == names
    for name in names:
        assert rows(tmp_path / "out" / name) == rows(tmp_path / "whole" / name)


def test_new_files_that_were_to_take_the_old_ones_places_do_so_first(tmp_path: Path) -> None:
    from mpengine.batch.journal import Journal

    numbers(tmp_path / "a.jsonl", 30), numbers(tmp_path / "b.jsonl", 5)
    arguments = (SQUARE, "a.jsonl", "b.jsonl", "-o", "out/", "--resume")
    assert run(*arguments, cwd=tmp_path).code == 1
    wanted = content(tmp_path / "out")
    (tmp_path / "out" / "a.jsonl").rename(tmp_path / "out" / "a.jsonl.new")
    (tmp_path / "out" / "a.jsonl").write_text("old\n")
    journal = Journal.open(str(tmp_path / "out.journal"))
    journal.put("swap", [0, 1])  # the second has its new file already
    journal.close()
    assert run(*arguments, cwd=tmp_path).code == 1
    assert content(tmp_path / "out") == wanted


def test_a_file_for_each_input_wherever_it_is_and_whatever_is_in_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub" / "deep").mkdir(parents=True)
    write_lines(data / "a.jsonl", ["1", "null", "3"])
    write_lines(data / "empty.jsonl", [])
    write_lines(data / "none.jsonl", ["null", "null"])
    write_lines(data / "sub" / "b.csv", ["n", "1", "2"])
    write_lines(data / "sub" / "deep" / "c.txt", ["one", "two"])
    write_lines(data / "sub" / "d.log", ["one"])
    (data / "z.txt.gz").write_bytes(gzip.compress(b"packed\n"))
    done = run(ECHO, "data/**/*", "-o", "out/", cwd=tmp_path)
    assert (done.code, done.out) == (0, "")
    found = content(tmp_path / "out")
    assert gzip.decompress(found.pop("z.txt.gz")) == b"packed\n"
    assert found == {
        "a.jsonl": b"1\n3\n",
        "empty.jsonl": b"",
        "none.jsonl": b"",
        "sub/b.csv": b"n\n1\n2\n",
        "sub/deep/c.txt": b"one\ntwo\n",
        "sub/d.log.jsonl": b'"one"\n',
    }
    assert run(ECHO, "data/sub/d.log", "-o", "one/", cwd=tmp_path).code == 0
    assert content(tmp_path / "one") == {"d.log.jsonl": b'"one"\n'}
    assert run(ECHO, "data/**/*", "-o", "lines/", "--to", "jsonl", cwd=tmp_path).code == 0
    assert {*content(tmp_path / "lines")} == {
        "a.jsonl", "empty.jsonl", "none.jsonl", "sub/b.jsonl", "sub/deep/c.jsonl", "sub/d.log.jsonl", "z.jsonl.gz"
    }  # fmt: skip


def test_an_empty_file_is_the_one_that_a_run_of_its_own_would_have_written(tmp_path: Path) -> None:
    for name in ("first", "middle", "last"):
        (tmp_path / f"{name}.jsonl").touch()
    for to, ending in (("jsonl", ".jsonl"), ("csv", ".csv"), ("parquet", ".parquet")):
        arguments = ("first.jsonl", "middle.jsonl", "last.jsonl", "-o", f"{to}/", "--to", to)
        assert run(ECHO, *arguments, cwd=tmp_path).code == 0
        assert run(ECHO, "first.jsonl", "-o", f"alone{ending}", cwd=tmp_path).code == 0
        alone = (tmp_path / f"alone{ending}").read_bytes()
        assert content(tmp_path / to) == {f"{name}{ending}": alone for name in ("first", "middle", "last")}


def test_chunks_and_outcomes(tmp_path: Path) -> None:
    for name, count in (("a", 5), ("b", 2)):
        numbers(tmp_path / f"{name}.jsonl", count)
    arguments = (f"{JOBS}:total", "a.jsonl", "b.jsonl", "--chunk", "3")
    assert run(*arguments, "-o", "out/", cwd=tmp_path).code == 0
    assert content(tmp_path / "out") == {
        "a.jsonl": b'{"count": 3, "total": 3}\n{"count": 2, "total": 7}\n',
        "b.jsonl": b'{"count": 2, "total": 1}\n',
    }
    assert run(*arguments, "-o", "told/", "--to", "outcomes", cwd=tmp_path).code == 0
    ids = {
        name: [json.loads(line)["id"] for line in data.splitlines()]
        for name, data in content(tmp_path / "told").items()
    }
    assert ids == {"a.jsonl": ["a.jsonl:1-3", "a.jsonl:4-5"], "b.jsonl": ["b.jsonl:1-2"]}


def test_a_complete_run_is_begun_anew_or_made_longer(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        numbers(tmp_path / f"{name}.jsonl", 4)
    arguments = (ECHO, "a.jsonl", "b.jsonl", "c.jsonl", "-o", "out/")
    assert run(*arguments, cwd=tmp_path).code == 0
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run(*arguments, "--limit", "6", cwd=tmp_path).code == 0
    found = content(tmp_path / "out")
    assert {name: data.count(b"\n") for name, data in found.items()} == {"a.jsonl": 4, "b.jsonl": 2, "mine.txt": 0}
    longer = run(*arguments, "--resume", cwd=tmp_path)
    assert (longer.code, longer.err.partition(" in ")[0]) == (0, "6 jobs")
    assert {name: data.count(b"\n") for name, data in content(tmp_path / "out").items()} == {
        "a.jsonl": 4, "b.jsonl": 4, "c.jsonl": 4, "mine.txt": 0
    }  # fmt: skip
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run(*arguments, "--resume", cwd=tmp_path)
    assert (again.code, again.err.partition(" in ")[0]) == (0, "0 jobs")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1", "2"])
    arguments = ("run", f"{JOBS}:wait_for_leave", "in.txt", "-o", "out/", "--resume")
    with started(*arguments, "--workers", "2", plain=True, cwd=tmp_path) as process:
        wait_for(lambda: len([*tmp_path.glob("hangs-*")]) == 2, about="two jobs that run")
        other = run(*arguments[1:], cwd=tmp_path)
        assert (other.code, other.message) == (
            2, "OUT 'out/' is being written by another run; wait for its end, or name another"
        )  # fmt: skip
        status = mpengine("status", "out.journal", cwd=tmp_path)
        assert "state     unfinished; --resume goes on\n" in status.out
        (tmp_path / "leave").touch()
        assert process.wait(20) == 0
    assert (tmp_path / "out" / "in.txt").read_text() == "1\n2\n"


def test_few_descriptors_are_enough_for_many_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(300):
        write_lines(tmp_path / "data" / f"{number:03}.jsonl", [str(number)])
    command = f"ulimit -n 100; exec {sys.executable} -m mpengine run {ECHO} 'data/*' -o out/ --workers 2"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out") == content(tmp_path / "data")


def test_what_failed_in_several_inputs_as_a_new_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        numbers(tmp_path / f"{name}.jsonl", 1_100)
    assert run(SQUARE, "a.jsonl", "b.jsonl", "-o", "out/", cwd=tmp_path).code == 1
    listed = mpengine("failures", "out.journal", "--inputs", "again.jsonl", cwd=tmp_path)
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines() if "failed after" in line] == [
        "a.jsonl:8", "a.jsonl:1008", "b.jsonl:8", "b.jsonl:1008"
    ]  # fmt: skip
    assert [json.loads(line)["n"] for line in rows(tmp_path / "again.jsonl")] == [7, 1007, 7, 1007]
    before = tree(tmp_path)
    for file in ("out/a.jsonl", "out/../out/b.jsonl", "out.journal", "b.jsonl"):
        wrong = mpengine("failures", "out.journal", "--json", "--inputs", file, cwd=tmp_path)
        assert wrong.code == 2
        assert wrong.message.startswith(f"--inputs '{file}' is a file of the run itself")
    assert tree(tmp_path) == before


def test_what_has_changed_is_said(tmp_path: Path) -> None:
    numbers(tmp_path / "a.csv", 3), numbers(tmp_path / "b.jsonl", 3)
    arguments = (ECHO, "a.csv", "b.jsonl", "-o", "out/")
    assert run(*arguments, cwd=tmp_path).code == 0
    before = tree(tmp_path)
    for changed, message in [
        ((*arguments, "--to", "jsonl"), "--to is jsonl, and in the journal 'out.journal' it is None; "),
        ((*arguments, "--from", "text"), "INPUT 'a.csv' is read as text, and in the journal 'out.journal' as csv; "),
        ((ECHO, "a.csv", "-o", "out/"), "the INPUTs are not those of the journal 'out.journal': 1 files, of 2, "),
    ]:
        wrong = run(*changed, "--resume", cwd=tmp_path)
        assert (wrong.code, wrong.message.startswith(message)) == (2, True), wrong.err
    assert tree(tmp_path) == before
    (tmp_path / "out" / "a.csv").write_text("")
    wrong = run(*arguments, "--resume", cwd=tmp_path)
    assert wrong.message.startswith("OUT 'out/a.csv' has 0 bytes, and its journal tells of 8 or more: it was changed; ")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    (tmp_path / "out").rmdir()
    before = tree(tmp_path)
    wrong = run(*arguments, "--resume", cwd=tmp_path)
    assert (wrong.code, wrong.message) == (
        2,
        "OUT 'out/a.csv' is gone, and its journal tells of it; put it back, or remove 'out.journal' to begin anew",
    )
    wrong = run(ECHO, "a.csv", "b.jsonl", "-o", "out", "--resume", cwd=tmp_path)  # now a file
    assert (wrong.code, wrong.message.partition(";")[0]) == (
        2, "--to is jsonl, and in the journal 'out.journal' it is None"
    )  # fmt: skip
    assert {*tree(tmp_path)} - {*before} <= {"out"}


def test_other_records_than_those_of_the_journal_are_noticed(tmp_path: Path) -> None:
    """In the middle of an input, where `compare` does not look."""
    half = 1 << 17
    (tmp_path / "a.txt").write_text("x" * half + "\n" + "y" * half + "\n")
    write_lines(tmp_path / "b.txt", ["1"])
    arguments = (f"{JOBS}:echo", "a.txt", "b.txt", "-o", "out/")
    assert run(*arguments, "--limit", "3", cwd=tmp_path).code == 0
    text = (tmp_path / "a.txt").read_text()
    (tmp_path / "a.txt").write_text(text[: half - 10] + "\n" + text[half - 9 :])
    wrong = run(*arguments, "--resume", cwd=tmp_path)
    assert wrong.code == 2
    assert "the INPUTs have other records than when the journal 'out.journal' was begun; " in wrong.err


# ---- wrong use -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with inputs, and outs that are there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for name in ("data/a.csv", "data/sub/a.csv", "data/b.log", "data/a.csv.new", "file"):
        write_lines(tmp_path / name, ["n", "1"])
    for name in ("data/a.jsonl", "data/c.jsonl"):
        write_lines(tmp_path / name, ["1"])
    os.link("data/c.jsonl", "data/d.jsonl")
    for out in ("here", "odd", "old", "linked", "blocked", "taken", "unknown"):
        (tmp_path / out).mkdir()
    os.symlink("../data/a.csv", "linked/a.csv")
    (tmp_path / "blocked" / "sub").touch()
    (tmp_path / "taken" / "a.csv").mkdir()
    (tmp_path / "old" / "a.csv").write_text("old")
    (tmp_path / "unknown.journal").write_text("this is not a database, and it is long enough to be looked at\n" * 10)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data/a.csv", "-o", "file/"), "OUT 'file/' cannot be a folder: there is a file of that name; name another"),
        (("data/a.csv", "-o", "no/such/"), "OUT 'no/such/' cannot be made: there is no folder "),
        (("data/a.csv", "-o", "a\0b/"), "OUT 'a\\x00b/' cannot be written: "),
        (("data/a.csv", "-o", "x" * 300 + "/"), f"OUT '{'x' * 300}/' cannot be written: File name too long; "),
        (("-", "-o", "here"), "INPUT '-' has no name that its file in the folder 'here' could have; name a file"),
        (("data/a.csv", "--as", "path", "-o", "new/"), "--as path gives one result for each INPUT, and 'new/' is a "),
        (("data/a.csv", "--unordered", "-o", "new/"), "--unordered mixes the results of all INPUTs, and 'new/' is a "),
        (("data/a.csv", "data/a.csv", "-o", "new/"), "INPUT 'data/a.csv' is given twice, and 'new/a.csv' would have "),
        (
            ("data/a.csv", "data/a.jsonl", "--to", "jsonl", "-o", "new/"),
            "INPUTs 'data/a.csv' and 'data/a.jsonl' both need 'new/a.jsonl'; give them in two runs, with a folder each",
        ),
        (
            ("data/a.csv", "data/a.csv.new", "--from", "csv", "-o", "new/"),
            "INPUTs 'data/a.csv' and 'data/a.csv.new' both need 'new/a.csv.new'; ",
        ),
        (("data/a.csv", "-o", "data"), "OUT 'data/a.csv' is the same file as INPUT 'data/a.csv'; name another folder"),
        (("data/a.csv", "-o", "linked/"), "OUT 'linked/a.csv' is the same file as INPUT 'data/a.csv'; "),
        (("data/c.jsonl", "-o", "./data/sub/../"), "OUT './data/sub/../c.jsonl' is the same file as INPUT 'data/c"),
        (("data/a.csv", "data/sub/a.csv", "-o", "blocked/"), "OUT 'blocked/sub' is to be a folder, and there is a "),
        (("data/a.csv", "-o", "taken/"), "OUT 'taken/a.csv' is there, and is no regular file; move it away"),
        (("data/a.csv", "-o", "old/", "--resume"), "OUT 'old/a.csv' is there and has no journal that tells what is "),
        (("data/a.csv", "-o", "unknown/"), "the journal '{folder}/unknown.journal' is not a journal of a run; "),
        (("data/a.csv", "-o", "new/", "--errors", "new/a.csv"), "--errors 'new/a.csv' is the same file as "),
        (("data/a.csv", "-o", "new/", "--report", "new.journal"), "--report 'new.journal' is the same file as "),
        (("data/**/a.csv", "-o", "new/", "--trace", "new/sub"), "--trace 'new/sub' is the same file as "),
        (("data/a.csv", "-o", "new/", "--errors", "no/such"), "--errors 'no/such' cannot be written: "),
        (("data/a.csv", "data/a.csv", "-o", "new/", "--dry-run"), "INPUT 'data/a.csv' is given twice, "),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    before = tree(folder)
    line = refused("run", ECHO, *arguments)
    assert line.startswith("mpengine: " + message.format(folder=folder)), line
    assert tree(folder) == before


def test_an_old_journal_is_refused(folder: Path) -> None:
    code = "import sqlite3; db = sqlite3.connect('here.journal'); db.execute('PRAGMA user_version = 1')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    before = tree(folder)
    line = refused("run", ECHO, "data/a.csv", "-o", "here/")
    assert line.startswith(f"mpengine: the journal '{folder}/here.journal' is of version 1, and this mpengine reads ")
    assert tree(folder) == before


def test_a_folder_that_may_not_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith("here"))  # root may write everywhere
    before = tree(folder)
    line = refused("run", ECHO, "data/a.csv", "-o", "here/")
    assert line.startswith(f"mpengine: OUT 'here/' cannot be written: '{folder}/here': Permission denied; name another")
    assert tree(folder) == before
