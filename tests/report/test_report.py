"""`Report`: written when it should be, whole or not at all; its record stays small and says what it leaves out."""

from __future__ import annotations

import html
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from mpengine import Job, Report
from mpengine.report import charts
from mpengine.report.page import page
from mpengine.report.record import (
    BARS_KEPT,
    CAUSES_KEPT,
    IDS_KEPT,
    MARKS_KEPT,
    NAMES_KEPT,
    POINTS_KEPT,
    SLOWEST_KEPT,
    WORKERS_KEPT,
    Durations,
    Points,
    RunRecord,
    Timeline,
)
from tests.report import jobs
from tests.report.runs import EXPECTED, NASTY, mixed_run
from tests.report.stories import Story
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S


def counts(text: str) -> dict[str, int]:
    return {name: int(n.replace(",", "")) for name, n in re.findall(r'<dd id="count-([\w-]+)">([\d,]+)</dd>', text)}


def record_of(story: Story) -> RunRecord:
    record = RunRecord()
    story.tell(record.add)
    return record


def page_of(story: Story) -> str:
    return page(record_of(story), "t", "today")


# ---- the observer ----------------------------------------------------------------------------------------------------


def test_the_page_is_there_when_the_engine_is_closed(make_engine: MakeEngine, gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    mixed_run(make_engine, gate, Report(path, title=NASTY))
    text = path.read_text("utf-8")
    assert counts(text) == EXPECTED
    assert "Engine closed" in text
    assert "second try 0" in text
    assert [file.name for file in tmp_path.glob("run*")] == ["run.html"]  # nothing is left beside it
    for bad in ("<script", "<img", "http://www", 'src="', "</pre></details>&"):
        assert bad not in text.split("</style>")[1]
    assert html.escape("<script>alert(1)</script>") in text


def test_it_is_written_on_demand_while_jobs_run(make_engine: MakeEngine, gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    report = Report(path)
    engine = make_engine(1)
    engine.observe(report)
    engine.dispatch(Job(jobs.work, (1,))).result(WAIT_S)
    future = engine.dispatch(Job(jobs.enter, (gate.door,)))
    gate.arrival()
    engine.observe(report).end()  # the dispatcher has told all that was before this
    report.write()
    assert counts(path.read_text())["succeeded"] == 1
    assert "Engine open" in path.read_text()
    gate.open()
    future.result(WAIT_S)
    engine.shutdown()
    assert "Engine closed" in path.read_text()


def test_an_empty_run_has_a_page(make_engine: MakeEngine, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    engine = make_engine(1)
    engine.observe(Report(path))
    engine.shutdown()
    assert counts(path.read_text()) == {"accepted": 0, "succeeded": 0, "failed": 0, "retried-attempts": 0}
    assert "No job has finished yet." in path.read_text()
    assert page(RunRecord(), "t", "today").count("No job has") >= 3  # nor has it been told anything


def test_a_path_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere'; make it first"):
        Report(tmp_path / "nowhere" / "x.html")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        Report(tmp_path)


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.html"
    path.write_text("before")
    report = Report(path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        report.write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


# ---- what is in it ---------------------------------------------------------------------------------------------------


def test_failures_are_grouped_by_type_and_line() -> None:
    story = Story().worker(1, 0.0, 0.0)
    for n in range(8):
        story.job(f"v{n}", n, n, n + 0.5, status="failed", error=ValueError(f"text {n}"))
    story.job("k", 8.0, 8.0, 9.0, status="failed", error=KeyError("x"))
    story.accepted("r", 9.0).started("r", 9.0).retried("r", 9.5, error=KeyError("x")).started("r", 9.6)
    story.finished("r", 10.0).job("c", 10.0, 10.0, 10.0, status="cancelled")
    causes = record_of(story).causes
    assert {key: (c.jobs, c.retried, c.ids) for key, c in causes.items()} == {
        ("ValueError", ""): (8, 0, [f"v{n}" for n in range(IDS_KEPT)]),
        ("KeyError", ""): (1, 1, ["k", "r"]),
    }


def test_slowest_jobs_are_compared_with_the_median() -> None:
    story = Story().worker(1, 0.0, 0.0)
    for n in range(50):
        story.job(str(n), n, n, n + 0.1)
    text = page_of(story.job("straggler", 60.0, 60.0, 62.0))
    (row,) = re.findall(r"<tr><td class=\"wide\"><code>straggler</code>.*?</tr>", text)
    assert re.search(r"<b>(19|20|21) ×</b>", row)  # the median is within 6 %
    assert text.count(" ×</b>") == 1
    assert text.count("<code>work</code></td>") == SLOWEST_KEPT


def test_workers_show_their_peak_memory_and_how_they_ended() -> None:
    story = Story().worker(7, 0.0, 0.5).job("a", 1.0, 1.0, 2.0, pid=7, peak=300 << 20).ended(7, 3.0, -9)
    text = page_of(story)
    assert "300 MiB" in text
    assert "ended with exit code -9" in text
    assert "start-up, 500 ms" in text


@pytest.mark.parametrize("jobs_", [1000, 100_000])
def test_a_record_is_bounded_and_its_page_says_what_is_left_out(jobs_: int) -> None:
    record = RunRecord()
    for n in range(jobs_):
        story = Story()
        if n % 100 == 0:
            story.worker(n + 1, float(n), n + 0.01)
        pid, status = n - n % 100 + 1, "failed" if n % 3 == 0 else "succeeded"
        error = type(f"E{n}", (Exception,), {})() if status == "failed" else None
        story.job(str(n), n, n + 0.1, n + 0.2 + n % 7 / 10, pid=pid, status=status, error=error, fn=_named(n))
        if n % 100 == 99:
            story.ended(pid, n + 0.95)
        story.tell(record.add)
    assert record.finished == jobs_
    assert len(record.workers) <= WORKERS_KEPT
    assert len(record.causes) == CAUSES_KEPT
    assert len(record.slowest) == SLOWEST_KEPT
    assert len(record.names) == NAMES_KEPT
    assert len(record.points.good) <= POINTS_KEPT
    assert not record._running
    for worker in record.workers.values():
        assert len(worker.timeline.bars) <= BARS_KEPT
        assert len(worker.marks) <= MARKS_KEPT
    text = page(record, "t", "today")
    assert len(text) < 1_500_000
    assert f"{record.other_failures:,} more attempts ended badly for causes that are not listed" in text
    assert record.other_failures + sum(c.jobs for c in record.causes.values()) == (jobs_ + 2) // 3
    kept = sum(worker.attempts for worker in record.workers.values())
    assert kept + record.other_attempts == jobs_
    assert ("more workers, with" in text) == (jobs_ > 100 * WORKERS_KEPT)


def _named(n: int) -> Any:
    def fn() -> None:
        """A job."""

    fn.__qualname__ = f"fn{n % 50}"
    return fn


def test_merged_bars_cover_what_they_stand_for() -> None:
    timeline = Timeline(most=10)
    for n in range(1000):
        timeline.add(n, n + (0.9 if n % 50 else 0.2), f"job {n}")
    timeline.add(2000.0, 2001.0, "after a pause")
    bars = timeline.bars
    assert len(bars) <= 10
    assert sum(bar.jobs for bar in bars) == 1001
    assert sum(bar.busy for bar in bars) == pytest.approx(980 * 0.9 + 20 * 0.2 + 1.0)
    assert (bars[0].start, bars[-1].end, bars[-1].label) == (0, 2001.0, "after a pause")
    assert all(a.end <= b.start for a, b in itertools.pairwise(bars))


def test_points_keep_their_sum_when_they_widen() -> None:
    points = Points()
    for n in range(5000):
        points.add(n * 0.7, ok=n % 10 != 0)
    assert (sum(points.good), sum(points.bad)) == (4500, 500)
    assert POINTS_KEPT / 2 <= len(points.good) <= POINTS_KEPT
    assert len(points.good) * points.width == pytest.approx(3500, rel=0.05)


def test_quantiles_are_within_what_they_promise() -> None:
    durations = Durations()
    values = [0.0001 * 1.01**n for n in range(1001)]
    for value in values:
        durations.add(value)
    for part in (0.01, 0.5, 0.9, 0.99):
        exact = values[int(part * 1000)]
        assert durations.quantile(part) == pytest.approx(exact, rel=0.07)
    assert durations.quantile(1.0) <= max(values)
    assert Durations().quantile(0.5) == 0.0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 s"), (3.2e-6, "3.2 µs"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (119, "119 s"), (125, "2 min 05 s"),
        (7260, "2 h 01 min"),
    ],
)  # fmt: skip
def test_durations_for_people(value: float, shown: str) -> None:
    assert charts.seconds(value) == shown


@pytest.mark.parametrize("end", [0.0, 1e-6, 0.3, 1.0, 7.7, 59.0, 12345.6])
def test_ticks_are_few_and_within(end: float) -> None:
    found = charts.ticks(end)
    assert 1 <= len(found) <= 10
    assert found[0] == 0
    assert all(at <= end * 1.0001 for at in found)
    assert end == 0 or len(found) >= 3
