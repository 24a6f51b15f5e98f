"""What a test has left behind: processes, zombies, descriptors, /dev/shm entries, threads.

A `Footprint` is taken before a test and compared with what is there after it. The test process
adopts orphans (`adopt_orphans`), so that a grandchild which outlives its worker, or a worker which
outlives the killed program of a test, shows up here instead of vanishing under PID 1. A program
that is the first process of a container lives in that very situation.
"""

import ctypes
import gc
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.resource_tracker
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support import POLL_S, describe, still_running

# What shutdown leaves must be gone when it returns; this bound is for what ends by itself, such as
# the workers of an engine that was dropped, and for machines under load.
SETTLE_S = 5.0

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
SHARED_MEMORY = Path("/dev/shm")
ENGINE_THREAD = "mpengine"  # what the names of the engine's threads begin with


@dataclass(frozen=True)
class Footprint:
    """What this process holds at one moment."""

    processes: frozenset[psutil.Process]  # everything below this process; compared by pid and start time
    descriptors: frozenset[tuple[int, str]]  # number and target: a number that is used again is new
    shared_memory: frozenset[str]
    threads: frozenset[threading.Thread]

    @classmethod
    def take(cls) -> "Footprint":
        return cls(
            frozenset(psutil.Process().children(recursive=True)),
            frozenset(open_descriptors()),
            frozenset(entry.name for entry in SHARED_MEMORY.iterdir()) if SHARED_MEMORY.is_dir() else frozenset(),
            frozenset(threading.enumerate()),
        )


def adopt_orphans() -> None:
    """Makes this process the parent of every orphan below it, where the kernel can (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def left_behind(before: Footprint, settle: float = SETTLE_S) -> list[str]:
    """Says, a line each, what is there now and was not there before; empty if nothing is.

    Blocks until nothing is left, at most about `settle` seconds. Leaked processes are killed on the
    way out, so that a leak fails the test that made it and not those after it.
    """
    gc.collect()
    found = list(findings(before))
    if not found:
        return []
    deadline = time.monotonic() + settle
    for thread in new_threads(before):
        thread.join(max(0.0, deadline - time.monotonic()))
    still_running([process.pid for process in new_processes(before)], max(0.0, deadline - time.monotonic()))
    pace = threading.Event()  # never set; what is still left is announced by no event
    while (found := list(findings(before))) and time.monotonic() < deadline:
        pace.wait(POLL_S)
        gc.collect()
    for process in new_processes(before):
        if process.status() != psutil.STATUS_ZOMBIE:
            process.kill()
    return found


def findings(before: Footprint) -> Iterator[str]:
    """Everything that is new, a line each. Reaps the zombies of adopted orphans, which are nobody's fault."""
    ours = {child.pid for child in multiprocessing.process._children}  # type: ignore[attr-defined]
    for process in new_processes(before):
        try:
            zombie = process.status() == psutil.STATUS_ZOMBIE
            mine = process.ppid() == os.getpid()
        except psutil.NoSuchProcess:
            continue
        if zombie and mine and process.pid not in ours:
            reap(process.pid)
        else:
            yield f"{'zombie' if zombie else 'process'}:{describe(process)}"

    for thread in new_threads(before):
        yield f"{'daemon ' if thread.daemon else ''}thread: {thread.name}"

    for number, target in sorted(open_descriptors() - before.descriptors):
        if number not in descriptors_of_multiprocessing():
            yield f"file descriptor {number}: {target}"

    names = {entry.name for entry in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()
    for name in sorted(names - before.shared_memory):
        if not belongs_to_others(name):
            yield f"shared memory: {SHARED_MEMORY / name}"


def new_processes(before: Footprint) -> list[psutil.Process]:
    """Processes below this one that are new and not multiprocessing's own two helpers."""
    helpers = helpers_of_multiprocessing()
    below = psutil.Process().children(recursive=True)
    return [child for child in below if child not in before.processes and child.pid not in helpers]


def new_threads(before: Footprint) -> list[threading.Thread]:
    """Threads that are new and keep the process alive, or are the engine's."""
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before.threads and (not thread.daemon or thread.name.startswith(ENGINE_THREAD))
    ]


def open_descriptors() -> set[tuple[int, str]]:
    """This process's descriptors and what they stand for, without the one that lists them."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:
            continue
    return found


def helpers_of_multiprocessing() -> set[int]:
    """The fork server and the resource tracker: started on first use, they live as long as this process."""
    return {pid for pid in (fork_server()._forkserver_pid, resource_tracker()._pid) if pid}


def descriptors_of_multiprocessing() -> set[int]:
    """The ends of those two helpers' pipes in this process."""
    return {end for end in (fork_server()._forkserver_alive_fd, resource_tracker()._fd) if end is not None}


def fork_server() -> Any:
    """multiprocessing's record of its fork server; what it holds has no public name."""
    return multiprocessing.forkserver._forkserver


def resource_tracker() -> Any:
    """The same for its resource tracker."""
    return multiprocessing.resource_tracker._resource_tracker


def belongs_to_others(name: str) -> bool:
    """Whether an entry of /dev/shm is no concern of ours.

    It is another user's, or a process that is not below this one maps it, or it is gone by now.
    """
    path = SHARED_MEMORY / name
    try:
        if path.stat().st_uid != os.getuid():
            return True
    except FileNotFoundError:
        return True
    below = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if int(maps.parent.name) not in below and str(path) in maps.read_text():
                return True
        except (OSError, UnicodeDecodeError):
            continue  # gone meanwhile, or not ours to read
    return False


def reap(pid: int) -> None:
    """Takes the exit status of an adopted orphan, as PID 1 would have."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
