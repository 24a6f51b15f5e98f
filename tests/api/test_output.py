"""What jobs print and log arrives here whole, with their ids, in a thread of its own."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mpengine import Engine, Job, JobLost, JobOutput
from tests.api import printing
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import ROOT, WAIT_S, wait_for

Got = list[JobOutput]


def lines(got: Got, job_id: str | None) -> list[tuple[str, str]]:
    return [(one.stream, line) for one in got if one.job_id == job_id for line in one.text.split("\n")]


def test_lines_come_with_their_job_and_stream(start_method: str) -> None:
    got: Got = []
    with Engine(2, start_method, output=got.append) as engine:
        for outcome in engine.run(Job(printing.say, (name,), id=name) for name in "abc"):
            assert outcome.error is None
        engine.submit(printing.mention_oneself).result()
        assert sorted(engine.map(printing.say, ["m", "n"])) == ["m", "n"]
    for name in "abc":
        assert lines(got, name) == [("stdout", f"said {name}"), ("stderr", f"complained {name}")]
    (alone,) = [one for one in got if one.text.startswith("I am")]
    assert alone.text == f"I am {alone.job_id}"
    assert lines(got, "map-1") == [("stdout", "said n"), ("stderr", "complained n")]


def test_all_is_delivered_when_the_engine_has_closed() -> None:
    got: Got = []
    with Engine(2, output=got.append) as engine:
        list(engine.map(printing.say, map(str, range(3000))))
    assert sorted(one.text for one in got if one.stream == "stdout") == sorted(f"said {n}" for n in range(3000))


def test_a_line_without_an_end_is_its_jobs() -> None:
    got: Got = []
    with Engine(1, output=got.append) as engine:
        jobs = [Job(printing.say_without_end, (name,), id=name) for name in "ab"]
        list(engine.run([*jobs, Job(printing.say, ("c",), id="c")]))
        engine.dispatch(Job(printing.say_without_end, ("z",), id="z"))
        wait_for(lambda: lines(got, "z"))
    assert lines(got, "a") == [("stdout", "begun a")]
    assert lines(got, "b") == [("stdout", "begun b")]
    assert ("stdout", "said c") in lines(got, "c")
    assert lines(got, "z") == [("stdout", "begun z")]


def test_what_is_written_past_python_comes_too(gate: Gate) -> None:
    got: Got = []
    with Engine(1, output=got.append) as engine:
        future = engine.dispatch(Job(printing.write_past_python, ("w", gate.door), id="w"))
        gate.arrival()
        wait_for(lambda: len(lines(got, "w")) == 2)
        gate.open()
        future.result(WAIT_S)
    assert lines(got, "w") == [("other", "written w"), ("other", "by a child of w")]


def test_lines_of_threads_are_whole() -> None:
    got: Got = []
    with Engine(1, output=got.append) as engine:
        engine.dispatch(Job(printing.say_in_threads, (60,), id="t")).result(WAIT_S)
    expected = [f"{name} {number} {'x' * (number * 97 % 6000)}" for name in "abcd" for number in range(60)]
    assert sorted(line for _, line in lines(got, "t")) == sorted(expected)


def test_the_last_words_of_a_worker_are_heard(start_method: str) -> None:
    got: Got = []
    with Engine(1, start_method, output=got.append) as engine:
        future = engine.dispatch(Job(printing.say_and_die, ("d",), id="d"))
        with pytest.raises(JobLost):
            future.result(WAIT_S)
    assert ("stdout", "last words of d") in lines(got, "d")


def test_a_forks_lines_are_its_jobs() -> None:
    got: Got = []
    with Engine(1, output=got.append) as engine:
        engine.dispatch(Job(printing.say_in_a_fork, ("f",), id="f")).result(WAIT_S)
    assert ("stdout", "forked by f") in lines(got, "f")


def test_what_is_printed_before_the_first_job_is_nobodys() -> None:
    got: Got = []
    with Engine(1, initializer=printing.start_talking, output=got.append) as engine:
        engine.submit(printing.say, "x").result(WAIT_S)
    assert lines(got, None) == [("stdout", "initialized")]


def test_odd_prints_do_no_harm() -> None:
    got: Got = []
    with Engine(1, output=got.append) as engine:
        assert engine.submit(printing.odd_prints).result(WAIT_S) == [1, False, "utf-8", True]
    assert [one.text for one in got] == ["\\ud800 lone", "\ufffd\ufffd bytes"]


def test_records_of_logging_go_to_the_loggers_here(caplog: pytest.LogCaptureFixture) -> None:
    got: Got = []
    with caplog.at_level(logging.INFO), Engine(1, "forkserver", output=got.append) as engine:
        engine.dispatch(Job(printing.log, ("it",), id="l")).result(WAIT_S)
    first, second = [record for record in caplog.records if record.name == "tests.printing"]
    assert first.getMessage() == "[l] noted it"
    assert (first.levelname, first.funcName, first.job_id) == ("INFO", "log", "l")  # type: ignore[attr-defined]
    assert "ValueError: it" in (second.exc_text or "")
    assert second.colour == "red"  # type: ignore[attr-defined]
    assert got == []


def test_what_the_root_logger_does_not_want_does_not_come(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), Engine(1, "forkserver", output=lambda one: None) as engine:
        engine.dispatch(Job(printing.log, ("it",), id="l")).result(WAIT_S)
    assert [record.getMessage() for record in caplog.records if record.name == "tests.printing"] == ["[l] went wrong"]


def test_a_slow_taker_makes_only_those_wait_who_print(gate: Gate) -> None:
    """And a job that waits for that can be ended all the same."""
    held, let_go = threading.Event(), threading.Event()

    def take(output: JobOutput) -> None:
        held.set()
        let_go.wait(WAIT_S)

    with Engine(2, output=take, stop_grace=0.2) as engine:
        try:
            future = engine.dispatch(Job(printing.flood, (gate.door,), id="flood", timeout=1.0))
            gate.arrival()
            wait_for(held)
            assert engine.submit(abs, -3).result(WAIT_S) == 3
            assert future.exception(WAIT_S) is not None
        finally:
            let_go.set()


@pytest.mark.parametrize("error", [RuntimeError("no room"), SystemExit(3)], ids=["an error", "an exit"])
def test_a_taker_that_raises_is_dropped_and_nobody_waits(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def take(output: JobOutput) -> None:
        raise error

    with Engine(1, output=take) as engine:
        assert list(engine.map(printing.say, map(str, range(2000)))) == [str(n) for n in range(2000)]
    (record,) = [record for record in caplog.records if record.name == "mpengine"]
    assert "what jobs print is lost" in record.getMessage()


@pytest.mark.parametrize("act", [lambda engine: engine.shutdown(), lambda engine: engine.shutdown(wait=False)])
def test_the_taker_may_end_the_engine(act: Callable[[Engine], object]) -> None:
    engines: list[Engine] = []
    done = threading.Event()

    def take(output: JobOutput) -> None:
        act(engines[0])
        done.set()

    with Engine(1, output=take) as engine:
        engines.append(engine)
        engine.submit(printing.say, "end").result(WAIT_S)
        wait_for(done)
    engines.clear()


def test_the_taker_cannot_wait_for_all_jobs() -> None:
    errors: list[BaseException] = []

    def take(output: JobOutput) -> None:
        try:
            engine.join()
        except RuntimeError as error:
            errors.append(error)

    with Engine(1, output=take) as engine:
        engine.submit(printing.say, "x").result(WAIT_S)
    assert errors


def test_a_new_worker_prints_as_the_one_before_it(make_engine: MakeEngine) -> None:
    got: Got = []
    engine = make_engine(1, output=got.append, max_tasks_per_child=1)
    list(engine.map(printing.say, "abcdef"))
    engine.shutdown()
    assert [one.text for one in got if one.stream == "stdout"] == [f"said {name}" for name in "abcdef"]
    assert len({one.worker_pid for one in got}) == 6


def test_a_worker_that_leaves_says_what_it_has_begun(make_engine: MakeEngine) -> None:
    got: Got = []
    engine = make_engine(1, output=got.append, max_tasks_per_child=1)
    engine.dispatch(Job(printing.say_without_end, ("a",), id="a")).result(WAIT_S)
    engine.shutdown()
    assert lines(got, "a") == [("stdout", "begun a")]


def test_workers_are_forked_before_there_is_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    fork = os.fork

    def note() -> int:
        threads.append(threading.active_count())
        return fork()

    monkeypatch.setattr(os, "fork", note)
    before = threading.active_count()
    with Engine(3, "fork", output=lambda one: None):
        pass
    assert threads == [before] * 3


CLOSED = """
import os, sys
from mpengine import Engine, Job
from tests.api import printing
got = []
with Engine(2, sys.argv[1], output=got.append) as engine:
    done = [outcome.value for outcome in engine.run([Job(printing.say_past_python, (n,)) for n in "abcd"])]
with open("told", "w") as file:
    print(sorted(done), sorted(one.text for one in got), file=file)
"""


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)], ids=str)
def test_a_program_without_standard_streams_hears_its_jobs(
    start_method: str, closed: tuple[int, ...], tmp_path: Path
) -> None:
    """It gives their numbers to what it opens, and its workers do: they must not lose that to the jobs' lines."""
    close = " ".join(f"{fd}>&-" for fd in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" "$2" {close}', sys.executable, CLOSED, start_method],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=WAIT_S,
    )  # fmt: skip
    assert done.returncode == 0
    expected = sorted([f"said {n}" for n in "abcd"] + [f"written {n}" for n in "abcd"])
    assert (tmp_path / "told").read_text() == f"{list('abcd')} {expected}\n"


def test_without_a_taker_jobs_print_where_the_program_does(capfd: pytest.CaptureFixture[str]) -> None:
    with Engine(1, "spawn") as engine:
        engine.submit(printing.say, "x").result(WAIT_S)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("said x\n", "complained x\n")
