"""How things stand, as rows and as a line: right in any width, whatever jobs are called."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from mpengine import WorkerRow
from mpengine.report import live
from mpengine.report.display import clean
from mpengine.report.live import Ages, Rate, Standing


def worker(pid: int, job: str | None = "a job", age: float | None = 1.5, **more: float) -> WorkerRow:
    told = {"done": 0.0, "total": 0.0, **more}
    state = "idle" if job is None else "busy"
    return WorkerRow(pid, state, job, age, 9.0, 50 << 20, told["done"], told["total"])


def standing(**more: object) -> Standing:
    told = {"finished": 30, "total": 120, "failed": 0, "retried": 0, "open": True, "elapsed": 10.0, "rate": 3.0}
    return Standing(**{**told, **more})  # type: ignore[arg-type]


def shown(what: Standing, *, width: int = 80, height: int = 24) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None).print(live.rows(what, height=height))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_all_is_there_that_a_watcher_wants_to_know() -> None:
    lines = shown(
        standing(
            failed=2,
            retried=1,
            workers=[worker(12, "in.txt:7", done=3, total=4), worker(34, None, None), worker(56, "b", 0.25, done=7)],
            failures=[("in.txt:3", "ValueError: bad (clean.py:8)")],
        )
    )
    bar, counts, first, second, third, failure = lines
    assert bar.startswith("30 of 120 jobs ━━━━")
    assert bar.endswith("25 % 3.0/s 30 s left")
    assert counts.strip() == "2 failed; 1 tried again"
    assert first.split() == ["12", "in.txt:7", "━━━━━━━╸", "1.5", "s", "50", "MiB"]
    assert second.split() == ["34", "idle", "50", "MiB"]
    assert third.split() == ["56", "b", "7", "0.2", "s", "50", "MiB"]
    assert failure.strip() == "✗ in.txt:3  ValueError: bad (clean.py:8)"


def test_what_is_not_known_is_not_said() -> None:
    (bar,) = shown(standing(total=None, rate=None, elapsed=125.0))
    assert bar.startswith("30 jobs ━")
    assert bar.endswith("2:05 so far")
    assert "%" not in bar


names = st.text(max_size=200) | st.sampled_from(["日本語" * 40, "a\nb", "x" * 300, "[bold]no markup[/]", "\ud800"])


@given(
    names=st.lists(names, max_size=30),
    failures=st.lists(st.tuples(names, names), max_size=5),
    width=st.integers(40, 200),
    height=st.integers(3, 50),
    total=st.none() | st.integers(0, 10**9),
)
def test_no_line_is_wider_than_the_terminal_and_all_fit_its_height(
    names: list[str], failures: list[tuple[str, str]], width: int, height: int, total: int | None
) -> None:
    what = standing(
        total=total, failed=3, retried=4, failures=failures,
        workers=[worker(1_000_000 + number, name, 86_000.0, done=1e15) for number, name in enumerate(names)],
    )  # fmt: skip
    lines = shown(what, width=width, height=height)
    assert all(cell_len(line) <= width for line in lines)
    assert len(lines) <= max(height, 7)  # with fewer lines than that, a terminal shows the first


def test_of_many_workers_those_with_the_longest_jobs_are_shown() -> None:
    workers = [worker(pid, f"job {pid}", float(pid % 7)) for pid in range(100, 164)]
    lines = shown(standing(workers=workers), height=10)
    assert lines[-1].strip() == "and 58 more workers"
    assert [line.split()[0] for line in lines[1:-1]] == ["104", "111", "118", "125", "132", "139"]


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (standing(), "30 of 120 jobs, 3.0 a second, 30 s left"),
        (standing(total=None), "30 jobs, 3.0 a second, 10 s so far"),
        (standing(failed=1200, retried=2, rate=None), "30 of 120 jobs, 1,200 failed, 2 tried again, 10 s so far"),
        (standing(finished=0, rate=0.0123, elapsed=0.5), "0 of 120 jobs, 0.012 a second, 2:42:36 left"),
        (standing(finished=120, rate=4321.0, elapsed=3.25), "120 of 120 jobs, 4,321 a second, 3.2 s so far"),
    ],
)
def test_a_line_says_the_same(what: Standing, line: str) -> None:
    assert live.line(what) == line


def test_the_rate_is_that_of_late() -> None:
    rate = Rate()
    assert rate.add(0.0, 0) is None
    assert rate.add(1.0, 10) == 10.0
    for second in range(2, 60):
        found = rate.add(float(second), 10 + 2 * (second - 1))
    assert found == pytest.approx(2.0, rel=0.3)
    assert Rate().add(5.0, 7) is None


def test_a_job_whose_start_is_not_known_is_as_old_as_the_first_look_at_it() -> None:
    ages = Ages()
    assert [row.job_age for row in ages.fill([worker(1, "a", None), worker(2, "b", 9.0)], 10.0)] == [0.0, 9.0]
    assert [row.job_age for row in ages.fill([worker(1, "a", None), worker(2, None, None)], 12.5)] == [2.5, None]
    assert [row.job_age for row in ages.fill([worker(1, "c", None)], 13.0)] == [0.0]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain\tline\n", "plain\tline\n"),
        ("\x1b[31mred\x1b[0m\n", "red\n"),
        ("\x1b]0;title\x07up\x1b[2A\n", "up\n"),
        (" 10%\r 20%\r100%\n", "100%\n"),
        ("windows\r\nnext\n", "windows\nnext\n"),
        ("a\x00b\x9bc\n", "abc\n"),
    ],
)
def test_what_jobs_print_cannot_move_the_cursor(text: str, left: str) -> None:
    assert clean(text) == left
