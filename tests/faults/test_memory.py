"""A worker that grows too large: its job is ended with the figures, its neighbours and the machine do not notice."""

from __future__ import annotations

import os
from types import FunctionType

import psutil
import pytest

from mpengine import Engine, Job, JobLost, MemoryLimitExceeded
from mpengine.runtime.weighing import family, resident_bytes, weigh
from tests.faults import jobs
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.support import WAIT_S, run_python, wait_gone

MIB = 1 << 20
LIMIT = 500 * MIB  # a worker that was forked from the tests' own process has a good part of that from the start
TOO_MUCH = 1500 * MIB


@pytest.fixture
def limited(make_engine: MakeEngine, start_method: str) -> Engine:
    return make_engine(2, start_method, memory_limit=LIMIT)


@pytest.mark.parametrize("hog", [jobs.grow_until, jobs.hold_at_once])
def test_a_job_that_takes_too_much_is_ended_and_no_other(limited: Engine, hog: FunctionType) -> None:
    before = [limited.submit(jobs.echo, n) for n in range(20)]
    greedy = limited.submit(hog, TOO_MUCH)
    after = [limited.submit(jobs.echo, n) for n in range(20)]
    error = greedy.exception(WAIT_S)
    assert isinstance(error, MemoryLimitExceeded)
    assert isinstance(error, JobLost)
    assert isinstance(error, MemoryError)
    assert error.peak_memory > LIMIT
    assert "500.0 MiB" in str(error)
    assert hog.__name__ in str(error)
    assert hog.__name__ in error.stack
    assert [future.result(WAIT_S) for future in before + after] == [*range(20), *range(20)]
    wait_ready(limited)


def test_each_attempt_is_ended_so(make_engine: MakeEngine) -> None:
    engine = make_engine(1, memory_limit=LIMIT)
    outcome = engine.dispatch(Job(jobs.hold_at_once, (TOO_MUCH,), retries=1)).outcome(WAIT_S)
    assert outcome.attempts == 2
    assert [type(error) for error in outcome.errors] == [MemoryLimitExceeded] * 2


def test_one_call_of_a_map_is_ended_so(make_engine: MakeEngine) -> None:
    engine = make_engine(2, memory_limit=LIMIT)
    values = engine.map(jobs.hold_at_once, [MIB, 2 * MIB, TOO_MUCH])
    assert [next(values), next(values)] == [MIB, 2 * MIB]
    with pytest.raises(MemoryLimitExceeded, match=r"call 2 of map\(`hold_at_once`\)"):
        next(values)


def test_what_is_below_the_worker_counts(make_engine: MakeEngine) -> None:
    engine = make_engine(1, memory_limit=LIMIT)
    wait_ready(engine)
    (worker,) = engine.workers()
    error = engine.submit(jobs.have_a_child_hold, TOO_MUCH).exception(WAIT_S)
    assert isinstance(error, MemoryLimitExceeded)
    wait_gone(worker.pid)
    assert not [process for process in psutil.process_iter(["cmdline"]) if "signal.pause()" in str(process.info)]


def test_pages_that_processes_share_count_once(make_engine: MakeEngine) -> None:
    engine = make_engine(1, memory_limit=LIMIT)
    assert engine.submit(jobs.share_with_children, 200 * MIB, 4).result(WAIT_S) == 200 * MIB


def test_what_a_forked_worker_has_from_a_large_program_is_not_its_own() -> None:
    code = (
        "from mpengine import Engine, MemoryLimitExceeded\nfrom tests.faults import jobs\n"
        "held = b'1' * (600 << 20)\n"
        "with Engine(2, 'fork', memory_limit='300MiB') as engine:\n"
        "    pids = {engine.submit(jobs.work_a_while, 0.05).result() for _ in range(20)}\n"
        "    assert len(pids) <= 2, 'none has grown'\n"
        "    assert engine.submit(jobs.share_with_children, 100 << 20, 3).result() == 100 << 20\n"
        "    error = engine.submit(jobs.hold_at_once, 800 << 20).exception()\n"
        "    assert type(error) is MemoryLimitExceeded, error\n"
        "    print(engine.stats().lost)\n"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_worker_that_has_merely_grown_makes_way_and_no_job_is_lost(make_engine: MakeEngine) -> None:
    engine = make_engine(2, memory_limit=LIMIT)
    pids = {future.result(WAIT_S) for future in [engine.submit(jobs.leave_behind, 60 * MIB) for _ in range(40)]}
    assert len(pids) > 2
    assert engine.stats().lost == 0


def test_an_engine_at_rest_weighs_nobody(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(2, memory_limit=LIMIT)
    wait_ready(engine)
    assert engine.submit(jobs.echo, 1).outcome(WAIT_S).ok
    assert engine.join(WAIT_S)
    assert engine._dispatcher.workforce.due() is None


def test_workers_are_the_oom_killers_first_choice(make_engine: MakeEngine, start_method: str) -> None:
    engine = make_engine(1, start_method)
    assert engine.submit(jobs.oom_score).result(WAIT_S) >= min(1000, jobs.oom_score() + 300)


def test_weighing() -> None:
    assert os.getpid() in family(os.getpid())
    size, soon = weigh(os.getpid(), 1 << 40)
    assert size >= resident_bytes(os.getpid()) // 2 > MIB
    assert soon == pytest.approx(0.1)
    _, sooner = weigh(os.getpid(), 1)
    assert sooner == pytest.approx(0.005)
    assert weigh(2**22 + 1, 1)[0] == 0  # nobody has that number
