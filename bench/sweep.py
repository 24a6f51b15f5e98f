"""`python -m bench sweep`: finds the best chunk size of each contender that is tuned by hand, for each case.

What a careful user would do before settling on a `chunksize`: try some, keep the fastest. The sizes and what
was measured at each go into tuned.json, which every run of the bench takes them from.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from bench import machine
from bench.case import Case
from bench.cases import CASES
from bench.peers import is_installed
from bench.processes import adopt_orphans
from bench.rounds import TUNED_FILE, Options, measure

FACTOR = 4  # from one size to the next
LARGEST = 65_536
LONGEST_BATCH_S = 0.2  # of work: a larger one would leave workers idle at the end of a second's work
BORROWED = {"first-results": "cpu-1ms", "memory": "tiny", "cost": "tiny"}  # same jobs, so same sizes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and writes tuned.json.

    Returns:
        0; 1 if a contender failed at every size.
    """
    parser = argparse.ArgumentParser(prog="python -m bench sweep", description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=swept(), help="only this one; the others keep their sizes")
    parser.add_argument("--rounds", type=int, default=2, help="how often each size is measured")
    asked = parser.parse_args(arguments)
    options = Options(asked.rounds, 0.5, machine.usable_cpus(), None, 0)
    found: dict[str, Any] = json.loads(TUNED_FILE.read_text()) if TUNED_FILE.exists() else {"cases": {}}
    found["facts"] = machine.facts()
    adopt_orphans()
    failed = False
    for case in CASES:
        if case.name in (asked.case or swept()):
            entries = found["cases"].setdefault(case.name, {})
            for contender in case.tuned:
                if not is_installed(contender.partition(".")[0]):
                    continue
                if figures := try_sizes(case, contender, options):
                    entries[contender] = {"chunk": best(case, figures), "figures": figures}
                failed = failed or not figures
    for case in CASES:
        if case.name in BORROWED:
            found["cases"][case.name] = borrowed(case, found["cases"])
    TUNED_FILE.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if failed else 0


def swept() -> list[str]:
    return [case.name for case in CASES if case.tuned and case.name not in BORROWED]


def try_sizes(case: Case, contender: str, options: Options) -> dict[str, float]:
    """The median of the case's first metric at each size, but for those at which it failed."""
    figures = {}
    for size in sizes(case, contender, options):
        answers = [measure(case, contender, options, size) for _ in range(options.rounds)]
        if not any("error" in answer for answer in answers):
            metric = next(iter(case.metrics))
            figures[str(size)] = statistics.median(answer["metrics"][metric] for answer in answers)
        shown = figures.get(str(size), answers[0].get("error", "failed once"))
        print(f"{case.name}: {contender}: {size}: {shown}", file=sys.stderr)
    return figures


def sizes(case: Case, contender: str, options: Options) -> list[int]:
    """From one job to what is sensible for jobs of this length."""
    most = min(LARGEST, case.contenders[contender] // (2 * options.workers))
    if case.seconds:
        most = min(most, round(LONGEST_BATCH_S / case.seconds))
    else:
        most = max(most, 64)
    return [FACTOR**power for power in range(20) if FACTOR**power <= most and (case.seconds or power > 2)]


def best(case: Case, figures: dict[str, float]) -> int:
    choose = max if case.better == "high" else min
    return int(choose(figures, key=lambda size: figures[size]))


def borrowed(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a case with the same jobs; a lazy map's where the contender has not been swept there."""
    there = found.get(BORROWED[case.name], {})
    return {one: {"chunk": there[one]["chunk"]} for one in case.tuned if one in there}
