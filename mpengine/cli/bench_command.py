"""`mpengine bench` as it can be typed: its options and their help."""

from __future__ import annotations

import signal
from typing import Any

import click

from mpengine.batch.formats import INPUT_FORMATS, OUTPUT_FORMATS
from mpengine.cli.problems import EXIT_SIGNAL, Interrupted, Problem
from mpengine.cli.signals import Stop
from mpengine.cli.typed import as_counts, as_seconds, take_formats

DEFAULT_ROUNDS = 5


@click.command()
@click.argument("target", metavar="TARGET")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "--workers",
    metavar="N,N,...",
    type=as_counts,
    help="The numbers of workers to measure, and 1; default: each up to the number of CPUs, or 1, 2, 4, ... and all "
    "CPUs if there are more than 8.",
)
@click.option(
    "--rounds",
    metavar="N",
    type=click.IntRange(min=1),
    default=DEFAULT_ROUNDS,
    help=f"How often each number of workers is measured; default: {DEFAULT_ROUNDS}.",
)
@click.option(
    "--from",
    "input_format",
    envvar="MPENGINE_BENCH_FROM",
    type=click.Choice([str(one) for one in INPUT_FORMATS]),
    help="The format of all INPUTs; default: by their endings, else text.",
)
@click.option(
    "--to",
    "output_format",
    envvar="MPENGINE_BENCH_TO",
    type=click.Choice([str(one) for one in OUTPUT_FORMATS]),
    help="What results are made for OUT, before they are dropped; default: jsonl.",
)
@click.option(
    "--as",
    "shape",
    envvar="MPENGINE_BENCH_AS",
    type=click.Choice(["records", "table", "path"]),
    default="records",
    help="What TARGET is called with: a record, a pyarrow.Table of records, or each INPUT's path; default: records.",
)
@click.option(
    "--chunk",
    metavar="N",
    type=click.IntRange(min=1),
    help="Call TARGET with a list of N records, or a table of N.",
)
@click.option(
    "--timeout", metavar="S", type=as_seconds, help="Seconds that a job may take; the plain loop has no limit."
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Take the first N jobs only.")
@click.option(
    "--json", "json_file", envvar="MPENGINE_BENCH_JSON", metavar="FILE", help="All times, figures and the machine."
)
@click.option(
    "--plot", "plot_file", envvar="MPENGINE_BENCH_PLOT", metavar="FILE.svg", help="Speed-up against workers, as SVG."
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="How far it has come: a line on stderr for each measurement; default: yes.",
)
@click.pass_obj
def bench(stop: Stop, /, **typed: Any) -> int:
    """Measures how much faster a run gets with more workers.

    TARGET and INPUT are those of `run`. The whole INPUT is run with each number of workers, and in a plain loop that
    has one process and no engine, in several rounds of changing order. Results are made and dropped. What is told:
    median times and quartiles, the speed-up over 1 worker, the efficiency (speed-up over workers), the peak memory of
    a worker, the least number of workers that is as fast as the fastest, and the serial part by Amdahl's law.

    INPUT must be a file that can be read again and again, and every job must succeed. A second or more of work is best.

    \b
    Exit codes:
      0    measured
      1    some job did not succeed; nothing is told
      2    wrong use: something about TARGET, INPUT or a FILE needs to be put right
      3    the engine broke
      130  interrupted by Ctrl-C (143: by SIGTERM); nothing is told
      141  whoever read stdout closed it, as head does
    """
    # Here, so that no other command waits for it.
    from mpengine.cli.bench import BenchRequest
    from mpengine.cli.bench import bench as measure

    take_formats(typed)
    try:
        return measure(BenchRequest(**typed), stop)
    except Interrupted as error:
        name = signal.Signals(error.signum).name
        raise Problem(
            f"interrupted ({name}) before all was measured, so nothing is told; run it again, with --limit or fewer "
            "--rounds if it takes too long",
            EXIT_SIGNAL + error.signum,
        ) from None
