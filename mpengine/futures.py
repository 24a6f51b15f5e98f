"""`JobFuture`: a `concurrent.futures.Future` that knows its job and its outcome.

It differs from its base in what it costs:

- Its condition is made when somebody asks for it: a caller that waits where it cannot be answered directly, `wait`,
  `as_completed`, a callback.
- Who decides, cancel or start, and whose value it is, the dispatcher's or an attendant's (`runtime/answers.py`), is
  settled without a lock: `setdefault` of a dict is one step.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from mpengine.core.job import Job, Outcome, Status
from mpengine.errors import InternalError
from mpengine.runtime.clock import monotonic
from mpengine.wire import codec

if TYPE_CHECKING:
    from mpengine.core.records import Record
    from mpengine.runtime.answers import Answers

logger = logging.getLogger("mpengine")

_PENDING = "PENDING"
_RUNNING = "RUNNING"
_FINISHED = "FINISHED"
_CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
_CANCELLED = ("CANCELLED", _CANCELLED_AND_NOTIFIED)
_DONE = (*_CANCELLED, _FINISHED)
_NOTHING = object()

# Held while a condition is made, and while a future without one is resolved. Whoever has a future's condition relies
# on its state not changing meanwhile, so it must not change beside a condition that is just being made.
_making = threading.Lock()


class Desk(Protocol):
    """What a future asks of its engine. Any thread."""

    answers: Answers

    def request_cancel(self, record: Record, running: bool) -> None:
        """Give this job up."""

    def is_own_thread(self) -> bool:
        """Whether this is the dispatcher thread, in a callback."""

    def somebody_waits(self) -> None:
        """For an outcome, in a way that only the dispatcher can serve."""


class JobFuture(concurrent.futures.Future[Any]):
    """What `submit` and `dispatch` return.

    Attributes:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        # Not super().__init__(), which makes a condition: see the module's text. These are the base's names.
        self._state = _PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Any], None]] = []
        self.job = job
        self._outcome: Outcome | None = None
        self._desk: Desk | None = None  # these three are set by the engine
        self._record: Record | None = None
        self._batch = 0  # on the short way: the number of its batch

    def __getattr__(self, name: str) -> Any:
        # Of what the base has, only the condition is ever missing.
        if name != "_condition":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _making:
            condition = self.__dict__.setdefault("_condition", threading.Condition())
        desk = self._desk
        if desk is not None and self._batch:
            desk.somebody_waits()
        return condition

    # ---- for its owner ---------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has ended. Takes no lock, as the two below."""
        return self._state in _DONE

    def running(self) -> bool:
        """Whether it was sent to a worker and has not ended."""
        return self._state == _RUNNING

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state in _CANCELLED

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the value and return it, or raise the job's error. As in `Future`."""
        try:
            if self._batch and self._state == _RUNNING:
                timeout = self._attend(timeout)
            if self._state != _FINISHED or self._exception is not None:
                error = super().exception(timeout)
                if error is not None:  # not `if error`, as in `Future`: it may be one that is false
                    raise error
            return self._result
        finally:
            error = None
            del self  # an exception's traceback holds this frame; as in `Future`

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return the job's error, or None. As in `Future`."""
        if self._batch and self._state == _RUNNING:
            timeout = self._attend(timeout)
        return super().exception(timeout)

    def _attend(self, timeout: float | None) -> float | None:
        """Wait where the worker answers directly; returns what is left of the time."""
        desk = self._desk
        if desk is None or "_condition" in self.__dict__:
            return timeout  # others wait, too: the dispatcher serves them all
        if timeout is None:
            desk.answers.attend(self, self._batch, None)
            return None
        until = monotonic() + timeout
        desk.answers.attend(self, self._batch, timeout)
        return max(0.0, until - monotonic())

    def outcome(self, timeout: float | None = None) -> Outcome:
        """Wait for the outcome and return it; never raises for what happened to the job.

        Raises:
            TimeoutError: It did not end within `timeout` seconds.
        """
        if self._outcome is None:
            desk = self._desk
            if desk is not None and desk.is_own_thread() and self.was_taken():
                return self._outcome_by_state()  # in a callback: this very thread would have to tell it
            with self._condition:
                told = self._condition.wait_for(self._is_told, timeout)
            if not told:
                raise TimeoutError(f"job {self.job.id!r} has no outcome after {timeout:g} s; wait longer or cancel it")
        if self._outcome is None:
            # Cancelled a moment ago, and the dispatcher has not told the job's end yet; or a user resolved it.
            return self._outcome_by_state()
        return self._outcome

    def _is_told(self) -> bool:
        return self._outcome is not None or (self.done() and not self.was_taken())

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
        cancelled = self.__dict__.setdefault("_first", "cancel") == "cancel" and super().cancel()
        desk, record = self._desk, self._record
        if (cancelled or running) and desk is not None and record is not None:
            desk.request_cancel(record, running)
        # By now it may have ended: by itself, or by this very request.
        return cancelled or (running and (not self.done() or self.cancelled()))

    # ---- for an attendant --------------------------------------------------------------------------------------------

    def take(self, blob: bytes) -> bool:
        """Bring this pickled value; False: the dispatcher does that, or has to say what is wrong with it.

        Resolves the future only while nobody else waits for it: waiters and callbacks are the dispatcher's to tell,
        whom no KeyboardInterrupt meets half-way.
        """
        if "_condition" in self.__dict__:
            return False
        try:
            value = codec.loads(blob)
        except Exception:
            return False
        if self.__dict__.setdefault("_value", value) is not value:
            return False
        with _making:
            if "_condition" not in self.__dict__ and self._state == _RUNNING:
                self._result = value
                self._state = _FINISHED
        return True

    def was_taken(self) -> bool:
        """Whether an attendant has brought its value."""
        return self.__dict__.get("_value", _NOTHING) is not _NOTHING

    # ---- for the dispatcher: the sink of a record --------------------------------------------------------------------

    def offered(self) -> tuple[Any] | None:
        """The value, if an attendant has brought it here; else none will from now on."""
        value = self.__dict__.setdefault("_value", _NOTHING)
        return None if value is _NOTHING else (value,)

    def is_quiet(self) -> bool:
        """Whether nobody waits for it, unless it be an attendant."""
        return "_condition" not in self.__dict__

    def start(self, record: Record) -> bool:
        """The record is about to be sent, and can no longer be cancelled for free; False: it was cancelled."""
        if self.__dict__.setdefault("_first", "start") == "cancel":
            return False
        if self._state == _PENDING:
            self._state = _RUNNING
        return True  # perhaps a further attempt; or a user has resolved it, whose job runs nonetheless

    def settle(self, record: Record, outcome: Outcome) -> None:
        """Resolve. Called once, by the dispatcher thread.

        Done-callbacks that raise are logged by `Future` itself; the user may have cancelled or resolved the future.
        """
        desk = self._desk
        self._outcome = outcome
        self._desk = None
        self._record = None
        taken = self.offered() is not None
        cancelled = self.__dict__.setdefault("_first", "start") == "cancel"  # in time, or its outcome would be another
        callbacks = False
        if cancelled or outcome.status is Status.CANCELLED:
            callbacks = self._settle_cancelled()
        elif self._state == _FINISHED:
            if taken:
                self._notify()  # those who wait for the outcome
            else:
                logger.warning("the future of job %r had been resolved by someone else; its outcome is %s",
                               self.job.id, outcome.status)  # fmt: skip
        elif outcome.error is None and outcome.status is not Status.SUCCEEDED:
            raise InternalError(f"job {self.job.id!r} is {outcome.status} without an error; please report this")
        else:
            callbacks = self._resolve(outcome.value, outcome.error)
        if desk is not None and self._batch:
            desk.answers.resolved(self)  # before the callbacks: they may wait for what its attendant does next
        if callbacks:
            self._invoke_callbacks()

    def _resolve(self, value: Any, error: BaseException | None) -> bool:
        """Give it its result; returns whether it has a condition, and so perhaps callbacks."""
        with _making:
            if "_condition" not in self.__dict__:
                self._result, self._exception = value, error
                self._state = _FINISHED
                return False
        with self._condition:
            if self._state == _FINISHED:
                return False  # by a user, in this moment
            self._result, self._exception = value, error
            self._state = _FINISHED
            for waiter in self._waiters:
                waiter.add_result(self) if error is None else waiter.add_exception(self)
            self._condition.notify_all()
        return True

    def _notify(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _settle_cancelled(self) -> bool:
        """To CANCELLED_AND_NOTIFIED from wherever it is; a running job may be cancelled here, unlike in `Future`.

        Returns whether callbacks are to be called.
        """
        with self._condition:
            if self._state in (_FINISHED, _CANCELLED_AND_NOTIFIED):
                return False
            told = self._state == "CANCELLED"  # by Future.cancel, which called the callbacks already
            self._state = _CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        return not told
