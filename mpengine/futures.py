"""`JobFuture`: a `concurrent.futures.Future` that knows its job and its outcome."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpengine.core.job import Job, Outcome, Status
from mpengine.errors import InternalError

if TYPE_CHECKING:
    from mpengine.core.records import Record

logger = logging.getLogger("mpengine")

_PENDING = "PENDING"
_CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
_CANCELLED = ("CANCELLED", _CANCELLED_AND_NOTIFIED)


class JobFuture(concurrent.futures.Future[Any]):
    """What `submit` and `dispatch` return.

    Attributes:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self._outcome: Outcome | None = None
        self._cancel_job: Callable[[bool], None] | None = None  # set by the engine

    def outcome(self, timeout: float | None = None) -> Outcome:
        """Wait for the outcome and return it; never raises for what happened to the job.

        Raises:
            TimeoutError: It did not end within `timeout` seconds.
        """
        if not self.done() or self._outcome is None:
            done, _ = concurrent.futures.wait([self], timeout)
            if not done:
                raise TimeoutError(f"job {self.job.id!r} has no outcome after {timeout:g} s; wait longer or cancel it")
        if self._outcome is None:
            # Cancelled a moment ago, and the dispatcher has not told the job's end yet; or a user resolved it.
            return self._outcome_by_state()
        return self._outcome

    def _outcome_by_state(self) -> Outcome:
        if self.cancelled():
            return Outcome(self.job, Status.CANCELLED, error=concurrent.futures.CancelledError())
        error = self.exception(0)
        if error is not None:
            return Outcome(self.job, Status.FAILED, error=error)
        return Outcome(self.job, Status.SUCCEEDED, self.result(0))

    def cancel(self, *, running: bool = False) -> bool:
        """Give the job up.

        Without `running` as in `Future`: only while it waits; True means that it does not run. With `running=True`
        a job that has started, too: it is interrupted, and after the engine's `stop_grace` killed; then True means
        that this was asked for in time. Returns at once.
        """
        if self.done():
            return self.cancelled()
        cancelled = super().cancel()
        if (cancelled or running) and self._cancel_job is not None:
            self._cancel_job(running)
        # By now it may have ended: by itself, or by this very request.
        return cancelled or (running and (not self.done() or self.cancelled()))

    # ---- for the engine: the sink of a record ------------------------------------------------------------------

    def start(self, record: Record) -> bool:
        """The record is about to be sent, and can no longer be cancelled for free; False: it was cancelled."""
        if self._state == _PENDING:
            return self.set_running_or_notify_cancel()
        return self._state not in _CANCELLED  # a further attempt; or a user has resolved it, whose job runs nonetheless

    def settle(self, record: Record, outcome: Outcome) -> None:
        """Resolve. The only place that does; called once, by the dispatcher thread.

        Done-callbacks that raise are logged by `Future` itself; the user may have cancelled or resolved the future.
        """
        self._outcome = outcome
        self._cancel_job = None
        try:
            if outcome.status is Status.CANCELLED or self._state in _CANCELLED:
                self._settle_cancelled()
            elif outcome.error is not None:
                self._set(self.set_exception, outcome.error)
            elif outcome.status is Status.SUCCEEDED:
                self._set(self.set_result, outcome.value)
            else:
                raise InternalError(f"job {self.job.id!r} is {outcome.status} without an error; please report this")
        except concurrent.futures.InvalidStateError:
            logger.warning("the future of job %r had been resolved by someone else; its outcome is %s", self.job.id,
                           outcome.status)  # fmt: skip

    def _set(self, resolve: Callable[[Any], None], value: Any) -> None:
        if self._state == _PENDING and not self.set_running_or_notify_cancel():
            return
        resolve(value)

    def _settle_cancelled(self) -> None:
        """To CANCELLED_AND_NOTIFIED from wherever it is; a running job may be cancelled here, unlike in `Future`."""
        with self._condition:
            if self._state in ("FINISHED", _CANCELLED_AND_NOTIFIED):
                return
            told = self._state == "CANCELLED"  # by Future.cancel, which called the callbacks already
            self._state = _CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        if not told:
            self._invoke_callbacks()  # type: ignore[attr-defined]
