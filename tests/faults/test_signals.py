"""Programs that get a signal: Ctrl-C, and the parent's death by any."""

import os
import select
import signal
import subprocess
import time

import psutil
import pytest

from tests.faults.programs import below, program, read_line
from tests.support import START_METHODS, WAIT_S, process_tree, run_python, still_running, wait_gone

LONG = """
import os, sys, time
from mpengine import Engine, Job

def body(n):
    if n < 2:
        os.write(1, b"running\\n")  # one write: those of two workers do not mix
        time.sleep(600)
    return n

def main():
    with Engine(2, {method!r}) as engine:
        {use}

main()
"""
USES = {
    "map": "list(engine.map(body, range(1000)))",
    "run": "list(engine.run(Job(body, (n,)) for n in range(1000)))",
    "result": "engine.submit(body, 0); engine.submit(body, 1).result()",
    "join": "engine.submit(body, 0); engine.submit(body, 1); engine.join()",
    "leaving": "engine.submit(body, 0); engine.submit(body, 1)",
}


def assert_interrupted(process: subprocess.Popen[bytes], group: list[int], started: float) -> None:
    err = process.communicate(timeout=WAIT_S)[1].decode()
    took = time.monotonic() - started
    assert process.returncode == -signal.SIGINT, err
    assert took < 3.0
    assert err.count("Traceback") == 1, err
    assert err.strip().endswith("KeyboardInterrupt"), err
    assert "leaked" not in err
    wait_gone(*group, timeout=2.0)


@pytest.mark.parametrize(("use", "whole_group"), [*((use, True) for use in USES), ("map", False), ("leaving", False)])
def test_ctrl_c_ends_the_program_at_once(use: str, whole_group: bool) -> None:
    with program(LONG.format(method="forkserver", use=USES[use])) as process:
        for _ in range(2):
            assert read_line(process).startswith("running")
        group = below(process)
        assert len(group) >= 2
        started = time.monotonic()
        if whole_group:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.send_signal(signal.SIGINT)
        assert_interrupted(process, group, started)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_ctrl_c_under_the_other_start_methods(method: str) -> None:
    with program(LONG.format(method=method, use=USES["map"])) as process:
        for _ in range(2):
            assert read_line(process).startswith("running")
        group = below(process)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert_interrupted(process, group, started)


def test_ctrl_c_without_a_with_block() -> None:
    code = (
        "import time\nfrom mpengine import Engine\n"
        "def body():\n    print('running', flush=True)\n    time.sleep(600)\n"
        "engine = Engine(2)\nengine.submit(body).result()\n"
    )
    with program(code) as process:
        assert read_line(process) == "running"
        group = below(process)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert_interrupted(process, group, started)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_what_is_started_inherits_that_ctrl_c_is_blocked(method: str) -> None:
    # Seen once, under load: a Ctrl-C met a worker before it could ignore it, and the worker showed a traceback.
    code = (
        "import signal\nfrom multiprocessing import util\nfrom mpengine import Engine\n"
        "start = util.spawnv_passfds\n"
        "def watch(path, args, fds):\n"
        "    if 'resource_tracker' not in str(args):\n"
        "        print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "    return start(path, args, fds)\n"
        "util.spawnv_passfds = watch\n"
        f"with Engine(1, {method!r}) as engine:\n"
        "    engine.submit(abs, 1).result()\n"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_ctrl_c_while_the_interpreter_waits_for_the_last_jobs() -> None:
    code = (
        "import time\nfrom mpengine import Engine\n"
        "def body():\n    print('running', flush=True)\n    time.sleep(600)\n"
        "engine = Engine(1)\nengine.submit(body)\nprint('end of script', flush=True)\n"
    )
    with program(code) as process:
        assert {read_line(process), read_line(process)} == {"running", "end of script"}
        group = below(process)
        os.killpg(process.pid, signal.SIGINT)
        err = process.communicate(timeout=WAIT_S)[1].decode()
        assert err.count("Traceback") <= 1, err
        wait_gone(*group, timeout=2.0)


BODIES = {
    "idle": "pass",
    "sleeping": "time.sleep(600)",
    "busy": "\n    while True: pass",
    "holding the GIL in C": (
        "library = ctypes.PyDLL(None); m = ctypes.create_string_buffer(128); "
        "library.pthread_mutex_lock(m); library.pthread_mutex_lock(m)"
    ),
    "with a child": "subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])",
    "with signals ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
}


@pytest.mark.parametrize(
    ("method", "signum"), [(method, signum) for method in START_METHODS for signum in (signal.SIGKILL, signal.SIGTERM)]
)
def test_when_the_parent_is_killed_its_workers_are_gone(method: str, signum: int) -> None:
    assert_workers_die_with_parent(BODIES["sleeping"], method, signum)


@pytest.mark.parametrize("body", [name for name in BODIES if name != "sleeping"])
def test_when_the_parent_is_killed_its_workers_are_gone_whatever_they_do(body: str) -> None:
    assert_workers_die_with_parent(BODIES[body], "forkserver", signal.SIGKILL)


def assert_workers_die_with_parent(body: str, method: str, signum: int) -> None:
    code = (
        "import ctypes, os, signal, subprocess, sys, time\nfrom mpengine import Engine\n"
        f"def body():\n    os.write(1, b'pid %d\\n' % os.getpid())\n    {body}\n"
        f"engine = Engine(2, {method!r})\n"
        "futures = [engine.submit(body) for _ in range(2)]\n"
        "time.sleep(600)\n"
    )
    with program(code) as process:
        workers = {int(read_line(process).split()[1]) for _ in range(2)}
        if "subprocess.run" in body:
            deadline = time.monotonic() + WAIT_S
            while not any(psutil.Process(pid).children() for pid in workers) and time.monotonic() < deadline:
                select.select([], [], [], 0.01)
        group = below(process)
        assert workers <= set(group)
        process.send_signal(signum)
        assert process.wait(WAIT_S) == -signum
        left = still_running(group, 2.0)
        assert not left, process_tree()
