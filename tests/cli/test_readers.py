"""Lines become jobs as they are asked for: their argument, their id, and what ends the input early."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mpengine import Job
from mpengine.cli import readers
from mpengine.cli.inputs import find_sources
from mpengine.cli.readers import MalformedLine, Reader, count_lines, reject
from mpengine.cli.signals import Stop


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def reading(*arguments: str, **options: Any) -> Iterator[Reader]:
    sources = find_sources(arguments, as_paths=options.get("as_paths", False))
    with Stop() as stop:
        yield Reader(sources, print, stop, **options)


def read(*arguments: str, **options: Any) -> list[tuple[str, Any]]:
    """Ids and arguments of all jobs."""
    with reading(*arguments, **options) as reader:
        jobs = [(job.id, job.args[0]) for job in reader.jobs()]
        assert reader.problem is None
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
    monkeypatch.setattr(readers, "_CHUNK_BYTES", chunk)
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
        ("[1, 2", "f.jsonl:2: not JSON: Expecting ',' delimiter (column 6), in '[1, 2'"),
        ("{} {}", "f.jsonl:2: not JSON: Extra data (column 4)"),
        ("[" * 100_000, "f.jsonl:2: not JSON: maximum recursion depth exceeded"),
        ("1" * 5_000, "f.jsonl:2: not JSON: Exceeds the limit"),
    ],
    ids=["open", "two", "deep", "long"],
)
def test_a_line_that_is_not_json_is_a_job_that_fails(line: str, reason: str) -> None:
    Path("f.jsonl").write_text(f"1\n{line}\n3\n")
    with reading("f.jsonl", retries=2) as reader:
        first, bad, last = reader.jobs()
    assert (first.args, last.args) == ((1,), (3,))
    assert (bad.id, bad.fn, bad.retries) == ("f.jsonl:2", reject, 0)
    with pytest.raises(MalformedLine) as raised:
        bad.fn(*bad.args)
    assert str(raised.value).startswith(reason)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("content", "good", "parts"),
    [
        (b"a\nb\nc\xffd\ne\n", 2, ["f.txt:3", "0xff", "offset 5 "]),
        (b"\xef\xbb\xbfa\nb\xc3\n", 1, ["f.txt:2", "0xc3", "offset 6 "]),
        (b"a\r\nb\r\n\xe4\r\n", 2, ["f.txt:3", "0xe4", "offset 6 "]),
        ("a\nb\n".encode("utf-16"), 0, ["f.txt:1", "UTF-16"]),
    ],
)
def test_bytes_that_are_not_utf8_end_the_input(content: bytes, good: int, parts: list[str]) -> None:
    Path("f.txt").write_bytes(content)
    Path("g.txt").write_text("never read\n")
    with reading("f.txt", "g.txt") as reader:
        jobs = list(reader.jobs())
    assert [job.id for job in jobs] == [f"f.txt:{number + 1}" for number in range(good)]
    for part in parts:
        assert part in str(reader.problem)


def test_a_file_that_is_gone_by_its_turn_ends_the_input() -> None:
    Path("f.txt").write_text("a\n")
    Path("g.txt").write_text("b\n")
    with reading("f.txt", "g.txt") as reader:
        os.unlink("g.txt")
        assert [job.args for job in reader.jobs()] == [("a",)]
    assert "'g.txt' can no longer be read" in str(reader.problem)


def test_paths() -> None:
    for name in ("a", "b"):
        Path(name).touch()
    assert read("b", "a", "b", as_paths=True) == [("b", "b"), ("a", "a"), ("b#2", "b")]


def test_what_all_jobs_are_given() -> None:
    Path("f.txt").write_text("a\n")
    with reading("f.txt", timeout=1.5, retries=3) as reader:
        (job,) = reader.jobs()
    assert (job.fn, job.timeout, job.retries) == (print, 1.5, 3)


@pytest.mark.parametrize("as_paths", [False, True])
def test_the_limit_spans_the_inputs(as_paths: bool) -> None:
    for name in "abc":
        Path(name).write_text("1\n2\n")
    assert len(read("a", "b", "c", as_paths=as_paths, limit=2)) == 2


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
            assert next(jobs).args == (line,)
        os.write(theirs, b"unfinished")
        os.close(theirs)
        assert [job.args for job in jobs] == [("unfinished",)]
    os.close(ours)


def test_a_wish_to_stop_ends_the_wait_for_input() -> None:
    ours, theirs = os.pipe()
    stopped = threading.Event()
    with Stop() as stop:
        reader = Reader(find_sources(["-"], as_paths=False), print, stop, stdin=ours)
        with stop.gently(stopped.set):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            assert list[Job](reader.jobs()) == []
            assert stopped.wait(10)
        assert stop.signum == signal.SIGTERM
    os.close(ours)
    os.close(theirs)


def test_counting_lines() -> None:
    Path("a").write_text("1\n2\n3")
    Path("b").write_text("")
    Path("c").write_text("4\n")
    sources = find_sources(["a", "b", "c"], as_paths=False)
    assert count_lines(sources, at_most_bytes=1_000) == 4
    assert count_lines(sources, at_most_bytes=6) is None
    assert count_lines(find_sources(["a", "-"], as_paths=False), at_most_bytes=1_000) is None
