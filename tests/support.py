"""What tests share: bounded waits, processes seen from outside, scripts run as a user would run them.

No test passes time: it waits for what it is about to look at, and a wait that is in vain ends in a
failure which shows where every thread was.
"""

import faulthandler
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
START_METHODS = ("forkserver", "spawn", "fork")

# Long enough for a spawned worker on a loaded machine, short of pytest's own limits: a wait that
# fails should tell its story before faulthandler_timeout and the test's timeout cut it off.
WAIT_S = 20.0
POLL_S = 0.005  # for conditions that no event announces


class Waitable(Protocol):
    """An event of threading or of multiprocessing."""

    def wait(self, timeout: float | None = None) -> bool: ...


def wait_for(what: Waitable | Callable[[], T], timeout: float = WAIT_S, *, about: str = "") -> T | bool:
    """Waits until an event is set or a condition is true, and returns the condition's value.

    Args:
        what: An event, or a function without arguments that is asked again and again.
        timeout: Seconds after which the wait has failed.
        about: What is waited for, for the failure's text.

    Raises:
        AssertionError: The time is over. The text has the tracebacks of all threads.
    """
    if not callable(what):
        if what.wait(timeout):
            return True
    else:
        clock = threading.Event()  # never set: it only paces the questions
        deadline = time.monotonic() + timeout
        while True:
            if value := what():
                return value
            if time.monotonic() >= deadline:
                break
            clock.wait(POLL_S)
    raise AssertionError(
        f"waited {timeout:g} s in vain for {about or getattr(what, '__qualname__', what)}\n"
        f"{thread_tracebacks()}\n{process_tree()}"
    )


def wait_gone(*pids: int, timeout: float = WAIT_S) -> None:
    """Waits until none of these processes runs any more, and takes nobody's exit status.

    A zombie counts as gone here: it runs nothing, and whose it is to reap is another question.

    Raises:
        AssertionError: One of them is still there after `timeout` seconds.
    """
    left = still_running(pids, timeout)
    if left:
        raise AssertionError(f"still running after {timeout:g} s: {sorted(left)}\n{process_tree()}")


def still_running(pids: Iterable[int], timeout: float) -> set[int]:
    """Waits at most `timeout` seconds for these processes to end and returns those that have not."""
    watch = select.poll()
    left: dict[int, int] = {}  # pidfd -> pid
    try:
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue  # gone and reaped
            left[pidfd] = pid
            watch.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + timeout
        while left:
            ready = watch.poll(max(0.0, deadline - time.monotonic()) * 1000)
            for pidfd, _ in ready:
                watch.unregister(pidfd)
                os.close(pidfd)
                del left[pidfd]
            if not ready:
                break
        return set(left.values())
    finally:
        for pidfd in left:
            os.close(pidfd)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def thread_tracebacks() -> str:
    """Where every thread of this process is, as faulthandler shows it."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def process_tree() -> str:
    """The processes below this one, a line each."""
    lines = [describe(child) for child in psutil.Process().children(recursive=True)]
    return "\n".join(["processes below this one:", *(lines or ["  none"])])


def describe(process: psutil.Process) -> str:
    """One line on a process: pid, parent, state, command."""
    try:
        with process.oneshot():
            command = " ".join(process.cmdline()) or f"[{process.name()}]"
            return f"  pid {process.pid}, parent {process.ppid()}, {process.status()}: {command[:160]}"
    except psutil.Error as error:
        return f"  pid {process.pid}: {type(error).__name__}"


def run_python(
    *arguments: str,
    stdin: str = "",
    timeout: float = WAIT_S,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a fresh Python, as in `run_python("-c", code)`, and returns its exit code and output.

    The checkout is importable there from any folder. What still runs after `timeout` seconds is
    killed, with everything below it: a grandchild that holds the output pipes cannot hang the test.

    Args:
        stdin: Text for its standard input.
        env: Variables that are added to this process's.

    Raises:
        AssertionError: It did not end in time. The text has what it had printed.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", **(env or {})}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=variables,
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            tree = process_tree()
            for below in psutil.Process(process.pid).children(recursive=True):
                below.kill()
            process.kill()
            # Grandchildren that had left the tree may hold the pipes for ever: a last short look.
            try:
                out, err = process.communicate(timeout=1.0)
            except subprocess.TimeoutExpired as late:
                out, err = (text_of(part) for part in (late.stdout, late.stderr))
            raise AssertionError(
                f"did not end within {timeout:g} s: python {' '.join(arguments)[:200]}\n{tree}\n"
                f"-- its stdout:\n{out}\n-- its stderr:\n{err}"
            ) from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def text_of(part: str | bytes | None) -> str:
    """The output in a TimeoutExpired, which is bytes even where text was asked for."""
    return part.decode(errors="replace") if isinstance(part, bytes) else part or ""
