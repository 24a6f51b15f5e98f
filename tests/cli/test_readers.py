"""Lines become jobs as they are asked for: their argument, their id, and what ends the input early."""

import gzip
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mpengine import Job
from mpengine.batch import reading as batch_reading
from mpengine.batch import work
from mpengine.batch.formats import Format
from mpengine.cli.inputs import find_sources
from mpengine.cli.readers import Limits, Reader, Shape, count_lines
from mpengine.cli.signals import Stop


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


ONE = Shape()
NONE = Limits()


@contextmanager
def reading(*arguments: str, shape: Shape = ONE, limits: Limits = NONE, **options: Any) -> Iterator[Reader]:
    format = options.pop("format", None)
    sources = find_sources(arguments, as_paths=shape.kind == "path", format=format)
    with Stop() as stop:
        yield Reader(sources, repr, stop, encode=lambda source: str.encode, shape=shape, limits=limits, **options)


def given(job: Job) -> Any:
    """What the function would be called with; "malformed: ..." if it would not be."""
    if job.fn is work.reject:
        return f"malformed: {job.args[0]}"
    packed, payload = job.args
    try:
        return work.unpacked(packed).decode(payload)
    except work.MalformedRecord as error:
        return f"malformed: {error}"


def read(*arguments: str, **options: Any) -> list[tuple[str, Any]]:
    """Ids and arguments of all jobs."""
    with reading(*arguments, **options) as reader:
        jobs = [(job.id, given(job)) for job in reader.jobs()]
        assert reader.problem is None
        assert reader.complete
        assert reader.numbers == {id_: number for number, (id_, _) in enumerate(jobs)}
        return jobs


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\n", ["a\rb"]),
        (b" a \t\n", [" a \t"]),
        ("ü\u2028\x0c\x85€\n".encode(), ["ü\u2028\x0c\x85€"]),  # only \n ends a line
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),  # a byte order mark
        (b"\xef\xbb\xbf", [""]),
        (b"a\0b\n", ["a\0b"]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 1 << 18])
def test_lines_of_text(content: bytes, lines: list[str], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_reading, "CHUNK_BYTES", chunk)
    Path("f.txt").write_bytes(content)
    assert read("f.txt") == [(f"f.txt:{number}", line) for number, line in enumerate(lines, 1)]


def test_json_lines() -> None:
    Path("f.jsonl").write_text('{"a": [1, null]}\n\n  \n"text"\n 3 \nnull')
    assert read("f.jsonl") == [
        ("f.jsonl:1", {"a": [1, None]}),
        ("f.jsonl:4", "text"),
        ("f.jsonl:5", 3),
        ("f.jsonl:6", None),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1, 2", "malformed: not JSON: Expecting ',' delimiter (column 6), in '[1, 2'"),
        ("{} {}", "malformed: not JSON: Extra data (column 4)"),
        ("[" * 100_000, "malformed: not JSON: maximum recursion depth exceeded"),
        ("1" * 5_000, "malformed: not JSON: Exceeds the limit"),
    ],
    ids=["open", "two", "deep", "long"],
)
def test_a_line_that_is_not_json_is_a_job_that_fails(line: str, reason: str) -> None:
    Path("f.jsonl").write_text(f"1\n{line}\n3\n")
    first, bad, last = read("f.jsonl", limits=Limits(retries=2))
    assert (first[1], last[1]) == (1, 3)
    assert bad[0] == "f.jsonl:2"
    assert bad[1].startswith(reason)
    assert len(bad[1]) < 250


def test_a_malformed_record_is_not_tried_again() -> None:
    Path("f.txt").write_text("a\n")
    with reading("f.txt", limits=Limits(retries=2)) as reader:
        (job,) = reader.jobs()
    assert callable(job.retry_on)
    assert not job.retry_on(work.MalformedRecord("no"))
    assert job.retry_on(ValueError("no"))


def test_bytes_that_are_not_utf8_are_a_job_that_fails() -> None:
    Path("f.txt").write_bytes(b"a\r\nb\xe4\r\nc\n")
    first, bad, last = read("f.txt")
    assert (first, last) == (("f.txt:1", "a"), ("f.txt:3", "c"))
    assert bad[1].startswith("malformed: not UTF-8: byte 0xe4 at its byte 2; convert the file first")


def test_a_file_in_utf16_is_no_text() -> None:
    Path("f.txt").write_bytes("a\nb\n".encode("utf-16"))
    with reading("f.txt") as reader:
        assert [*reader.jobs()] == []
    assert "f.txt:1" in str(reader.problem)
    assert "UTF-16" in str(reader.problem)


def test_records_that_end_with_nul() -> None:
    Path("f").write_bytes(b"a\nb\0c\r\0\0d")
    assert [one for _, one in read("f", format=Format.NUL)] == ["a\nb", "c\r", "", "d"]


def test_csv() -> None:
    Path("f.csv").write_text('\ufeffa,"b ""c"""\r\n1,"two\nlines"\r\n\r\n3,x"y\r\n4\r\n5,ü\r\n')
    assert read("f.csv") == [
        ("f.csv:2", {"a": "1", 'b "c"': "two\nlines"}),
        ("f.csv:5", {"a": "3", 'b "c"': 'x"y'}),
        ("f.csv:6", "malformed: 1 fields where the header has 2 columns, in '4'; put the row right"),
        ("f.csv:7", {"a": "5", 'b "c"': "ü"}),
    ]


def test_csv_that_is_not_utf8_or_not_csv() -> None:
    Path("f.csv").write_bytes(b"a,b\n1,\xff\n2,3\n")
    (_, bad), (_, good) = read("f.csv")
    assert bad.startswith("malformed: not UTF-8, in '1,")
    assert good == {"a": "2", "b": "3"}
    Path("g.csv").write_text("a,b,a\n1,2,3\n")
    with reading("g.csv") as reader:
        assert [*reader.jobs()] == []
    assert str(reader.problem) == "INPUT 'g.csv': its header has 'a' more than once; rename the columns"


@pytest.mark.parametrize(("ending", "tool"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_compressed_files_of_several_members(ending: str, tool: Any) -> None:
    Path(f"f.jsonl{ending}").write_bytes(tool(b"1\n2") + tool(b"3\n4\n"))
    assert [one for _, one in read(f"f.jsonl{ending}")] == [1, 23, 4]


@pytest.mark.parametrize(("ending", "tool"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_compressed_file_that_was_cut_off_keeps_what_came_before(ending: str, tool: Any) -> None:
    data = tool(b"".join(b"%d\n" % number for number in range(100_000)))
    Path(f"f.txt{ending}").write_bytes(data[: len(data) // 2])
    with reading(f"f.txt{ending}") as reader:
        count = sum(1 for _ in reader.jobs())
    assert count > 1_000
    assert not reader.complete
    assert "can no longer be read: Compressed file ended before" in str(reader.problem)


def test_parquet() -> None:
    rows = [{"a": number, "b": f"x{number}"} for number in range(3_000)]
    pq.write_table(pa.Table.from_pylist(rows), "f.parquet")
    found = read("f.parquet")
    assert [one for _, one in found] == rows
    assert (found[0][0], found[-1][0]) == ("f.parquet:1", "f.parquet:3000")


def test_a_file_that_is_no_parquet() -> None:
    Path("f.parquet").write_text("no")
    with reading("f.parquet") as reader:
        assert [*reader.jobs()] == []
    assert str(reader.problem).startswith("INPUT 'f.parquet' can no longer be read: Parquet ")


def test_chunks_are_lists_and_what_is_malformed_stands_alone() -> None:
    Path("f.jsonl").write_text("1\n2\nno\n4\n5\n6\n")
    (bad, one, two) = sorted(read("f.jsonl", shape=Shape(chunk=3)), key=lambda job: str(job[1]), reverse=True)
    assert bad[0] == "f.jsonl:3"
    assert one == ("f.jsonl:5-6", [5, 6]) or one == ("f.jsonl:1-4", [1, 2, 4])
    assert {str(one[1]), str(two[1])} == {"[1, 2, 4]", "[5, 6]"}


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv", "f.parquet"])
def test_tables(name: str) -> None:
    rows = [{"a": str(number)} for number in range(5)]
    Path("f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("f.csv").write_text("a\n" + "".join(row["a"] + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), "f.parquet")
    tables = [table for _, table in read(name, shape=Shape("table", 2))]
    assert [table.num_rows for table in tables] == [2, 2, 1]
    assert [row for table in tables for row in table.to_pylist()] == rows


def test_what_was_done_before_is_counted_and_not_made() -> None:
    Path("f.txt").write_text("a\nb\nc\nd\n")
    with reading("f.txt", skip={0, 2}.__contains__, limit=3) as reader:
        assert [given(job) for job in reader.jobs()] == ["b"]
    assert reader.numbers == {"f.txt:2": 1}


def test_a_file_that_is_gone_by_its_turn_ends_the_input() -> None:
    Path("f.txt").write_text("a\n")
    Path("g.txt").write_text("b\n")
    with reading("f.txt", "g.txt") as reader:
        os.unlink("g.txt")
        assert [given(job) for job in reader.jobs()] == ["a"]
    assert "'g.txt' can no longer be read" in str(reader.problem)


def test_paths() -> None:
    for name in ("a", "b"):
        Path(name).touch()
    assert read("b", "a", "b", shape=Shape("path")) == [("b", "b"), ("a", "a"), ("b#2", "b")]


def test_what_all_jobs_are_given() -> None:
    Path("f.txt").write_text("a\n")
    with reading("f.txt", limits=Limits(1.5, 3)) as reader:
        (job,) = reader.jobs()
    assert (job.fn, job.timeout, job.retries) == (work.record, 1.5, 3)


@pytest.mark.parametrize("kind", ["records", "path"])
def test_the_limit_spans_the_inputs(kind: str) -> None:
    for name in "abc":
        Path(name).write_text("1\n2\n")
    assert len(read("a", "b", "c", shape=Shape(kind), limit=2)) == 2


def test_the_last_job_of_the_limit_does_not_wait_for_more_input() -> None:
    ours, theirs = os.pipe()
    try:
        os.write(theirs, b"1\n2\n")  # and stays open
        assert read("-", stdin=ours, limit=2) == [("stdin:1", "1"), ("stdin:2", "2")]
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_line_is_a_job_as_soon_as_it_is_there() -> None:
    ours, theirs = os.pipe()
    with reading("-", stdin=ours) as reader:
        jobs = reader.jobs()
        for line in ("1", "2"):
            os.write(theirs, f"{line}\n".encode())
            assert given(next(jobs)) == line
        os.write(theirs, b"unfinished")
        os.close(theirs)
        assert [given(job) for job in jobs] == ["unfinished"]
    os.close(ours)


def test_a_wish_to_stop_ends_the_wait_for_input() -> None:
    ours, theirs = os.pipe()
    stopped = threading.Event()
    with Stop() as stop:
        sources = find_sources(["-"], as_paths=False)
        reader = Reader(
            sources, repr, stop, encode=lambda source: str.encode, shape=Shape(), limits=Limits(), stdin=ours
        )
        with stop.gently(stopped.set):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            assert list[Job](reader.jobs()) == []
            assert stopped.wait(10)
        assert stop.signum == signal.SIGTERM
    os.close(ours)
    os.close(theirs)


def test_a_wish_to_stop_ends_a_file_that_could_be_read_on() -> None:
    Path("f.txt").write_text("a\nb\nc\n")
    with Stop() as stop:
        sources = find_sources(["f.txt"], as_paths=False)
        reader = Reader(sources, repr, stop, encode=lambda source: str.encode, shape=ONE, limits=NONE)
        jobs = reader.jobs()
        next(jobs)
        stop.request()
        assert [*jobs] == []
        assert not reader.complete


def test_each_source_is_told_of_before_there_is_a_job_of_it() -> None:
    for name, count in (("a", 2), ("b", 0), ("c", 0), ("d", 1), ("e", 0)):
        Path(name).write_text("line\n" * count)
    seen: list[object] = []
    with reading("a", "b", "c", "d", "e", on_source=seen.append) as reader:
        for job in reader.jobs():
            seen.append(job.id)
    assert seen == [0, "a:1", "a:2", 2, 2, 2, "d:1", 3]
    seen.clear()
    with reading("a", "b", "c", "d", "e", on_source=seen.append, limit=2, skip=lambda number: True) as reader:
        assert [*reader.jobs()] == []
    assert seen == [0], "what a limit keeps from being read is not begun"


def test_counting_lines() -> None:
    Path("a").write_text("1\n2\n3")
    Path("b").write_text("")
    Path("c").write_text("4\n")
    sources = find_sources(["a", "b", "c"], as_paths=False)
    assert count_lines(sources, at_most_bytes=1_000) == 4
    assert count_lines(sources, at_most_bytes=6) is None
    assert count_lines(find_sources(["a", "-"], as_paths=False), at_most_bytes=1_000) is None
