"""What the system has no room for: descriptors, shared memory, the program's own memory. Programs of their own."""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT, START_METHODS, WAIT_S, run_python

NO_DESCRIPTORS = """
import os, resource, signal
from mpengine import Engine, Job
from tests.faults.jobs import turn_deaf

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)

def leave(count):
    taken = {{int(name) for name in os.listdir("/proc/self/fd")}}
    free = [number for number in range(4096) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], most))

"""

AT_THE_START = """
before = sorted(os.listdir("/proc/self/fd"))
for count in (0, 1, 4, 11, 24):
    leave(count)
    try:
        Engine(2, {method!r})
    except OSError as error:
        text = str(error)
    else:
        raise AssertionError(count)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    assert "descriptors" in text and "ulimit -n" in text, text
    assert sorted(os.listdir("/proc/self/fd")) == before
leave(60)
with Engine(2, {method!r}) as engine:
    assert engine.submit(abs, -3).result(20) == 3
print("fine")
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_an_engine_without_descriptors_says_so_at_once_and_keeps_none(method: str) -> None:
    done = run_python("-c", (NO_DESCRIPTORS + AT_THE_START).format(method=method))
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


LATER = """
engine = Engine(4, {method!r}, stop_grace=0.1)
while [row.state for row in engine.workers()] != ["idle"] * 4:
    pass
leave(0)  # and one worker's, when that has ended: not enough to start another
lost = engine.submit(os._exit, 3).outcome(20)
assert (lost.status, lost.error.exitcode) == ("lost", 3), lost
assert engine.dispatch(Job(turn_deaf, timeout=0.2)).outcome(20).status == "expired"
resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))  # none at all, whatever is closed
assert engine.dispatch(Job(turn_deaf, timeout=0.2)).outcome(20).status == "expired"
assert len(engine.workers()) == 1
for row in engine.workers():
    os.kill(row.pid, signal.SIGKILL)
waiting = engine.submit(abs, -5)
try:
    raise AssertionError(waiting.outcome(1.4))
except TimeoutError:
    pass
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
assert waiting.result(20) == 5
assert engine.shutdown().complete
print("fine")
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_without_descriptors_jobs_are_ended_and_replacements_wait_for_room(method: str) -> None:
    done = run_python("-c", (NO_DESCRIPTORS + LATER).format(method=method))
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


# ---- shared memory ---------------------------------------------------------------------------------------

NO_SHARED_MEMORY = """
import os
from mpengine import Engine

for method in ("fork", "forkserver", "spawn"):
    with Engine(2, method) as engine:
        assert list(engine.map(abs, range(100))) == list(range(100))
        assert engine.submit(len, bytes(5_000_000)).result(20) == 5_000_000
        assert engine.submit(bytes, 5_000_000).result(20) == bytes(5_000_000)
        assert engine.submit(os._exit, 3).outcome(20).status == "lost"
        assert engine.submit(abs, -1).result(20) == 1
    print(method, os.listdir("/dev/shm"))
"""


@pytest.mark.parametrize("options", ["size=64k", "size=64k,ro"])
def test_shared_memory_that_is_tiny_or_read_only(options: str) -> None:
    """No name and no byte of it is used. In a mount namespace of its own."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    mount = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    if subprocess.run([*own, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace is not to be had here")
    done = subprocess.run(
        [*own, "sh", "-c", f"{mount} && exec \"$@\"", "sh", sys.executable, "-c", NO_SHARED_MEMORY],
        capture_output=True, text=True, timeout=WAIT_S, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("fork []\nforkserver []\nspawn []\n", "")


# ---- the program's own memory ------------------------------------------------------------------------------

NO_MEMORY = """
import os, resource
from mpengine import Engine, Job, JobLost

def make(size):
    resource.setrlimit(resource.RLIMIT_AS, (most, most))  # the program's limit is not the worker's
    return bytes(size)

_, most = resource.getrlimit(resource.RLIMIT_AS)
engine = Engine(2, {method!r})
assert engine.submit(abs, -1).result(20) == 1
with open("/proc/self/statm") as statm:
    size = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20), most))  # and what malloc holds ready, 64 MiB a thread
for large in (180 << 20, 400 << 20):  # no room for the object beside its pickle; none for the pickle
    error = engine.submit(make, large).exception(20)
    assert isinstance(error, MemoryError) or "no memory for" in str(error), error
    outcomes = engine.run([Job(make, (n,)) for n in (10, large, 20)], ordered=True)
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    values = engine.map(make, [10, large])
    assert len(next(values)) == 10
    try:
        next(values)
    except (MemoryError, JobLost) as error:
        assert isinstance(error, MemoryError) or "no memory for" in str(error), error
    else:
        raise AssertionError("there was room")
    error = values = None
assert list(engine.map(abs, range(100))) == list(range(100))
resource.setrlimit(resource.RLIMIT_AS, (most, most))
assert len(engine.submit(make, 400 << 20).result(20)) == 400 << 20
assert engine.shutdown().complete
print("fine")
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_results_that_the_program_has_no_memory_for(method: str) -> None:
    done = run_python("-c", NO_MEMORY.format(method=method))
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)
