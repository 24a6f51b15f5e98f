"""Records of every format in, results of every format out."""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.support import mpengine, write_lines
from tests.cli.test_resume import JOBS, numbers, rows, run

SQUARES = [{"n": number, "square": number**2, "text": "x" * number} for number in range(7)]


@pytest.mark.parametrize("source", ["in.jsonl", "in.csv", "in.parquet"])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_any_format_to_any_other(source: str, ending: str, tmp_path: Path) -> None:
    numbers(tmp_path / source, 7)
    done = run(f"{JOBS}:square", source, "-o", f"out.{ending}", cwd=tmp_path)
    assert (done.code, done.err.partition(" in ")[0]) == (0, "7 jobs")
    found = rows(tmp_path / f"out.{ending}")
    if ending == "jsonl":
        assert [json.loads(line) for line in found] == SQUARES
    elif ending == "csv":
        assert found == ["n,square,text", *(f"{row['n']},{row['square']},{row['text']}" for row in SQUARES)]
    else:
        assert found == SQUARES


def test_the_order_is_that_of_the_input_however_long_each_takes(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", [str(number % 7) for number in range(200)])
    for more, ordered in (((), True), (("--unordered",), False)):
        done = mpengine("run", f"{JOBS}:doze", "in.txt", "--to", "text", *more, cwd=tmp_path)
        lines = done.out.splitlines()
        wanted = [str(number % 7) for number in range(200)]
        assert sorted(lines) == sorted(wanted)
        assert (lines == wanted) is ordered


def test_a_pipeline_of_text(tmp_path: Path) -> None:
    done = mpengine("run", f"{JOBS}:shout", "-", "--to", "text", cwd=tmp_path, stdin="a\nskip\nü\n")
    assert (done.code, done.out) == (0, "A\nÜ\n")
    done = mpengine("run", f"{JOBS}:shout", "-", "--from", "nul", "--to", "nul", cwd=tmp_path, stdin="a\nb\0skip\0c\0")
    assert (done.code, done.out) == (0, "A\nB\0C\0")


def test_stdin_and_stdout_of_json_lines(tmp_path: Path) -> None:
    done = mpengine(
        "run", f"{JOBS}:echo", "-", "--from", "jsonl", "--to", "jsonl", cwd=tmp_path, stdin='{"a": 1}\n"b"\n'
    )
    assert (done.code, done.out) == (0, '{"a": 1}\n"b"\n')


def test_compressed_in_and_out(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n{"n": 2}\n'))
    for ending in ("jsonl.gz", "jsonl.zst"):
        assert run(f"{JOBS}:square", "in.jsonl.gz", "-o", f"out.{ending}", cwd=tmp_path).code == 0
        assert [json.loads(line)["n"] for line in rows(tmp_path / f"out.{ending}")] == [1, 2]


@pytest.mark.parametrize("kind", [(), ("--as", "table")], ids=["lists", "tables"])
@pytest.mark.parametrize("source", ["in.jsonl", "in.csv", "in.parquet"])
def test_chunks(kind: tuple[str, ...], source: str, tmp_path: Path) -> None:
    numbers(tmp_path / source, 10)
    done = run(f"{JOBS}:total", source, "-o", "out.jsonl", "--chunk", "4", *kind, cwd=tmp_path)
    assert done.code == 0
    assert [json.loads(line) for line in rows(tmp_path / "out.jsonl")] == [
        {"count": 4, "total": 6},
        {"count": 4, "total": 22},
        {"count": 2, "total": 17},
    ]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_frame_of_results(ending: str, tmp_path: Path) -> None:
    numbers(tmp_path / "in.parquet", 10)
    done = run(f"{JOBS}:as_frame", "in.parquet", "-o", f"out.{ending}", "--as", "table", "--chunk", "4", cwd=tmp_path)
    assert done.code == 0
    found = rows(tmp_path / f"out.{ending}")
    if ending == "csv":
        assert found == ["n,double", *(f"{number},{2 * number}" for number in range(10))]
    else:
        rows_ = [json.loads(line) for line in found] if ending == "jsonl" else found
        assert rows_ == [{"n": number, "double": 2 * number} for number in range(10)]


def test_a_malformed_record_of_a_chunk_fails_alone(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", ['{"n": 1}', "{", '{"n": 3}'])
    done = run(f"{JOBS}:total", "in.jsonl", "-o", "out.jsonl", "--chunk", "2", "--errors", "bad.jsonl", cwd=tmp_path)
    assert done.code == 1
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"count": 2, "total": 4}
    (bad,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert (bad["id"], bad["status"], bad["error"]["type"]) == ("in.jsonl:2", "failed", "MalformedRecord")
    assert bad["error"]["message"].startswith("not JSON: ")


@pytest.mark.parametrize(
    ("ending", "job", "message"),
    [
        ("csv", "echo", "the result is a str; CSV has rows: return a dict of column to value"),
        ("parquet", "echo", "the result is a str; Parquet has rows: return a dict of column to value"),
        ("jsonl", "as_set", "the result is not JSON: TypeError: Object of type set is not JSON serializable; "),
    ],
)
def test_a_result_that_is_not_of_outs_format_is_its_jobs_failure(
    ending: str, job: str, message: str, tmp_path: Path
) -> None:
    write_lines(tmp_path / "in.txt", ["a"])
    done = run(f"{JOBS}:{job}", "in.txt", "-o", f"out.{ending}", "--errors", "bad.jsonl", cwd=tmp_path)
    assert done.code == 1
    error = json.loads((tmp_path / "bad.jsonl").read_text())["error"]
    assert (error["type"], error["message"][: len(message)]) == ("UnfitResult", message)


def test_rows_that_do_not_fit_the_others_are_failures_and_the_rest_is_there(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1", "2", "odd", "4"])
    for ending in ("csv", "parquet"):
        done = run(f"{JOBS}:odd_row", "in.txt", "-o", f"out.{ending}", cwd=tmp_path)
        assert done.code == 1
        assert ": 3 succeeded, 1 failed\n" in done.err
        assert "in.txt:3  UnfitResult: the result" in done.err
        found = rows(tmp_path / f"out.{ending}")
        assert found == (["a", "1", "2", "4"] if ending == "csv" else [{"a": 1}, {"a": 2}, {"a": 4}])


def test_parquet_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    assert run(f"{JOBS}:square", "in.jsonl", "-o", "out.parquet", cwd=tmp_path).code == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
