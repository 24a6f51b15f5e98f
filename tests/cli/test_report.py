"""Outcomes become numbers, errors become lines, and lines fit a terminal."""

import errno
import io
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mpengine
from mpengine.errors import JobExpired, RemoteError
from mpengine.report.failures import Failure, describe, from_users_frame, users_line
from mpengine.report.render import print_summary, render
from mpengine.report.summary import FAILURES_KEPT, SLOWEST_KEPT, Summary
from mpengine.report.text import one_line

STDLIB = sysconfig.get_path("stdlib")
OURS = str(Path(mpengine.__file__).parent)


def failure(number: int = 0, where: str = "job.py:7") -> Failure:
    return Failure(type="ValueError", message=f"bad {number}", traceback="", where=where)


@given(st.lists(st.tuples(st.sampled_from(["succeeded", "failed", "lost"]), st.floats(0, 100)), max_size=40))
def test_the_numbers_are_those_of_the_outcomes(jobs: list[tuple[str, float]]) -> None:
    summary = Summary()
    for number, (status, duration) in enumerate(jobs):
        bad = None if status == "succeeded" else failure(number)
        summary.add(str(number), status, duration=duration, attempts=1 + number % 2, failure=bad)
    statuses = [status for status, _ in jobs]
    assert summary.finished == len(jobs)
    assert summary.failed == len(jobs) - statuses.count("succeeded")
    assert {status: summary.counts[status] for status in statuses} == {s: statuses.count(s) for s in statuses}
    assert summary.retried == len(jobs) // 2
    by_time = sorted(range(len(jobs)), key=lambda number: (-jobs[number][1], number))
    assert summary.slowest == [(str(number), jobs[number][1]) for number in by_time[:SLOWEST_KEPT]]
    bad_ones = [str(number) for number, status in enumerate(statuses) if status != "succeeded"]
    assert [id_ for id_, _ in summary.failures] == bad_ones[:FAILURES_KEPT]


def text(summary: Summary, wall_s: float = 2.0, workers: int = 2) -> list[str]:
    return [line.plain for line in render(summary, wall_s=wall_s, workers=workers)]


def test_a_summary_in_words() -> None:
    summary = Summary()
    summary.add("f.txt:1", "succeeded", duration=0.25, attempts=1, failure=None)
    summary.add("f.txt:2", "lost", duration=1.5, attempts=2, failure=failure(2))
    summary.stopped = 3
    assert text(summary) == [
        "2 jobs in 2.00 s (1.0 a second, 2 workers): 1 succeeded, 1 lost, 1 tried more than once, 3 stopped unfinished",
        "slowest:",
        "      1.500 s  f.txt:2",
        "      0.250 s  f.txt:1",
        "errors:",
        "  f.txt:2  ValueError: bad 2 (job.py:7)",
    ]


def test_a_summary_of_nothing() -> None:
    assert text(Summary(), wall_s=0.0, workers=1) == ["0 jobs in 0.00 s (1 worker)"]


def test_many_errors_are_the_first_few_and_a_number() -> None:
    summary = Summary()
    for number in range(1_234):
        summary.add(str(number), "failed", duration=0.0, attempts=1, failure=failure(number, where=""))
    lines = text(summary)
    assert lines[0].startswith("1,234 jobs in 2.00 s (617.0 a second, 2 workers): 1,234 failed")
    assert lines[1:3] == ["first errors:", "  0  ValueError: bad 0"]
    assert lines[-1] == "  and 1,229 more"
    assert len(lines) == 2 + FAILURES_KEPT + 1


def test_a_summary_never_breaks_its_lines_nor_the_terminal() -> None:
    summary = Summary()
    odd = Failure(type="Odd", message="one\ntwo\x1b[2J [red]x[/red] " + "long " * 200, traceback="", where="")
    summary.add("a/\ud800/\x07", "failed", duration=1.0, attempts=1, failure=odd)
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    print_summary(summary, wall_s=1.0, workers=1, file=file)
    file.seek(0)
    lines = file.read().splitlines()
    assert len(lines) == 3
    assert "\\ud800/?  Odd: one two?[2J [red]x[/red] long" in lines[2]
    assert lines[2].endswith("...")


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "no room")


def test_a_summary_that_nobody_can_read_is_no_error() -> None:
    print_summary(Summary(), wall_s=1.0, workers=1, file=Full())


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("a\n  b\t c", "a b c"),
        ("\x1b[31mred\x9b", "?[31mred?"),
        ("\udcff", "\\udcff"),
        ("x" * 500, "x" * 397 + "..."),
    ],
)
def test_one_line(given_text: str, shown: str) -> None:
    assert one_line(given_text) == shown


def frames(*files: str) -> str:
    body = "".join(f'  File "{file}", line {number}, in f\n    code()\n' for number, file in enumerate(files, 1))
    return f"Traceback (most recent call last):\n{body}ValueError: no"


@pytest.mark.parametrize(
    ("files", "where"),
    [
        (["/home/me/job.py"], "/home/me/job.py:1"),
        (["/home/me/job.py", f"{STDLIB}/json/decoder.py"], "/home/me/job.py:1"),
        (["/home/me/job.py", "/home/me/part.py", f"{STDLIB}/site-packages/x.py"], "/home/me/part.py:2"),
        ([f"{STDLIB}/json/__init__.py", f"{STDLIB}/json/decoder.py"], f"{STDLIB}/json/__init__.py:1"),
        (["/home/me/job.py", "<frozen importlib._bootstrap>"], "/home/me/job.py:1"),
        ([], ""),
    ],
)
def test_the_users_own_line(files: list[str], where: str) -> None:
    assert users_line(frames(*files)) == where


def test_the_line_of_a_chained_error_is_that_of_the_last() -> None:
    chained = frames("/a.py") + "\n\nDuring handling ...\n\n" + frames("/b.py", "/c.py")
    assert users_line(chained) == "/c.py:2"


def test_a_traceback_begins_at_the_users_frame() -> None:
    text = frames(f"{OURS}/runtime/worker.py", f"{OURS}/x.py", "/a.py", f"{OURS}/engine.py")
    assert from_users_frame(text) == frames("", "", "/a.py", f"{OURS}/engine.py").replace(
        '  File "", line 1, in f\n    code()\n  File "", line 2, in f\n    code()\n', ""
    )
    assert from_users_frame(frames(f"{OURS}/cli/readers.py")) == ""


class Local(Exception):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Carrier(Exception):
    pass


def test_an_error_that_comes_from_a_worker() -> None:
    error = Local("no\nway")
    error.__cause__ = Carrier('\n"""\n' + frames("/a.py") + '\n"""')
    found = describe(error)
    assert (found.type, found.message) == ("tests.cli.test_report.Local", "no\nway")
    assert (found.traceback, found.where) == (frames("/a.py"), "/a.py:1")


def test_an_error_without_a_traceback() -> None:
    found = describe(KeyError("k"))
    assert (found.type, found.message, found.traceback, found.where) == ("KeyError", "'k'", "", "")


def test_an_error_that_cannot_even_say_what_it_is() -> None:
    assert describe(Mute()).message == "<no message: __str__ raised RuntimeError>"


def test_an_error_that_stands_in_for_another() -> None:
    error = RemoteError("shop.Sold: text", type_name="shop.Sold", traceback=frames("/shop.py"))
    error.__cause__ = Carrier(frames("/shop.py"))
    found = describe(error)
    assert (found.type, found.message, found.where) == ("shop.Sold", "shop.Sold: text", "/shop.py:1")


def test_an_error_of_ours_goes_by_its_name() -> None:
    assert describe(JobExpired("late")).type == "JobExpired"


def test_the_line_that_hung() -> None:
    error = JobExpired("late")
    error.stack = f'''Current thread 0x1 (most recent call first):
  File "{STDLIB}/socket.py", line 5 in recv
  File "/home/me/part.py", line 6 in wait
  File "/home/me/job.py", line 7 in job
  File "{OURS}/runtime/worker.py", line 8 in run
'''
    found = describe(error)
    assert found.traceback == error.stack.strip()
    assert found.where == "/home/me/part.py:6"
