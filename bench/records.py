"""`python -m bench records`: what a record costs from file to file, beside other ways to do the same work.

The work is a JSON line in, a few operations, a JSON line out. All contenders write the same file, which is compared.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench import machine
from bench.table import number, spread

RESULTS = Path(__file__).resolve().parent / "results"

WORK = """
import json

def enrich(record):
    record["total"] = sum(record["values"])
    record["name"] = record["name"].upper()
    return record

def enrich_line(line):
    return json.dumps(enrich(json.loads(line)))
"""

# By hand: as people write it, with a chunk size that suits, without a net.
EXECUTOR = """
import sys
from concurrent.futures import ProcessPoolExecutor
from work import enrich_line

if __name__ == "__main__":
    source, out, workers = sys.argv[1:]
    with ProcessPoolExecutor(int(workers)) as pool, open(source) as lines, open(out, "w") as file:
        for line in pool.map(enrich_line, lines, chunksize=1000):
            file.write(line + "\\n")
"""

# What xargs and parallel start for each thousand lines, which it finds among its arguments.
ARGUMENTS = """
import sys
from work import enrich_line

sys.stdout.write("".join(enrich_line(line) + "\\n" for line in sys.argv[1:]))
"""

# The same work in one process: what there is to do.
SERIAL = """
import sys
from work import enrich_line

source, out, workers = sys.argv[1:]
with open(source) as lines, open(out, "w") as file:
    for line in lines:
        file.write(enrich_line(line) + "\\n")
"""


class Contender(NamedTuple):
    """A way to do it.

    Attributes:
        command: For a shell; {python}, {workers}, {source} and {out} are put in.
        ordered: Its output has the order of the input.
        needs: A program.
    """

    command: str
    ordered: bool = True
    needs: str = ""


CONTENDERS = {
    "mpengine": Contender(
        "{python} -m mpengine run work.py:enrich {source} -o {out} --workers {workers} --no-progress"
    ),
    "mpengine, unordered": Contender(
        "{python} -m mpengine run work.py:enrich {source} -o {out} --workers {workers} --no-progress --unordered", False
    ),
    "mpengine, no journal": Contender(
        "{python} -m mpengine run work.py:enrich {source} --to jsonl --workers {workers} --no-progress > {out}"
    ),
    "mpengine, retries": Contender(
        "{python} -m mpengine run work.py:enrich {source} -o {out} --workers {workers} --no-progress "
        "--retries 2 --timeout 30"
    ),
    "mpengine, report": Contender(
        "{python} -m mpengine run work.py:enrich {source} -o {out} --workers {workers} --no-progress "
        "--report report.html"
    ),
    "mpengine, trace": Contender(
        "{python} -m mpengine run work.py:enrich {source} -o {out} --workers {workers} --no-progress --trace trace.json"
    ),
    "executor by hand": Contender("{python} executor.py {source} {out} {workers}"),
    "xargs -P": Contender(
        "tr '\\n' '\\0' < {source} | xargs -0 -P {workers} -n 1000 {python} arguments.py > {out}", False, "xargs"
    ),
    "parallel": Contender(
        "parallel --no-notice -k -j {workers} -n 1000 {python} arguments.py < {source} > {out}", True, "parallel"
    ),
    "one process": Contender("{python} serial.py {source} {out} {workers}"),
}
SELDOM = {
    "mpengine, retries": 3,
    "mpengine, report": 5,
    "mpengine, trace": 5,
}  # measured with so many times fewer records


class Measured(NamedTuple):
    """One run: microseconds a record, and the most the first process and all together had resident, MiB."""

    cost: float
    first: float
    all: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 1 if a contender failed or wrote something else."""
    parser = argparse.ArgumentParser(prog="python -m bench records", description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000, help="how many; default: a million")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender is measured; default: 3")
    parser.add_argument("--workers", type=int, default=machine.usable_cpus(), help="of each contender")
    parser.add_argument("--only", action="append", choices=[*CONTENDERS], help="only this one; may be repeated")
    parser.add_argument("--folder", help="where the files are; default: a temporary one")
    parser.add_argument("--save", action="store_true", help="write bench/results/records.md")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="records-") as folder:
        rounds, failed = measure(Path(folder), asked.records, asked.rounds, asked.workers, asked.only or [*CONTENDERS])
    text = render(rounds, failed, asked.records, asked.workers)
    print(text, end="")
    if asked.save:
        (RESULTS / "records.md").write_text(text)
    return int(any("not installed" not in why for why in failed.values()))


def measure(
    folder: Path, records: int, rounds: int, workers: int, names: Sequence[str]
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """By contender; and why those that failed did. The rounds are interleaved."""
    for name, source in [("work", WORK), ("executor", EXECUTOR), ("arguments", ARGUMENTS), ("serial", SERIAL)]:
        (folder / f"{name}.py").write_text(source)
    sizes = {name: max(1, records // SELDOM.get(name, 1)) for name in names}
    wanted = {size: write_records(folder, size) for size in {*sizes.values()}}
    found: dict[str, list[Measured]] = {}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for name in names:
            contender = CONTENDERS[name]
            if contender.needs and shutil.which(contender.needs) is None:
                failed[name] = f"{contender.needs} is not installed"
            if name in failed:
                continue
            size = sizes[name]
            for path in folder.glob("out.jsonl*"):
                path.unlink()
            try:
                found.setdefault(name, []).append(run(contender, folder, f"in{size}.jsonl", workers, size))
                check(folder / "out.jsonl", wanted[size], contender.ordered)
            except Exception as error:
                failed[name] = str(error)
    return found, failed


def write_records(folder: Path, count: int) -> Path:
    """An input of so many lines; returns what is to come of it."""
    wanted = folder / f"wanted{count}.jsonl"
    with (folder / f"in{count}.jsonl").open("w") as source, wanted.open("w") as out:
        for n in range(count):
            record: dict[str, Any] = {"n": n, "name": f"record {n}", "values": [n % 10, n % 7 / 4, 1]}
            source.write(json.dumps(record) + "\n")
            record["total"] = sum(record["values"])
            record["name"] = record["name"].upper()
            out.write(json.dumps(record) + "\n")
    return wanted


def run(contender: Contender, folder: Path, source: str, workers: int, records: int) -> Measured:
    command = contender.command.format(python=sys.executable, workers=workers, source=source, out="out.jsonl")
    begun = time.perf_counter()
    process = subprocess.Popen(
        ["bash", "-c", f"set -o pipefail; exec {command}" if "|" not in command else f"set -o pipefail; {command}"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    ended = threading.Event()
    most = [0.0, 0.0]
    watcher = threading.Thread(target=watch, args=(process.pid, ended, most))
    watcher.start()
    try:
        _, errors = process.communicate()
        seconds = time.perf_counter() - begun
    finally:
        ended.set()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {errors.strip().splitlines()[-1:]}")
    return Measured(seconds / records * 1e6, *most)


def watch(pid: int, ended: threading.Event, most: list[float]) -> None:
    """The most that a process, and it with all below it, had resident; looked at five times a second."""
    while not ended.wait(0.2):
        try:
            process = psutil.Process(pid)
            sizes = [one.memory_info().rss / 2**20 for one in (process, *process.children(recursive=True))]
        except psutil.Error:
            continue
        most[0] = max(most[0], sizes[0])
        most[1] = max(most[1], sum(sizes))


def check(out: Path, wanted: Path, ordered: bool) -> None:
    """What is not in order is compared by a sum over its lines."""
    with out.open("rb") as found, wanted.open("rb") as expected:
        if ordered:
            same = all(one == other for one, other in zip(found, expected, strict=True))
        else:
            same = sum(map(hash, found)) == sum(map(hash, expected))
    if not same:
        raise ValueError("it wrote something else than the others")


def render(found: dict[str, list[Measured]], failed: dict[str, str], records: int, workers: int) -> str:
    facts = machine.facts()
    lines = [
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['system']}, {facts['python']}, load {facts['load']} at its end. "
        f"{records:,} records, {workers} workers, {max(map(len, found.values()), default=0)} interleaved rounds.\n",
        "| contender | µs a record | spread | records a second | mpengine takes | first process, MiB | all, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    mine = [one.cost for one in found.get("mpengine", ())]
    for name, rounds in found.items():
        costs = [one.cost for one in rounds]
        ratios = [ours / cost for ours, cost in zip(mine, costs, strict=False)]
        cost = statistics.median(costs)
        cells = [
            name, number(cost), spread(costs), number(1e6 / cost),
            f"{number(statistics.median(ratios))} x" if ratios else "",
            number(max(one.first for one in rounds)), number(max(one.all for one in rounds)),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {name} | failed: {why} | | | | | |" for name, why in failed.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
