"""Signals to a worker's whole process tree.

A program that has no descriptor left cannot read /proc. Then only the worker itself is reached from here; what it has
started goes with its group (see `leash`), and only what has moved to a session of its own stays.
"""

from __future__ import annotations

import contextlib
import select
import signal

import psutil  # here, and not when it is needed: see `descendants`


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below this one, now. Empty if it is gone, or if that cannot be told."""
    # No import here, which an engine's start would like: psutil's evaluates text, and that makes Python forget that the
    # program is to end by the signal of a Ctrl-C.
    try:
        return psutil.Process(pid).children(recursive=True)
    except (psutil.Error, OSError):
        return []


def send(processes: list[psutil.Process], signum: int) -> None:
    """Send a signal to those that still are the ones they were (psutil checks the start time)."""
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(signum)


def send_to(pidfd: int, signum: int) -> None:
    """Send a signal to exactly this process; nothing if it is gone, or has become one that is not ours (sudo)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pidfd, signum)


def wait_readable(fd: int, seconds: float) -> bool:
    """Whether a descriptor is readable within that time; a pidfd is when its process has ended."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def is_stopped(pid: int) -> bool:
    """Whether the process stands still after SIGSTOP (or under a debugger)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (FileNotFoundError, ProcessLookupError):
        return True  # it is gone, which is as still as can be
    except OSError:
        return False  # it cannot be told
