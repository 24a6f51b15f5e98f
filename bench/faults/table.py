"""Markdown of a run's verdicts: a compact table for the README, and the reasons below it."""

from collections.abc import Mapping
from typing import Any

from bench.faults.cases import CASES

Results = Mapping[str, Any]  # {"facts": ..., "contenders": [...], "cases": {case: {contender: {"word", "reason"}}}}


def summary(results: Results) -> str:
    """What it was run on, and a row for each case."""
    contenders = results["contenders"]
    rows = [["", *(f"`{one}`" for one in contenders)], ["---", *["---"] * len(contenders)]]
    for case in CASES:
        if verdicts := results["cases"].get(case.name):
            rows.append([case.title, *(verdicts[one]["word"] if one in verdicts else "" for one in contenders)])
    rows.append(["passed, of those it can be asked", *(score(results, one) for one in contenders)])
    return "\n".join([versions(results["facts"]), "", *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def versions(facts: Mapping[str, Any]) -> str:
    packages = "".join(f", {name} {version}" for name, version in facts["versions"].items())
    return f"{facts['python']}{packages}; {facts['system']}, {facts['cpus']} CPUs."


def score(results: Results, contender: str) -> str:
    words = [verdicts[contender]["word"] for verdicts in results["cases"].values() if contender in verdicts]
    return f"{words.count('pass')} of {len(words) - words.count('-')}"


def reasons(results: Results) -> str:
    """Why each that did not pass did not."""
    parts = []
    for case in CASES:
        failed = {
            contender: verdict
            for contender, verdict in results["cases"].get(case.name, {}).items()
            if verdict["word"] in ("wrong", "hang")
        }
        if failed:
            title = case.title[0].upper() + case.title[1:]
            parts.append(f"### {title} (`{case.name}`)")
            parts.append("\n".join(f"- `{one}`: {said['word']}, {said['reason']}" for one, said in failed.items()))
    return "\n\n".join(parts) + "\n" if parts else ""


def render(results: Results) -> str:
    """All of it."""
    said = reasons(results)
    return summary(results) + (f"\n{said}" if said else "")
