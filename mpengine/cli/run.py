"""One run, from its arguments to its exit code.

    find the inputs -> keep the standard streams -> load TARGET -> open OUT and its journal -> engine
        -> for each outcome: an entry for the recorder, its numbers for the summary -> OUT is whole -> exit code

Nothing of OUT is touched before all the rest is known to be right. However a run ends, the results of the jobs that had
ended are in OUT or in its journal, and what is left of the run is told in one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from mpengine import (
    AnyEngine,
    EngineBroken,
    EngineClosed,
    Metrics,
    Outcome,
    Report,
    Trace,
    connect,
    cpu_count,
)
from mpengine.batch import outcome_lines
from mpengine.batch.formats import Compression, Format, told_by
from mpengine.batch.journal import ENDING, FailureRow
from mpengine.batch.order import Entry
from mpengine.batch.reading import NoSuchLibrary, pyarrow, zstandard
from mpengine.batch.recorder import Recorder
from mpengine.batch.work import encoder
from mpengine.cli import streams
from mpengine.cli.folder import Asked, FolderPlace, Layout, layout_of
from mpengine.cli.inputs import Source, find_sources
from mpengine.cli.out import Out, Wanted, format_of, open_out_of, open_with_journal
from mpengine.cli.preparing import prepare_worker
from mpengine.cli.problems import (
    EXIT_ENGINE_BROKE,
    EXIT_JOB_FAILED,
    EXIT_OK,
    EXIT_SIGNAL,
    Interrupted,
    Problem,
    say,
    why_broken,
)
from mpengine.cli.readers import Limits, Reader, Shape, count_lines
from mpengine.cli.resuming import make_plan
from mpengine.cli.signals import Stop
from mpengine.cli.targets import Target, load_target
from mpengine.cli.writer import STDOUT_ARGUMENT, ReaderGone, Writer, open_out, refuse_input
from mpengine.report.display import Display
from mpengine.report.failures import Failure, describe, in_a_line
from mpengine.report.live import Ages, Rate, Standing
from mpengine.report.render import print_summary
from mpengine.report.summary import Summary

# For an interrupted job to clean up; then it is killed. Somebody waits for the prompt.
_STOP_GRACE_S = 1.0
# Counting lines for the progress bar reads the input once more: not longer than a blink (about 0.1 s).
_COUNTED_BYTES = 1 << 27
_HALT_AFTER = 100  # jobs, before a part of them that failed means something
_MEMORY_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Halt:
    """When failures end a run: at so many, or at so large a part of all that have ended."""

    count: int | None = None
    part: float | None = None

    def reached(self, failed: int, finished: int) -> bool:
        if self.count is not None:
            return failed >= self.count
        return self.part is not None and finished >= _HALT_AFTER and failed >= self.part * finished


@dataclass(frozen=True, slots=True)
class Request:
    """What was typed."""

    target: str
    inputs: tuple[str, ...]
    out: str = STDOUT_ARGUMENT
    input_format: Format | None = None
    output_format: Format | None = None
    shape: str = "records"
    chunk: int | None = None
    unordered: bool = False
    resume: bool = False
    resume_failed: bool = False
    errors: str | None = None
    report: str | None = None
    trace: str | None = None
    metrics_port: int | None = None
    workers: int | None = None
    on: str = "local"
    timeout: float | None = None
    retries: int = 0
    halt: Halt = Halt()
    memory_limit: int | None = None
    min_free_memory: int | None = None
    nice: int | None = None
    limit: int | None = None
    dry_run: bool = False
    progress: bool | None = None

    @property
    def format(self) -> Format:
        """Of OUT."""
        return format_of(self.output_format, self.out)


def run(request: Request, stop: Stop) -> int:
    """Carries out the request and returns its exit code. Raises `Problem` or `Interrupted` if it cannot."""
    with contextlib.ExitStack() as stack:
        shape = Shape(request.shape, request.chunk)
        sources = find_sources(request.inputs, as_paths=shape.kind == "path", format=request.input_format)
        asked = Asked(request.input_format, request.output_format, shape.kind == "path", request.unordered)
        layout = layout_of(request.out, sources, asked)
        _check_libraries(request, sources, {request.format} if layout is None else layout.formats)
        stdin = None
        if any(source.is_stdin for source in sources):
            stdin = stack.enter_context(streams.own_stdin())
        if request.dry_run:
            return _tell(request, shape, sources, load_target(request.target), stdin, stop)
        fd, name = -1, request.out
        if request.out == STDOUT_ARGUMENT:
            fd, name = stack.enter_context(streams.own_stdout()), "stdout"
        target = load_target(request.target)
        if layout is not None:
            layout.check()
        else:
            if request.out != STDOUT_ARGUMENT:
                fd = open_out(request.out)
                stack.callback(os.close, fd)
            refuse_input(fd, name, sources, stdin)
        for option, file in (("--errors", request.errors), ("--report", request.report), ("--trace", request.trace)):
            if file is not None:
                _refuse_known(option, file, request, layout, sources)
        options = {
            "--as": shape.kind,
            "--chunk": shape.size if shape.many else None,
            "--to": str(request.format) if layout is None else request.output_format,
            "--unordered": request.unordered,
        }
        format = request.format if layout is None else layout.strictest
        wanted = Wanted(request.out, format, request.unordered, request.resume, request.resume_failed)
        plan = make_plan(request.target, target, sources, options, None if layout is None else layout.names)
        if layout is None:
            out = open_out_of(wanted, fd, Writer(fd, name, stop), stack, plan)
        else:
            out = open_with_journal(wanted, FolderPlace(layout, stop, stack), stack, plan)
        return _Run(request, shape, sources, target, stdin, out, stop, stack).execute()


def _refuse_known(option: str, file: str, request: Request, layout: Layout | None, sources: list[Source]) -> None:
    """What is written beside OUT must not be OUT itself, its journal or an input."""
    ours: Iterable[str] = ()
    if layout is not None:
        ours = layout.known()
    elif request.out != STDOUT_ARGUMENT:
        ours = (request.out, request.out + ENDING)
    for known in (*ours, *(source.absolute for source in sources)):
        with contextlib.suppress(OSError, ValueError):
            if os.path.realpath(file) == os.path.realpath(known) or os.path.samefile(file, known):
                raise Problem(f"{option} {file!r} is the same file as {known!r}; name another")


def _check_libraries(request: Request, sources: list[Source], results: set[Format]) -> None:
    formats = {*results, *(source.format for source in sources if request.shape != "path")}
    compressions = {told_by(request.out)[1], *(source.compression for source in sources if request.shape != "path")}
    try:
        if Format.PARQUET in formats or request.shape == "table":
            pyarrow()
        if Compression.ZSTD in compressions:
            zstandard()
    except NoSuchLibrary as error:
        raise Problem(str(error)) from None


def _tell(request: Request, shape: Shape, sources: list[Source], target: Target, stdin: int | None, stop: Stop) -> int:
    """What would be run: a line for each job, with its id."""
    encode = encoder(Format.JSONL, many=shape.many)
    reader = Reader(
        sources, target, stop, encode=lambda source: encode, shape=shape, limits=Limits(), stdin=stdin,
        limit=request.limit,
    )  # fmt: skip
    count = 0
    for job in reader.jobs():
        count += 1
        print(json.dumps({"id": job.id, "target": request.target}, ensure_ascii=False))  # noqa: T201
    if reader.problem is not None:
        raise reader.problem
    say(f"{count:,} jobs would be run; nothing was")
    return EXIT_OK


class _Run:
    """The part with an engine in it."""

    def __init__(
        self,
        request: Request,
        shape: Shape,
        sources: list[Source],
        target: Target,
        stdin: int | None,
        out: Out,
        stop: Stop,
        stack: contextlib.ExitStack,
    ) -> None:
        self._request = request
        self._sources = sources
        self._target = target
        self._out = out
        self._stop = stop
        self._format = out.format
        self._summary = Summary()
        self._halted = False
        self._began = 0.0
        self._looked_at = 0.0
        self._had_room = True
        self._engine: AnyEngine | None = None
        self._seen_workers = 1
        self._recorder: Recorder | None = None
        self._display = Display()
        self._rate = Rate()
        self._ages = Ages()
        self._jobs: int | None = None  # how many there are, if that is known
        self._observers = _observers(request)
        self._errors = None if request.errors is None else stack.enter_context(_Errors(request.errors))
        done = frozenset(n for n in (*out.order.waiting, *out.order.gone) if n not in out.retried)
        mark = out.order.mark
        self._reader = Reader(
            sources,
            target,
            stop,
            encode=lambda source: encoder(out.format_of(source), many=shape.many),
            shape=shape,
            limits=Limits(request.timeout, request.retries),
            stdin=stdin,
            limit=request.limit,
            skip=(lambda number: (number < mark and number not in out.retried) or number in done)
            if mark or done
            else None,
            may_go_on=self._may_go_on,
            look_every=64 if request.min_free_memory is None else 1,
            on_source=out.on_source,
        )

    def execute(self) -> int:
        started = self._began = time.monotonic()
        wall_s = 0.0
        problem: Problem | None = None
        complete = False
        try:
            with self._make_engine() as engine:
                self._engine = engine
                self._record()
                try:
                    with self._stop.gently(self._wind_up), self._progress():
                        complete = self._consume(engine)
                        self._workers()  # before they go
                finally:
                    wall_s = time.monotonic() - started
                    self._close(complete)
        except ReaderGone as gone:
            return self._interrupted() if self._stop.signum is not None else gone.exit_code
        except EngineBroken as error:
            wall_s = time.monotonic() - started
            problem = Problem(f"{why_broken(error, self._request.target)}; {self._kept()}", EXIT_ENGINE_BROKE)
        except Problem as error:
            problem = error
        except (sqlite3.Error, OSError) as error:
            problem = Problem(f"OUT {self._out.name!r} or its journal cannot be written: {error}; {self._kept()}")
        except Interrupted:  # the second signal
            return self._interrupted()
        problem = problem or self._reader.problem
        if problem is None or (self._summary.finished and (self._out.journal or self._out.writer.records)):
            print_summary(self._summary, wall_s=wall_s, workers=self._workers())
        if self._stop.signum is not None:
            return self._interrupted()
        if problem is not None:
            say(str(problem))
            return problem.exit_code
        if self._halted:
            say(f"halted: {self._summary.failed:,} of {self._summary.finished:,} jobs did not succeed; {self._kept()}")
            return EXIT_JOB_FAILED
        return EXIT_JOB_FAILED if self._failed_in_all() else EXIT_OK

    def _make_engine(self) -> AnyEngine:
        where = "the engine" if self._request.on == "local" else f"the engine on {self._request.on}"
        try:
            return connect(
                self._request.on,
                max_workers=self._request.workers,
                initializer=prepare_worker,
                initargs=(self._request.nice, *self._target.description),
                memory_limit=self._request.memory_limit,
                stop_grace=_STOP_GRACE_S,
                observers=self._observers,
                output=self._display.output,
                name=where,
            )
        except EngineBroken:
            raise
        except ConnectionError as error:
            raise Problem(f"--on {self._request.on}: {error}", EXIT_ENGINE_BROKE) from None
        except (ValueError, OSError, ImportError) as error:
            if self._request.on != "local":
                raise Problem(f"--on {self._request.on}: {error}") from None
            raise Problem(f"the engine cannot start with {self._workers():,} workers: {error}") from None

    # ---- outcomes ----------------------------------------------------------------------------------------------------

    def _record(self) -> None:
        try:
            sink = self._out.make_sink()
        except OSError as error:
            raise Problem(f"OUT {self._out.name!r} cannot be written: {error.strerror}; name another") from None
        self._recorder = Recorder(
            sink,
            self._out.order,
            self._out.journal,
            clock=time.monotonic,
            note_failure=self._note_failure,
            on_problem=self._give_up,
            told=self._told,
        )
        self._recorder.start()

    def _consume(self, engine: AnyEngine) -> bool:
        """Whether all of the input has ended."""
        recorder, numbers, summary, halt = self._recorder, self._reader.numbers, self._summary, self._request.halt
        assert recorder is not None
        outcomes = self._format is Format.OUTCOMES
        keeps = self._format in (Format.CSV, Format.PARQUET)  # which may refuse a result
        try:
            for outcome in engine.run(self._reader.jobs()):
                id_ = outcome.job.id
                number = numbers.pop(id_)
                if outcome.error is None:
                    blob = outcome_lines.line(outcome, None) if outcomes else outcome.value
                    recorder.add(Entry(number, id_, blob, False, outcome.job.args[1] if keeps else None), None)
                    summary.add(id_, "succeeded", duration=outcome.duration, attempts=outcome.attempts, failure=None)
                    continue
                if outcome.status == "cancelled" and self._ends_early():
                    summary.stopped += 1
                    continue
                if recorder.problem is not None and outcome.status == "lost":
                    continue
                failure = describe(outcome.error)
                blob = outcome_lines.line(outcome, failure) if outcomes else b""
                recorder.add(Entry(number, id_, blob, True), _row(number, outcome, failure))
                summary.add(id_, outcome.status, duration=outcome.duration, attempts=outcome.attempts, failure=failure)
                if not self._halted and halt.reached(summary.failed, summary.finished):
                    self._halted = True
                    self._stop.request()
        except EngineClosed:
            if not self._ends_early():
                raise
        finally:
            # Whatever ended it: dropping the iterator has cancelled what runs, and nobody need wait for more input.
            ended = not self._ends_early()
            self._stop.request()
        return ended and self._reader.complete and not numbers

    def _ends_early(self) -> bool:
        return self._stop.requested

    def _close(self, complete: bool) -> None:
        recorder = self._recorder
        assert recorder is not None
        try:
            recorder.close(complete=complete)
            if self._errors is not None and self._out.journal is not None:
                self._errors.begin_anew(self._out.journal.failures())  # of earlier runs, too, and without the mended
        finally:
            for entry, reason in recorder.refused:
                self._summary.refuse(entry.id, Failure("UnfitResult", reason, "", ""))

    def _wind_up(self) -> None:
        """The first signal, or the end of all: what runs may finish, what waits is not begun."""
        if self._stop.signum is not None:
            say(
                f"{signal.Signals(self._stop.signum).name}: no more jobs are begun, and those that run may finish; "
                "once more ends them"
            )
        if self._engine is not None and (self._stop.signum is not None or self._halted):
            self._engine.shutdown(wait=False, cancel_futures=True)

    def _give_up(self) -> None:
        """Nothing can be written any more: nobody is to wait for what runs."""
        self._stop.request()
        if self._engine is not None:
            self._engine.shutdown(cancel_futures=True, timeout=0.0)

    def _note_failure(self, row: FailureRow) -> None:
        if self._errors is not None:
            self._errors.write(row)

    # ---- input -------------------------------------------------------------------------------------------------------

    def _may_go_on(self) -> bool:
        """In the thread that reads: whether one more job may be made."""
        if self._recorder is not None and not self._recorder.has_room():
            return False
        least = self._request.min_free_memory
        if least is None:
            return True
        now = time.monotonic()
        if now - self._looked_at > _MEMORY_LOOK_S:
            self._looked_at = now
            had_room, self._had_room = self._had_room, psutil.virtual_memory().available >= least
            if had_room and not self._had_room:
                say(f"less than {least:,} bytes of memory are free; no more jobs are begun until there are")
        return self._had_room

    # ---- telling -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _progress(self) -> Iterator[None]:
        """Show how the run stands. Not as rows where the results are shown as well: they would run into each other."""
        shown = self._request.progress
        apart = not self._out.writer.is_terminal
        if shown is False or (shown is None and not apart):
            yield
            return
        self._jobs = self._total()
        over = threading.Event()
        self._display.begin(self._look, over, live=apart)
        try:
            yield
        finally:
            over.set()
            self._display.close()

    def _look(self) -> Standing:
        """In the display's thread."""
        now = time.monotonic()
        summary, engine = self._summary, self._engine
        return Standing(
            finished=summary.finished,
            total=self._jobs,
            failed=summary.failed,
            retried=summary.retried,
            open=True,
            elapsed=now - self._began,
            rate=self._rate.add(now, summary.finished),
            workers=() if engine is None else self._ages.fill(engine.workers(), now),
            failures=[(id_, in_a_line(failure)) for id_, failure in list(summary.recent)],
        )

    def _total(self) -> int | None:
        if self._request.shape == "path":
            total: int | None = len(self._sources)
        elif self._request.shape == "table" or self._request.chunk is not None:
            total = None
        else:
            total = count_lines(self._sources, at_most_bytes=_COUNTED_BYTES)
        limit = self._request.limit
        total = total if total is None or limit is None else min(total, limit)
        return None if total is None else max(0, total - self._out.done_before + len(self._out.retried))

    def _told(self) -> dict[str, Any]:
        """For the journal."""
        wall_s = self._out.wall_s + time.monotonic() - self._began
        return {"wall_s": round(wall_s, 3), "workers": self._workers(), "headers": self._reader.headers}

    def _workers(self) -> int:
        if self._request.on == "local":
            return self._request.workers or cpu_count()
        engine = self._engine
        if engine is not None:  # what it knows of them is a second old
            self._seen_workers = max(self._seen_workers, len(engine.workers()))
        return self._seen_workers

    def _failed_in_all(self) -> int:
        """Of this run, and of those before that it went on from."""
        if self._out.journal is None:
            return self._summary.failed
        return sum(self._out.journal.failed().values())

    def _interrupted(self) -> int:
        signum = self._stop.signum or signal.SIGINT
        say(f"interrupted ({signal.Signals(signum).name}); {self._kept()}")
        return EXIT_SIGNAL + signum

    def _kept(self) -> str:
        """What is there already, and how to go on."""
        count = self._out.done_before + self._summary.finished
        ended = "no job had ended" if not count else "1 job has ended" if count == 1 else f"{count:,} jobs have ended"
        if self._out.journal is not None:
            return f"{ended}; to go on, run it again with --resume"
        if not count:
            return f"{ended}; to go on, run it again"
        return f"{ended}, and the results are written; to go on, run it again with the inputs not among them"


def _observers(request: Request) -> list[Callable[[Any], None]]:
    """What looks at the engine. Each closes with it."""
    made: list[tuple[str, Any, Callable[[], Callable[[Any], None]]]] = [
        ("--report", request.report, lambda: Report(request.report or "", title=f"mpengine run {request.target}")),
        ("--trace", request.trace, lambda: Trace(request.trace or "")),
        ("--metrics-port", request.metrics_port, lambda: Metrics(request.metrics_port or 0)),
    ]
    found = []
    for option, value, make in made:
        if value is not None:
            try:
                found.append(make())
            except (OSError, ValueError, ModuleNotFoundError) as error:  # ValueError: a null byte in a name
                raise Problem(f"{option} {value!r} is not to be had: {error}; give another, or leave it out") from None
    return found


def _row(number: int, outcome: Outcome, failure: Failure) -> FailureRow:
    return FailureRow(
        number, outcome.job.id, str(outcome.status), failure.type, failure.message, failure.traceback, failure.where,
        outcome.attempts, round(outcome.duration, 6), outcome.job.args[1],
    )  # fmt: skip


class _Errors:
    """The file of --errors: a line of JSON for each job that did not succeed, as they come. Raises `Problem`."""

    def __init__(self, name: str) -> None:
        self._name = name
        try:
            self._file = open(name, "wb", buffering=0)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise Problem(f"--errors {name!r} cannot be written: {reason}; name another file") from None

    def __enter__(self) -> _Errors:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, row: FailureRow) -> None:
        try:
            self._file.write(failure_line(row))
        except OSError as error:
            raise Problem(f"--errors {self._name!r} cannot be written: {error.strerror}; name another file") from None

    def begin_anew(self, rows: Iterable[FailureRow]) -> None:
        """With these alone, in the order of the input."""
        if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.seek(0)
            self._file.truncate()
            for row in rows:
                self.write(row)


def failure_line(row: FailureRow) -> bytes:
    """A failure as one JSON object."""
    error = {"type": row.type, "message": row.message, "traceback": row.traceback or None}
    told = {"id": row.id, "status": row.status, "error": error, "attempts": row.attempts, "duration": row.duration}
    return json.dumps(told).encode() + b"\n"
