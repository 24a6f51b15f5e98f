"""Where the workers' time went, and the sentence about it: from events with known times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpengine.report.tally import Tally
from mpengine.report.worktime import WorkClock, WorkTime, limited_by
from tests.report.stories import Story


def measured(story: Story) -> WorkTime:
    clock = WorkClock()
    story.tell(clock.add)
    return clock.measured()


def test_two_workers_that_are_always_busy() -> None:
    story = Story().worker(1, 0.0, 0.5).worker(2, 0.0, 0.5)
    for n in range(4):
        story.accepted(str(n), 1.0)
    story.started("0", 1.0, 1).started("1", 1.0, 2).finished("0", 3.0).started("2", 3.0, 1).finished("1", 3.0)
    story.started("3", 3.0, 2).finished("2", 5.0).finished("3", 5.0)
    time = measured(story)
    assert (time.workers, time.wall, time.jobs, time.busy, time.efficiency) == (2, 4.0, 4, 8.0, 1.0)
    assert (time.startup, time.restarts, time.input, time.backoff, time.tail, time.overhead) == (0,) * 6
    assert limited_by(time).startswith("Nothing worth a search")


def test_the_time_before_all_workers_were_ready_is_startup() -> None:
    story = Story().accepted("a", 0.0).accepted("b", 0.0).worker(1, 0.0, 1.0).started("a", 1.0, 1).worker(2, 0.0, 3.0)
    story.started("b", 3.0, 2).finished("a", 4.0).finished("b", 4.0)
    time = measured(story)
    assert time.startup == 1.0 + 3.0
    assert time.busy == 3.0 + 1.0
    assert time.restarts == time.input == time.tail == time.overhead == 0.0
    assert limited_by(time) == "Start-up: 50 % of the workers' time passed before all workers were ready. " + (
        "Keep one engine for more work."
    )


def test_a_worker_that_is_missing_later_is_a_restart() -> None:
    story = Story().worker(1, 0.0, 0.0).worker(2, 0.0, 0.0)
    for n in range(3):
        story.accepted(str(n), 0.0)
    story.started("0", 0.0, 1).started("1", 0.0, 2).finished("1", 1.0, "lost").ended(2, 1.0, -9)
    story.worker(3, 1.0, 4.0).started("2", 4.0, 3).finished("0", 5.0).finished("2", 5.0)
    time = measured(story)
    assert time.restarts == 3.0
    assert time.wasted == 1.0
    assert time.overhead == 0.0
    assert limited_by(time).startswith("Restarts: 30 % of the workers' time")


def test_too_few_open_jobs_is_input_before_the_last_was_accepted_and_tail_after() -> None:
    story = Story().worker(1, 0.0, 0.0).worker(2, 0.0, 0.0)
    for n in range(4):  # one after the other
        story.job(f"in {n}", float(n), float(n), n + 1.0)
    story.accepted("x", 4.0).accepted("y", 4.0).started("x", 4.0, 1).started("y", 4.0, 2).finished("x", 5.0)
    story.finished("y", 6.0)
    time = measured(story)
    assert (time.wall, time.busy, time.input, time.tail, time.overhead) == (6.0, 7.0, 4.0, 1.0, 0.0)
    assert limited_by(time).startswith("Waiting for input: 33 % of the workers' time")


def test_a_straggler_is_named_as_such() -> None:
    story = Story().worker(1, 0.0, 0.0).worker(2, 0.0, 0.0)
    for n in range(5):
        story.accepted(str(n), 0.0)
    story.started("0", 0.0, 1)
    for n in range(1, 5):
        story.started(str(n), n - 1.0, 2).finished(str(n), float(n))
    story.finished("0", 20.0)
    time = measured(story)
    assert (time.busy, time.tail, time.longest) == (24.0, 16.0, 20.0)
    assert limited_by(time).startswith("Stragglers: 40 % of the workers' time passed after the last jobs had begun")


def test_what_happens_after_the_last_job_does_not_count() -> None:
    story = Story().worker(1, 0.0, 0.0).job("a", 0.0, 0.0, 1.0).ended(1, 100.0).state("closed", 200.0)
    assert measured(story).wall == 1.0
    assert measured(story.accepted("b", 300.0)).wall == 1.0


def test_backoff_is_neither_input_nor_tail() -> None:
    story = Story().worker(1, 0.0, 0.0).accepted("a", 0.0).started("a", 0.0).retried("a", 1.0, delay=4.0)
    story.accepted("b", 1.0).started("b", 1.0).finished("b", 2.0).started("a", 5.0).finished("a", 6.0)
    time = measured(story)
    assert (time.wall, time.busy, time.backoff, time.wasted) == (6.0, 3.0, 3.0, 1.0)
    assert time.input == time.tail == time.overhead == 0.0
    assert limited_by(time).startswith("Backoff: 50 %")


def test_time_between_jobs_is_overhead() -> None:
    story = Story().worker(1, 0.0, 0.0)
    for n in range(4):
        story.accepted(str(n), 0.0)
    for n in range(4):
        story.started(str(n), n + 0.5).finished(str(n), n + 1.0)
    time = measured(story)
    assert (time.busy, time.overhead) == (2.0, 2.0)
    assert limited_by(time).startswith("Overhead: 50 % of the workers' time passed between jobs, on 500 ms for each")


BASE = WorkTime(
    workers=4, wall=10.0, jobs=100, busy=20.0, startup=0.0, restarts=0.0, input=0.0, backoff=0.0, tail=0.0,
    overhead=0.0, wasted=0.0, longest=1.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"jobs": 0}, "No job has finished yet."),
        ({"wall": 0.0}, "No job has finished yet."),
        ({"wasted": 12.0, "tail": 20.0}, "30 % of the workers' time went into attempts that failed"),
        ({"jobs": 3, "tail": 20.0}, "Too few jobs: 3 for 4 workers"),
        ({"jobs": 3, "input": 20.0}, "Too few jobs: 3 for 4 workers"),
        ({"tail": 20.0}, "The end: 50 %"),
        ({"tail": 20.0, "longest": 9.0}, "Stragglers: 50 %"),
        ({"overhead": 11.0, "startup": 9.0}, "Overhead: 28 % of the workers' time passed between jobs, on 110 ms"),
        ({"overhead": 9.0, "startup": 11.0}, "Start-up: 28 %"),
        ({"busy": 39.0, "tail": 1.0}, "Nothing worth a search"),
    ],
)
def test_the_sentence_names_the_largest_loss(changes: dict[str, float], says: str) -> None:
    said = limited_by(replace(BASE, **changes))  # type: ignore[arg-type]
    assert said.startswith(says)
    assert said.count("\n") == 0


def test_the_parts_make_up_the_whole() -> None:
    story = (
        Story().accepted("a", 0.0).worker(1, 0.0, 1.0).worker(2, 0.5, 1.5).started("a", 1.1, 1).retried("a", 2.0, 0.5)
    )
    story.accepted("b", 2.1).started("b", 2.2, 2).started("a", 2.6, 1).finished("b", 3.0, "failed").ended(2, 3.5)
    story.accepted("c", 3.6).finished("a", 4.0).worker(3, 3.5, 4.5).started("c", 4.1, 1).finished("c", 6.0)
    time = measured(story)
    parts = time.busy + time.startup + time.restarts + time.input + time.backoff + time.tail + time.overhead
    assert parts == pytest.approx(time.capacity)
    assert time.capacity == 12.0


def test_the_tally_counts_what_runs_and_waits() -> None:
    tally = Tally()
    story = Story().worker(1, 0.0, 0.0).worker(2, 0.0)
    for n in range(3):
        story.accepted(str(n), 0.0)
    story.tell(tally.add)
    assert (tally.running(0.0), tally.waiting(0.0), tally.starting, tally.ready) == (1, 2, {2}, {1})
    later = Story().worker(2, 0.0, 1.0).accepted("x", 0.0).started("x", 0.0).retried("x", 2.0, delay=5.0)
    later.finished("x", 7.0)
    for event in later.events[1:]:
        tally.add(event)
        if event.at == 2.0:
            assert (tally.running(2.0), tally.waiting(2.0)) == (2, 2)
    assert (tally.open, tally.running(8.0), tally.waiting(8.0)) == (3, 2, 1)
    tally.add(Story().ended(1, 9.0).events[0])
    assert (tally.running(9.0), tally.waiting(9.0)) == (1, 2)
