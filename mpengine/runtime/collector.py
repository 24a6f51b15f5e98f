"""From a worker's log to events: users' values and errors are unpickled here, one by one. Dispatcher thread only.

The values of a map are passed on as bytes: the iterator that hands them out unpickles them, in its consumer's thread.
All that are read at once are one report: those of short calls are logged every 100 us, and to pass on each by itself
would cost the consumer's thread a turn for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mpengine.core import events as ev
from mpengine.core.records import Batch, Report
from mpengine.core.verdicts import describe, span_subject
from mpengine.errors import InternalError
from mpengine.runtime.channel import BadFrame, LogReader, LogRecord
from mpengine.runtime.express import LoneSink
from mpengine.wire import codec
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import unpack_error

_ABOUT_WORKER = (wire.READY, wire.START_FAILED, wire.LEAVING, wire.HELD, wire.RELEASED)


class ShortWay(Protocol):
    """What the collector asks of `express`."""

    def finish(self, seq: int) -> tuple[LoneSink, float] | None:
        """Take a plain call that is over out of the lane: whose it was, when it was sent."""

    def may_be_left(self, seq: int) -> bool:
        """Whether this batch is a plain call in the lane that nobody waits for but, perhaps, an attendant."""


class Collector:
    """Reads logs.

    Args:
        batch_of: The open batch of a number, for the words of a note; None if it is closed.
        lone_of: Where the outcome of a lone job's batch goes; None if it is closed.
        lane: The short way, on which plain calls may end without coming to the books.
    """

    def __init__(
        self,
        batch_of: Callable[[int], Batch | None],
        lone_of: Callable[[int], LoneSink | None],
        lane: ShortWay,
    ) -> None:
        self._batch_of = batch_of
        self._lone_of = lone_of
        self._lane = lane

    def collect(
        self, worker: int, pid: int, log: LogReader, *, patient: bool = False
    ) -> tuple[list[ev.Event], list[LogRecord], str]:
        """Read all that is committed.

        Args:
            patient: Leave the log, from there on, at a plain call whose caller is about to take its value.

        Returns:
            Events for the ledger, in order; records about the worker itself (READY, ...); what is wrong with the log,
            or "".
        """
        events: list[ev.Event] = []
        about: list[LogRecord] = []
        reports: list[Report] = []
        passed: list[tuple[int, float]] = []
        batch = 0
        problem = ""
        try:
            for record in log.records():
                kind = record.kind
                if kind in _ABOUT_WORKER:
                    about.append(record)
                    continue
                if kind == wire.OFFERED:
                    finished = self._lane.finish(record.batch)
                    if finished is not None:
                        sink, at = finished
                        passed.append(sink.finished(at, record.started_at, record.duration, pid, record.peak_memory))
                        continue
                    if patient and self._lane.may_be_left(record.batch):
                        break
                if record.batch != batch or kind == wire.GAVE_BACK:
                    if reports:
                        events.append(ev.Reported(worker, batch, reports))
                        reports = []
                    batch = record.batch
                if kind == wire.GAVE_BACK:
                    events.append(ev.GaveBack(worker, batch, record.index))
                elif not (kind == wire.VALUES and reports and self._joined(reports[-1], record)):
                    reports.append(self._report(record, pid))
        except BadFrame as error:
            problem = f"it wrote rubbish into its log ({error})"
        except MemoryError:
            problem = "it sent a result that this process has no memory for"
        if reports:
            events.append(ev.Reported(worker, batch, reports))
        if passed:
            events.append(ev.Passed(passed))
        return events, about, problem

    def _joined(self, report: Report, record: LogRecord) -> bool:
        """Add further values of a map to those just read. False: they are not that, or their time is unknown."""
        if type(report.value) is not list or not report.duration or not record.duration:
            return False
        report.value.append(record.blob)
        report.count += record.count
        report.duration += record.duration
        return True

    def _is_of_jobs(self, record: LogRecord) -> bool:
        batch = self._batch_of(record.batch)
        return batch is None or batch.span is None or batch.span.jobs is not None

    def unlogged(self, worker: int, log: LogReader) -> ev.Reported | None:
        """Of a dead worker whose log was taken in: calls of a span that had finished, and are not in it."""
        seq, first, segments = log.unlogged()
        batch = self._batch_of(seq)
        if batch is None or batch.span is None or batch.done < first:
            return None
        values: list[Any] = []
        flags = bytearray()
        for count, blob in segments:
            if count:
                try:
                    some, their_flags, _ = codec.load_values(blob)
                except Exception:  # a job has written there; what it had not spoilt counts
                    break
                if len(some) != count:
                    break
                values += some
                flags += bytes(count) if their_flags is None else their_flags
            else:
                values.append(blob)
                flags.append(1)
        calls = slice(batch.done - first, batch.size - first)
        values, flags = values[calls], flags[calls]
        if not values:
            return None
        packed = codec.dump_values(values, flags)
        report = Report(batch.done, packed if batch.span.jobs is not None else [packed], count=len(values))
        return ev.Reported(worker, seq, [report])

    def _report(self, record: LogRecord, pid: int) -> Report:
        report = Report(
            record.index, count=record.count, started_at=record.started_at, duration=record.duration,
            peak_memory=record.peak_memory,
        )  # fmt: skip
        if record.kind == wire.OFFERED:
            sink = self._lone_of(record.batch)
            taken = None if sink is None else sink.offered()
            if taken is None:
                self._load(report, record, pid)
            else:
                (report.value,) = taken
                report.handed_over = True
        elif record.kind == wire.VALUE:
            self._load(report, record, pid)
        elif record.kind == wire.VALUES:
            report.value = record.blob if self._is_of_jobs(record) else [record.blob]
        elif record.kind == wire.ERROR:
            report.error = unpack_error(record.blob, self._note(record, pid, "raised"))
        elif record.kind == wire.INTERRUPTED:
            report.interrupted = True
            report.stack = bytes(record.blob).decode(errors="replace")
            if self._is_span(record):
                report.error = InternalError("interrupted call of a closed map")
        elif record.kind == wire.SKIPPED:
            report.skipped = True
        else:
            raise BadFrame(f"kind {record.kind}")
        return report

    def _load(self, report: Report, record: LogRecord, pid: int) -> None:
        try:
            report.value = codec.loads(record.blob)
        except BaseException as error:  # a user's object may raise anything while it is rebuilt
            codec.annotate(error, self._note(record, pid, "its result cannot be unpickled here"))
            report.error = error

    def _is_span(self, record: LogRecord) -> bool:
        batch = self._batch_of(record.batch)
        return batch is not None and batch.span is not None

    def _note(self, record: LogRecord, pid: int, what: str) -> str:
        batch = self._batch_of(record.batch)
        if batch is None:  # the books do not know it yet; or it is over, and nobody will read this
            sink = self._lone_of(record.batch)
            subject = "a job" if sink is None else sink.describe()
        elif record.index >= batch.size:
            subject = "a job"
        elif batch.span is not None:
            subject = span_subject(batch.span, batch.span.first + record.index)
        else:
            job_record = batch.records[record.index]
            subject = describe(job_record, job_record.attempt + 1)
        return f"mpengine: {subject}, in worker pid {pid}: {what}"
