"""Runs the measurements: every round asks each contender of each case once, in a fresh process.

Other load on the machine comes and goes. In a round all contenders of a case are measured within seconds of
each other, and ratios are formed within the round; the order turns from round to round, so that nobody always
comes after the same neighbour. The rounds go over all cases, so that a bad minute is one round's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.case import Case
from bench.peers import is_installed
from bench.processes import SETTLE_S, adopt_orphans, below, end_all, wait_for

ROOT = Path(__file__).resolve().parent.parent
TUNED_FILE = Path(__file__).resolve().parent / "tuned.json"  # written by `python -m bench sweep`
TIME_LIMIT_S = 120.0  # for one measurement: a hundred times what it is made to take
SELDOM = 4  # rounds, of which the first has the contenders that are measured seldom

# One contender's answer: {"n", "metrics", "start_method"}, or {"n", "error"}; "chunk" of those that are tuned.
Answer = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a run is made; the tables show it."""

    rounds: int
    scale: float  # of the numbers of jobs
    workers: int
    start_method: str | None
    nice: int


def run_cases(cases: Sequence[Case], options: Options) -> Iterator[tuple[Case, dict[str, Answer]]]:
    """Yields each case's answers by contender, as many times as there are rounds, the cases in turns."""
    adopt_orphans()
    chunks = tuned_chunks()
    for number in range(options.rounds):
        for case in cases:
            asked = [one for one in case.contenders if is_asked(case, one, number)]
            if not asked:
                continue  # all of it is measured seldom
            turned = number % len(asked)
            answers = {
                one: measure(case, one, options, chunks.get(case.name, {}).get(one))
                for one in asked[turned:] + asked[:turned]
            }
            yield case, {one: answers[one] for one in asked}


def is_asked(case: Case, contender: str, number: int) -> bool:
    """Whether this round has the contender."""
    return is_installed(contender.partition(".")[0]) and (number % SELDOM == 0 or contender not in case.seldom)


def left_out(cases: Iterable[Case]) -> list[str]:
    """The peers that are not installed."""
    peers = {contender.partition(".")[0]: None for case in cases for contender in case.contenders}
    return [peer for peer in peers if not is_installed(peer)]


def tuned_chunks() -> dict[str, dict[str, int]]:
    """By case and contender, the chunk size that the sweep found best."""
    found = json.loads(TUNED_FILE.read_text())["cases"] if TUNED_FILE.exists() else {}
    return {case: {one: entry["chunk"] for one, entry in entries.items()} for case, entries in found.items()}


def measure(case: Case, contender: str, options: Options, chunk: int | None) -> Answer:
    """One measurement. A contender that fails or hangs costs its own figure, and no other's."""
    n = case.contenders[contender]
    if case.scaled:
        n = max(min(n, case.fewest), round(n * options.scale))
    answer: Answer = {"n": n} if chunk is None else {"n": n, "chunk": chunk}
    command = [sys.executable, "-m", "bench.measure", case.name, contender, str(n)]
    command += ["--workers", str(case.workers or options.workers), "--nice", str(options.nice)]
    if case.seconds:
        command += ["--seconds", str(case.seconds)]
    if chunk is not None:
        command += ["--chunk", str(chunk)]
    if start_method := case.start_method or options.start_method:
        command += ["--start-method", start_method]
    before = below()
    environment = dict(os.environ)
    environment.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # or whoever is not of the standard library is compiled anew each time
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        # What is left behind may hold these pipes open: communicate() waits for it no longer than for the program.
        out, err = process.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return answer | {"error": f"no answer within {TIME_LIMIT_S:g} s"}
    finally:
        if process.poll() is not None:
            wait_for(before, SETTLE_S)
        end_all(before)
        process.wait()
    if process.returncode:
        return answer | {"error": last_line(err.splitlines()) or f"exit code {process.returncode}"}
    found: Answer = json.loads(last_line(out.splitlines()))
    return answer | found


def last_line(lines: Iterable[str]) -> str:
    return next((line.strip() for line in reversed([*lines]) if line.strip()), "")
