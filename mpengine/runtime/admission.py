"""Who gets in: takes jobs from any thread, blocks them above `max_pending`, and refuses them when the engine closes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mpengine.core import events as ev
from mpengine.core.records import Entry, Record, Span
from mpengine.errors import EngineBroken, EngineClosed
from mpengine.runtime.express import Express, LoneSink
from mpengine.runtime.inbox import Inbox
from mpengine.runtime.lane import Lane


class Tally(Protocol):
    """Keeps the count of the jobs that were let in, ever."""

    admitted: int


class Gate:
    """What every engine has: jobs come in by one way. All methods may be called from any thread.

    Args:
        waiting: How many of the jobs admitted, whose number it gets, have not started.

    Attributes:
        broken: Why the engine is broken, if it is.
    """

    def __init__(
        self, name: str, inbox: Inbox, tally: Tally, max_pending: int | None, waiting: Callable[[int], int]
    ) -> None:  # fmt: skip
        self._tally = tally
        self.broken: EngineBroken | None = None
        self._name = name
        self._inbox = inbox
        self._max_pending = max_pending
        self._waiting = waiting
        self._closed = False
        # Guards the counts, and the order of the inbox: what is let in is posted before the shutdown that ends it.
        self._gate = threading.Condition(threading.Lock())

    def admit(self, entries: Sequence[Entry], jobs: int, *, block: bool) -> None:
        """Let jobs in; with `block` as soon as there is room.

        Raises:
            EngineClosed: After the shutdown, or while waiting for room.
            EngineBroken: Workers cannot be kept alive.
        """
        with self._gate:
            if block and self._max_pending is not None:
                self._gate.wait_for(self._has_room)
            self.check_open()
            self._let_in(entries, jobs)

    def admit_one(self, record: Record, *, block: bool) -> int:
        """Let one job in; returns its batch if it is sent already, else 0. As `admit`."""
        self.admit([record], 1, block=block)
        return 0

    def _let_in(self, entries: Sequence[Entry], jobs: int) -> None:
        """With the lock."""
        self._tally.admitted += jobs
        self._inbox.post_work(ev.Accepted(entries))

    def check_open(self) -> None:
        """Raise EngineBroken or EngineClosed if nobody is let in."""
        if self.broken is not None:
            raise EngineBroken(str(self.broken)) from self.broken.__cause__
        if self._closed:
            raise EngineClosed(f"cannot schedule new futures after shutdown of {self._name}; make a new Engine")

    def _has_room(self) -> bool:
        if self._closed or self.broken is not None:
            return True
        return self._max_pending is None or self._waiting(self._tally.admitted) < self._max_pending

    def jobs_moved_on(self) -> None:
        """Some may have started or ended: those who wait for room look again."""
        if self._max_pending is not None:
            with self._gate:
                self._gate.notify_all()

    def close(self, request: object = None) -> None:
        """Let nobody in from now on; then post the request."""
        with self._gate:
            self._close_ways()
            self.close_soon(request)
            self._gate.notify_all()

    def close_soon(self, request: object = None) -> None:
        """As `close`, without the lock: for finalizers, which run in whatever thread collects garbage."""
        self._closed = True
        if request is not None:
            self._inbox.post(request)

    def break_with(self, error: EngineBroken) -> None:
        """Let nobody in, for this reason."""
        with self._gate:
            self._close_ways()
            self.broken = error
            self._gate.notify_all()

    def _close_ways(self) -> None:
        """Other ways in, if there are any. With the lock."""


class Admission(Gate):
    """Of a local engine: there are two short ways in besides."""

    def __init__(
        self, name: str, inbox: Inbox, express: Express, lane: Lane, max_pending: int | None,
        waiting: Callable[[int], int],
    ) -> None:  # fmt: skip
        super().__init__(name, inbox, lane, max_pending, waiting)
        self._express = express
        self._lane = lane

    def admit_one(self, record: Record, *, block: bool) -> int:
        """Let one job in, by the short way if that is open. As in `Gate`."""
        if block and self._max_pending is not None:
            self.admit([record], 1, block=True)
            return 0
        with self._gate:
            self.check_open()
            self._post_lane()
            seq = self._express.send(record, self._tally.admitted) if block else 0
            self._tally.admitted += 1
            if not seq:
                self._inbox.post_work(ev.Accepted([record]))
            elif self._express.is_pressing(record.timeout):
                self._inbox.wake()
            return seq

    def admit_call(self, future: LoneSink, call: tuple[int | str, bytes, tuple[Any, ...]]) -> int:
        """Let a plain call in by the short way, if that is open; else returns 0: nothing was done."""
        with self._gate:
            if self._closed or self.broken is not None or self._lane.calls:
                return 0
            seq = self._express.send_call(future, call, self._tally.admitted)
            if seq:
                self._tally.admitted += 1
                if self._express.is_pressing(None):
                    self._inbox.wake()
            return seq

    def take_lane(self) -> list[Span]:
        """What has come through the lane. For the dispatcher."""
        with self._gate:
            spans, jobs = self._lane.take()
            self._tally.admitted += jobs
            return spans

    def _let_in(self, entries: Sequence[Entry], jobs: int) -> None:
        self._post_lane()
        super()._let_in(entries, jobs)

    def _post_lane(self) -> None:
        """What came through the lane was first."""
        if self._lane.calls:
            spans, jobs = self._lane.take()
            super()._let_in(spans, jobs)

    def close_soon(self, request: object = None) -> None:
        """As in `Gate`."""
        self._lane.closed = True
        super().close_soon(request)

    def _close_ways(self) -> None:
        self._lane.closed = True
        self._post_lane()
