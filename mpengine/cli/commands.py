"""What can be typed: commands, options and their help; and the last net for errors, which shows no traceback."""

from __future__ import annotations

import math
import os
import signal
import sys
import traceback
from typing import Any

import click

import mpengine
from mpengine.cli.problems import EXIT_ENGINE_BROKE, EXIT_SIGNAL, EXIT_USAGE, Interrupted, Problem, say
from mpengine.cli.run import Request
from mpengine.cli.run import run as run_request
from mpengine.cli.signals import Stop
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


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise click.BadParameter(f"{text!r} is not a number of seconds greater than 0")
    return seconds


@click.group(cls=_OneLineGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option("-o", "--out", metavar="OUT", default=STDOUT_ARGUMENT, help="Where the results go; default: stdout.")
@click.option("--paths", "as_paths", is_flag=True, help="Each INPUT path is itself one job, not its lines.")
@click.option("--workers", metavar="N", type=click.IntRange(min=1), help="Worker processes; default: one a CPU.")
@click.option("--timeout", metavar="S", type=_seconds, help="Seconds that each attempt of a job may take.")
@click.option(
    "--retries",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Further attempts for a job that fails, is lost or expires; default: 0.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Take the first N jobs only.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="A progress bar; default: if stderr is a terminal, and the results go elsewhere.",
)
@click.version_option(mpengine.__version__, prog_name="mpengine")
@click.pass_obj
def run(stop: Stop, /, **typed: Any) -> int:
    """Calls TARGET once for each line, or path, of the INPUTs.

    TARGET is module:function or path/file.py:function. It is called with one argument, in worker processes.

    INPUT is a file, a glob pattern (quoted; ** goes down folders) or - for stdin. Each line of a text file
    is one job, and its text, without the line's ending, the argument; in a file that ends in .jsonl or
    .ndjson, it is the line's JSON value. Text is UTF-8. With --paths, each path is one job and the
    argument.

    OUT gets one JSON object per job and line, as soon as the job has ended: id ("file.txt:17", or the
    path), status (succeeded, failed, expired, cancelled, lost), value or error (type, message, traceback),
    attempts, duration and waited in seconds, worker_pid. A value that is not JSON is told in note and
    value_repr. An OUT that exists is begun anew.

    Messages, progress and a summary go to stderr; so does what TARGET prints, when the results go to stdout.

    \b
    Exit codes:
      0    all jobs succeeded
      1    some job did not, or a line of a .jsonl INPUT is not JSON
      2    wrong use: something about TARGET, INPUT or OUT needs to be put right
      3    the engine broke
      130  interrupted by Ctrl-C (143: by SIGTERM); the finished jobs are in OUT
      141  whoever read stdout closed it, as head does
    """
    try:
        return run_request(Request(**typed), stop)
    except Interrupted as error:
        name = signal.Signals(error.signum).name
        raise Problem(
            f"interrupted ({name}) before any job had ended; to go on, run it again",
            EXIT_SIGNAL + error.signum,
        ) from None
