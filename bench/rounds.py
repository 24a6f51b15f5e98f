"""Runs the measurements: every round asks each contender of a case once, in a fresh process.

Other load on the machine comes and goes. In a round all contenders are measured within seconds of
each other, and ratios are formed within the round; the order turns from round to round, so that
nobody always comes after the same neighbour.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.cases import Case
from bench.work import turns_for

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT_S = 120.0  # for one measurement: a hundred times what it is made to take
FEWEST_JOBS = 10  # where --scale makes a case smaller

# One contender's answer: {"n", "metrics", "start_method"}, or {"n", "error"}.
Answer = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a run is made; the tables show it."""

    rounds: int
    scale: float  # of the numbers of jobs
    workers: int
    start_method: str | None
    nice: int


def run_case(case: Case, options: Options) -> Iterator[dict[str, Answer]]:
    """Yields the answers of one round after the other, by contender."""
    turns = turns_for(case.seconds) if case.seconds else 0
    contenders = [one for one in case.contenders if is_there(one)]
    for number in range(options.rounds):
        turned = number % len(contenders)
        order = contenders[turned:] + contenders[:turned]
        answers = {one: measure(case, one, turns, options) for one in order}
        yield {one: answers[one] for one in contenders}


def is_there(contender: str) -> bool:
    """Whether the peer is installed; the standard library and this engine always are."""
    return not contender.startswith("loky.") or find_spec("loky") is not None


def measure(case: Case, contender: str, turns: int, options: Options) -> Answer:
    """One measurement. A contender that fails or hangs costs its own figure, and no other's."""
    n = case.contenders[contender]
    n = max(min(n, FEWEST_JOBS), round(n * options.scale))
    command = [sys.executable, "-m", "bench.measure", case.name, contender, str(n)]
    command += ["--workers", str(options.workers), "--turns", str(turns), "--nice", str(options.nice)]
    if options.start_method:
        command += ["--start-method", options.start_method]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        end_session(process)
        return {"n": n, "error": f"no answer within {TIME_LIMIT_S:g} s"}
    except BaseException:
        end_session(process)
        raise
    if process.returncode:
        return {"n": n, "error": last_line(err.splitlines()) or f"exit code {process.returncode}"}
    return {"n": n, **json.loads(out)}


def end_session(process: "subprocess.Popen[str]") -> None:
    """Kills the measuring process with the workers that are in its session's first group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(lines: Iterable[str]) -> str:
    return next((line.strip() for line in reversed([*lines]) if line.strip()), "")
