"""`JobFuture`: a `concurrent.futures.Future` that knows its job and its outcome.

It differs from its base in what it costs; `submit` makes hundreds of thousands of them a second:

- Its condition is made when somebody asks for it: a caller that waits where it cannot be answered directly, `wait`,
  `as_completed`, a callback. Its job and its outcome, too, where `submit` made it of a plain call.
- Who decides, cancel or start, is settled under one lock for all futures, so that the futures of a whole batch are
  started, or resolved, in one go. Whose value it is, the dispatcher's or an attendant's (`runtime/answers.py`), is
  settled without a lock: `setdefault` of a dict is one step.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from mpengine.core.job import Job, Outcome, Status
from mpengine.core.naming import id_text
from mpengine.core.verdicts import describe
from mpengine.errors import InternalError
from mpengine.outcomes import Times, failed_outcome, values_of
from mpengine.runtime.clock import monotonic
from mpengine.wire import codec

if TYPE_CHECKING:
    from mpengine.core.ids import OpenIds
    from mpengine.core.records import Record, Span, SpanEnd
    from mpengine.functions import KnownFunction
    from mpengine.runtime.answers import Answers

logger = logging.getLogger("mpengine")

_PENDING = "PENDING"
_RUNNING = "RUNNING"
_FINISHED = "FINISHED"
_CANCELLED = "CANCELLED"
_CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
_DONE = (_CANCELLED, _CANCELLED_AND_NOTIFIED, _FINISHED)
_NOTHING = object()
_MADE_LATE = ("_condition", "_waiters", "_done_callbacks")

# Held while a future is cancelled, started or resolved, and while a condition is made. Whoever has a future's condition
# relies on its state not changing meanwhile, so one that has a condition is resolved with both, the condition first.
# To be taken again by the thread that has it: a signal handler or a finalizer may come in between, and use a future.
_deciding = threading.RLock()
os.register_at_fork(after_in_child=_deciding._at_fork_reinit)  # type: ignore[attr-defined]  # whoever had it is gone


class Desk(Protocol):
    """What a future asks of its engine. Any thread."""

    answers: Answers
    ids: OpenIds

    def request_cancel(self, record: Record, running: bool) -> None:
        """Give this job up."""

    def request_cancel_call(self, call: JobFuture, running: bool) -> None:
        """The same, for one that has no record."""

    def is_own_thread(self) -> bool:
        """Whether this is the dispatcher thread, in a callback."""

    def somebody_waits(self) -> None:
        """For an outcome, in a way that only the dispatcher can serve."""


class JobFuture(concurrent.futures.Future[Any]):
    """What `submit` and `dispatch` return: a `concurrent.futures.Future` that knows its job and its outcome."""

    # Of a call that `submit` sends without a record, it is the `Call` that the ledger knows (core/records.py). It
    # has no job then, but function, arguments, and the number of its id.

    # The base's names, and ours, as they are in the beginning. Not super().__init__(): it makes a condition.
    _state = _PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _has_condition = False
    _outcome: Outcome | None = None
    _times: Times | None = None  # of a plain call that succeeded: what else there is to say of it, and where
    _place = 0
    _desk: Desk | None = None  # these three are set by the engine, if it has a record
    _record: Record | None = None
    _batch = 0  # on the short way: the number of its batch

    def __init__(
        self, job: Job | None, function: KnownFunction | None = None, args: tuple[Any, ...] = (), label: int = 0
    ) -> None:
        self._job = job
        self._function = function
        self.args = args
        self.label = label

    def __getattr__(self, name: str) -> Any:
        # Of what the base has, only the condition and what it guards are ever missing.
        if name not in _MADE_LATE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _deciding:
            if not self._has_condition:
                self._waiters: list[Any] = []
                self._done_callbacks: list[Callable[[Any], None]] = []
                self._condition = threading.Condition()
                self._has_condition = True
        desk = self._desk
        if desk is not None and self._batch:
            desk.somebody_waits()
        return self.__dict__[name]

    @property
    def job(self) -> Job:
        """The job."""
        job = self._job
        if job is None:
            assert self._function is not None
            job = Job.numbered(self._function.fn, self.args, self.label)
            with _deciding:
                others = self._job
                self._job = job = job if others is None else others
        return job

    @property
    def id(self) -> str:
        """Of its job."""
        return self.job.id if self._job is not None else id_text(self.label)

    # ---- for its owner ---------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has ended. Takes no lock, as the two below."""
        return self._state in _DONE

    def running(self) -> bool:
        """Whether it was sent to a worker and has not ended."""
        return self._state == _RUNNING

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state == _CANCELLED or self._state == _CANCELLED_AND_NOTIFIED

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the value and return it, or raise the job's error. As in `Future`."""
        if self._state == _FINISHED and self._exception is None:
            return self._result
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
        if desk is None or self._has_condition:
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
        if not self._has_outcome():
            desk = self._desk
            if desk is not None and desk.is_own_thread() and self.was_taken():
                return self._outcome_by_state()  # in a callback: this very thread would have to tell it
            with self._condition:
                told = self._condition.wait_for(self._is_told, timeout)
            if not told:
                raise TimeoutError(f"job {self.id!r} has no outcome after {timeout:g} s; wait longer or cancel it")
        if self._outcome is None and self._times is not None:
            self._outcome = self._times.outcome(self.job, self._place, self._result)
        if self._outcome is None:
            # Cancelled a moment ago, and the dispatcher has not told the job's end yet; or a user resolved it.
            return self._outcome_by_state()
        return self._outcome

    def _has_outcome(self) -> bool:
        return self._outcome is not None or self._times is not None

    def _is_told(self) -> bool:
        return self._has_outcome() or (self.done() and not self.was_taken())

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
        with _deciding:
            cancelled = self._state == _PENDING
            if cancelled:
                self._state = _CANCELLED
        if cancelled:
            if self._has_condition:
                with self._condition:
                    self._condition.notify_all()
                self._invoke_callbacks()
        elif self._state in _DONE:
            return self.cancelled()
        desk, record, function = self._desk, self._record, self._function
        if cancelled or running:
            if desk is not None and record is not None:
                desk.request_cancel(record, running)
            elif function is not None:
                function.desk.request_cancel_call(self, running)
        # By now it may have ended: by itself, or by this very request.
        return cancelled or (running and (not self.done() or self.cancelled()))

    # ---- for an attendant --------------------------------------------------------------------------------------------

    def take(self, blob: bytes) -> bool:
        """Bring this pickled value; False: the dispatcher does that, or has to say what is wrong with it.

        Resolves the future only while nobody else waits for it: waiters and callbacks are the dispatcher's to tell,
        whom no KeyboardInterrupt meets half-way.
        """
        if self._has_condition:
            return False
        try:
            value = codec.loads(blob)
        except Exception:
            return False
        if self.__dict__.setdefault("_value", value) is not value:
            return False
        with _deciding:
            # Looked at again: it may have got one while the value was being rebuilt.
            if self._state == _RUNNING and not self.__dict__.get("_has_condition"):
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
        return not self._has_condition

    def is_over_quietly(self) -> bool:
        """Whether an attendant has brought the value, and nobody else waits for anything."""
        return self._state == _FINISHED and not self._has_condition and self.offered() is not None

    def finished(self, at: float, started_at: float, duration: float, pid: int, peak: int) -> tuple[int, float]:
        """Of a lone plain call that is over quietly: what else there is to say of it.

        Returns the key of its function, and its duration.
        """
        function = self._function
        assert function is not None
        self._times = Times(at, (started_at, started_at + duration), pid, peak)
        self._desk = None
        function.desk.ids.release_calls([self])
        if self._has_condition:  # by now somebody waits for the outcome
            with self._condition:
                self._condition.notify_all()
        return function.key, duration

    def describe(self) -> str:
        """The job and its attempt, for messages."""
        record = self._record
        if record is not None:
            return describe(record, record.attempt + 1)
        return f"job {self.id!r} (`{self.job.name}`, attempt 1 of 1)"

    def start(self, record: Record | None) -> bool:
        """The record is about to be sent, and can no longer be cancelled for free; False: it was cancelled."""
        with _deciding:
            if self._state == _PENDING:
                self._state = _RUNNING
            return not self.cancelled()  # perhaps it runs by now, for this is a further attempt

    def settle(self, record: Record, outcome: Outcome) -> None:
        """Resolve. Called once, by the dispatcher thread.

        Done-callbacks that raise are logged by `Future` itself; the user may have cancelled or resolved the future.
        """
        desk = self._desk
        self._outcome = outcome
        self._desk = None
        self._record = None
        callbacks = self._end(outcome.status, outcome.value, outcome.error)
        if desk is not None and self._batch:
            desk.answers.resolved(self)  # before the callbacks: they may wait for what its attendant does next
        if callbacks:
            self._invoke_callbacks()

    def _end(self, status: Status, value: Any, error: BaseException | None) -> bool:
        """Come to an end, unless it has; returns whether callbacks are to be called."""
        if error is None and status is not Status.SUCCEEDED:
            raise InternalError(f"job {self.id!r} is {status} without an error; please report this")
        taken = bool(self._batch) and self.offered() is not None
        told = False
        with _deciding:
            quiet = not self._has_condition
            ended = quiet and self._end_once(status, value, error)
        if not quiet:
            with self._condition:
                told = self._state == _CANCELLED  # by `cancel`, which called the callbacks
                with _deciding:
                    ended = self._end_once(status, value, error)
                for waiter in self._waiters if ended else ():
                    if self._state == _CANCELLED_AND_NOTIFIED:
                        waiter.add_cancelled(self)
                    elif error is None:
                        waiter.add_result(self)
                    else:
                        waiter.add_exception(self)
                self._condition.notify_all()  # also those who wait for the outcome
        if not ended and self._state == _FINISHED and not taken:  # without a lock: a handler may use futures
            logger.warning("the future of job %r had been resolved by someone else; its outcome is %s", self.id, status)
        return ended and not quiet and not told

    def _end_once(self, status: Status, value: Any, error: BaseException | None) -> bool:
        """Take its last state, unless it has one. With the lock."""
        if self._state in (_FINISHED, _CANCELLED_AND_NOTIFIED):
            return False
        if self._state == _CANCELLED or status is Status.CANCELLED:  # also of a running job, unlike in `Future`
            self._state = _CANCELLED_AND_NOTIFIED
        else:
            self._result, self._exception = value, error
            self._state = _FINISHED
        return True


class FutureSink:
    """The futures of plain calls, as the sink of their spans. Dispatcher thread only."""

    def start_calls(self, span: Span) -> Sequence[JobFuture]:
        """They are about to be sent, and can no longer be cancelled for free; returns those that were."""
        futures = cast(Sequence[JobFuture], span.open_jobs)
        cancelled = []
        with _deciding:
            for future in futures:
                if future._state == _PENDING:
                    future._state = _RUNNING
                elif future.cancelled():
                    cancelled.append(future)
        return cancelled

    def ended(self, part: SpanEnd) -> None:
        """Resolve them."""
        futures = cast(Sequence[JobFuture], part.jobs)
        if part.error is not None:
            for future in futures:
                self._failed(future, part)
            return
        values, flags, times = values_of(part)
        everyone = range(len(futures))
        for index in self._resolve(futures, values, times) if flags is None else everyone:
            self._succeeded(
                futures[index], index, values[index], times, pickled=flags is not None and bool(flags[index])
            )

    def _succeeded(self, future: JobFuture, index: int, value: Any, times: Times, *, pickled: bool) -> None:
        if pickled:
            try:
                value = codec.loads(value)
            except BaseException as error:  # a user's object may raise anything while it is rebuilt
                codec.annotate(error, f"mpengine: the result of job {future.id!r} cannot be unpickled here")
                future._outcome = times.outcome(future.job, index, None, error)
                self._call_back(future, future._end(Status.FAILED, None, error))
                return
        future._place = index
        future._times = times
        self._call_back(future, future._end(Status.SUCCEEDED, value, None))

    @staticmethod
    def _resolve(futures: Sequence[JobFuture], values: list[Any], times: Times) -> list[int]:
        """Those that nobody waits for, all at once; returns where the others are."""
        others = []
        with _deciding:
            for index, future in enumerate(futures):
                if future._has_condition or future._state != _RUNNING:
                    others.append(index)
                    continue
                future._result = values[index]
                future._place = index
                future._times = times
                future._state = _FINISHED
        return others

    def _failed(self, future: JobFuture, part: SpanEnd) -> None:
        outcome = future._outcome = failed_outcome(part, future.job)
        self._call_back(future, future._end(outcome.status, None, outcome.error))

    @staticmethod
    def _call_back(future: JobFuture, wanted: bool) -> None:
        if wanted:
            future._invoke_callbacks()
