"""Runs one program in a session of its own, bounded, and looks at it from outside only.

The runner adopts every orphan below it, so that a worker which outlives its program is seen, counted
and ended, whatever group or session it has gone to.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.faults.cases import Case
from bench.faults.contenders import Contender
from bench.faults.verdicts import NO_SUCH_FEATURE, Observed, Outcome, Verdict, judge

ROOT = Path(__file__).resolve().parent.parent.parent
BOUND_S = 15.0  # for a whole program; where nothing hangs, it takes one to four
SETTLE_S = 2.0  # from the program's end, for workers that are about to end by themselves
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def try_case(case: Case, name: str, contender: type[Contender]) -> Verdict:
    """The contender's verdict in this case."""
    if case.needs_timeout and not contender.has_timeout:
        return NO_SUCH_FEATURE
    with tempfile.TemporaryDirectory(prefix="bench-faults-") as folder:
        command = [sys.executable, "-m", "bench.faults.program", case.name, name, folder]
        return judge(case, observe(command, Path(folder), BOUND_S))


def observe(command: Sequence[str], folder: Path, bound: float) -> Observed:
    """Runs a program to its end or its bound, and ends everything it has left.

    Args:
        command: The program; it writes `notes` and `report` into the folder.
        folder: An empty one.
        bound: Seconds.
    """
    adopt_orphans()
    before = below()
    with open(folder / "stderr", "w+b") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True
        )
        try:
            exit_code = process.wait(bound)
        except subprocess.TimeoutExpired:
            return Observed(exit_code=None, **read(folder))
        else:
            psutil.wait_procs(below(before), SETTLE_S)
            processes = [describe(one) for one in below(before)]
            return Observed(exit_code=exit_code, left=(*processes, *shared_memory(folder)), **read(folder))
        finally:
            end_all(before)
            process.wait()


def read(folder: Path) -> dict[str, Any]:
    """What the program and its jobs have noted, as fields of Observed."""
    stage, outcomes, counts = "before its start", {}, {}
    for line in lines_of(folder / "report"):
        match json.loads(line):
            case {"stage": name, **_more}:
                stage = name
            case {"job": job, "kind": kind, "text": text}:
                outcomes[job] = Outcome(kind, text)
            case numbers:
                counts.update(numbers)
    notes = Counter(tuple(line.split()[:2]) for line in lines_of(folder / "notes"))
    said = lines_of(folder / "stderr")
    return {
        "stage": stage,
        "outcomes": outcomes,
        "counts": counts,
        "began": {job: number for (what, job), number in notes.items() if what == "began"},
        "ended": {job: number for (what, job), number in notes.items() if what == "ended"},
        "said": said[-1][:200] if said else "",
    }


def shared_memory(folder: Path) -> list[str]:
    """What the program had in /dev/shm at any of its stages, and what is still there."""
    entries = {name for line in lines_of(folder / "report") for name in json.loads(line).get("shared", ())}
    return sorted(name for name in entries if os.path.exists(name))


def lines_of(file: Path) -> list[str]:
    return [line for line in file.read_text(errors="replace").splitlines() if line] if file.exists() else []


# ---- processes -----------------------------------------------------------------------------------------------


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
