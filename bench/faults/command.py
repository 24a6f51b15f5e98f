"""`python -m bench faults`: the same misbehaviours in this engine's workers and in its peers'."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import machine
from bench.faults import table
from bench.faults.cases import CASES
from bench.faults.contenders import CONTENDERS, EngineContender
from bench.faults.runner import try_case

RESULTS = Path(__file__).resolve().parent.parent / "results"
ENGINE = EngineContender.package


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for and prints the table.

    Returns:
        0; 1 if this engine did not pass everywhere; 130 after Ctrl-C, with the table of what was done.
    """
    parser = argparse.ArgumentParser(prog="python -m bench faults", description=__doc__)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--contender", action="append", choices=[*CONTENDERS], help="only this one")
    parser.add_argument("--save", action="store_true", help="write bench/results/faults.json and faults.md")
    asked = parser.parse_args(arguments)

    contenders = [name for name in asked.contender or CONTENDERS if is_there(name)]
    packages = [CONTENDERS[name].package for name in contenders]
    results: dict[str, Any] = {"facts": machine.facts(packages), "contenders": contenders, "cases": {}}
    interrupted = False
    try:
        for case in CASES:
            if asked.case and case.name not in asked.case:
                continue
            verdicts = results["cases"][case.name] = {}
            for name in contenders:
                verdict = try_case(case, name, CONTENDERS[name])
                verdicts[name] = asdict(verdict)
                print(f"{case.name}: {name}: {verdict.word} {verdict.reason}".rstrip(), file=sys.stderr)
    except KeyboardInterrupt:
        interrupted = True
    rendered = table.render(results)
    print(rendered, end="")
    if interrupted:
        return 130
    if asked.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "faults.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "faults.md").write_text(rendered)
    passed = all(verdicts[ENGINE]["word"] == "pass" for verdicts in results["cases"].values() if ENGINE in verdicts)
    return 0 if passed else 1


def is_there(name: str) -> bool:
    """Whether the contender is installed; if not, says how to."""
    package = CONTENDERS[name].package
    if find_spec(package) is not None:
        return True
    print(f"{name} is left out: {package} is not installed; pip install -e '.[bench]' does", file=sys.stderr)
    return False
