"""From the end of many jobs at once, as the dispatcher hands it on, to an `Outcome` for each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

from mpengine.core.job import Job, Outcome, Status
from mpengine.core.records import SpanEnd
from mpengine.errors import JobCancelled
from mpengine.wire import codec


class Times:
    """When jobs that ended together were begun, and what else their outcomes have in common.

    Attributes:
        begun: When each was begun, and when the last had ended; None: nobody tells, after a death.
    """

    __slots__ = ("accepted_at", "begun", "peak_memory", "worker_pid")

    def __init__(
        self, accepted_at: float, begun: Sequence[float] | None, worker_pid: int | None, peak_memory: int
    ) -> None:  # fmt: skip
        self.accepted_at = accepted_at
        self.begun = begun
        self.worker_pid = worker_pid
        self.peak_memory = peak_memory

    def outcome(self, job: Job, index: int, value: Any, error: BaseException | None = None) -> Outcome:
        """Of the one at this place. `error`: why its value cannot be rebuilt."""
        waited = duration = 0.0
        if self.begun is not None:
            begun_at = self.begun[index]
            waited, duration = begun_at - self.accepted_at, self.begun[index + 1] - begun_at
        status, errors = (Status.SUCCEEDED, ()) if error is None else (Status.FAILED, (error,))
        return Outcome(job, status, value, error, 1, errors, waited, duration, self.worker_pid, self.peak_memory)


def values_of(part: SpanEnd) -> tuple[list[Any], bytes | None, Times]:
    """The values of jobs that ended by one, which of them are still pickled, and when they ran."""
    assert part.report is not None
    values, flags, packed = codec.load_values(part.report.value)
    if part.skipped or len(values) != part.count:
        calls = slice(part.skipped, part.skipped + part.count)
        values, flags = values[calls], None if flags is None else flags[calls]
    begun = None if packed is None else array("d", packed)[part.skipped :]
    return values, flags, Times(part.accepted_at, begun, part.worker_pid, part.report.peak_memory)


def outcomes_of(part: SpanEnd) -> list[Outcome]:
    """One per job, in order. The consumer's work."""
    jobs = cast(Sequence[Job], part.jobs)
    if part.error is None:
        return list(_succeeded(part, jobs))
    return [failed_outcome(part, job) for job in jobs]


def failed_outcome(part: SpanEnd, job: Job) -> Outcome:
    """Of a job that has no value, whyever."""
    error, report = part.error, part.report
    assert error is not None
    if report is None and isinstance(error, JobCancelled):
        error = JobCancelled(f"job {job.id!r} (`{job.name}`) was cancelled: {error.reason}", reason=error.reason)
    if report is None:
        return Outcome(job, part.status, None, error)
    waited = max(0.0, report.started_at - part.accepted_at)
    about = (1, (error,), waited, report.duration, part.worker_pid, report.peak_memory)
    return Outcome(job, part.status, None, error, *about)


def _succeeded(part: SpanEnd, jobs: Sequence[Job]) -> Iterator[Outcome]:
    values, flags, times = values_of(part)
    if flags is not None or times.begun is None:
        yield from _succeeded_with_care(jobs, values, flags, times)
        return
    succeeded, accepted_at, pid, peak = Status.SUCCEEDED, times.accepted_at, times.worker_pid, times.peak_memory
    for job, value, (begun_at, ended_at) in zip(jobs, values, pairwise(times.begun), strict=False):
        yield Outcome(job, succeeded, value, None, 1, (), begun_at - accepted_at, ended_at - begun_at, pid, peak)


def _succeeded_with_care(
    jobs: Sequence[Job], values: list[Any], flags: bytes | None, times: Times
) -> Iterator[Outcome]:  # fmt: skip
    values.reverse()  # to be popped: no reference to one is kept
    for index, job in enumerate(jobs):
        value = values.pop()
        if flags is not None and flags[index]:
            try:
                value = codec.loads(value)
            except KeyboardInterrupt:  # Ctrl-C, in the consumer's thread: it is not this job's failure
                raise
            except BaseException as error:  # a user's object may raise anything while it is rebuilt
                codec.annotate(error, f"mpengine: the result of job {job.id!r} cannot be unpickled here")
                yield times.outcome(job, index, None, error)
                continue
        yield times.outcome(job, index, value)
