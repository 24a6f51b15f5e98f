"""Large data where things go wrong: only the job whose it is suffers, and the memory comes back."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpengine import Engine, JobLost, MemoryLimitExceeded
from tests.faults import array_jobs, jobs
from tests.faults.programs import below, program, read_line
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.runtime.gates import Gate
from tests.support import ROOT, START_METHODS, WAIT_S, run_python, wait_for, wait_gone

MIB = 1 << 20
SMALL = 4096  # pickles of functions, which the engine knows
LARGE = int(os.environ.get("MPENGINE_FAULTS_ARRAY_MIB", "64")) * MIB


def nothing_in_use(engine: Engine) -> None:
    gc.collect()
    wait_for(lambda: engine.stats().memory.in_use < SMALL, about="nothing to be in use")


# ---- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_a_worker_is_killed_while_data_goes_in_or_out(
    make_engine: MakeEngine, gate: Gate, start_method: str, seed: int
) -> None:
    engine = make_engine(2, start_method)
    wait_ready(engine)
    chance = random.Random(seed)
    pause = threading.Event()
    array = np.random.default_rng(seed).integers(0, 256, LARGE, np.uint8)
    wanted = array_jobs.checksum(array)
    neighbours = [engine.submit(array_jobs.filled, 3 * MIB, n) for n in range(8)]
    for _ in range(4):
        if chance.random() < 0.5:
            future = engine.submit(array_jobs.come_and_look, gate.door, array)
        else:
            future = engine.submit(array_jobs.come_and_make, gate.door, LARGE, 7)
        pid = gate.arrival().pid
        pause.wait(chance.uniform(0, 0.06))
        os.kill(pid, signal.SIGKILL)
        outcome = future.outcome(WAIT_S)
        if outcome.ok:  # it was faster
            value = outcome.value
            assert value == wanted if isinstance(value, int) else set(np.unique(value)) == {7}
            del value
        else:
            assert isinstance(outcome.error, JobLost)
            assert outcome.error.worker_pid == pid
        del future, outcome
        wait_gone(pid)
    for n, neighbour in enumerate(neighbours):
        assert set(np.unique(neighbour.result(WAIT_S))) == {n}
    assert engine.submit(array_jobs.checksum, array).result(WAIT_S) == wanted
    assert engine.stats().lost <= 4
    del neighbours, neighbour
    nothing_in_use(engine)
    wait_for(lambda: engine.stats().memory.size < 8 * MIB, about="the memory to go back")


TRANSFERS = """
import numpy as np
from mpengine import Engine
from tests.faults import array_jobs
engine = Engine(2, {method!r})
array = np.ones(32 << 20, np.uint8)
assert engine.submit(array_jobs.checksum, array).result(20)
shared = engine.share(array)
kept = []
print("begin", flush=True)
while True:
    futures = [engine.submit(array_jobs.checksum, array), engine.submit(array_jobs.filled, 32 << 20, 3)]
    kept = [future.result() for future in futures]
"""


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("seed", range(2))
def test_the_program_is_killed_in_the_middle_of_a_transfer(method: str, seed: int) -> None:
    with program(TRANSFERS.format(method=method)) as process:
        assert read_line(process) == "begin"
        family = below(process)
        threading.Event().wait(random.Random(f"{method} {seed}").uniform(0, 0.3))
        process.kill()
        wait_gone(process.pid, *family)
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])  # a forked worker has the terminal of this program
@pytest.mark.parametrize(
    "harm", [jobs.close_everything, jobs.write_rubbish_everywhere, jobs.make_everything_nonblocking]
)
def test_jobs_that_spoil_every_descriptor_beside_others_with_data(
    make_engine: MakeEngine, gate: Gate, start_method: str, harm: Callable[[], Any]
) -> None:
    engine = make_engine(2, start_method)
    wait_ready(engine)
    array = np.random.default_rng(1).integers(0, 256, 5 * MIB, np.uint8)
    wanted = array_jobs.checksum(array)
    shared = engine.share(array)
    results = [engine.submit(array_jobs.filled, 5 * MIB, n).result(WAIT_S) for n in range(4)]
    beside = engine.submit(array_jobs.look_between, gate.door, array)
    gate.arrival()
    harms = [engine.submit(harm) for _ in range(3)]
    for one in harms:
        one.outcome(WAIT_S)
    waiting = [engine.submit(array_jobs.checksum, thing) for thing in (array, shared, array)]
    assert [future.result(WAIT_S) for future in waiting] == [wanted] * 3
    gate.open()
    before, after = beside.result(WAIT_S)
    assert before == wanted
    assert np.array_equal(after, array + np.uint8(1))
    assert [set(np.unique(one)) for one in results] == [{n} for n in range(4)]
    for _ in range(4):
        assert engine.submit(array_jobs.checksum, array).result(WAIT_S) == wanted
    del shared, results, beside, waiting, before, after, harms, one
    nothing_in_use(engine)


# ---- no room ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["pwritev", "ftruncate"])
def test_a_full_machine_costs_the_job_whose_argument_it_is(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    engine = make_engine(1)
    wait_ready(engine)
    array = np.ones(100 * MIB, np.uint8)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for way in (
            lambda: engine.submit(array_jobs.checksum, array).result(WAIT_S),
            lambda: list(engine.map(array_jobs.checksum, [array])),
            lambda: next(engine.map(lambda _: array_jobs.checksum(array), range(3))),
            lambda: engine.share(array),
        ):
            with pytest.raises(MemoryError) as caught:
                way()
            (line,) = str(caught.value).splitlines()
            assert "104,857," in line
            assert os.strerror(errno.ENOSPC) in line
        assert engine.submit(jobs.echo, 5).result(WAIT_S) == 5
        nothing_in_use(engine)  # though somebody has the error
    assert engine.submit(array_jobs.checksum, array).result(WAIT_S) == array_jobs.checksum(array)
    nothing_in_use(engine)
    assert engine.stats().lost == 0


LIMITED = """
import resource, numpy as np
from mpengine import Engine
from tests.faults import array_jobs, jobs

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
array = np.ones(100 << 20, np.uint8)
with Engine(1, {method!r}) as engine:
    assert engine.submit(jobs.echo, 1).result(20) == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (80 << 20, most))
    for _ in range(2):
        error = engine.submit(array_jobs.checksum, array).exception(20)
        assert type(error) is MemoryError and "104,857,600" in str(error), repr(error)
        assert len(str(error).splitlines()) == 1, str(error)
    assert engine.submit(array_jobs.checksum, array[:1 << 20]).result(20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert engine.submit(array_jobs.checksum, array).result(20) == array_jobs.checksum(array)

    error = engine.submit(array_jobs.filled_within, 50 << 20, 100 << 20).exception(20)
    assert type(error) is MemoryError and "104,857,600" in str(error), repr(error)
    assert len(str(error).splitlines()) == 1, str(error)
    (outcome,) = engine.map(array_jobs.filled, [100 << 20], [2])
    assert outcome.max() == 2
    assert engine.stats().lost == 0
print("fine")
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_files_that_may_not_grow(method: str) -> None:
    done = run_python("-W", "error", "-c", LIMITED.format(method=method))
    assert done.stderr == "", done.stderr
    assert (done.stdout, done.returncode) == ("fine\n", 0)


def test_a_memory_limit_counts_large_arguments(make_engine: MakeEngine) -> None:
    engine = make_engine(2, memory_limit=300 * MIB)
    array = np.ones(100 * MIB, np.uint8)
    wanted = array_jobs.checksum(array)
    assert [engine.submit(array_jobs.checksum, array).result(WAIT_S) for _ in range(10)] == [wanted] * 10
    error = engine.submit(array_jobs.checksum, np.ones(800 * MIB, np.uint8)).exception(WAIT_S)
    assert isinstance(error, MemoryLimitExceeded)
    error = engine.submit(array_jobs.filled, 800 * MIB, 1).exception(WAIT_S)
    assert isinstance(error, MemoryLimitExceeded)
    assert engine.submit(array_jobs.checksum, array).result(WAIT_S) == wanted
    del error
    nothing_in_use(engine)


# ---- no memory files -------------------------------------------------------------------------------------------------

WITHOUT = """
import errno, os, numpy as np

def forbidden(*_):
    raise OSError({number}, "not here")

if {number}:
    os.memfd_create = forbidden
elif {deleted}:
    del os.memfd_create
from mpengine import Engine
from tests.faults import array_jobs

array = np.arange(1 << 17)
before = os.listdir("/dev/shm")
for method in ("fork", "forkserver", "spawn"):
    with Engine(2, method) as engine:
        shared = engine.share(array)
        assert list(engine.map(array_jobs.checksum, [array, shared, array])) == [array_jobs.checksum(array)] * 3
        results = [engine.submit(array_jobs.filled, 1 << 20, n).result(20) for n in range(5)]
        assert engine.submit(os._exit, 3).outcome(20).status == "lost"
        assert engine.submit(array_jobs.checksum, shared).result(20) == array_jobs.checksum(array)
    assert [r.max() for r in results] == list(range(5))
    print(method, [name for name in os.listdir("/dev/shm") if "mpengine-" in name and name not in before])
"""
WITHOUT_SAYS = "fork []\nforkserver []\nspawn []\n"


@pytest.mark.parametrize(("number", "deleted"), [(0, True), (errno.EPERM, False), (errno.ENOSYS, False)])
def test_without_memfd_create(number: int, deleted: bool) -> None:
    done = run_python("-W", "error", "-c", WITHOUT.format(number=number, deleted=deleted))
    assert (done.stdout, done.stderr, done.returncode) == (WITHOUT_SAYS, "", 0)


@pytest.mark.parametrize(("options", "number"), [("size=64k", 0), ("size=64k,ro", 0), ("size=64k,ro", errno.EPERM)])
def test_shared_memory_that_is_tiny_or_read_only(options: str, number: int) -> None:
    """In a mount namespace of its own. Without memfd_create and /dev/shm, the files are in the temporary folder."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    mount = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    if subprocess.run([*own, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace is not to be had here")
    done = subprocess.run(
        [*own, "sh", "-c", f"{mount} && exec \"$@\"", "sh", sys.executable, "-c",
         WITHOUT.format(number=number, deleted=False)],
        capture_output=True, text=True, timeout=WAIT_S, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (WITHOUT_SAYS, "")
