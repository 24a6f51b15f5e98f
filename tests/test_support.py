"""The test tools themselves: a leak check that finds nothing and a wait that never fails prove nothing."""

import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory

import pytest

from tests.leaks import Footprint, left_behind
from tests.marks import needs_dev_shm
from tests.support import is_running, run_python, wait_for, wait_gone

SETTLE_S = 0.1  # these leaks do not go away
SLEEPER = ["sleep", "1000"]


def leak_found(leak: Callable[[], object]) -> str:
    """What the check says about a leak made between the two looks."""
    before = Footprint.take()
    kept = leak()
    found = left_behind(before, SETTLE_S)
    del kept
    return "\n".join(found)


def test_nothing_is_found_where_nothing_was_left() -> None:
    before = Footprint.take()
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as process:
        process.kill()
    assert left_behind(before) == []


def test_a_child_is_found_and_killed() -> None:
    started: list[subprocess.Popen[bytes]] = []
    line = leak_found(lambda: started.append(subprocess.Popen(SLEEPER)))
    assert line.startswith("process:")
    assert line.endswith(" ".join(SLEEPER))
    assert started[0].wait() < 0


def test_an_orphan_of_a_program_that_has_ended_is_found_and_killed() -> None:
    script = f"import subprocess; print(subprocess.Popen({SLEEPER!r}, stdout=-3, stderr=-3).pid)"
    pids: list[int] = []
    line = leak_found(lambda: pids.append(int(run_python("-W", "ignore", "-c", script).stdout)))
    assert line.startswith("process:")
    assert line.endswith(" ".join(SLEEPER))
    wait_gone(*pids)


def test_a_zombie_of_multiprocessing_is_found() -> None:
    process = multiprocessing.get_context("fork").Process(target=os.getpid)

    def leak() -> None:
        process.start()
        wait_for(lambda: not is_running(process.pid or 0))

    assert leak_found(leak).startswith("zombie:")
    process.join()


def test_a_file_descriptor_is_found() -> None:
    opened: list[int] = []
    line = leak_found(lambda: opened.append(os.open(os.devnull, os.O_RDONLY)))
    assert line == f"file descriptor {opened[0]}: {os.devnull}"
    os.close(opened[0])


@needs_dev_shm
def test_a_shared_memory_entry_is_found() -> None:
    before = Footprint.take()
    memory = SharedMemory(create=True, size=1)
    try:
        assert any(memory.name in line for line in left_behind(before, SETTLE_S))
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.parametrize(("name", "daemon"), [("any", False), ("mpengine-dispatcher", True)])
def test_a_thread_is_found(name: str, daemon: bool) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name=name, daemon=daemon)
    assert name in leak_found(thread.start)
    end.set()
    thread.join()


def test_a_wait_returns_what_it_waited_for() -> None:
    event = threading.Event()
    values = iter([0, 0, 7])
    threading.Timer(0, event.set).start()
    assert wait_for(event) is True
    assert wait_for(lambda: next(values)) == 7


def test_a_wait_in_vain_shows_where_every_thread_is() -> None:
    end = threading.Event()
    thread = threading.Thread(target=stand_here, args=(end,))
    thread.start()
    with pytest.raises(AssertionError, match="in vain for the answer") as caught:
        wait_for(lambda: False, 0.05, about="the answer")
    assert stand_here.__name__ in str(caught.value)
    end.set()
    thread.join()


def stand_here(end: threading.Event) -> None:
    end.wait()


def test_a_script_that_hangs_is_killed_and_its_output_shown() -> None:
    before = Footprint.take()
    with pytest.raises(AssertionError, match="half an answer"):
        run_python("-c", "print('half an answer', flush=True); import signal; signal.pause()", timeout=0.5)
    assert left_behind(before, 0) == []
