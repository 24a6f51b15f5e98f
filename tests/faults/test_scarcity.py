"""What the system has no room for: descriptors, shared memory, the program's own memory. Programs of their own."""

import pytest

from tests.support import START_METHODS, run_python

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
