"""What an engine and its iterators need of a dispatcher, whether its workers are here or on the nodes of a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mpengine.core.ids import OpenIds
    from mpengine.core.job import Job
    from mpengine.core.pace import Pace
    from mpengine.core.records import Record
    from mpengine.functions import KnownFunction
    from mpengine.observing import Observation, Observer, Observers
    from mpengine.runtime.admission import Gate
    from mpengine.runtime.answers import Answers
    from mpengine.runtime.stopping import ShutdownReport


class _Paced(Protocol):
    @property
    def pace(self) -> Pace: ...


class _Known(Protocol):
    def get(self, fn: Any) -> KnownFunction | None:
        """What is known of a function that crosses once; None: it goes with each job."""


class AnyDispatcher(Protocol):
    """One thread that moves jobs. All of this is for any thread; see `runtime.dispatcher` for the meanings."""

    pid: int
    name: str
    closed: threading.Event
    report: ShutdownReport | None
    ids: OpenIds
    observers: Observers
    answers: Answers

    @property
    def post(self) -> Callable[[Any], None]: ...

    @property
    def admission(self) -> Gate: ...

    @property
    def books(self) -> _Paced: ...

    @property
    def functions(self) -> _Known: ...

    @property
    def slots(self) -> int:
        """How many jobs it can run at once."""

    def pack(self, job: Job, *, again: bool) -> bytes:
        """Pickle a call. `again`: it may be run more than once, and is to find its arguments as they were."""

    def is_own_thread(self) -> bool: ...

    def join(self, timeout: float | None) -> bool: ...

    def catch_up(self) -> None: ...

    def observe(self, observer: Observer) -> Observation: ...

    def request_cancel(self, record: Record, running: bool) -> None: ...

    def request_cancel_call(self, call: Any, running: bool) -> None: ...

    def somebody_waits(self) -> None: ...

    def context_cancelled(self, context: Any, reason: str) -> None: ...

    def interim_report(self) -> ShutdownReport: ...
