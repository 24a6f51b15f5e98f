"""One run, from its arguments to its exit code.

    find the inputs -> keep the standard streams -> load TARGET -> open OUT -> engine
        -> for each outcome: its line, then its numbers -> summary -> exit code

Nothing of OUT is touched before all the rest is known to be right. However a run ends, the lines of the
jobs that had ended are in OUT, and what is left of the run is told in one line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass

from mpengine import Context, Engine, EngineBroken, EngineError, cpu_count
from mpengine.cli import streams
from mpengine.cli.inputs import Source, find_sources
from mpengine.cli.problems import (
    EXIT_ENGINE_BROKE,
    EXIT_JOB_FAILED,
    EXIT_OK,
    EXIT_SIGNAL,
    Interrupted,
    Problem,
    say,
)
from mpengine.cli.readers import Reader, count_lines
from mpengine.cli.records import to_line
from mpengine.cli.signals import Stop
from mpengine.cli.targets import Target, load_target, prepare_worker
from mpengine.cli.writer import STDOUT_ARGUMENT, ReaderGone, Writer, open_out, refuse_input
from mpengine.report.failures import describe
from mpengine.report.progress import progress_bar
from mpengine.report.render import print_summary
from mpengine.report.summary import Summary

# For an interrupted job to clean up; then it is killed. Somebody waits for the prompt.
_STOP_GRACE_S = 1.0
# Counting lines for the progress bar reads the input once more: not longer than a blink (about 0.1 s).
_COUNTED_BYTES = 1 << 27


@dataclass(frozen=True, slots=True)
class Request:
    """What was typed."""

    target: str
    inputs: tuple[str, ...]
    out: str = STDOUT_ARGUMENT
    as_paths: bool = False
    workers: int | None = None
    timeout: float | None = None
    retries: int = 0
    limit: int | None = None
    progress: bool | None = None


def run(request: Request, stop: Stop) -> int:
    """Carries out the request and returns its exit code. Raises `Problem` or `Interrupted` if it cannot."""
    with contextlib.ExitStack() as stack:
        sources = find_sources(request.inputs, as_paths=request.as_paths)
        stdin = None
        if any(source.is_stdin for source in sources):
            stdin = stack.enter_context(streams.own_stdin())
        if request.out == STDOUT_ARGUMENT:
            fd, name = stack.enter_context(streams.own_stdout()), "stdout"
            target = load_target(request.target)
        else:
            target = load_target(request.target)
            fd, name = open_out(request.out), request.out
            stack.callback(os.close, fd)
        refuse_input(fd, name, sources, stdin)
        return _Run(request, sources, target, stdin, Writer(fd, name, stop), stop).execute()


class _Run:
    """The part with an engine in it."""

    def __init__(
        self,
        request: Request,
        sources: list[Source],
        target: Target,
        stdin: int | None,
        writer: Writer,
        stop: Stop,
    ) -> None:
        self._request = request
        self._sources = sources
        self._target = target
        self._writer = writer
        self._stop = stop
        self._context = Context()  # of all jobs: how they are stopped
        self._summary = Summary()
        self._reader = Reader(
            sources,
            target,
            stop,
            stdin=stdin,
            as_paths=request.as_paths,
            limit=request.limit,
            context=self._context,
            timeout=request.timeout,
            retries=request.retries,
        )

    def execute(self) -> int:
        started = time.monotonic()
        wall_s = 0.0
        problem: Problem | None = None
        try:
            with self._engine() as engine:
                if self._request.out != STDOUT_ARGUMENT:
                    self._writer.start()
                try:
                    with self._stop.gently(lambda: self._context.cancel("the run is interrupted")), self._progress():
                        self._consume(engine)
                finally:
                    wall_s = time.monotonic() - started
        except ReaderGone as gone:
            if self._stop.signum is not None:
                return self._interrupted()
            return gone.exit_code
        except EngineBroken as error:
            wall_s = time.monotonic() - started
            problem = Problem(f"{self._why_broken(error)}; {self._kept()}", EXIT_ENGINE_BROKE)
        except Problem as error:
            problem = error
        except Interrupted:  # the second signal
            return self._interrupted()
        problem = problem or self._reader.problem
        if self._summary.finished or problem is None:
            print_summary(self._summary, wall_s=wall_s, workers=self._workers())
        if self._stop.signum is not None:
            return self._interrupted()
        if problem is not None:
            say(str(problem))
            return problem.exit_code
        return EXIT_JOB_FAILED if self._summary.failed else EXIT_OK

    def _engine(self) -> Engine:
        try:
            return Engine(
                self._request.workers,
                initializer=prepare_worker,
                initargs=tuple(self._target.description),
                stop_grace=_STOP_GRACE_S,
                name="the engine",
            )
        except EngineBroken:
            raise
        except (ValueError, OSError) as error:
            raise Problem(f"the engine cannot start with {self._workers():,} workers: {error}") from None

    def _consume(self, engine: Engine) -> None:
        try:
            for outcome in engine.run(self._reader.jobs()):
                if self._stop.requested and outcome.status == "cancelled":
                    self._summary.stopped += 1
                    continue
                failure = None if outcome.error is None else describe(outcome.error)
                self._writer.write(to_line(outcome, failure))
                self._summary.add(
                    outcome.job.id,
                    outcome.status,
                    duration=outcome.duration,
                    attempts=outcome.attempts,
                    failure=failure,
                )
        finally:
            # Whatever ended it: dropping the iterator has cancelled what runs, and nobody need wait for more input.
            self._stop.request()

    def _progress(self) -> contextlib.AbstractContextManager[None]:
        shown = self._request.progress
        if shown is None:
            # Not where the results are shown as well: they would run into each other.
            shown = sys.stderr is not None and sys.stderr.isatty() and not self._writer.is_terminal
        return progress_bar(self._summary, total=self._total() if shown else None, shown=shown)

    def _total(self) -> int | None:
        if self._request.as_paths:
            total: int | None = len(self._sources)
        else:
            total = count_lines(self._sources, at_most_bytes=_COUNTED_BYTES)
        limit = self._request.limit
        return total if total is None or limit is None else min(total, limit)

    def _workers(self) -> int:
        return self._request.workers or cpu_count()

    def _interrupted(self) -> int:
        signum = self._stop.signum or signal.SIGINT
        say(f"interrupted ({signal.Signals(signum).name}); {self._kept()}")
        return EXIT_SIGNAL + signum

    def _why_broken(self, error: EngineBroken) -> str:
        cause = error.__cause__
        if cause is None or isinstance(cause, EngineError):
            return str(error)
        # The user's own, out of the only thing that workers do before their first job: they import the target.
        found = describe(cause)
        where = f"{found.where}: " if found.where else ""
        what = f"{found.type}: {found.message}".removesuffix(": ")
        return f"TARGET {self._request.target!r} cannot be imported in a worker: {where}{what}"

    def _kept(self) -> str:
        """What is there already, and how to go on."""
        count = self._writer.lines
        if not count:
            return "no job had ended; to go on, run it again"
        lines = "1 line" if count == 1 else f"{count:,} lines"
        are = "is" if count == 1 else "are"
        if self._request.out == STDOUT_ARGUMENT:
            return f"{lines} of results {are} written; to go on, run it again with the inputs not among them"
        return (
            f"{lines} of results {are} kept in {self._writer.name!r}; to go on, run it again with the inputs "
            "not among them and another OUT (this one would be begun anew)"
        )
