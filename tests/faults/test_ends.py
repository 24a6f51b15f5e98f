"""Jobs that end their worker, or hurt it: they pay, and nobody else."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mpengine import Engine, Job, JobLost
from tests.faults import jobs
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.runtime.gates import Gate
from tests.support import WAIT_S, is_running, run_python, wait_for, wait_gone


def neighbours(engine: Engine, count: int = 30) -> list[Any]:
    return [engine.submit(jobs.echo, n) for n in range(count)]


def assert_unharmed(engine: Engine, futures: list[Any]) -> None:
    assert [f.result(WAIT_S) for f in futures] == list(range(len(futures)))
    wait_ready(engine)
    assert engine.submit(jobs.echo, "after").result(WAIT_S) == "after"


ENDS = [
    pytest.param(jobs.exit_with, (0,), 0, "code 0", id="exit 0"),
    pytest.param(jobs.exit_with, (3,), 3, "code 3", id="exit 3"),
    pytest.param(jobs.segfault, (), -signal.SIGSEGV, "SIGSEGV", id="segmentation fault"),
    pytest.param(jobs.abort, (), -signal.SIGABRT, "SIGABRT", id="abort"),
    pytest.param(jobs.kill_myself, (signal.SIGTERM,), -signal.SIGTERM, "SIGTERM", id="SIGTERM"),
    pytest.param(jobs.kill_myself, (signal.SIGKILL,), -signal.SIGKILL, "SIGKILL", id="SIGKILL"),
    pytest.param(jobs.kill_myself, (signal.SIGRTMIN + 1,), -(signal.SIGRTMIN + 1), "signal", id="another signal"),
]


@pytest.mark.parametrize(("body", "args", "exitcode", "text"), ENDS)
def test_a_job_that_ends_its_worker_is_lost_and_says_how(
    make_engine: MakeEngine, body: Callable[..., Any], args: Any, exitcode: int, text: str
) -> None:
    engine = make_engine(2)
    before = neighbours(engine)
    future = engine.submit(body, *args)
    after = neighbours(engine)
    outcome = future.outcome(WAIT_S)
    assert outcome.status == "lost"
    error = outcome.error
    assert isinstance(error, JobLost)
    assert error.exitcode == exitcode
    assert error.worker_pid == outcome.worker_pid
    assert text in str(error)
    assert_unharmed(engine, before)
    assert_unharmed(engine, after)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(("body", "args", "exitcode", "text"), ENDS[:3])
def test_the_same_under_the_other_start_methods(
    make_engine: MakeEngine, method: str, body: Callable[..., Any], args: Any, exitcode: int, text: str
) -> None:
    engine = make_engine(1, method)
    future = engine.submit(body, *args)
    after = neighbours(engine)
    assert future.outcome(WAIT_S).error.exitcode == exitcode  # type: ignore[union-attr]
    assert_unharmed(engine, after)


@pytest.mark.parametrize("body", [jobs.segfault, jobs.abort])
def test_a_crash_carries_the_line_it_happened_on(make_engine: MakeEngine, body: Callable[..., Any]) -> None:
    error = make_engine(1).submit(body).outcome(WAIT_S).error
    assert isinstance(error, JobLost)
    assert f"in {body.__name__}" in error.stack
    assert "faults/jobs.py" in error.stack


def test_a_job_that_becomes_another_program_is_lost(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(1, start_method)
    for seconds in (0.0, 600.0):  # it ends by itself, or it would stay
        future = engine.submit(jobs.become_another_program, seconds)
        after = neighbours(engine)
        outcome = future.outcome(WAIT_S)
        assert outcome.status == "lost"
        assert outcome.worker_pid
        wait_gone(outcome.worker_pid)
        assert_unharmed(engine, after)


def test_a_job_that_becomes_a_program_that_is_not_ours_to_end(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by `sudo`: then its end is waited for, and others go on."""
    engine = make_engine(2)
    wait_ready(engine)
    refused = threading.Event()

    def refuse(pidfd: int, signum: int) -> None:
        refused.set()
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    future = engine.submit(jobs.become_another_program, 1.0)
    wait_for(refused)
    assert [f.result(WAIT_S) for f in neighbours(engine)] == list(range(30))
    outcome = future.outcome(WAIT_S)
    monkeypatch.undo()
    assert outcome.status == "lost"
    assert_unharmed(engine, neighbours(engine))


def test_a_job_that_closes_all_descriptors(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(2, start_method)
    before = neighbours(engine)
    for _ in range(2):
        outcome = engine.submit(jobs.close_everything).outcome(WAIT_S)
        assert outcome.status in ("lost", "succeeded")
        assert outcome.status == "lost" or outcome.value == "closed"
    assert_unharmed(engine, before)
    assert_unharmed(engine, neighbours(engine))


def test_a_job_that_closes_all_descriptors_and_goes_on(make_engine: MakeEngine) -> None:
    engine = make_engine(2)
    outcome = engine.submit(jobs.close_everything, 0.05).outcome(WAIT_S)
    assert outcome.status in ("lost", "succeeded")
    assert_unharmed(engine, neighbours(engine))


RUBBISH = """
from mpengine import Engine
from tests.faults import jobs

with Engine(2, {method!r}) as engine:
    others = [engine.submit(jobs.echo, n) for n in range(100)]
    for _ in range(3):
        assert engine.submit(jobs.write_rubbish_everywhere).outcome(20).status in ("lost", "succeeded")
    large = engine.submit(len, b"x" * 300_000)
    others += [engine.submit(jobs.echo, n) for n in range(100, 200)]
    assert [f.result(20) for f in others] == list(range(200))
    assert large.result(20) == 300_000
print("unharmed")
"""


def test_a_job_that_writes_rubbish_to_all_descriptors(start_method: str) -> None:
    # In a program of its own: a forked worker has all descriptors of its parent, and those of pytest are not ours.
    done = run_python("-c", RUBBISH.format(method=start_method))
    assert (done.returncode, done.stdout) == (0, "unharmed\n"), done.stderr


def test_a_job_that_makes_all_descriptors_non_blocking(make_engine: MakeEngine) -> None:
    engine = make_engine(2)
    others = neighbours(engine, 100)
    for _ in range(3):
        assert engine.submit(jobs.make_everything_nonblocking).outcome(WAIT_S).status in ("lost", "succeeded")
    assert_unharmed(engine, others)
    assert_unharmed(engine, neighbours(engine, 100))


def test_batch_mates_of_a_lost_job_keep_their_results_or_run_elsewhere(make_engine: MakeEngine, tmp_path: Path) -> None:
    """The pace of the jobs is known, so that they travel in batches; one of many kills its worker."""
    engine = make_engine(1)
    for _ in range(3):
        for future in neighbours(engine, 200):
            future.result(WAIT_S)
    path = tmp_path / "diary"
    path.touch()
    for _ in range(200):
        engine.submit(jobs.note, str(path), "warm")
    assert engine.join(WAIT_S)
    path.write_text("")

    def body(n: int) -> object:
        return jobs.exit_with(9) if n == 333 else jobs.note(str(path), n)  # type: ignore[func-returns-value]

    futures = [engine.submit(body, n) for n in range(600)]
    statuses = [f.outcome(WAIT_S).status for f in futures]
    assert [n for n, status in enumerate(statuses) if status != "succeeded"] == [333]
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{what} {n}" for n in range(600) if n != 333 for what in ("begin", "end"))


def test_a_job_that_forks_returns_once(make_engine: MakeEngine, tmp_path: Path, start_method: str) -> None:
    engine = make_engine(1, start_method)
    path = tmp_path / "forked"
    assert engine.submit(jobs.fork_here, str(path)).result(WAIT_S) == "parent"
    assert sorted(path.read_text().split()) == ["child", "parent"]
    assert engine.submit(jobs.fork_and_raise, str(path)).result(WAIT_S) == "parent"
    assert list(engine.map(jobs.fork_here, [str(path)] * 3)) == ["parent"] * 3
    assert_unharmed(engine, neighbours(engine))
    assert engine.stats().failed == 0


@pytest.mark.parametrize("leave_group", [False, True])
def test_children_of_a_killed_worker_go_with_it(make_engine: MakeEngine, gate: Gate, leave_group: bool) -> None:
    engine = make_engine(1, stop_grace=0.1)
    future = engine.submit(jobs.start_family, gate.door, leave_group=leave_group, hang_on=True)
    family = [int(pid) for pid in gate.arrival().token.split()]
    assert all(is_running(pid) for pid in family)
    future.cancel(running=True)  # the interrupt ends the job; its family is the worker's until that goes
    assert future.outcome(WAIT_S).status == "cancelled"
    engine.shutdown()
    if not leave_group:
        wait_gone(*family, timeout=3.0)
    else:
        for pid in family:
            psutil.Process(pid).kill()


@pytest.mark.parametrize("leave_group", [False, True])
def test_the_tree_below_a_worker_that_the_engine_kills(make_engine: MakeEngine, gate: Gate, leave_group: bool) -> None:
    def body(door: Any) -> None:
        try:
            jobs.start_family(door, leave_group=leave_group, hang_on=True)
        except BaseException:
            jobs.ignore_every_exception(door)

    engine = make_engine(1, stop_grace=0.1)
    future = engine.dispatch(Job(body, (gate.door,), timeout=0.5))
    family = [int(pid) for pid in gate.arrival().token.split()]
    assert future.outcome(WAIT_S).status == "expired"
    wait_gone(*family, timeout=3.0)


def test_children_of_a_worker_that_is_killed_from_outside_go_with_it(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    future = engine.submit(jobs.start_family, gate.door, leave_group=False, hang_on=True)
    arrival = gate.arrival()
    os.kill(arrival.pid, signal.SIGKILL)
    assert future.outcome(WAIT_S).status == "lost"
    wait_gone(*(int(pid) for pid in arrival.token.split()), timeout=3.0)


def test_a_grandchild_that_holds_all_descriptors_delays_nobody(make_engine: MakeEngine, gate: Gate) -> None:
    """Its worker's end is learnt though a descendant keeps the pipes open."""

    def body(door: Any) -> None:
        pid = os.fork()
        if not pid:
            door.announce("grandchild")
            door.wait()
            os._exit(0)
        os._exit(7)

    engine = make_engine(1)
    future = engine.submit(body, gate.door)
    after = neighbours(engine)
    assert future.outcome(WAIT_S).error.exitcode == 7  # type: ignore[union-attr]
    assert_unharmed(engine, after)
    gate.open()


def test_what_a_job_changes_in_its_worker_does_not_stop_the_engine(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    engine.submit(jobs.change_everything).result(WAIT_S)
    assert_unharmed(engine, neighbours(engine))
    report = engine.shutdown()
    assert [end.rung for end in report.workers] == ["pill"]


def test_lost_jobs_do_not_break_the_engine_however_many(make_engine: MakeEngine) -> None:
    engine = make_engine(2)
    futures = [engine.submit(jobs.exit_with, 1) for _ in range(20)]
    assert [f.outcome(WAIT_S).status for f in futures] == ["lost"] * 20
    assert_unharmed(engine, neighbours(engine))


def test_a_fork_server_that_is_killed_is_replaced(make_engine: MakeEngine) -> None:
    from multiprocessing import forkserver

    engine = make_engine(1)
    (pid,) = wait_ready(engine)
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not is_running(server))
    future = engine.submit(jobs.exit_with, 3)
    assert future.outcome(WAIT_S).status == "lost"
    assert_unharmed(engine, neighbours(engine))
    assert pid not in wait_ready(engine)


def test_a_fork_server_that_is_killed_while_it_starts_a_worker(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multiprocessing import forkserver

    engine = make_engine(1)
    (pid,) = wait_ready(engine)
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]

    def read_from_the_dead(fd: int) -> int:
        monkeypatch.undo()
        os.kill(server, signal.SIGKILL)
        raise EOFError("unexpected EOF")

    monkeypatch.setattr(forkserver, "read_signed", read_from_the_dead)
    assert engine.submit(jobs.exit_with, 3).outcome(WAIT_S).status == "lost"
    assert_unharmed(engine, neighbours(engine))
    assert pid not in wait_ready(engine)


def test_a_fork_server_survives_who_asks_for_nothing() -> None:
    """As a program does that has no descriptor left in the middle of asking for a worker."""
    done = run_python("-c", ASK_FOR_NOTHING)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the same\n", "")


ASK_FOR_NOTHING = """
import socket
from multiprocessing import forkserver
from mpengine import Engine
from tests.faults.jobs import exit_with

server = forkserver._forkserver
with Engine(1, "forkserver") as engine:
    assert engine.submit(abs, -1).result(20) == 1
    pid = server._forkserver_pid
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(server._forkserver_address)
    assert engine.submit(exit_with, 3).outcome(20).status == "lost"
    assert engine.submit(abs, -1).result(20) == 1
    print("the same" if server._forkserver_pid == pid else "another")
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_resource_tracker_that_is_killed_is_replaced(method: str) -> None:
    done = run_python("-W", "error", "-c", NO_TRACKER.format(method=method))
    assert (done.returncode, done.stdout, done.stderr) == (0, "unharmed\n", "")


NO_TRACKER = """
import os, signal
from multiprocessing import resource_tracker
from mpengine import Engine

def settle():  # no worker is being started: that would reap the tracker before it is waited for here
    while [row.state for row in engine.workers()] != ["idle"] * 2:
        pass

with Engine(2, {method!r}) as engine:
    assert engine.submit(abs, -1).result(20) == 1
    for _ in range(2):
        settle()
        tracker = resource_tracker._resource_tracker._pid
        os.kill(tracker, signal.SIGKILL)
        os.waitid(os.P_PID, tracker, os.WEXITED | os.WNOWAIT)
        assert [f.outcome(20).status for f in [engine.submit(os._exit, 3) for _ in range(2)]] == ["lost"] * 2
        assert list(engine.map(abs, range(100))) == list(range(100))
print("unharmed")
"""
