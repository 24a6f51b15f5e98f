"""`Trace`: what each worker ran, and when, as a file for Perfetto or chrome://tracing.

The format is Chrome's trace events, as a JSON array with an event a line (see "Trace Event Format", Google, 2016). Its
readers accept an array that is not closed, so what a killed program leaves can be read.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

from mpengine.observing import (
    EngineState,
    JobAccepted,
    JobFinished,
    JobRetried,
    JobStarted,
    PublicEvent,
    WorkerEnded,
    WorkerReady,
    WorkerStarted,
)
from mpengine.report.failures import message, type_name
from mpengine.report.tally import Tally
from mpengine.report.text import one_line

_COUNTED_EVERY_S = 0.01  # more points than that cannot be told apart, and would be most of the file


class Trace:
    """An observer that writes a trace: one row per worker, a bar per attempt of a job, and how many run and wait.

        engine.observe(Trace("run.trace.json"))  # then open it at https://ui.perfetto.dev, which reads it locally

    Each event is in the file when the observer returns: constant memory, some 200 bytes of file a job, and a program
    that is killed leaves a trace up to its end. Times are those of the monotonic clock, as in other traces of this
    machine. A job's name in it is its function's; id, status, attempt and error are its arguments.

    Args:
        path: Written over if it is there.

    Raises:
        OSError: The file cannot be opened. If it cannot be written to later, that is logged, and the trace ends.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._tally = Tally()
        self._running: dict[str, JobStarted] = {}
        self._counted: dict[str, int] = {}  # as last written
        self._counted_at = float("-inf")
        self._uncounted: tuple[float, dict[str, int]] | None = None
        self._separator = ""
        self._file = open(self.path, "wb", buffering=0)
        self._file.write(b"[\n")
        self._write([self._meta("process_name", 0, name="mpengine")])

    def __call__(self, event: PublicEvent) -> None:
        with self._lock:
            if self._file.closed:
                return
            self._write(self._shown(event))
            if isinstance(event, EngineState) and event.state == "closed":
                self._close(event.at)

    def close(self) -> None:
        """End the file; later events are not written. Done by itself when the engine has closed. From any thread."""
        with self._lock:
            if not self._file.closed:
                self._close(time.monotonic())

    # ---- events ----------------------------------------------------------------------------------------------------

    def _shown(self, event: PublicEvent) -> list[dict[str, Any]]:
        self._tally.add(event)
        match event:
            case JobStarted():
                self._running[event.job.id] = event
                return []
            case JobRetried():
                pid, duration = event.worker_pid, event.duration
                bar = self._bar(event.job, "retried", event.attempt, pid, duration, event.at, event.error)
                return [*bar, *self._count(event.at)]
            case JobFinished(outcome=outcome):
                bar = self._bar(
                    outcome.job, str(outcome.status), outcome.attempts, outcome.worker_pid, outcome.duration, event.at,
                    outcome.error,
                )  # fmt: skip
                return [*bar, *self._count(event.at)]
            case WorkerStarted(pid=pid):
                name = self._meta("thread_name", pid, name=f"worker {pid}")
                return [name, self._instant("worker started", pid, event.at)]
            case WorkerReady(pid=pid):
                return [self._instant("worker ready", pid, event.at), *self._count(event.at)]
            case WorkerEnded(pid=pid, exitcode=exitcode):
                return [self._instant("worker ended", pid, event.at, exitcode=exitcode), *self._count(event.at)]
            case EngineState(state=state):
                return [self._instant(f"engine {state}", 0, event.at)]
            case JobAccepted():
                return self._count(event.at)

    def _bar(
        self, job: Any, status: str, attempt: int, pid: int | None, duration: float, at: float,
        error: BaseException | None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """An attempt, or the end of a job that had none."""
        begun = self._running.pop(job.id, None)
        told: dict[str, Any] = {"id": one_line(job.id), "status": status, "attempt": attempt}
        if error is not None:
            told["error"] = one_line(f"{type_name(error)}: {message(error)}")
        if pid is None or (begun is None and not duration):
            return [self._instant(f"{job.name}: {status}", pid or 0, at, **told)]
        start = at - duration if begun is None else begun.at
        shown = {
            "name": one_line(job.name), "cat": f"job,{status}", "ph": "X", "ts": _micro(start),
            "dur": max(0.0, _micro(duration)), "pid": self._pid, "tid": pid, "args": told,
        }  # fmt: skip
        return [shown]

    def _instant(self, name: str, tid: int, at: float, **told: Any) -> dict[str, Any]:
        return {
            "name": one_line(name), "ph": "i", "s": "t" if tid else "p", "ts": _micro(at), "pid": self._pid, "tid": tid,
            "args": told,
        }  # fmt: skip

    def _meta(self, what: str, tid: int, **told: Any) -> dict[str, Any]:
        return {"name": what, "ph": "M", "pid": self._pid, "tid": tid, "args": told}

    def _count(self, at: float) -> list[dict[str, Any]]:
        """The numbers of jobs, unless they are what they were, or were written a moment ago."""
        numbers = {"running": self._tally.running(at), "waiting": self._tally.waiting(at)}
        if at < self._counted_at + _COUNTED_EVERY_S:
            self._uncounted = (at, numbers)
            return []
        shown = self._count_rest()  # the last of the moments that were left out: so it was until now
        if numbers != self._counted:
            self._counted, self._counted_at = numbers, at
            shown.append(self._counter(at, numbers))
        return shown

    def _count_rest(self) -> list[dict[str, Any]]:
        if self._uncounted is None:
            return []
        at, self._counted = self._uncounted
        self._uncounted = None
        return [self._counter(at, self._counted)]

    def _counter(self, at: float, numbers: dict[str, int]) -> dict[str, Any]:
        return {"name": "jobs", "ph": "C", "ts": _micro(at), "pid": self._pid, "tid": 0, "args": numbers}

    # ---- the file --------------------------------------------------------------------------------------------------

    def _close(self, at: float) -> None:
        rest = self._count_rest()
        for begun in list(self._running.values()):
            duration = max(0.0, at - begun.at)
            rest += self._bar(begun.job, "unfinished", begun.attempt, begun.worker_pid, duration, at, None)
        try:
            self._write(rest)
            self._file.write(b"\n]\n")
        finally:
            self._file.close()  # harmless the second time

    def _write(self, events: list[dict[str, Any]]) -> None:
        """In one system call: a program that is killed leaves whole events."""
        if events:
            text = self._separator + ",\n".join(json.dumps(event, separators=(",", ":")) for event in events)
            try:
                self._file.write(text.encode())
            except OSError:
                self._file.close()
                raise
            self._separator = ",\n"


def _micro(seconds: float) -> float:
    return round(seconds * 1e6, 1)
