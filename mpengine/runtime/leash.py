"""The kernel ends orphans: a pipe whose write end only the parent holds.

The worker asks for SIGKILL on the read end (O_ASYNC, F_SETSIG), sent to its whole process group (F_SETOWN, negative).
When the last write end is closed, because the parent closed it or died in whatever way, the kernel kills the group,
even while C code holds the GIL. Owner and signal belong to the open file description, so there is one pipe a worker;
and the parent keeps the read end open too, so that the group can still be ended when the worker itself is gone: its
group id may by then belong to somebody else, but the description holds on to the right one.

Before that, the pipe holds the worker back until the parent watches it. A worker may be there for a job of
microseconds; one that had come and gone before the parent had a pidfd for it would take with it what it had logged.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal


def make() -> tuple[int, int]:
    """A new leash: (read end for the worker, write end for the parent)."""
    return os.pipe2(os.O_CLOEXEC)


def take_hold(write_fd: int) -> None:
    """In the parent: the worker is watched, and may begin."""
    os.write(write_fd, b"\0")


def wait_to_be_held(read_fd: int) -> None:
    """In the worker, before it does anything. Does not return if the parent is gone, or does not want it any more."""
    if not os.read(read_fd, 1):
        os._exit(1)


def arm(read_fd: int) -> None:
    """In the worker: lead a process group of its own, and die with it when the parent is gone."""
    os.setpgid(0, 0)
    fcntl.fcntl(read_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_fd, fcntl.F_SETOWN, -os.getpgrp())
    flags = fcntl.fcntl(read_fd, fcntl.F_GETFL)
    fcntl.fcntl(read_fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    if parent_gone(read_fd):  # in the moment before it was armed
        os._exit(1)


def parent_gone(read_fd: int, wait_s: float = 0.0) -> bool:
    """Whether the write end is closed; waits up to `wait_s` seconds for it."""
    poll = select.poll()
    poll.register(read_fd, 0)
    return bool(poll.poll(wait_s * 1000))
