"""From the end of many jobs at once, as the dispatcher hands it on, to an `Outcome` for each: the consumer's work."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from mpengine.core.job import Job, Outcome, Status
from mpengine.core.records import Report, SpanEnd
from mpengine.errors import JobCancelled
from mpengine.wire import codec


def outcomes_of(part: SpanEnd) -> list[Outcome]:
    """One per job, in order."""
    jobs, report, error = part.jobs, part.report, part.error
    assert jobs is not None
    if error is None:
        assert report is not None
        return list(_succeeded(part, jobs, report))
    if isinstance(error, JobCancelled):
        return [Outcome(job, part.status, None, _own(error, job)) for job in jobs]
    if report is None:
        return [Outcome(job, part.status, None, error) for job in jobs]
    waited = max(0.0, report.started_at - part.accepted_at)
    about = (1, (error,), waited, report.duration, part.worker_pid, report.peak_memory)
    return [Outcome(job, part.status, None, error, *about) for job in jobs]


def _own(error: JobCancelled, job: Job) -> JobCancelled:
    text = f"job {job.id!r} (`{job.name}`) was cancelled: {error.reason}"
    return JobCancelled(text, reason=error.reason)


def _succeeded(part: SpanEnd, jobs: Sequence[Job], report: Report) -> Iterator[Outcome]:
    values, flags, packed_times = codec.load_values(report.value)
    times = array("d", packed_times or bytes(8 * (len(values) + 1)))
    accepted_at, pid, peak = part.accepted_at, part.worker_pid, report.peak_memory
    if packed_times is None:
        accepted_at = 0.0  # after a death, nobody tells when they ran
    succeeded = Status.SUCCEEDED
    values.reverse()
    for index, job in enumerate(jobs):
        value, started_at = values.pop(), times[index]
        about = (started_at - accepted_at, times[index + 1] - started_at, pid, peak)
        if flags is not None and flags[index]:
            try:
                value = codec.loads(value)
            except BaseException as error:  # a user's object may raise anything while it is rebuilt
                codec.annotate(error, f"mpengine: the result of job {job.id!r} cannot be unpickled here")
                yield Outcome(job, Status.FAILED, None, error, 1, (error,), *about)
                continue
        yield Outcome(job, succeeded, value, None, 1, (), *about)
