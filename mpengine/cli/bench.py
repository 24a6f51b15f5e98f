"""`mpengine bench`: one batch, run again and again with 1, 2, ... workers, and what that comes to.

find the inputs -> load TARGET -> look at the machine -> a run to warm up, in which all jobs must succeed
    -> rounds, each with all numbers of workers and the plain loop, in an order of its own -> table, JSON, plot
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from mpengine import cpu_count
from mpengine.batch.formats import Compression, Format
from mpengine.batch.reading import NoSuchLibrary, pyarrow, zstandard
from mpengine.batch.work import encoder
from mpengine.cli import machine, streams
from mpengine.cli.bench_json import as_json, peak_memory
from mpengine.cli.bench_progress import telling
from mpengine.cli.inputs import Source, find_sources
from mpengine.cli.measuring import Batch, Measured, Measurer
from mpengine.cli.problems import EXIT_BROKEN_PIPE, EXIT_OK, Interrupted, Problem, say
from mpengine.cli.readers import Limits, Shape
from mpengine.cli.result_files import ResultFile
from mpengine.cli.signals import Stop
from mpengine.cli.targets import load_target
from mpengine.report import speedup_text
from mpengine.report.charts import seconds
from mpengine.report.speedup import LOOP, Curve, curve, schedule
from mpengine.report.speedup_plot import plot
from mpengine.report.text import one_line

_ALL_TO = 8  # CPUs, up to which each number of workers is measured if none is asked for
_MOST_A_CPU = 32  # workers; more are a slip of the finger rather than a question


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What was typed."""

    target: str
    inputs: tuple[str, ...]
    input_format: Format | None = None
    output_format: Format | None = None
    shape: str = "records"
    chunk: int | None = None
    workers: tuple[int, ...] | None = None
    rounds: int = 5
    timeout: float | None = None
    limit: int | None = None
    json_file: str | None = None
    plot_file: str | None = None
    progress: bool | None = None


def bench(request: BenchRequest, stop: Stop) -> int:
    """Carries out the request and returns its exit code. Raises `Problem` or `Interrupted` if it cannot."""
    shape = Shape(request.shape, request.chunk)
    counts = counts_of(request.workers, cpu_count())
    sources = find_sources(request.inputs, as_paths=shape.kind == "path", format=request.input_format)
    _refuse_what_is_read_once(sources)
    output_format = request.output_format or Format.JSONL
    _check_libraries(sources, shape, output_format)
    json_file, plot_file = _result_files(request, sources)
    if sys.stdout is None:  # as Python says that it was started without
        raise Problem("stdout is closed, so there is no place for the table; open it, as with > table.txt")
    with streams.own_stdout() as fd:
        batch = Batch(
            request.target, load_target(request.target), sources, shape, encoder(output_format, many=shape.many),
            Limits(request.timeout), request.limit,
        )  # fmt: skip
        where = machine.look(stop)
        if where.is_much(where.busy_cpus):
            say(
                f"others keep {where.busy_cpus:.1f} of the machine's {where.all_cpus:,} CPUs busy, which the figures "
                "will show; better measure when it is at rest"
            )
        begun = datetime.datetime.now().astimezone()
        rounds = _measure(Measurer(batch, stop), counts, request, stop)
        found = curve(
            [{one.workers: one.seconds for one in measured} for measured in rounds],
            jobs=rounds[0][0].jobs, cpus=where.cpus,
        )  # fmt: skip
        title = f"mpengine bench {one_line(request.target, limit=60)}"
        made = f"{_plural(found.jobs, 'job')}, {_plural(request.rounds, 'round')}"
        with contextlib.ExitStack() as last:  # each is written, whatever becomes of the others
            if plot_file is not None:
                last.callback(plot_file.write, plot(found, title, f"{made}; {where.line}"))
            if json_file is not None:
                last.callback(json_file.write, as_json(request, where, begun, rounds, found))
            last.callback(_print, fd, found, rounds, title, made, where.line)
        for line in speedup_text.doubts(found):
            say(line)
        others = _others_cpus(rounds)
        if where.is_much(others):
            say(
                f"others kept {others:.1f} of the machine's {where.all_cpus:,} CPUs busy meanwhile, which the figures "
                "show; measure again when it is at rest"
            )
    return EXIT_OK


def counts_of(asked: Sequence[int] | None, cpus: int) -> list[int]:
    """The numbers of workers that are measured; 1 is always among them, for speed-up is over 1 worker.

    Args:
        asked: None: all up to the number of CPUs; of many CPUs the powers of two, and all CPUs.
    """
    if asked is None:
        asked = range(1, cpus + 1) if cpus <= _ALL_TO else [2**power for power in range(cpus.bit_length())] + [cpus]
    counts = sorted({1, *asked})
    if counts[-1] > _MOST_A_CPU * cpus:
        raise Problem(
            f"--workers: {counts[-1]:,} workers on {_plural(cpus, 'CPU')} would only measure how they get into each "
            f"other's way; ask for {_MOST_A_CPU * cpus:,} at most"
        )
    return counts


def _measure(measurer: Measurer, counts: list[int], request: BenchRequest, stop: Stop) -> list[list[Measured]]:
    """A list for each round."""
    orders = schedule([LOOP, *counts], request.rounds)
    rounds: list[list[Measured]] = []
    tell = telling(1 + request.rounds * (len(counts) + 1), request.progress)

    def measure(name: str, workers: int) -> Measured:
        measured = measurer.measure(workers)
        tell(f"{name}, {'plain loop' if workers == LOOP else speedup_text.workers(workers)}", measured.seconds)
        return measured

    with stop.gently(measurer.abandon):
        jobs = measure("warm-up", counts[-1]).jobs
        if not jobs:
            raise Problem("the INPUT has no records, so there is nothing to measure; name one that has some")
        for number, order in enumerate(orders, 1):
            rounds.append([measure(f"round {number} of {request.rounds}", workers) for workers in order])
            if any(one.jobs != jobs for one in rounds[-1]):
                raise Problem(
                    f"the INPUT has changed while it was measured: {jobs:,} jobs first, and others in round {number}; "
                    "run it again when nobody writes to it"
                )
    if stop.signum is not None:
        raise Interrupted(stop.signum)
    return rounds


# ---- what can be wrong beforehand ------------------------------------------------------------------------------------


def _refuse_what_is_read_once(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.is_stdin or not os.path.isfile(source.absolute):
            what = "stdin" if source.is_stdin else "it is no regular file and"
            raise Problem(
                f"INPUT {source.path!r}: every run reads the input from its beginning, and {what} can be read only "
                "once; write it to a file, and name that"
            )


def _check_libraries(sources: Sequence[Source], shape: Shape, output_format: Format) -> None:
    formats = {output_format, *(source.format for source in sources if shape.kind != "path")}
    try:
        if Format.PARQUET in formats or shape.kind == "table":
            pyarrow()
        if shape.kind != "path" and any(source.compression is Compression.ZSTD for source in sources):
            zstandard()
    except NoSuchLibrary as error:
        raise Problem(str(error)) from None


def _result_files(request: BenchRequest, sources: Sequence[Source]) -> tuple[ResultFile | None, ResultFile | None]:
    json_file = plot_file = None
    if request.json_file is not None:
        json_file = ResultFile("--json", request.json_file, sources)
    if request.plot_file is not None:
        if not request.plot_file.lower().endswith(".svg"):
            raise Problem(f"--plot {request.plot_file!r}: the plot is an SVG; name a file that ends in .svg")
        plot_file = ResultFile("--plot", request.plot_file, sources, [json_file] if json_file is not None else [])
    return json_file, plot_file


def _others_cpus(rounds: Sequence[Sequence[Measured]]) -> float:
    """CPUs that others kept busy, in all the time that was measured."""
    measured = [one for each in rounds for one in each]
    return sum(one.others_cpus * one.seconds for one in measured) / sum(one.seconds for one in measured)


# ---- telling ---------------------------------------------------------------------------------------------------------


def _print(
    fd: int, found: Curve, rounds: Sequence[Sequence[Measured]], title: str, made: str, machine_line: str
) -> None:
    """The table, and what it comes to."""
    memory = {workers: peak_memory(rounds, workers) for workers in (LOOP, *(row.workers for row in found.rows))}
    starts = [one.start_s for measured in rounds for one in measured if one.workers == found.best]
    text = io.StringIO()
    console = Console(
        file=text, width=speedup_text.WIDTH, force_terminal=os.isatty(fd), highlight=False, markup=False, emoji=False
    )
    console.print(Text(title, style="bold"))
    console.print(f"{made} after a warm-up, interleaved")
    console.print(machine_line)
    console.print()
    console.print(speedup_text.table(found, memory))
    console.print()
    for line in speedup_text.conclusions(found):
        console.print(line)
    console.print(
        f"Not counted: starting workers and importing TARGET, {seconds(statistics.median(starts))} with "
        f"{speedup_text.workers(found.best)}."
    )
    data = text.getvalue().encode("utf-8", "backslashreplace")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
    except BrokenPipeError:
        raise Problem("", EXIT_BROKEN_PIPE) from None
    except OSError as error:
        raise Problem(f"the table cannot be written to stdout: {error.strerror}; send it elsewhere") from None


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
