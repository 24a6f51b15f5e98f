"""`python -m bench guard`: fails if a job costs a third more than was accepted. Well under a minute.

It looks at what other load on the machine does not change much, see counting.py, and at system calls where
strace is there. What seems to be lost is measured again, and only what is lost each time is reported: noise
goes away, a slower path does not.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.machine import cpu_model

ROOT = Path(__file__).resolve().parent.parent
# {Python's version and the CPU: {subject: figure}}. What a system call takes beside a loop in Python is the CPU's: a
# round trip is 1.7 times its bare loop on one, and well above 2 on another.
BASELINE = Path(__file__).resolve().parent / "baseline.json"
LIMIT = 1.30  # times what was accepted
# A job: 0.1 system calls on a quiet machine, but beside a busy one somebody has to be woken for one job in ten; and a
# `map` costs the fewer function calls, the more of it is there whenever the parent looks.
SLACK = {"system calls": 2.0, "calls": 0.2}
ATTEMPTS = 3
ACCEPTED = 5  # runs of which the least is accepted: more than it is ever held against
TIME_LIMIT_S = 60.0  # for one of the programs that measure; they take five seconds
# Two numbers of jobs: the difference has no start-up. (A round trip has half as many on a busy machine.)
TRACED = {"submit": (500, 2_500)}

UNITS = {
    "CPU time": "times a bare loop's CPU time",
    "calls": "function calls a job",
    "blocks held": "blocks of memory a future",
    "system calls": "system calls a job",
}
Figures = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and compares or accepts.

    Returns:
        0; 1 if something is lost; 2 if nothing could be measured.
    """
    parser = argparse.ArgumentParser(prog="python -m bench guard", description=__doc__.partition("\n")[0])
    parser.add_argument("--accept", action="store_true", help="what is measured now is what holds from now on")
    asked = parser.parse_args(arguments)
    version, cpu = f"{sys.version_info.major}.{sys.version_info.minor}", cpu_model()
    baselines: dict[str, Figures] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    try:
        if asked.accept:
            kept = baselines[key_of(version, cpu)] = accepted([measure() for _ in range(ACCEPTED)])
            BASELINE.write_text(json.dumps(baselines, indent=1, sort_keys=True) + "\n")
            print("\n".join(f"{name}: {figure:.3g}" for name, figure in kept.items()))
            return 0
        baseline = baseline_for(baselines, version, cpu)
        if not baseline:
            print(f"guard: nothing was accepted on Python {version}; `python -m bench guard --accept` does")
            return 0
        if key_of(version, cpu) not in baselines:
            print(f"guard: nothing was accepted on this CPU ({cpu}); its CPU time is held against nothing")
        found = judge(baseline, measure)
    except subprocess.SubprocessError as error:
        print(f"guard: nothing measured: {error}", file=sys.stderr)
        return 2
    lines = losses(baseline, found)
    print("\n".join(lines or [*gains(baseline, found), "guard: no job costs more than it did"]))
    return 1 if lines else 0


def key_of(version: str, cpu: str) -> str:
    return f"{version}, {cpu}"


def baseline_for(baselines: dict[str, Figures], version: str, cpu: str) -> Figures:
    """What was accepted on this CPU, or else on another, without what depends on it."""
    if key_of(version, cpu) in baselines:
        return baselines[key_of(version, cpu)]
    others = [figures for key, figures in sorted(baselines.items()) if key.startswith(key_of(version, ""))]
    return {name: figure for name, figure in others[0].items() if kind_of(name) != "CPU time"} if others else {}


def judge(baseline: Figures, measure: Callable[[], Figures]) -> Figures:
    """Measures, and as long as something seems lost, again: each figure is the least that was seen."""
    found = measure()
    for _ in range(ATTEMPTS - 1):
        if not losses(baseline, found):
            break
        again = measure()
        found = {name: min(figure, again.get(name, figure)) for name, figure in found.items()}
    return found


def losses(baseline: Figures, found: Figures) -> list[str]:
    """A line for each figure beyond its limit. What was never accepted is held against nothing."""
    lines = []
    for name, figure in found.items():
        limit = baseline.get(name, math.inf) * LIMIT + SLACK.get(kind_of(name), 0.0)
        if figure > limit:
            lines.append(
                f"guard: {name}: {figure:.3g} {UNITS[kind_of(name)]}, {figure / baseline[name] - 1:.0%} more than the "
                f"{baseline[name]:.3g} that was accepted (limit: {limit:.3g}). Find what the path of each job has "
                "gained; if it is worth it, `python -m bench guard --accept`."
            )
    return lines


def gains(baseline: Figures, found: Figures) -> list[str]:
    """A line for each figure that is so much lower that a loss up to the limit would be a great one."""
    return [
        f"guard: {name}: {figure:.3g} where {baseline[name]:.3g} was accepted; "
        "`python -m bench guard --accept` keeps it"
        for name, figure in found.items()
        if name in baseline and figure * LIMIT + SLACK.get(kind_of(name), 0.0) < baseline[name]
    ]


def kind_of(name: str) -> str:
    return name.rpartition(": ")[2]


def accepted(runs: Sequence[Figures]) -> Figures:
    """The least of each figure, as it is judged; rounded to what it is worth."""
    return {name: float(f"{min(run[name] for run in runs):.3g}") for name in runs[0]}


def measure() -> Figures:
    """Everything, once."""
    figures: Figures = json.loads(ran([sys.executable, "-m", "bench.counting"]))
    if can_trace():
        for name, (few, many) in TRACED.items():
            calls = system_calls(name, many) - system_calls(name, few)
            figures[f"{name}: system calls"] = calls / (many - few)
    return figures


def can_trace() -> bool:
    """Whether strace is there, and allowed to look."""
    found = shutil.which("strace")
    return found is not None and subprocess.run([found, "-qq", "-o", "/dev/null", "true"], check=False).returncode == 0


def system_calls(name: str, n: int) -> int:
    """Of a whole program and its workers, as strace counts them."""
    with tempfile.TemporaryDirectory(prefix="bench-guard-") as folder:
        table = Path(folder) / "table"
        strace = ["strace", "-f", "-c", "-U", "calls,name", "-o", str(table)]
        ran([*strace, sys.executable, "-m", "bench.counting", name, str(n)])
        return int(table.read_text().splitlines()[-1].split()[0])  # the last line is the sum


def ran(command: Sequence[str]) -> str:
    """What a program printed; it must end well."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=TIME_LIMIT_S, check=True)
    return done.stdout
