"""Rules of thumb as pure functions: who is retried and when, when to give up on starting workers, how to stop them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

from mpengine.core.job import Backoff, RetryOn

MAX_BACKOFF_S = 3600.0  # a delay does not grow beyond this


def may_retry(retry_on: RetryOn | None, error: BaseException) -> bool:
    """Whether the owner of a job allows another attempt after this error.

    A predicate is the user's code: if it raises, the job is not run again, since nobody has allowed it.
    """
    if retry_on is None:
        return True
    if isinstance(retry_on, (type, tuple)):
        return isinstance(error, retry_on)
    try:
        return bool(retry_on(error))
    except BaseException:
        return False


def backoff_delay(backoff: Backoff, attempt: int, jitter: Callable[[], float]) -> float:
    """Seconds to wait after `attempt` (1-based) before the next. `jitter()` is uniform in [0, 1).

    Equal jitter: half of the delay is fixed, half is random, so that jobs that failed together come back apart.
    """
    if callable(backoff):
        try:
            return min(MAX_BACKOFF_S, max(0.0, float(backoff(attempt))))
        except BaseException:
            return 0.0
    if backoff <= 0:
        return 0.0
    delay = min(MAX_BACKOFF_S, backoff * 2.0 ** min(attempt - 1, 64))
    return delay / 2 + delay / 2 * jitter()


class RestartIntensity:
    """Erlang/OTP's rule: more than `limit` failures within `period` seconds, and it is time to give up aloud.

    A failure is a worker that died before it was ready or while it ran nothing; one that died in a job is that
    job's affair. Any finished job shows that workers work, and starts the count anew. Those that were killed from
    outside may be many at once and mean nothing, and what the system has no room for today it may have in a moment; so
    these alone are reason to give up only after `patience` seconds.
    """

    def __init__(self, limit: int, period: float, patience: float) -> None:
        self.limit = limit
        self.period = period
        self.patience = patience
        self._failures: deque[float] = deque()
        self._own_failures = 0  # of these, not by SIGKILL
        self._since: float | None = None  # the first failure after a success

    def succeeded(self) -> None:
        """A job has finished."""
        if self._since is not None:
            self._failures.clear()
            self._own_failures = 0
            self._since = None

    def failed(self, now: float, *, killed: bool) -> bool:
        """A worker failed; `killed`: from outside, or it could not even be started. True: give up."""
        if self._since is None:
            self._since = now
        self._own_failures += not killed
        self._failures.append(now)
        while self._failures and self._failures[0] <= now - self.period:
            self._failures.popleft()
        if len(self._failures) <= self.limit:
            return False
        return self._own_failures > self.limit or now - self._since >= self.patience


class Rung(StrEnum):
    """The rungs of the way out, gentlest first; a report names the one each worker needed."""

    PILL = "pill"  # it took a poison pill and left
    TERMINATED = "terminated"
    KILLED = "killed"
    DIED = "died"  # it was gone before it was asked
    UNKILLABLE = "unkillable"  # not gone in time after SIGKILL: stuck in the kernel


PILL_GRACE_S = 5.0  # for a worker's own exit: finalizers, queue feeders; as OTP's default for a child
TERMINATE_GRACE_S = 0.5  # SIGTERM's default action is immediate; this is for handlers that a job installed
KILL_GRACE_S = 2.0  # the kernel needs this long only to free very much memory


class StopLadder:
    """When to send what while an engine stops. Tells at most one new rung a call.

    Phases: ``drain`` (accepted jobs finish), ``pill``, ``terminate``, ``kill``, ``gone``. Without a deadline the
    drain has no bound; with one, drain and pill end at it, and what follows has only its own short grace.
    """

    def __init__(self) -> None:
        self.phase = "drain"
        self.deadline: float | None = None
        self._until = float("inf")

    def hurry(self, deadline: float) -> None:
        """Some caller of shutdown cannot wait longer than this."""
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline
            self._until = min(self._until, deadline) if self.phase != "kill" else self._until

    def next_phase(self, now: float, *, drained: bool, alive: int) -> str | None:
        """The phase to enter now, or None to go on waiting in this one."""
        if alive == 0 and (drained or self.phase != "drain"):
            return self._enter("gone", now, 0.0) if self.phase != "gone" else None
        late = self.deadline is not None and now >= self.deadline
        if self.phase == "drain":
            if drained:
                return self._enter("pill", now, PILL_GRACE_S)
            return self._enter("terminate", now, TERMINATE_GRACE_S) if late else None
        if now < self._until:
            return None
        if self.phase == "pill":
            return self._enter("terminate", now, TERMINATE_GRACE_S)
        if self.phase == "terminate":
            return self._enter("kill", now, KILL_GRACE_S)
        if self.phase == "kill":
            return self._enter("gone", now, 0.0)
        return None

    def _enter(self, phase: str, now: float, grace: float) -> str:
        self.phase = phase
        self._until = now + grace
        if self.deadline is not None and phase == "pill":
            self._until = min(self._until, self.deadline)
        return phase

    def wakeup(self) -> float | None:
        """When to ask again, if nothing happens before."""
        if self.phase == "drain":
            return self.deadline
        return None if self.phase == "gone" else self._until
