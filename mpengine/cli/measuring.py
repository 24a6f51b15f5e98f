"""One measurement: the whole batch through a fresh engine with so many workers, or through a plain loop.

    workers start, import TARGET, are ready -> [ read the INPUTs, run the jobs, take their results ] -> workers end
                                               the seconds that are told

The results are made as OUT would get them, and dropped. A job that does not succeed ends it: figures of a batch in
which jobs fail would mislead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpengine import Engine, EngineBroken, EngineClosed, Job, Outcome
from mpengine.batch.work import Encoder
from mpengine.cli.inputs import Source
from mpengine.cli.loop import run_loop
from mpengine.cli.machine import CpuTime
from mpengine.cli.preparing import prepare_loop, prepare_worker
from mpengine.cli.problems import EXIT_ENGINE_BROKE, EXIT_JOB_FAILED, Interrupted, Problem, why_broken
from mpengine.cli.readers import Limits, Reader, Shape
from mpengine.cli.signals import Stop
from mpengine.cli.targets import Target
from mpengine.observing import EngineState, PublicEvent, WorkerReady
from mpengine.report.display import Display
from mpengine.report.failures import describe, in_a_line
from mpengine.report.speedup import LOOP

_STOP_GRACE_S = 1.0  # for the jobs that run when another has failed


@dataclass(frozen=True, slots=True)
class Batch:
    """What is run each time."""

    name: str  # of the target, as it was typed
    target: Target
    sources: Sequence[Source]
    shape: Shape
    encode: Encoder
    limits: Limits
    limit: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it.

    Attributes:
        workers: `LOOP` for the plain loop.
        start_s: Seconds until all workers were ready, which are not among the `seconds` of the batch.
        peak_memory: Resident bytes of the process that had the most, at its peak; 0: unknown.
        others_cpus: CPUs of the machine that were busy with something else meanwhile.
    """

    workers: int
    jobs: int
    seconds: float
    start_s: float
    peak_memory: int
    others_cpus: float


class Measurer:
    """Measures a batch, one engine at a time. For the main thread, but for `abandon`."""

    def __init__(self, batch: Batch, stop: Stop) -> None:
        self._batch = batch
        self._stop = stop
        self._engine: Engine | None = None
        self._display = Display()  # of what jobs print

    def abandon(self) -> None:
        """Ends what is measured, now; `measure` raises `Interrupted`. From the thread that watches the signals."""
        engine = self._engine
        if engine is not None:
            engine.shutdown(wait=False, cancel_futures=True, timeout=0.0)

    def measure(self, workers: int) -> Measured:
        """Raises `Problem` if a job does not succeed or the engine breaks, `Interrupted` after a signal."""
        began = time.monotonic()
        try:
            with self._make_engine(workers) as engine:
                self._engine = engine
                self._check_stop()
                _wait_until_ready(engine, max(1, workers))
                self._check_stop()
                start_s = time.monotonic() - began
                pids = [row.pid for row in engine.workers()]
                before, ready = CpuTime.now(pids), time.monotonic()
                jobs, seconds, peak = self._loop(engine) if workers == LOOP else self._run(engine)
                others = CpuTime.now(pids).of_others_since(before) / (time.monotonic() - ready)
        except EngineBroken as error:
            self._check_stop()
            raise Problem(why_broken(error, self._batch.name), EXIT_ENGINE_BROKE) from None
        except EngineClosed:
            self._check_stop()
            raise
        finally:
            self._engine = None
        return Measured(workers, jobs, seconds, start_s, peak, round(others, 2))

    def _make_engine(self, workers: int) -> Engine:
        batch = self._batch
        try:
            return Engine(
                max(1, workers),
                initializer=prepare_loop if workers == LOOP else prepare_worker,
                initargs=batch.target.description if workers == LOOP else (None, *batch.target.description),
                stop_grace=_STOP_GRACE_S,
                output=self._display.output,
                name="the engine",
            )
        except EngineBroken:
            raise
        except (ValueError, OSError) as error:
            raise Problem(f"the engine cannot start with {max(1, workers):,} workers: {error}") from None

    def _run(self, engine: Engine) -> tuple[int, float, int]:
        batch = self._batch
        reader = Reader(
            batch.sources, batch.target, self._stop, encode=lambda source: batch.encode, shape=batch.shape,
            limits=batch.limits, limit=batch.limit,
        )  # fmt: skip
        jobs = peak = 0
        numbers = reader.numbers
        began = time.monotonic()
        for outcome in engine.run(reader.jobs()):
            if outcome.error is not None:
                self._check_stop()
                raise _no_success(outcome)
            del numbers[outcome.job.id]
            peak = max(peak, outcome.peak_memory)
            jobs += 1
        seconds = time.monotonic() - began
        self._check_stop()
        if reader.problem is not None:
            raise reader.problem
        return jobs, seconds, peak

    def _loop(self, engine: Engine) -> tuple[int, float, int]:
        batch = self._batch
        arguments: tuple[Any, ...] = (
            batch.target.description, batch.sources, batch.shape, batch.encode, batch.limit
        )  # fmt: skip
        outcome = engine.dispatch(Job(run_loop, arguments, id="the plain loop")).outcome()
        self._check_stop()
        if isinstance(outcome.error, Problem):
            raise outcome.error
        if outcome.error is not None:
            raise _no_success(outcome)
        jobs, seconds = outcome.value
        return jobs, seconds, outcome.peak_memory

    def _check_stop(self) -> None:
        if self._stop.signum is not None:
            raise Interrupted(self._stop.signum)


def _wait_until_ready(engine: Engine, workers: int) -> None:
    """Until so many workers take jobs, or the engine does not."""
    over = threading.Event()
    ready: set[int] = set()

    def look(event: PublicEvent) -> None:
        if isinstance(event, WorkerReady):
            ready.add(event.pid)
        if len(ready) >= workers or (isinstance(event, EngineState) and event.state != "open"):
            over.set()

    with engine.observe(look):
        over.wait()


def _no_success(outcome: Outcome) -> Problem:
    assert outcome.error is not None
    what = in_a_line(describe(outcome.error))
    return Problem(
        f"{outcome.job.id} did not succeed ({outcome.status}): {what}; figures of jobs that "
        "fail would mislead, so there are none: put it right, or leave it out of the INPUT, and run it again",
        EXIT_JOB_FAILED,
    )
