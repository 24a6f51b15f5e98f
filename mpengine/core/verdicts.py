"""The errors that the ledger itself gives a job: subject, cause, values, next step."""

from __future__ import annotations

import signal

from mpengine.core.records import Call, Record, Span
from mpengine.errors import JobCancelled, JobExpired, JobLost, MemoryLimitExceeded

_HINTS = {
    signal.SIGKILL: "killed from outside, often by the kernel's OOM killer: lower max_workers or the job's memory",
    signal.SIGSEGV: "a crash in native code: see `stack` for the Python line, and try the job alone",
    signal.SIGABRT: "native code gave up (abort, failed assertion): see `stack` for the Python line",
    signal.SIGBUS: "a bus error: a mapped file shrank, or memory ran out",
    signal.SIGILL: "an illegal instruction: native code built for another processor",
    signal.SIGFPE: "an arithmetic error in native code",
    signal.SIGTERM: "something asked it to end: look for what sends SIGTERM",
    signal.SIGXCPU: "it used up its CPU time limit (RLIMIT_CPU)",
}


def human_bytes(size: int) -> str:
    """1536 -> '1.5 KiB'."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def describe(record: Record, attempt: int) -> str:
    """'job 'x' (`resize`, attempt 2 of 3)', the subject of every message."""
    return f"job {record.job.id!r} (`{record.job.name}`, attempt {attempt} of {record.retries + 1})"


def exit_text(exitcode: int | None) -> tuple[str, str]:
    """What an exit code means, and what is likely behind it."""
    if exitcode is None:
        return "ended in a way the system did not tell", "something else reaps this program's children"
    if exitcode >= 0:
        return f"exited with code {exitcode}", "the job ended its own process (os._exit, exec)"
    try:
        sig = signal.Signals(-exitcode)
    except ValueError:
        return f"was killed by signal {-exitcode}", "look for what sends that signal"
    return f"was killed by {sig.name}", _HINTS.get(sig, "look for what sends that signal")


def lost_error(
    subject: str, pid: int, exitcode: int | None, *, peak_memory: int = 0, stack: str = "", problem: str = "",
    memory: int = 0,
) -> JobLost:  # fmt: skip
    """The error of a job whose worker died under it. `memory`: what it held, if it was killed for that."""
    about = {"exitcode": exitcode, "worker_pid": pid, "peak_memory": max(peak_memory, memory), "stack": stack}
    if memory:
        return MemoryLimitExceeded(
            f"{subject} was lost: worker pid {pid} held {human_bytes(memory)}, {problem}. "
            "Raise `memory_limit`, or give the job less at once.", **about,
        )  # fmt: skip
    text, hint = exit_text(exitcode)
    cause = f", because {problem}" if problem else f". Likely cause: {hint}"
    peak = f"; peak memory {human_bytes(peak_memory)}" if peak_memory else ""
    return JobLost(f"{subject} was lost: worker pid {pid} {text}{peak}{cause}.", **about)


def span_subject(span: Span, call: int) -> str:
    """The subject of a message about one call of a span's payload."""
    if span.jobs is not None:
        return f"job {span.jobs[call].id!r} (`{span.name}`, attempt 1 of 1)"
    return f"call {span.position + call} of map(`{span.name}`)"


def timeout_error(record: Record, attempt: int, seconds: float) -> JobExpired:
    """The error of an attempt past its timeout."""
    return JobExpired(
        f"{describe(record, attempt)} ran past its timeout of {seconds:g} s. "
        "Raise `timeout`, or see `stack` for the line it was on."
    )


def deadline_error(record: Record, attempt: int, *, started: bool) -> JobExpired:
    """The error of a job whose context's deadline passed."""
    where = "while it ran" if started else "before it was started"
    return JobExpired(
        f"{describe(record, max(1, attempt))} expired: its context's deadline passed {where}. "
        "Give the context more time, or submit less at once."
    )


def cancelled_error(record: Record, reason: str) -> JobCancelled:
    """The error of a job that was given up."""
    return JobCancelled(f"job {record.job.id!r} (`{record.job.name}`) was cancelled: {reason}", reason=reason)


def call_cancelled_error(span: Span, job: Call, reason: str) -> JobCancelled:
    """The error of a job of a span that was given up."""
    return JobCancelled(f"job {job.id!r} (`{span.name}`) was cancelled: {reason}", reason=reason)


def span_cancelled_error(span: Span, reason: str) -> JobCancelled:
    """The error of calls that were given up."""
    what = f"map(`{span.name}`)" if span.jobs is None else f"a run of `{span.name}`"
    return JobCancelled(f"{what} was cancelled: {reason}", reason=reason)
