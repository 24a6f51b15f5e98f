"""What `Engine`, `Job` and `map` refuse, and what they make of what they are given."""

import concurrent.futures.process
import inspect
import multiprocessing
import os
import pickle
from typing import Any

import pytest

from mpengine import Engine, EngineBroken, EngineClosed, Job, JobExpired, JobLost, cpu_count
from mpengine.options import size_bytes
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine
from tests.support import WAIT_S, run_python


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"max_workers": 1.5}, TypeError),
        ({"mp_context": "thread"}, ValueError),
        ({"mp_context": 3}, TypeError),
        ({"initializer": 3}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": 1.0}, TypeError),
        ({"max_pending": 0}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"retries": -1}, ValueError),
        ({"stop_grace": -1}, ValueError),
        ({"threads_per_worker": 0}, ValueError),
        ({"memory_limit": 0}, ValueError),
        ({"memory_limit": 1e9}, TypeError),
        ({"memory_limit": "0"}, ValueError),
        ({"memory_limit": "much"}, ValueError),
        ({"memory_limit": "2 GiBs"}, ValueError),
        ({"observers": [3]}, TypeError),
        ({"output": 3}, TypeError),
        ({"unknown": 1}, TypeError),
    ],
    ids=str,
)
def test_an_engine_refuses_what_makes_no_sense(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Engine(**options)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("2 gib", 2 << 30),
        ("1.5G", 3 << 29),
        ("500MB", 500_000_000),
        ("4096", 4096),
        ("4096B", 4096),
        ("64k", 1 << 16),
    ],
)
def test_a_size_in_words(text: str, size: int) -> None:
    assert size_bytes("memory_limit", text) == size


def test_the_signature_is_a_superset_of_process_pool_executors() -> None:
    theirs = inspect.signature(concurrent.futures.ProcessPoolExecutor).parameters
    ours = inspect.signature(Engine).parameters
    assert list(ours)[:4] == list(theirs)[:4]
    assert set(theirs) <= set(ours)
    for name in ("submit", "map", "shutdown"):
        theirs = inspect.signature(getattr(concurrent.futures.ProcessPoolExecutor, name)).parameters
        assert set(theirs) <= set(inspect.signature(getattr(Engine, name)).parameters)
    assert issubclass(Engine, concurrent.futures.Executor)


def test_a_context_of_multiprocessing_or_its_name(make_engine: MakeEngine) -> None:
    by_context = make_engine(1, multiprocessing.get_context("fork"))
    assert by_context._max_workers == 1
    assert by_context.submit(jobs.echo, 1).result(WAIT_S) == 1
    positional = make_engine(1, None, jobs.remember, ("positional",))
    assert positional.submit(jobs.remembered).result(WAIT_S) == "positional"


def test_the_default_start_method_is_what_the_program_chose() -> None:
    code = (
        "import multiprocessing; from mpengine import Engine\n"
        "if {choice!r}: multiprocessing.set_start_method({choice!r})\n"
        "with Engine(1) as engine: print(engine.submit(lambda: multiprocessing.get_start_method()).result())\n"
    )
    for choice, used in (("", "forkserver"), ("fork", "fork")):
        done = run_python("-c", code.format(choice=choice))
        assert (done.stdout.strip(), done.stderr) == (used, "")


def test_an_engine_does_not_choose_the_programs_start_method() -> None:
    code = (
        "import multiprocessing; from mpengine import Engine\n"
        "def used(engine): return engine.submit(lambda: multiprocessing.get_start_method()).result()\n"
        "for again in range(2):\n"
        "    with Engine(1) as engine: print(used(engine), multiprocessing.get_start_method(allow_none=True))\n"
        "multiprocessing.set_start_method('spawn')\n"
        "with Engine(1) as engine: print(used(engine))\n"
    )
    done = run_python("-c", code)
    assert (done.stdout.splitlines(), done.stderr) == (["forkserver None", "forkserver None", "spawn"], "")


def test_cpu_count_is_what_this_process_may_use() -> None:
    assert 1 <= cpu_count() <= len(os.sched_getaffinity(0))
    one = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    code = f"import os; {one}; import mpengine; print(mpengine.cpu_count())"
    assert run_python("-c", code).stdout == "1\n"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fn": 3}, TypeError),
        ({"fn": len, "id": 3}, TypeError),
        ({"fn": len, "timeout": 0}, ValueError),
        ({"fn": len, "retries": -1}, ValueError),
    ],
    ids=str,
)
def test_a_job_refuses_what_makes_no_sense(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Job(**options)


def test_a_job_is_immutable_and_survives_pickling() -> None:
    job = Job(jobs.add, [1], {"y": 2}, id="mine", timeout=3, retries=2, priority=4, meta="m")
    with pytest.raises(AttributeError, match="mine"):
        job.id = "yours"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del job.id
    again = pickle.loads(pickle.dumps(job))
    for name in ("fn", "args", "kwargs", "id", "timeout", "retries", "priority", "meta"):
        assert getattr(again, name) == getattr(job, name)
    assert Job(len).id != Job(len).id
    assert job.name == "add"


@pytest.mark.parametrize("chunksize", [0, -3])
def test_a_chunk_size_below_one_is_refused_and_any_other_accepted(engine: Engine, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        engine.map(jobs.square, [1], chunksize=chunksize)
    with pytest.raises(ValueError, match="chunksize"):
        engine.map_unordered(jobs.square, [1], chunksize=chunksize)
    assert list(engine.map(jobs.square, range(10), chunksize=1000)) == [n * n for n in range(10)]


def test_a_buffer_below_one_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="buffersize"):
        engine.map(jobs.square, [1], buffersize=0)


def test_an_engine_cannot_be_sent_to_a_worker(engine: Engine) -> None:
    with pytest.raises(TypeError, match="Engine"):
        engine.submit(jobs.echo, engine).result(WAIT_S)


def test_errors_are_caught_by_handlers_that_exist() -> None:
    broken_pool = concurrent.futures.process.BrokenProcessPool
    assert issubclass(EngineClosed, RuntimeError)
    assert issubclass(EngineBroken, broken_pool)
    assert issubclass(JobLost, broken_pool)
    assert issubclass(JobExpired, TimeoutError)
