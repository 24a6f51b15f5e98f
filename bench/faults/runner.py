"""Runs one program in a session of its own, bounded, and looks at it from outside only.

The runner adopts every orphan below it, so that a worker which outlives its program is seen, counted
and ended, whatever group or session it has gone to.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.faults.cases import Case
from bench.faults.contenders import Contender
from bench.faults.verdicts import NO_SUCH_FEATURE, Observed, Outcome, Verdict, judge
from bench.processes import SETTLE_S, adopt_orphans, below, describe, end_all, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
BOUND_S = 15.0  # for a whole program; where nothing hangs, it takes one to four


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
            wait_for(before, SETTLE_S)
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
