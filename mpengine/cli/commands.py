"""What can be typed: commands, options and their help; and the last net for errors, which shows no traceback."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any

import click

import mpengine
from mpengine.batch.formats import INPUT_FORMATS, OUTPUT_FORMATS
from mpengine.cli.bench_command import bench
from mpengine.cli.journals import show_failures, show_status
from mpengine.cli.problems import EXIT_ENGINE_BROKE, EXIT_SIGNAL, EXIT_USAGE, Interrupted, Problem, say
from mpengine.cli.run import Request
from mpengine.cli.run import run as run_request
from mpengine.cli.signals import Stop
from mpengine.cli.typed import as_halt, as_seconds, as_size, as_workers, take_formats
from mpengine.cli.writer import STDOUT_ARGUMENT

_DEBUG_VARIABLE = "MPENGINE_DEBUG"


class _OneLineGroup(click.Group):
    """A group whose every error is one line and an exit code, wherever it is called from. Its `obj` is a `Stop`."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        code = 0
        try:
            code = super().main(*args, **kwargs) or 0
        except Problem as problem:
            if str(problem):
                say(str(problem))
            code = problem.exit_code
        except click.UsageError as error:
            hint = f" (see `{error.ctx.command_path} --help`)" if error.ctx is not None else ""
            say(f"{error.format_message().rstrip('.')}{hint}")
            code = EXIT_USAGE
        except click.ClickException as error:
            say(error.format_message())
            code = EXIT_USAGE
        except (KeyboardInterrupt, click.Abort) as error:
            signum = error.signum if isinstance(error, Interrupted) else signal.SIGINT
            say(f"interrupted ({signal.Signals(signum).name}) before any job had ended; to go on, run it again")
            code = EXIT_SIGNAL + signum
        except Exception as error:
            if os.environ.get(_DEBUG_VARIABLE):
                traceback.print_exc()
            say(
                f"internal error: {type(error).__name__}: {error}; please report it, "
                f"with the traceback that {_DEBUG_VARIABLE}=1 shows"
            )
            code = EXIT_ENGINE_BROKE
        sys.exit(code)


@click.group(
    cls=_OneLineGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "MPENGINE"},
)
@click.version_option(mpengine.__version__, prog_name="mpengine")
@click.pass_context
def commands(context: click.Context) -> None:
    """Runs a Python function over many inputs, on all cores; a job that ends badly costs itself, and nothing else."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(EXIT_USAGE)


@commands.command()
@click.argument("target", metavar="TARGET")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    default=STDOUT_ARGUMENT,
    help="Where the results go: a file, or a FOLDER/; default: stdout.",
)
@click.option(
    "--from",
    "input_format",
    envvar="MPENGINE_RUN_FROM",
    type=click.Choice([str(one) for one in INPUT_FORMATS]),
    help="The format of all INPUTs; default: by their endings, else text.",
)
@click.option(
    "--to",
    "output_format",
    envvar="MPENGINE_RUN_TO",
    type=click.Choice([str(one) for one in OUTPUT_FORMATS]),
    help="The format of OUT; default: by its ending, else jsonl; in a folder by each INPUT's.",
)
@click.option(
    "--as",
    "shape",
    envvar="MPENGINE_RUN_AS",
    type=click.Choice(["records", "table", "path"]),
    default="records",
    help="What TARGET is called with: a record, a pyarrow.Table of records, or each INPUT's path; default: records.",
)
@click.option(
    "--chunk",
    metavar="N",
    type=click.IntRange(min=1),
    help="Call TARGET with a list of N records, or a table of N; it returns a list, or a table, of results.",
)
@click.option("--unordered", is_flag=True, help="Results in the order they come, not in that of the input.")
@click.option("--resume", is_flag=True, help="Go on with what an earlier run has left, from the journal beside OUT.")
@click.option("--resume-failed", is_flag=True, help="The same, and try again what did not succeed.")
@click.option("--errors", metavar="FILE", help="A line of JSON for each job that did not succeed.")
@click.option("--report", metavar="FILE", help="A page of HTML: where the time went, and why jobs failed.")
@click.option("--trace", metavar="FILE", help="All that happened, as JSON that Perfetto and Chrome's tracing open.")
@click.option(
    "--metrics-port", metavar="N", type=click.IntRange(1, 65535), help="Metrics for Prometheus, on 127.0.0.1 only."
)
@click.option(
    "--workers", metavar="N|N%", type=as_workers, help="Worker processes, or a part of the CPUs; default: 100%."
)
@click.option(
    "--on",
    metavar="ADDRESS",
    default="local",
    help="Where the workers are: local, dask://HOST:PORT, ray, ray://HOST:PORT. TARGET must be there, too.",
)
@click.option("--timeout", metavar="S", type=as_seconds, help="Seconds that each attempt of a job may take.")
@click.option(
    "--retries",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Further attempts for a job that fails, is lost or expires; default: 0.",
)
@click.option(
    "--halt",
    metavar="WHEN",
    type=as_halt,
    default="never",
    help="Begin no more jobs after N failures, or N% of at least 100 jobs; default: never.",
)
@click.option("--memory-limit", metavar="SIZE", type=as_size, help="Of a worker, as 2GiB; a job past it fails.")
@click.option("--min-free-memory", metavar="SIZE", type=as_size, help="Begin no jobs while the machine has less.")
@click.option("--nice", metavar="N", type=click.IntRange(-20, 19), help="The niceness of the workers.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Take the first N jobs only.")
@click.option("--dry-run", is_flag=True, help="List the jobs, one line of JSON each, and run none.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="How it goes, on stderr: rows in a terminal, else a line now and then; default: if results go elsewhere.",
)
@click.version_option(mpengine.__version__, prog_name="mpengine")
@click.pass_obj
def run(stop: Stop, /, **typed: Any) -> int:
    """Calls TARGET once for each record, or path, of the INPUTs.

    TARGET is module:function or path/file.py:function. It is called with one argument, in worker processes.

    INPUT is a file, a glob pattern (quoted; ** goes down folders) or - for stdin. Its records are told by its
    ending: the values of the lines of .jsonl and .ndjson, the rows of .csv (as dicts of strings) and .parquet (as
    dicts), and the lines of all others, without their endings. .gz and .zst behind that are decompressed. Text is
    UTF-8. --from nul is for records that end with a NUL, as from find -print0.

    OUT gets what TARGET returns, in the order of the input, and its ending tells how: .jsonl, .csv and .parquet
    (of dicts), .txt; compressed with .gz or .zst behind that. A result that is None is left out, so TARGET may
    filter. --to outcomes gives one JSON object for each job instead: id ("file.txt:17", or the path), status
    (succeeded, failed, expired, cancelled, lost), value or error (type, message, traceback), attempts, duration
    and waited in seconds, worker_pid.

    An OUT that ends in / or is a folder gets one file for each INPUT, of its name, its format and its compression;
    with --to, of that format and its ending. An INPUT whose ending tells nothing gets JSON lines, in NAME.jsonl.

    Beside an OUT that is a file or a folder there is OUT.journal, from which --resume goes on, whatever has ended the
    run. An OUT whose run was complete is begun anew without --resume.

    Messages, progress and a summary go to stderr; so does what jobs print and log, each line with its job's id. A
    first Ctrl-C begins no more jobs and lets those that run finish; a second one ends them.

    \b
    Exit codes:
      0    all jobs succeeded
      1    some job did not, as one of a record that is malformed
      2    wrong use: something about TARGET, INPUT or OUT needs to be put right
      3    the engine broke
      130  interrupted by Ctrl-C (143: by SIGTERM); what has ended is kept
      141  whoever read stdout closed it, as head does
    """
    take_formats(typed)
    try:
        return run_request(Request(**typed), stop)
    except Interrupted as error:
        name = signal.Signals(error.signum).name
        raise Problem(
            f"interrupted ({name}) before any job had ended; to go on, run it again",
            EXIT_SIGNAL + error.signum,
        ) from None


commands.add_command(bench)


@commands.command()
@click.argument("journal", metavar="JOURNAL")
@click.pass_obj
def status(stop: Stop, /, journal: str) -> int:
    """Shows how far the run of a JOURNAL has come: counts, failures, rate. Also while it runs."""
    show_status(journal)
    return 0


@commands.command()
@click.argument("journal", metavar="JOURNAL")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as --errors of `run` writes them.")
@click.option("--inputs", metavar="FILE", help="Also write what the failed jobs were given, as an input to run again.")
@click.pass_obj
def failures(stop: Stop, /, journal: str, as_json: bool, inputs: str | None) -> int:
    """Lists the jobs of a JOURNAL that did not succeed, with their tracebacks."""
    show_failures(journal, as_json=as_json, inputs=inputs)
    return 0
