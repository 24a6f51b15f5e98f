"""The backend `mpengine` under the real joblib, and scikit-learn on it."""

import doctest
import multiprocessing
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

import mpengine.adapters.joblib as adapter
from mpengine import EngineBroken, JobExpired, JobLost, MemoryLimitExceeded, RemoteTraceback, cpu_count
from mpengine.adapters.joblib import MpengineBackend
from mpengine.adapters.large_arrays import LargeArrays
from tests.adapters import jobs
from tests.runtime.gates import Gate
from tests.support import WAIT_S, run_python, wait_for, wait_gone

pytestmark = pytest.mark.usefixtures("no_engine_kept")


@pytest.fixture
def on_mpengine() -> Iterator[None]:
    """Two jobs at once on the backend."""
    with joblib.parallel_config("mpengine", n_jobs=2):
        yield


def pids() -> set[int]:
    """Of the workers that the next call would have."""
    kept = adapter._engines._kept
    assert kept is not None
    return {row.pid for row in kept.workers()}


def hang(gate: Gate, *, count: int = 1, **options: Any) -> Any:
    """A generator whose tasks hang; it is returned when `count` of them do."""
    tasks = Parallel(return_as="generator", batch_size=1, **options)(
        delayed(jobs.announce_and_hang)(gate.door, n) for n in range(count)
    )
    assert [arrival.token[:3] for arrival in gate.arrivals(count)] == ["in "] * count
    return tasks


# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_mpengine")
def test_values_come_in_order_from_workers() -> None:
    found = Parallel()(delayed(divmod)(n, 7) for n in range(1000))
    assert found == [divmod(n, 7) for n in range(1000)]
    assert os.getpid() not in Parallel()(delayed(jobs.pid)() for _ in range(8))


def test_the_backend_can_be_named_by_a_parallel() -> None:
    parallel = Parallel(n_jobs=2, backend="mpengine")
    assert parallel(delayed(abs)(n) for n in (-1, 2)) == [1, 2]
    assert type(parallel._backend) is MpengineBackend


@pytest.mark.usefixtures("on_mpengine")
def test_short_tasks_go_in_batches_that_grow() -> None:
    parallel = Parallel()
    parallel(delayed(abs)(n) for n in range(4000))
    assert parallel.n_dispatched_batches < 400
    assert parallel._backend._effective_batch_size == 1  # as it is for whatever comes next


def test_functions_and_classes_of_a_script_cross() -> None:
    code = """
import joblib, mpengine.adapters.joblib
class Point:
    def __init__(self, x): self.x = x
offset = 10
def move(point): return Point(point.x + offset)
with joblib.parallel_config("mpengine", n_jobs=2):
    found = joblib.Parallel()(joblib.delayed(move)(Point(x)) for x in range(3))
    print([type(point) is Point and point.x for point in found])
    print(joblib.Parallel()(joblib.delayed(lambda x: x + offset)(x) for x in range(3)))
"""
    done = run_python("-W", "error", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[10, 11, 12]\n[10, 11, 12]\n", "")


def test_one_job_runs_here_without_an_engine() -> None:
    with joblib.parallel_config("mpengine", n_jobs=1):
        assert Parallel()([delayed(jobs.pid)()]) == [os.getpid()]
    assert adapter._engines._kept is None


def test_the_number_of_workers_is_counted_as_joblib_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = cpu_count()
    with joblib.parallel_config("mpengine"):
        counts = {n: joblib.effective_n_jobs(n) for n in (None, 1, 3, -1, -cpus, -cpus - 5)}
        with pytest.raises(ValueError, match="n_jobs == 0"):
            joblib.effective_n_jobs(0)
        monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
        assert joblib.effective_n_jobs(-1) == 1
    assert counts == {None: 1, 1: 1, 3: 3, -1: cpus, -cpus: 1, -cpus - 5: 1}


# ---- generators ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_mpengine")
def test_a_generator_yields_in_order_while_later_tasks_run(gate: Gate) -> None:
    values = Parallel(return_as="generator", batch_size=1)(
        [delayed(abs)(-1), delayed(jobs.pass_by)(gate.door, 2), delayed(abs)(-3)]
    )
    assert next(values) == 1
    assert gate.arrival().token == "2"
    gate.release()
    assert list(values) == [2, 3]


@pytest.mark.usefixtures("on_mpengine")
def test_an_unordered_generator_yields_what_ends_first(gate: Gate) -> None:
    values = Parallel(return_as="generator_unordered", batch_size=1)(
        [delayed(jobs.pass_by)(gate.door, 1), delayed(abs)(-2), delayed(abs)(-3)]
    )
    assert {next(values), next(values)} == {2, 3}
    gate.release()
    assert list(values) == [1]


@pytest.mark.usefixtures("on_mpengine")
def test_a_dropped_generator_cancels_its_tasks_and_no_others(gate: Gate, make_gate: Any) -> None:
    other = make_gate()
    dropped = hang(gate)
    kept = Parallel(return_as="generator")([delayed(jobs.pass_by)(other.door, 5)])
    assert other.arrival().token == "5"
    before = pids()
    with pytest.warns(UserWarning, match="1 tasks which were still being processed by the workers have been cancelled"):
        del dropped
    assert gate.arrival().token == "out 0"
    other.release()
    assert list(kept) == [5]
    assert pids() == before  # it was interrupted, not killed


@pytest.mark.usefixtures("on_mpengine")
def test_a_generator_may_be_the_input_of_another_call() -> None:
    """joblib draws the input where it is told of a task's end; that thread must not be the one to tell others."""
    first = Parallel(return_as="generator")(delayed(abs)(-n) for n in range(50))
    assert Parallel()(delayed(divmod)(n, 10) for n in first) == [divmod(n, 10) for n in range(50)]


@pytest.mark.usefixtures("on_mpengine")
def test_an_input_that_blocks_holds_up_no_other_call() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def tasks() -> Iterator[Any]:
        for n in range(20):
            if n == 12:
                asked.set()
                assert go_on.wait(WAIT_S)
            yield delayed(abs)(-n)

    values = Parallel(return_as="generator", batch_size=1)(tasks())
    wait_for(asked)
    assert Parallel()(delayed(abs)(-n) for n in range(3)) == [0, 1, 2]
    go_on.set()
    assert list(values) == list(range(20))


# ---- the engine that is kept ---------------------------------------------------------------------------------------


def test_calls_share_an_engine_until_one_needs_another() -> None:
    with joblib.parallel_config("mpengine", n_jobs=2):
        Parallel()([delayed(abs)(1)])
        first = pids()
        Parallel()([delayed(abs)(1)])
        with Parallel() as parallel:
            parallel([delayed(abs)(1)])
            parallel([delayed(abs)(1)])
        assert pids() == first
    with joblib.parallel_config("mpengine", n_jobs=3):
        Parallel()([delayed(abs)(1)])
        assert pids().isdisjoint(first)
    wait_gone(*first)
    third = pids()
    with joblib.parallel_config("mpengine", n_jobs=3, inner_max_num_threads=2):
        Parallel()([delayed(abs)(1)])
        assert pids().isdisjoint(third)
    wait_gone(*third)


def test_an_engine_in_use_stays_while_another_is_made(gate: Gate) -> None:
    with joblib.parallel_config("mpengine", n_jobs=2):
        values = Parallel(return_as="generator")([delayed(jobs.pass_by)(gate.door, 1)])
        gate.arrival()
    with joblib.parallel_config("mpengine", n_jobs=3):
        assert Parallel()([delayed(abs)(-2)]) == [2]
    gate.release()
    assert list(values) == [1]


def test_calls_in_several_threads_share_an_engine() -> None:
    def call(number: int) -> tuple[Any, type]:
        parallel = Parallel(n_jobs=2, backend="mpengine")
        return parallel(delayed(divmod)(n, number + 1) for n in range(300)), type(parallel._backend)

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(call, range(6)))
    for number, (values, backend) in enumerate(found):
        assert values == [divmod(n, number + 1) for n in range(300)]
        assert backend is MpengineBackend
    assert len(adapter._engines._options) == 1


def test_calls_below_joblibs_own_threads_run_on_the_engine() -> None:
    def call(number: int) -> Any:
        return Parallel(n_jobs=2, backend="mpengine")(delayed(jobs.pid)() for _ in range(number))

    found = Parallel(n_jobs=3, backend="threading")(delayed(call)(3) for _ in range(3))
    assert {pid for part in found for pid in part} <= pids()


def test_a_fork_of_the_program_has_an_engine_of_its_own() -> None:
    code = """
import os, joblib, mpengine.adapters.joblib
def call(): return joblib.Parallel(n_jobs=2, backend="mpengine")(joblib.delayed(abs)(-n) for n in range(3))
print(call(), flush=True)
if (child := os.fork()) == 0:
    print(call(), flush=True)
    mpengine.adapters.joblib.MpengineBackend.end_workers()
    os._exit(0)
os.waitpid(child, 0)
print(call())
"""
    done = run_python("-W", "ignore::DeprecationWarning", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2]\n" * 3, "")


def test_a_daemonic_process_can_use_it() -> None:
    code = """
import multiprocessing, joblib, mpengine.adapters.joblib
def call(): print(joblib.Parallel(n_jobs=2, backend="mpengine")(joblib.delayed(abs)(-n) for n in range(3)))
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=call, daemon=True)
    child.start()
    child.join()
"""
    done = run_python("-W", "ignore::DeprecationWarning", "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2]\n", "")


@pytest.mark.parametrize(
    ("before", "option", "expected"),
    [
        ("", "", "forkserver"),
        ("multiprocessing.set_start_method('spawn')", "", "spawn"),
        ("", ", mp_context='fork'", "fork"),
    ],
)
def test_workers_are_not_forked_because_joblib_has_asked_for_a_context(before: str, option: str, expected: str) -> None:
    code = f"""
import joblib, multiprocessing, os, string, mpengine.adapters.joblib
{before}
string.mark = "what a fork has"
def tell(): return os.getppid(), hasattr(string, "mark")
((parent, is_fork),) = joblib.Parallel(n_jobs=2, backend="mpengine"{option})([joblib.delayed(tell)()])
print("forkserver" if parent != os.getpid() else "fork" if is_fork else "spawn")
"""
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == (expected + "\n", "")


# ---- tasks that end badly ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_mpengine")
def test_an_exception_is_raised_as_itself_with_the_workers_traceback() -> None:
    with pytest.raises(LookupError) as caught:
        Parallel()(delayed(jobs.fail_if)(n, 3) for n in range(10))
    assert caught.value.args == ("task 3",)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail_if" in str(caught.value.__cause__)
    assert "job 'fail_if-" in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("on_mpengine")
def test_an_error_cancels_the_rest_of_its_call_and_keeps_the_workers(gate: Gate, make_gate: Any) -> None:
    culprit = make_gate()
    tasks = [delayed(jobs.announce_and_hang)(gate.door, 0), delayed(jobs.fail_behind)(culprit.door, "now")]
    values = Parallel(batch_size=1, return_as="generator")(tasks)
    gate.arrival()
    culprit.arrival()
    before = pids()
    culprit.release()
    with pytest.raises(LookupError, match="now"):
        next(values)
    assert gate.arrival().token == "out 0"
    assert Parallel()(delayed(abs)(-n) for n in range(3)) == [0, 1, 2]
    assert pids() == before


@pytest.mark.usefixtures("on_mpengine")
def test_a_lost_worker_costs_its_call_and_the_next_works_at_once() -> None:
    Parallel()([delayed(abs)(1)])
    before = pids()
    with pytest.raises(JobLost, match="SIGKILL") as caught:
        Parallel(batch_size=1)([delayed(abs)(-1), delayed(jobs.die)()])
    assert "job 'die-" in str(caught.value)
    assert Parallel()(delayed(abs)(-n) for n in range(3)) == [0, 1, 2]
    assert len(before & pids()) == 1
    assert len(adapter._engines._options) == 1


@pytest.mark.usefixtures("on_mpengine")
def test_a_lost_worker_costs_no_other_call(gate: Gate) -> None:
    values = Parallel(return_as="generator")([delayed(jobs.pass_by)(gate.door, 1)])
    gate.arrival()
    with pytest.raises(JobLost):
        Parallel()([delayed(jobs.die)()])
    gate.release()
    assert list(values) == [1]


@pytest.mark.parametrize("return_as", ["list", "generator_unordered"])
@pytest.mark.usefixtures("on_mpengine")
def test_joblibs_timeout_is_raised_and_ends_the_tasks(gate: Gate, return_as: str) -> None:
    Parallel()(delayed(abs)(n) for n in range(10))  # so that the time is the task's, and not that of a worker's start
    with pytest.raises(multiprocessing.TimeoutError):
        list(Parallel(timeout=1.0, return_as=return_as)([delayed(jobs.announce_and_hang)(gate.door, 0)]))
    assert [gate.arrival().token, gate.arrival().token] == ["in 0", "out 0"]
    assert Parallel(timeout=WAIT_S)([delayed(abs)(-1)]) == [1]


@pytest.mark.usefixtures("on_mpengine")
def test_what_cannot_be_pickled_is_an_error_of_the_call() -> None:
    with pytest.raises(TypeError, match="lock"):
        Parallel()(delayed(abs)(value) for value in [*range(30), threading.Lock()])
    assert Parallel()([delayed(abs)(-1)]) == [1]


@pytest.mark.usefixtures("on_mpengine")
def test_an_input_that_raises_is_an_error_of_the_call() -> None:
    def tasks() -> Iterator[Any]:
        yield from (delayed(abs)(n) for n in range(30))
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        Parallel()(tasks())
    assert Parallel()([delayed(abs)(-1)]) == [1]


@pytest.mark.usefixtures("on_mpengine")
def test_a_batch_that_cannot_be_submitted_is_an_error_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where joblib is told of another's end, in a thread that has nobody to raise it to."""
    calls = iter(range(100))

    def replace_in(self: Any, items: Any) -> Any:
        if next(calls) == 8:
            raise MemoryError("no room")
        return items

    with monkeypatch.context() as patch:
        patch.setattr(LargeArrays, "replace_in", replace_in)
        with pytest.raises(MemoryError, match="no room"):
            Parallel(batch_size=1)(delayed(abs)(n) for n in range(30))
    assert Parallel()([delayed(abs)(-1)]) == [1]


def test_an_engine_that_breaks_is_replaced() -> None:
    with joblib.parallel_config("mpengine", n_jobs=2, initializer=jobs.fail, initargs=("not today",)):
        with pytest.raises(EngineBroken, match="not today"):
            Parallel()(delayed(abs)(n) for n in range(100))
        broken = repr(adapter._engines._kept)
        with pytest.raises(EngineBroken):
            Parallel()([delayed(abs)(1)])
        assert repr(adapter._engines._kept) != broken


def test_ctrl_c_ends_a_call_promptly_and_leaves_the_backend_usable(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys, threading, time, joblib, mpengine.adapters.joblib
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program that a shell starts with & ignores it
mark = pathlib.Path(sys.argv[1])
def work(n):
    mark.touch()
    while True: time.sleep(0.005)
def interrupt():
    while not mark.exists(): time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGINT)
with joblib.parallel_config("mpengine", n_jobs=2):
    threading.Thread(target=interrupt).start()
    try:
        joblib.Parallel()(joblib.delayed(work)(n) for n in range(100))
    except KeyboardInterrupt:
        print("interrupted")
    start = time.monotonic()
    print(joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(3)))
    print(time.monotonic() - start < 1.5)
"""
    done = run_python("-c", code, str(tmp_path / "mark"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n[0, 1, 2]\nTrue\n", "")


def test_ctrl_c_that_nobody_catches_ends_the_program(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys, threading, time, joblib, mpengine.adapters.joblib
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program that a shell starts with & ignores it
mark = pathlib.Path(sys.argv[1])
def work(n):
    mark.touch()
    while True: time.sleep(0.005)
def interrupt():
    while not mark.exists(): time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
joblib.Parallel(n_jobs=2, backend="mpengine")(joblib.delayed(work)(n) for n in range(100))
"""
    done = run_python("-c", code, str(tmp_path / "mark"))
    assert done.returncode == -signal.SIGINT
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize("ending", ["", "sys.exit(3)"])
def test_a_generator_that_is_left_unread_does_not_delay_the_exit(ending: str, tmp_path: Path) -> None:
    code = f"""
import joblib, mpengine.adapters.joblib, pathlib, sys, time, warnings
marks = [pathlib.Path(sys.argv[1], str(n)) for n in range(2)]
def work(n):
    if n < 2: marks[n].touch()
    while True: time.sleep(0.005)
warnings.simplefilter("ignore")  # joblib's, on tasks that were cancelled
values = joblib.Parallel(n_jobs=2, return_as="generator", backend="mpengine", batch_size=1)(
    joblib.delayed(work)(n) for n in range(100))
while not all(mark.exists() for mark in marks): time.sleep(0.005)
{ending}
"""
    done = run_python("-c", code, str(tmp_path))  # that it ends is what matters: its tasks never do
    assert (done.returncode, done.stdout, done.stderr) == (3 if ending else 0, "", "")


# ---- options -------------------------------------------------------------------------------------------------------


def test_options_of_the_engine_are_taken_by_name(tmp_path: Path) -> None:
    with joblib.parallel_config("mpengine", n_jobs=2, timeout=0.2), pytest.raises(JobExpired):
        Parallel()([delayed(jobs.wait)()])
    with joblib.parallel_config("mpengine", n_jobs=2, retries=1):
        assert Parallel()([delayed(jobs.die_once)(str(tmp_path / "mark"))]) == ["second"]
    with joblib.parallel_config("mpengine", n_jobs=2, max_tasks_per_child=1):
        found = Parallel(batch_size=1)(delayed(jobs.pid)() for _ in range(4))
        assert len(set(found)) == 4
    parallel = Parallel(n_jobs=2, backend="mpengine", memory_limit="300MiB")
    with pytest.raises(MemoryLimitExceeded):
        parallel([delayed(jobs.take_memory)(1 << 30)])


@pytest.mark.parametrize(
    ("option", "advice"),
    [("idle_worker_timeout", "it has mp_context, "), ("max_workers", "n_jobs"), ("threads_per_worker", "inner_max_")],
)
def test_an_unknown_option_is_refused_in_one_line(option: str, advice: str) -> None:
    for use in (
        lambda: joblib.parallel_config("mpengine", **{option: 1}),
        lambda: Parallel(n_jobs=2, backend="mpengine", **{option: 1})([delayed(abs)(1)]),
    ):
        with pytest.raises(TypeError, match=f"has no option '{option}'.*{advice}") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert joblib.parallel.get_active_backend()[0].__class__ is not MpengineBackend


def test_the_environment_limits_threads_unless_the_caller_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(variable: str = "OMP_NUM_THREADS", **options: Any) -> str:
        with joblib.parallel_config("mpengine", n_jobs=2, **options):
            (found,) = Parallel()([delayed(jobs.variable)(variable)])
        assert isinstance(found, str)
        return found

    for variable in MpengineBackend.MAX_NUM_THREADS_VARS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(adapter, "cpu_count", lambda: 7)
    assert threads() == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    MpengineBackend.end_workers()  # a worker has the environment of its start
    assert threads(mp_context="spawn") == "5"
    assert threads(mp_context="spawn", inner_max_num_threads=2) == "2"
    assert threads("NUMBA_NUM_THREADS", inner_max_num_threads=2) == "2"
    initializer: dict[str, Any] = {"initializer": os.putenv, "initargs": ("A", "B")}
    assert threads(inner_max_num_threads=2, **initializer) == "2"


def test_native_libraries_heed_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    for variable in MpengineBackend.MAX_NUM_THREADS_VARS:
        monkeypatch.setenv(variable, "2")
    with joblib.parallel_config("mpengine", n_jobs=2, inner_max_num_threads=1, mp_context="spawn"):
        (info,) = Parallel()([delayed(threadpoolctl.threadpool_info)()])
    assert {library["num_threads"] for library in info} == {1}


def test_joblib_that_is_not_there_is_named_in_one_line() -> None:
    code = """
import sys
class NotThere:
    def find_spec(name, path=None, target=None):
        if name == "joblib":
            raise ModuleNotFoundError("No module named 'joblib'", name="joblib")
sys.meta_path.insert(0, NotThere)
import mpengine.adapters.joblib
"""
    done = run_python("-c", code)
    last = "ModuleNotFoundError: mpengine.adapters.joblib needs joblib: pip install 'mpengine[joblib]'"
    assert done.stderr.splitlines()[-1] == last
    assert done.stderr.count("Traceback") == 1


# ---- calls inside tasks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"backend": "mpengine"}], ids=["default", "by name"])
@pytest.mark.usefixtures("on_mpengine")
def test_a_call_inside_a_task_starts_no_process(options: dict[str, Any]) -> None:
    (outer,) = Parallel()([delayed(jobs.nested)(2, 2, **options)])
    (pid, thread), backend, inner = outer
    assert backend == "ThreadingBackend"
    for (inner_pid, inner_thread), innermost_backend, innermost in inner:
        assert inner_pid == pid
        assert inner_thread != thread
        assert innermost_backend == "SequentialBackend"
        assert set(innermost) == {(pid, inner_thread)}
    assert Parallel(batch_size=1)(delayed(jobs.children)() for _ in range(4)) == [0] * 4


def test_a_job_of_any_engine_starts_no_pool() -> None:
    import mpengine

    with mpengine.Engine(1) as engine:
        _, backend, inner = engine.submit(jobs.nested, 2, 1, backend=MpengineBackend(nesting_level=0)).result()
        assert backend == "ThreadingBackend"
        assert {pid for pid, _ in inner} == {engine.workers()[0].pid}


# ---- arrays --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_mpengine")
def test_a_large_array_crosses_once_for_all_tasks_and_is_read_only(gate: Gate) -> None:
    array = np.ones(4 << 20)  # 32 MiB
    values = Parallel(return_as="generator", batch_size=1)(
        delayed(jobs.look)(array, door=gate.door) for _ in range(4)
    )  # fmt: skip
    gate.arrivals(2)
    kept = adapter._engines._kept
    assert kept is not None
    assert array.nbytes <= kept.stats().memory.peak < 1.5 * array.nbytes
    gate.open()
    assert list(values) == [1.0] * 4
    assert Parallel()([delayed(jobs.is_writable)(array)]) == [(False, array.sum())]
    wait_for(lambda: kept.stats().memory.in_use < array.nbytes // 2, about="the array to be freed")


@pytest.mark.usefixtures("on_mpengine")
def test_arrays_made_one_after_another_are_told_apart() -> None:
    """They may well lie at the same place, with the same id."""
    tasks = (delayed(jobs.is_writable)(np.full(1 << 18, n, dtype=float)) for n in range(40))
    assert Parallel(batch_size=1)(tasks) == [(False, float(n << 18)) for n in range(40)]


def test_an_array_that_is_gone_is_not_kept_until_the_end_of_its_call() -> None:
    class Copy:
        """What is shared, but for its crossing."""

    class Room:
        def share(self, _: object) -> Copy:
            return Copy()

    arrays = LargeArrays(Room(), smallest=100)  # type: ignore[arg-type]
    array = np.ones(100)
    ((_, (copy,), _),) = arrays.replace_in([(len, (array,), {})])
    assert type(copy) is Copy
    assert arrays.replace_in([(len, (), {"array": array})]) == [(len, (), {"array": copy})]
    is_kept = weakref.ref(copy)
    del copy
    assert is_kept()
    del array
    assert not is_kept()


@pytest.mark.parametrize("options", [{"max_nbytes": None}, {"mmap_mode": "c"}, {"max_nbytes": "10M"}], ids=repr)
@pytest.mark.usefixtures("on_mpengine")
def test_a_large_array_is_writable_where_the_caller_asks_for_that(options: dict[str, Any]) -> None:
    array = np.ones(1 << 18)  # 2 MiB
    assert Parallel(**options)([delayed(jobs.is_writable)(array)]) == [(True, array.sum())]


@pytest.mark.usefixtures("on_mpengine")
def test_tasks_write_to_an_array_in_a_file(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "array", dtype=np.int64, mode="w+", shape=(6, 2), order="F")
    assert Parallel()(delayed(jobs.write)(array[:, 1], n) for n in range(3)) == ["memmap"] * 3
    assert Parallel()(delayed(jobs.write)(array, n) for n in range(5, 6)) == ["memmap"]
    assert array.tolist() == [[0, 1], [0, 2], [0, 3], [0, 0], [0, 0], [6, 6]]
    view = array[2:4]  # in no one piece: a copy
    assert Parallel()([delayed(jobs.write)(view, 0)]) == ["memmap"]
    assert view.tolist() == [[0, 3], [0, 0]]
    array.flags.writeable = False
    assert Parallel()([delayed(jobs.is_writable)(array)]) == [(False, 18.0)]


# ---- scikit-learn --------------------------------------------------------------------------------------------------


def test_scikit_learn_finds_what_it_finds_with_loky() -> None:
    code = """
import joblib, mpengine.adapters.joblib, json, warnings
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC
X, y = load_breast_cancer(return_X_y=True)
found = []
for backend in ("loky", "mpengine"):
    with joblib.parallel_config(backend, n_jobs=2):
        search = GridSearchCV(SVC(), {"C": [0.1, 1, 10]}, cv=3, n_jobs=2).fit(X, y)
        forest = RandomForestClassifier(20, random_state=0, n_jobs=2).fit(X, y)
        nested = cross_val_score(RandomForestClassifier(10, random_state=0, n_jobs=2), X, y, cv=3, n_jobs=2)
        found.append([
            search.cv_results_["mean_test_score"].tolist(), search.best_params_,
            forest.predict_proba(X).tolist(), forest.feature_importances_.tolist(), nested.tolist(),
        ])
assert found[0] == found[1], found
print(type(joblib.parallel.BACKENDS["mpengine"]()).__name__, len(found[0]))
"""
    done = run_python("-W", "error", "-c", code, timeout=3 * WAIT_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "MpengineBackend 5\n", "")


def test_the_example_of_the_docstring_runs() -> None:
    failed, attempted = doctest.testmod(adapter)
    assert (failed, attempted) == (0, 2)
