"""`python -m bench`: this engine beside its peers and beside what the machine allows."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine, table
from bench.cases import CASES
from bench.faults import command as faults
from bench.rounds import Options, run_case

RESULTS = Path(__file__).resolve().parent / "results"
QUICK = {"rounds": 3, "scale": 0.2}
OTHER_COMMAND = "`python -m bench faults` asks what they do when jobs misbehave; see its --help."
FULL = {"rounds": 7, "scale": 1.0}  # rates above a million a second are not stable with fewer


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, epilog=OTHER_COMMAND)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--quick", action="store_true", help="a short run: figures to look at, not to quote")
    parser.add_argument("--save", action="store_true", help="write bench/results/latest.json and latest.md")
    parser.add_argument("--rounds", type=int, help="how often each contender is measured")
    parser.add_argument("--workers", type=int, default=machine.usable_cpus())
    parser.add_argument("--start-method", choices=["forkserver", "spawn", "fork"], help="for all peers")
    parser.add_argument("--nice", type=int, default=0, help="of the measured processes; below 0 needs privilege")
    asked = parser.parse_args(arguments)
    length = QUICK if asked.quick else FULL
    rounds = asked.rounds or int(length["rounds"])
    return asked, Options(rounds, length["scale"], asked.workers, asked.start_method, asked.nice)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for and prints the tables.

    Returns:
        0; 1 if a contender failed; 130 after Ctrl-C, with the tables of the rounds that were done.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["faults"]:
        return faults.main(words[1:])
    asked, options = parse(words)
    results: dict[str, Any] = {"facts": machine.facts(), "options": asdict(options), "cases": {}}
    interrupted = False
    try:
        for case in CASES:
            if asked.case and case.name not in asked.case:
                continue
            rounds = results["cases"][case.name] = []
            for answers in run_case(case, options):
                rounds.append(answers)
                print(f"{case.name}: round {len(rounds)} of {options.rounds}", file=sys.stderr)
    except KeyboardInterrupt:
        interrupted = True
    tables = table.render(results)
    print(tables, end="")
    if interrupted:
        return 130
    if asked.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "latest.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "latest.md").write_text(tables)
    failed = any(
        "error" in answer for rounds in results["cases"].values() for round_ in rounds for answer in round_.values()
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
