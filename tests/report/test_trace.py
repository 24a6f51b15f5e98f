"""Traces: valid JSON at the end, useful before it. Perfetto itself is not looked at: it needs a network."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpengine import Job, Trace
from tests.report import jobs
from tests.report.stories import Story
from tests.runtime.fixtures import MakeEngine
from tests.support import ROOT, WAIT_S


def read(path: Path) -> list[dict[str, Any]]:
    events = json.loads(path.read_text())
    assert isinstance(events, list)
    for event in events:  # as the format has it
        assert isinstance(event["name"], str)
        assert {"ph", "pid", "tid"} <= set(event)
        if event["ph"] != "M":
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
    return events


def shown(story: Story, path: Path) -> list[dict[str, Any]]:
    trace = Trace(path)
    story.tell(trace)
    trace.close()
    return read(path)


def named(events: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == phase]


def test_a_run_is_one_bar_per_attempt_on_its_workers_row(make_engine: MakeEngine, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    engine = make_engine(2)
    engine.observe(Trace(path))
    for n in range(20):
        engine.dispatch(Job(jobs.work, (n,), id=f"good {n}"))
    engine.dispatch(Job(jobs.fail_first, ("x",), id="second try", retries=1))
    engine.dispatch(Job(jobs.fail, ("no luck",), id="bad"))
    engine.dispatch(Job(jobs.take, (0.2,), id="long"))
    assert engine.join(WAIT_S)
    engine.shutdown()
    events = read(path)
    bars = named(events, "X")
    assert sorted((bar["args"]["id"], bar["args"]["status"]) for bar in bars) == sorted(
        [
            *((f"good {n}", "succeeded") for n in range(20)),
            ("second try", "retried"), ("second try", "succeeded"), ("bad", "failed"), ("long", "succeeded"),
        ]
    )  # fmt: skip
    (bad,) = (bar for bar in bars if bar["args"]["id"] == "bad")
    assert bad["name"] == "fail"
    assert bad["args"] == {"id": "bad", "status": "failed", "attempt": 1, "error": "ValueError: no luck"}
    (long,) = (bar for bar in bars if bar["args"]["id"] == "long")
    assert 200_000 <= long["dur"] < 5_000_000
    pids = {bar["tid"] for bar in bars}
    rows = {event["tid"]: event["args"]["name"] for event in named(events, "M") if event["name"] == "thread_name"}
    assert pids <= set(rows)
    assert all(name == f"worker {pid}" for pid, name in rows.items())
    for pid in pids:  # a worker runs one job at a time
        row = sorted((bar["ts"], bar["ts"] + bar["dur"]) for bar in bars if bar["tid"] == pid)
        assert all(end <= start + 1 for (_, end), (start, _) in itertools.pairwise(row))
        told = [event["name"] for event in named(events, "i") if event["tid"] == pid]
        assert told == ["worker started", "worker ready", "worker ended"]
    states = [event["name"] for event in named(events, "i") if event["name"].startswith("engine")]
    assert states == ["engine open", "engine closing", "engine closed"]
    assert named(events, "C")[-1]["args"] == {"running": 0, "waiting": 0}


def test_the_counter_tells_what_ran_and_waited_and_no_more_often_than_can_be_seen(tmp_path: Path) -> None:
    story = Story().worker(1, 0.0, 0.0).accepted("a", 1.0).accepted("b", 1.001).accepted("c", 1.002)
    story.started("a", 1.002).finished("a", 5.0)
    counters = [(event["ts"], event["args"]) for event in named(shown(story, tmp_path / "x"), "C")]
    assert counters == [
        (0.0, {"running": 0, "waiting": 0}),
        (1e6, {"running": 1, "waiting": 0}),
        (1.002e6, {"running": 1, "waiting": 2}),  # not forgotten: so it was until the next
        (5e6, {"running": 1, "waiting": 1}),
    ]


def test_jobs_that_never_started_or_have_not_ended_are_shown(tmp_path: Path) -> None:
    story = Story().worker(1, 0.0, 0.0).accepted("never", 1.0).finished("never", 2.0, "cancelled")
    story.accepted("on", 1.0).started("on", 2.0)
    events = shown(story, tmp_path / "x")
    (never,) = (event for event in named(events, "i") if event["args"].get("id") == "never")
    assert never["name"] == "work: cancelled"
    (on,) = named(events, "X")
    assert on["args"]["status"] == "unfinished"


def test_any_text_is_valid_json(tmp_path: Path) -> None:
    nasty = '\ud800\x00"]}\n' + "x" * 10_000
    story = Story().worker(1, 0.0, 0.0).job(nasty, 0.0, 0.0, 1.0, status="failed", error=ValueError(nasty))
    (bar,) = named(shown(story, tmp_path / "x"), "X")
    assert bar["args"]["id"].startswith('\\ud800?"]} xxx')
    assert len(bar["args"]["id"]) + len(bar["args"]["error"]) < 1000


def test_a_killed_program_leaves_all_that_it_was_told(tmp_path: Path) -> None:
    """But for the bracket at the end, which the format's readers do without."""
    path = tmp_path / "killed.json"
    code = (
        "import os, signal, sys\n"
        "from mpengine import Trace\n"
        "from tests.report.stories import Story\n"
        "story = Story().worker(1, 0.0, 0.0)\n"
        "for n in range(50): story.job(str(n), n, n, n + 0.5)\n"
        "trace = Trace(sys.argv[1])\n"  # it is not collected, and so not closed, before the end
        "story.tell(trace)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, timeout=WAIT_S)
    assert done.returncode == -signal.SIGKILL
    text = path.read_text()
    assert not text.rstrip().endswith("]")
    events = json.loads(text + "]")
    assert [event["args"]["id"] for event in named(events, "X")] == [str(n) for n in range(50)]


def test_a_closed_trace_takes_no_more_and_may_be_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "x"
    trace = Trace(path)
    Story().worker(1, 0.0, 0.0).job("a", 0.0, 0.0, 1.0).state("closed", 2.0).tell(trace)
    before = path.read_bytes()
    Story().job("b", 3.0, 3.0, 4.0).tell(trace)
    trace.close()
    assert path.read_bytes() == before
    assert len(named(read(path), "X")) == 1


def test_memory_and_file_grow_with_what_is_open_only(tmp_path: Path) -> None:
    path = tmp_path / "x"
    trace = Trace(path)
    for n in range(3000):
        Story().job(str(n), n, n, n + 0.5).tell(trace)
    assert not trace._running
    trace.close()
    assert path.stat().st_size < 3000 * 400


def test_a_path_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Trace(tmp_path / "nowhere" / "trace.json")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_ends_the_trace_and_not_the_engine(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    engine = make_engine(1)
    trace = Trace(tmp_path / "x")
    trace._file.close()
    trace._file = open("/dev/full", "wb", buffering=0)
    engine.observe(trace)
    assert engine.submit(jobs.work, 3).result(WAIT_S) == 9
    engine.shutdown()
    assert "No space left on device" in caplog.text
    assert trace._file.closed
