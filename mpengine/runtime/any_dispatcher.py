"""What all dispatchers have in common, wherever their workers are."""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.ids import OpenIds
from mpengine.core.records import Record
from mpengine.errors import EngineClosed
from mpengine.observing import JobAccepted, Observation, Observer, Observers
from mpengine.runtime.clock import monotonic
from mpengine.runtime.inbox import Inbox

if TYPE_CHECKING:
    from mpengine.core.books import Books
    from mpengine.core.job import Job
    from mpengine.functions import KnownFunction
    from mpengine.options import Options
    from mpengine.runtime.admission import Gate
    from mpengine.runtime.answers import Answers
    from mpengine.runtime.stopping import ShutdownReport

logger = logging.getLogger("mpengine")

CANCELLED = "its future was cancelled"
_LATE = (do.Settle, do.Forget, do.Kill)  # of the actions: these can wait for the others


class _Known(Protocol):
    def get(self, fn: Any) -> KnownFunction | None:
        """What is known of a function that crosses once; None: it goes with each job."""


class _Ledger(Protocol):
    def handle(self, event: Any, now: float) -> Sequence[Any]: ...


class AnyDispatcher(ABC):
    """One thread that moves jobs: events to a ledger, its actions to those who do them. See `runtime.dispatcher`.

    Attributes:
        admission: For any thread: how jobs get in.
        answers: Where a thread may wait for a worker's direct answer, for futures that have a batch of their own.
        books: To read in; only the ledger writes.
        closed: Set when every worker is gone and the thread ends.
        functions: Those that cross once.
        ids: Of open jobs; any thread adds, the dispatcher's removes.
        observers: Any thread may ask whether there are any.
        post: Leave something for the thread to take. Any thread.
        report: Of the shutdown, when that is over.
    """

    admission: Gate
    answers: Answers
    books: Books
    functions: _Known
    _ledger: _Ledger
    _thread: threading.Thread
    _doers: dict[type, Callable[[Any], None]]  # of the ledger's actions

    def __init__(self, options: Options) -> None:
        self.pid = os.getpid()
        self.name = options.name
        self.started_at = monotonic()
        self.closed = threading.Event()
        self.report: ShutdownReport | None = None
        self.ids = OpenIds()
        self.observers = Observers(options.observers)
        self._inbox = Inbox()
        self.post = self._inbox.post
        self._failed = options.failed
        self._events: deque[Any] = deque()
        self._ended: deque[do.Settle | do.EndCalls] = deque()  # and not delivered
        self._telling = False
        self._joiners: list[threading.Event] = []
        self._wake_at: float | None = None  # when there is something to do, if nothing happens before

    # ---- any thread ------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many jobs it can run at once."""

    @abstractmethod
    def pack(self, job: Job, *, again: bool) -> bytes:
        """Pickle a call. `again`: it may be run more than once, and is to find its arguments as they were."""

    @abstractmethod
    def catch_up(self) -> None:
        """Wait until the books know what their owners know."""

    @abstractmethod
    def request_cancel_call(self, call: Any, running: bool) -> None:
        """For a future that has no record."""

    @abstractmethod
    def somebody_waits(self) -> None:
        """For the outcome of a job on the short way: the thread must not sleep lightly now."""

    @abstractmethod
    def interim_report(self) -> ShutdownReport:
        """What a shutdown has come to so far."""

    def is_own_thread(self) -> bool:
        """Whether the caller is the dispatcher thread, inside a callback."""
        return threading.get_ident() == self._thread.ident

    def join(self, timeout: float | None) -> bool:
        """Wait until no accepted job is open."""
        drained = threading.Event()
        self.post(lambda: self._joiners.append(drained))
        return self.closed.is_set() or drained.wait(timeout)

    def _do(self, what: Callable[[], None]) -> None:
        """Have the dispatcher thread do this, and wait until it has. When that has ended, it may be left undone."""
        if self.is_own_thread():
            what()
            return
        done = threading.Event()

        def do_it() -> None:
            what()
            done.set()

        self.post(do_it)
        if not self.closed.is_set():
            done.wait()

    def observe(self, observer: Observer) -> Observation:
        """See `Engine.observe`."""
        observation = Observation(observer, self._end_observation)
        if self.is_own_thread():
            # In a callback, perhaps one that is told of a job which the books hold no more, or not yet: it begins when
            # that is over. What the callback submits from here on is told.
            self.observers.looking = True
            self.post(lambda: self._begin_observation(observation))
            return observation
        self._do(lambda: self._begin_observation(observation))
        if self.closed.is_set():
            raise EngineClosed(f"{self.name} is closed: there is nothing left to observe")
        return observation

    def _begin_observation(self, observation: Observation) -> None:
        if not self.closed.is_set():
            self.observers.add(observation, self._workers_there(), list(self.books.records()))

    @abstractmethod
    def _workers_there(self) -> Sequence[tuple[int, float, float | None]]:
        """For observers: pid, when it was started, and when it was ready."""

    def _end_observation(self, observation: Observation) -> None:
        if self.pid == os.getpid():
            self._do(lambda: self.observers.remove(observation))

    def request_cancel(self, record: Record, running: bool) -> None:
        """For a future."""
        self.post(ev.CancelRequested(record, CANCELLED, running))

    def context_cancelled(self, context: object, reason: str) -> None:
        """As a context's listener."""
        self.post(ev.ContextCancelled(context, reason))  # type: ignore[arg-type]

    # ---- the loop --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.observers.state("open", self.started_at)
            while self.report is None:
                self._turn()
        except BaseException as error:  # our bug: everything that waits fails with it at once
            self._fail(error)
        finally:
            self._end()

    @abstractmethod
    def _turn(self) -> None:
        """Sleep until there is something, take it, do what it asks for, deliver what has ended."""

    def _accepted(self, event: ev.Accepted) -> None:
        if self.observers:
            now = monotonic()
            for entry in event.entries:
                if isinstance(entry, Record):
                    self.observers.emit(JobAccepted(entry.job, now))
        self._tell(event)

    def _tell(self, event: Any) -> None:
        """Tell the ledger and do what it asks; what comes of that is told in turn."""
        self._events.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._events:
                actions = self._ledger.handle(self._events.popleft(), monotonic())
                late = []
                for action in actions:  # workers first: a slow callback must not keep them idle
                    kind = type(action)
                    if kind in _LATE:
                        late.append(action)
                    else:
                        self._doers[kind](action)
                for action in late:
                    self._doers[type(action)](action)
        finally:
            self._telling = False

    def _tell_retried(self, action: do.Retried) -> None:
        if self.observers:
            self.observers.retried(action, monotonic())

    def _settle(self, action: do.Settle) -> None:
        record, outcome = action.record, action.outcome
        if self.observers:
            self.observers.finished(record, outcome, monotonic())
        self.ids.release(record)
        if self._failed is not None and outcome.error is not None:
            self._failed(record.job.id, outcome.error)
        self._ended.append(action)

    def _deliver(self) -> None:
        """Tell the owners what has ended. Their callbacks run here, and may be the end of more."""
        while self._ended:
            action = self._ended.popleft()
            try:
                if isinstance(action, do.Settle):
                    action.record.sink.settle(action.record, action.outcome)
                else:
                    action.sink.ended(action.part)
            except Exception:
                count = 1 if isinstance(action, do.Settle) else action.part.count
                logger.exception("delivering the outcomes of %d jobs failed", count)

    def _tell_joiners(self) -> None:
        """No accepted job is open, or none ever will be."""
        while self._joiners:
            self._joiners.pop().set()

    # ---- the end -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def _fail(self, error: BaseException) -> None:
        """By a bug of ours: everything that waits fails with it."""

    @abstractmethod
    def _end(self) -> None:
        """The thread's last act: wake everyone, close everything."""

    def _say_closed(self) -> None:
        """The very last: nobody else uses the inbox any more."""
        self.observers.state("closed", monotonic())
        self.closed.set()
        for item in self._inbox.take():  # whoever asks later than this sees that it is closed
            if callable(item):
                item()
        self._tell_joiners()
