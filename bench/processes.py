"""The processes below this one, to whatever group or session they have gone: found, and ended."""

import ctypes
import os
from collections.abc import Collection

import psutil

SETTLE_S = 2.0  # from a program's end, for workers that are about to end by themselves
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def adopt_orphans() -> None:
    """Makes this process the parent of every orphan below it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def below(before: Collection[psutil.Process] = ()) -> list[psutil.Process]:
    """The processes below this one that run, without those that were there before."""
    return [one for one in psutil.Process().children(recursive=True) if one not in before and runs(one)]


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for(before: Collection[psutil.Process], seconds: float) -> None:
    """Waits for what has come since to end by itself."""
    psutil.wait_procs(below(before), seconds)


def end_all(before: Collection[psutil.Process]) -> None:
    """Kills what has come since, and takes its exit status.

    multiprocessing's and loky's resource trackers come last, and end by themselves: they take out of
    /dev/shm what the killed have left there.
    """
    for spared in ("resource_tracker", ""):
        while victims := [one for one in below(before) if not (spared and spared in describe(one))]:
            for victim in victims:
                kill(victim)
            psutil.wait_procs(victims, SETTLE_S)
        psutil.wait_procs(below(before), SETTLE_S)
    for zombie in psutil.Process().children():
        if zombie not in before:
            reap(zombie.pid)


def kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def reap(pid: int) -> None:
    """Takes the exit status of an adopted orphan, as PID 1 would have."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def describe(process: psutil.Process) -> str:
    try:
        return f"pid {process.pid}: {' '.join(process.cmdline()) or process.name()}"
    except psutil.Error:
        return f"pid {process.pid}"
