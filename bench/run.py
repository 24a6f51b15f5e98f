"""One run: what `python -m bench` prints and `python -m bench report` writes are made from its results."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from bench import machine
from bench.case import Case
from bench.cases import CASES
from bench.rounds import Options, left_out, run_cases

# A JSON object: {"begun", "facts", "options", "left_out", "cases": {name: [{contender: answer}, a round each]}}.
Results = dict[str, Any]

QUICK = {"rounds": 2, "scale": 0.2}
FULL = {"rounds": 7, "scale": 1.0}  # rates above a million a second are not stable with fewer


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a short run: figures to look at, not to quote")
    parser.add_argument("--rounds", type=int, help="how often each contender is measured")
    parser.add_argument("--workers", type=int, default=machine.usable_cpus(), help="of each contender")
    parser.add_argument("--start-method", choices=["forkserver", "spawn", "fork"], help="for all peers")
    parser.add_argument("--nice", type=int, default=0, help="of the measured processes; below 0 needs privilege")


def options_of(asked: argparse.Namespace) -> Options:
    length = QUICK if asked.quick else FULL
    return Options(
        asked.rounds or int(length["rounds"]), length["scale"], asked.workers, asked.start_method, asked.nice
    )


def measure_all(
    options: Options,
    names: Sequence[str] | None = None,
    keep: Callable[[Results], None] = lambda results: None,
    among: Sequence[Case] = CASES,
) -> tuple[Results, bool]:
    """Measures the cases (None: all) among those.

    Args:
        keep: Called after each case of each round with what there is by then.

    Returns:
        The results, and whether Ctrl-C came before the end.
    """
    cases = [case for case in among if not names or case.name in names]
    results: Results = {
        "begun": time.strftime("%Y-%m-%d %H:%M"),
        "facts": machine.facts(),
        "options": asdict(options),
        "left_out": left_out(cases),
        "cases": {},
    }
    for peer in results["left_out"]:
        print(f"{peer} is left out: it is not installed; pip install -e '.[bench]' does", file=sys.stderr)
    start = time.monotonic()
    try:
        for case, answers in run_cases(cases, options):
            rounds = results["cases"].setdefault(case.name, [])
            rounds.append(answers)
            tell(case.name, len(rounds), options.rounds, time.monotonic() - start, answers)
            keep(results)
    except KeyboardInterrupt:
        return results, True
    return results, False


def tell(name: str, number: int, rounds: int, seconds: float, answers: dict[str, Any]) -> None:
    """Progress, and who has failed."""
    print(f"{seconds:6.0f} s  round {number} of {rounds}: {name}", file=sys.stderr)
    for contender, answer in answers.items():
        if "error" in answer:
            print(f"          {contender} failed: {answer['error']}", file=sys.stderr)


def exit_code(results: Results, interrupted: bool) -> int:
    """1 if a contender failed, 130 if the run was broken off."""
    if interrupted:
        return 130
    answers = (answer for rounds in results["cases"].values() for one in rounds for answer in one.values())
    return 1 if any("error" in answer for answer in answers) else 0
