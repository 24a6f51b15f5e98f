"""`python -m bench arrays`: large arrays into jobs and out of them, beside the peers and beside a copy in memory."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from bench import report, run, table, targets
from bench.case import Case, Column, over, under
from bench.peers import PACKAGES
from bench.rounds import Options
from bench.table import Round, number, spread
from bench.targets import Target

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 5
QUICK = {"rounds": 2, "scale": 0.05}
SPEEDS = {"warm": "GB/s", "best": "GB/s", "first": "GB/s"}

SEVERAL = {"engine.submit": 60, "bare.memcpy": 60, "by-hand.attach": 30, "by-hand.keep": 60}
SLOW = {"executor.submit": 6, "loky.submit": 6, "joblib.list": 8, "mpire.imap": 6, "ray.remote": 12, "ray.put": 12}
BY_HAND = (
    "`by-hand`: two segments of multiprocessing.shared_memory made before, and a ProcessPoolExecutor that carries "
    "names; a job attaches to them each time, or its worker keeps them."
)


def one_array(name: str, title: str, kind: str, note: str, metrics: dict[str, str] | None = None) -> Case:
    return Case(
        name=name,
        title=title,
        kind=kind,
        metrics=metrics or SPEEDS,
        contenders=SEVERAL | SLOW,
        better="high",
        seldom=frozenset({"loky.submit", "mpire.imap", "joblib.list", "ray.remote"}),
        columns=(Column("of memcpy", "bare.memcpy", share, percent=True), Column("engine is", "engine.submit", under)),
        workers=1,
        note=note,
    )


def share(figure: float, against: float, workers: int) -> float:
    return figure / against


CASES = (
    one_array(
        "array-in",
        "64 MiB into a job",
        "array_in",
        "`submit(job, array).result()`, where the job returns the array's sum: reading it is part of the time. Bytes "
        "of the array over seconds: `warm` is the median without the first transfer, which is beside it. One worker; "
        "joblib has two, since with one it calls functions itself. "
        f"{BY_HAND} `bare.memcpy`: `np.copyto` between two arrays that have been written before.",
    ),
    one_array(
        "array-out",
        "64 MiB out of a job",
        "array_out",
        "The job returns an array that was there before, and the receiver drops it. `reading`: what its sum takes to a "
        "receiver that wants it; by hand that is of the segment itself.",
        SPEEDS | {"reading": "ms"},
    ),
    one_array(
        "array-both",
        "64 MiB in and out",
        "array_both",
        "The job returns what it was given. By hand that is one copy: the job's segment is what comes back.",
    ),
    one_array(
        "array-changed",
        "64 MiB in, changed in place, and out",
        "array_changed",
        "`array += 1; return array`. joblib and Ray give it to jobs read-only: there the job makes a copy first.",
    ),
    Case(
        name="array-shared",
        title="64 MiB for 100 jobs, of which each reads one element",
        kind="array_shared",
        metrics={"warm": "ms", "best": "ms", "first": "ms"},
        contenders={
            "engine.map": 15,
            "engine.share": 15,
            "executor.map": 2,
            "executor.halves": 4,
            "loky.map": 2,
            "joblib.list": 5,
            "mpire.imap": 3,
            "ray.remote": 2,
            "ray.put": 8,
            "by-hand.attach": 8,
            "by-hand.keep": 15,
        },
        seldom=frozenset({"executor.map", "loky.map", "mpire.imap", "joblib.list", "ray.remote"}),
        columns=(Column("warm / engine.map", "engine.map", over),),
        workers=2,
        note="Until all 100 results are there: of `map` over a `functools.partial` with the array (`ray.remote`: as an "
        "argument each time), and of what each has for this: `engine.share`, `ray.put`; `executor.halves` is `map` "
        "with chunks of 50. Each time the array is handed over anew. Two workers.",
    ),
    Case(
        name="array-sizes",
        title="Arrays through `map`, by their size",
        kind="array_rates",
        metrics=dict.fromkeys(("128 KiB", "256 KiB", "512 KiB", "1 MiB"), "MB/s"),
        contenders={"engine.map": 1000, "executor.map": 150, "mpire.imap": 150},
        better="high",
        columns=tuple(
            Column(f"engine is, {size}", "engine.map", under, metric=size)
            for size in ("128 KiB", "256 KiB", "512 KiB", "1 MiB")
        ),
        workers=2,
        note="`map` of a function that returns what it was given; the bytes of the arrays, once, over seconds. Two "
        "workers.",
    ),
    Case(
        name="array-threshold",
        title="Small arrays in shared memory and in the pickle",
        kind="array_threshold",
        metrics={},
        contenders={"engine.both": 200},
        workers=2,
    ),
    Case(
        name="array-memory",
        title="Arrays of 1 GiB one after another, in and out",
        kind="array_memory",
        metrics={},
        contenders={"engine.submit": 100},
        fewest=5,
        workers=1,
        seldom=frozenset({"engine.submit"}),
    ),
)  # fmt: skip

BARE = ("engine", "bare", "by-hand")  # whoever is not a peer


def target(label: str, case: str, metric: str, mine: str, factor: float, limit: str, against: str = "") -> Target:
    """A figure to reach, or so many times another's; memory by hand is among what the machine allows."""
    contenders = next(one.contenders for one in CASES if one.name == case)
    peers = tuple(one for one in contenders if one.partition(".")[0] not in BARE)
    return Target(label, case, metric, mine, factor, against, limit, peers)


# The figures are those of a machine whose memcpy moves 20 GB/s. Others' are held against their own memcpy, too.
TARGETS = (
    target("64 MiB into a job", "array-in", "warm", "engine.submit", 6, "bare.memcpy"),
    target("64 MiB into a job", "array-in", "warm", "engine.submit", 6 / 20, "bare.memcpy", "bare.memcpy"),
    target("64 MiB out of a job", "array-out", "warm", "engine.submit", 10, "bare.memcpy"),
    target("64 MiB out of a job", "array-out", "warm", "engine.submit", 10 / 20, "bare.memcpy", "bare.memcpy"),
    target("64 MiB in and out", "array-both", "warm", "engine.submit", 5, "bare.memcpy"),
    target("64 MiB in and out", "array-both", "warm", "engine.submit", 5 / 20, "bare.memcpy", "bare.memcpy"),
    target("64 MiB for 100 jobs, argument", "array-shared", "warm", "engine.map", 100, "by-hand.keep"),
    target("64 MiB for 100 jobs, argument, first", "array-shared", "first", "engine.map", 100, "by-hand.keep"),
    target("64 MiB for 100 jobs, shared", "array-shared", "warm", "engine.share", 100, "by-hand.keep"),
    target("64 MiB for 100 jobs, shared, first", "array-shared", "first", "engine.share", 100, "by-hand.keep"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for and prints the tables.

    Returns:
        0; 1 if a contender failed; 130 after Ctrl-C, with the tables of the rounds that were done.
    """
    parser = argparse.ArgumentParser(prog="python -m bench arrays", description=__doc__)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--save", action="store_true", help="write bench/results/arrays.* and the README's table")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="make the tables of a kept run's JSON")
    run.add_options(parser)
    asked = parser.parse_args(arguments)
    options = options_of(asked)
    if asked.source:
        results, interrupted = json.loads(asked.source.read_text()), False
    else:
        results, interrupted = run.measure_all(options, asked.case, among=CASES)
    rendered = render(results)
    print(rendered, end="")
    if asked.save and not interrupted:
        RESULTS.mkdir(exist_ok=True)
        report.write(RESULTS / "arrays.json", results)
        (RESULTS / "arrays.md").write_text(rendered)
        report.insert(report.README, "arrays", summary(results))
    return run.exit_code(results, interrupted)


def options_of(asked: argparse.Namespace) -> Options:
    """As the other tables', but for how often and how much: what takes long here is long by its bytes."""
    options = run.options_of(asked)
    rounds = asked.rounds or (QUICK["rounds"] if asked.quick else ROUNDS)
    return replace(options, rounds=int(rounds), scale=QUICK["scale"] if asked.quick else 1.0)


# ---- tables --------------------------------------------------------------------------------------------------------


def render(results: run.Results) -> str:
    """All of a run, the targets first."""
    shown = with_missing(results)
    parts = [targets.render(shown, False, TARGETS, CASES), table.render(shown, CASES[:-2])]
    for name, draw in (("array-threshold", threshold_table), ("array-memory", memory_table)):
        if rounds := results["cases"].get(name):
            parts.append(draw(rounds))
    return "\n".join(parts)


def summary(results: run.Results) -> str:
    """The README's block."""
    return f"{table.heading_of(results)}\n\n{targets.render(results, True, TARGETS, CASES)}"


def with_missing(results: run.Results) -> run.Results:
    """With a row for each contender that is not installed, which says so."""
    shown = deepcopy(results)
    for case in CASES:
        for contender, n in case.contenders.items():
            peer = contender.partition(".")[0]
            if peer in results.get("left_out", ()):
                for answers in shown["cases"].get(case.name, ())[:1]:
                    answers[contender] = {"n": n, "error": f"{PACKAGES[peer]} is not installed"}
    return shown


def threshold_table(rounds: Sequence[Round]) -> str:
    """By size: both ways, and whether blocks are the better; and from where on they are."""
    answers = [one["engine.both"] for one in rounds]
    if errors := [answer["error"] for answer in answers if "error" in answer]:
        return f"### {CASES[-2].title}\n\nfailed: {errors[0]}\n"
    figures = [answer["metrics"] for answer in answers]
    sizes = sorted({int(name.rpartition(" ")[2]) for name in figures[0]})
    heading = ["KiB", "trip in band, µs", "spread", "in blocks, µs", "spread", "blocks / in band"]
    heading += ["map in band, MB/s", "spread", "in blocks, MB/s", "spread", "blocks / in band"]
    rows = [heading, ["---:"] * len(heading)]
    for size in sizes:
        cells = [f"{size >> 10}"]
        for question in ("trip", "rate"):
            for way in ("in band", "blocks"):
                values = [one[f"{way} {question} {size}"] for one in figures]
                cells += [number(statistics.median(values)), spread(values)]
            cells.append(f"{number(block_ratio(figures, question, size))} x")
        rows.append(cells)
    lines = [f"### {CASES[-2].title}", "", *("| " + " | ".join(cells) + " |" for cells in rows), ""]
    for question, label in (("trip", "round trip"), ("rate", "`map`")):
        found = best_threshold(figures, question, sizes)
        lines.append(f"Best threshold by {label}: {f'{found >> 10} KiB' if found else 'none'}.")
    lines.append("`in band` and `blocks` are the same engine with the threshold above and below all sizes, in turns.")
    return "\n".join(lines) + "\n"


def block_ratio(figures: Sequence[dict[str, float]], question: str, size: int) -> float:
    """Blocks over in band, in the median of the rounds."""
    return statistics.median(one[f"blocks {question} {size}"] / one[f"in band {question} {size}"] for one in figures)


def best_threshold(figures: Sequence[dict[str, float]], question: str, sizes: Sequence[int]) -> int | None:
    """The smallest size from which on blocks are never the slower; None: at the largest they are."""
    best = None
    for size in sorted(sizes, reverse=True):
        ratio = block_ratio(figures, question, size)
        if ratio > 1 if question == "trip" else ratio < 1:
            break
        best = size
    return best


def memory_table(rounds: Sequence[Round]) -> str:
    """What is held, by subject and instant: of all rounds that have it, the largest."""
    answers = [one["engine.submit"] for one in rounds if "engine.submit" in one]
    lines = [f"### {CASES[-1].title}", ""]
    if errors := [answer["error"] for answer in answers if "error" in answer]:
        return "\n".join([*lines, f"failed: {errors[0]}"]) + "\n"
    figures = [answer["metrics"] for answer in answers]
    instants = ("before", "first", "last", "peak", "at rest")
    labels = {
        "shared": "`stats().memory.size`", "parent": "resident, parent", "worker": "resident, worker",
    }  # fmt: skip
    rows = [["MiB", *instants], ["---", *["---:"] * len(instants)]]
    rows += [[label, *(largest(figures, subject, instants))] for subject, label in labels.items()]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    speed = {name: statistics.median(one[name] for one in figures) for name in SPEEDS}
    lines += [
        "",
        f"{answers[0]['n']:,} arrays, one worker. Warm {number(speed['warm'])} GB/s, best {number(speed['best'])}, the "
        f"first {number(speed['first'])}. `before` the first is sent: the array, 1,024 MiB, is the parent's own; "
        "`first` and `last`: after these; `peak`: of all, looked at every 20 ms; `at rest`: 3 s after the last. What "
        "is resident includes shared memory that is mapped.",
    ]
    return "\n".join(lines) + "\n"


def largest(figures: Sequence[dict[str, float]], subject: str, instants: Sequence[str]) -> Iterator[str]:
    for instant in instants:
        yield number(max(one[f"{subject} {instant}"] for one in figures))


if __name__ == "__main__":
    sys.exit(main())
