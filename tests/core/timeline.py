"""An engine in virtual time: real ledger, input and iterator; workers that only count the seconds their calls take.

    iterator ─ draws ─▶ source ─▶ ledger ─▶ FakeWorkers ─▶ workers, at work for as long as `durations` say ─▶ bells

What is left out is what a machine adds, and so a schedule is the same every time. The costs below stand for it, and are
small: what is judged is the schedule. Whoever waits for a result lets the time pass (`Timeline.step`).
"""

from __future__ import annotations

import heapq
import itertools
import queue
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from mpengine import drawing, streams
from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.ledger import Ledger
from mpengine.core.records import SpanEnd
from mpengine.runtime.dispatcher import _NAP_S, _SHORTEST_NAP_S, Dispatcher
from mpengine.runtime.outbox import MappedFunction
from mpengine.runtime.running import GROUP_S, MAX_GROUP, RING_S, SHORT_S
from mpengine.testing.fake_clock import FakeClock
from mpengine.testing.fake_workers import FakeWorker, FakeWorkers, Step
from mpengine.wire import codec
from tests.core.makers import KEY, STOP_GRACE_S

CLAIM_S = 30e-6  # a worker takes a batch and unpickles it
LOG_S = 1e-6  # ... makes a group of values safe
BELL_S = 50e-6  # from a worker's bell until the parent has read its log
WAKE_S = 50e-6  # from a batch in the queue until an idle worker has it
DRAW_S = 50e-6  # a lot is drawn, pickled and put


class Timeline:
    """See the module's text.

    Args:
        durations: Seconds that the call of each position takes.

    Attributes:
        ended: When each call had run to its end.
        arrived: When its value came out of the iterator.
    """

    def __init__(self, durations: Sequence[float], workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.durations = durations
        self.clock = FakeClock()
        self.begin = self.clock()
        self.ended: dict[int, float] = {}
        self.arrived: dict[int, float] = {}
        self.ledger = Ledger(stop_grace=STOP_GRACE_S, jitter=lambda: 0.5)
        self.fleet = FakeWorkers(self.ledger, self.clock, spy=self._spy)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._ties = itertools.count()
        self._nap_until = 0.0
        self._crew = [Crewman(self, self.fleet.start_worker()) for _ in range(workers)]
        monkeypatch.setattr(drawing, "monotonic", self.clock)

    # ---- the iterator --------------------------------------------------------------------------------------------

    def map(self, *, ordered: bool = True) -> float:
        """Map all calls, and hand out their values as fast as they come; returns the seconds it took."""
        positions = range(len(self.durations))
        source = drawing.CallSource(
            cast(Dispatcher, Parent(self)), MappedFunction("work", b"", star=False), KEY, iter(positions), sure=True,
            buffersize=None,
        )  # fmt: skip
        mailbox = source.mailbox
        put = mailbox.ended

        def ended(part: SpanEnd) -> None:
            assert part.report is not None
            part.report.value = [codec.dump_values(list(part.report.value), None)]
            put(part)

        def receive(timeout: float | None) -> Any:
            while mailbox.empty():
                if not self.step():
                    raise queue.Empty
            return mailbox._mail.get_nowait()

        monkeypatched = cast(Any, mailbox)
        monkeypatched.ended, monkeypatched.receive = ended, receive
        stream = streams.MapStream(source, ordered=ordered, deadline=None, counts_each=False)
        for values, _ in stream.chunks():
            self.arrived.update(dict.fromkeys(values, self.clock()))
        assert len(self.arrived) == len(self.durations)
        return max(self.ended.values()) - self.begin

    def admit(self, entries: list[Any]) -> None:
        self.clock.advance(DRAW_S)
        self.fleet.tell(ev.Accepted(entries))
        self._nap()
        self._start_idle(self.clock())
        while self._events and self._events[0][0] <= self.clock():  # the parent's other thread does not wait for this
            self.step()

    # ---- the time ------------------------------------------------------------------------------------------------

    def at(self, when: float, do_it: Callable[[float], None]) -> None:
        """Do that then; it is told the time it was planned for."""
        heapq.heappush(self._events, (when, next(self._ties), do_it))

    def step(self) -> bool:
        """Let time pass until the next thing happens; False: nothing will."""
        due = self.ledger.next_wakeup()
        if due is not None and (not self._events or due <= self._events[0][0]):
            self.clock.advance_to(due)
            self.fleet.wake()
            self._nap()
        elif self._events:
            when, _, do_it = heapq.heappop(self._events)
            self.clock.advance_to(when)
            do_it(when)
        else:
            return False
        self._start_idle(self.clock())
        return True

    def ring(self, worker: FakeWorker, now: float) -> None:
        self.at(max(now, self._nap_until) + BELL_S, lambda _: self._answer(worker))

    def _answer(self, worker: FakeWorker) -> None:
        self.fleet.collect(worker)
        self._nap()

    def _nap(self) -> None:
        """As `Dispatcher._turn`."""
        nap_s = min(_NAP_S, self.ledger.slack(self.clock()))
        self._nap_until = self.clock() + nap_s if nap_s >= _SHORTEST_NAP_S else 0.0

    def _start_idle(self, now: float) -> None:
        for _, man in zip(self.fleet.queue, [man for man in self._crew if man.waits], strict=False):
            man.waits = False
            self.at(now + WAKE_S, man.go_on)

    def _spy(self, event: ev.Event, actions: Sequence[do.Action]) -> None:
        for action in actions:
            if isinstance(action, do.Flush):
                man = self._crew[action.worker - 1]
                man.group_left = 1
                self._nap_until = 0.0  # the parent is awake, and stays so for the answer
                self.ring(man.worker, self.clock())


class Crewman:
    """Steps a fake worker through its calls, and logs and rings as `runtime.running` does."""

    def __init__(self, timeline: Timeline, worker: FakeWorker) -> None:
        self.worker = worker
        self.waits = True
        self.group = 1  # calls, after which it looks at the time
        self.group_left = 1  # ... until the next time
        self._timeline = timeline
        self._began = 0.0  # the group
        self._since = 0.0  # ... the first whose values are not logged
        self._last_ring = 0.0

    def go_on(self, now: float) -> None:
        """Go on until something takes time."""
        worker, timeline = self.worker, self._timeline
        while True:
            at = worker.at
            if at is Step.IDLE:
                worker.step()
                if worker.at is Step.IDLE:
                    self.waits = True
                    return
                now += CLAIM_S
                self._since = now
                self._begin_group(now)
                timeline.at(now, self.go_on)
                return
            if at is Step.RUNNING:
                now = self._end_call(now)
                continue
            if at is Step.LEAVING:
                worker.duration = max(1e-9, now - self._since)
                while worker.at is Step.LEAVING:
                    worker.step()
                self._ring(now)
                continue
            worker.step()
            if worker.at is Step.RUNNING:
                timeline.at(now + timeline.durations[self._position()], self.go_on)
                return

    def _position(self) -> int:
        item = self.worker.item
        assert isinstance(item, tuple)
        return item[1]

    def _begin_group(self, now: float) -> None:
        self.group_left = self.group
        self._began = now

    def _end_call(self, now: float) -> float:
        worker = self.worker
        position = self._position()
        assert position not in self._timeline.ended, f"call {position} ran twice"
        self._timeline.ended[position] = now
        worker.step()
        self.group_left -= 1
        if self.group_left > 0 and worker.at is not Step.LEAVING:
            return now
        if worker.at is Step.LEAVING:
            return now
        if now - self._last_ring > RING_S:
            worker.log_held(max(1e-9, now - self._since))
            self._since = now
            self._ring(now)
        seconds = max(1e-9, (now - self._began) / (self.group - self.group_left))
        bound = GROUP_S if seconds < SHORT_S else RING_S
        self.group = max(1, min(MAX_GROUP, 2 * self.group, int(bound / seconds)))
        now += LOG_S
        self._begin_group(now)
        return now

    def _ring(self, now: float) -> None:
        self._last_ring = now
        self._timeline.ring(self.worker, now)


class Parent:
    """What a source knows of a dispatcher."""

    def __init__(self, timeline: Timeline) -> None:
        self.books = timeline.ledger.books
        self.admission = self
        self.slots = len(timeline.ledger.workers)
        self.post = timeline.fleet.tell
        self._timeline = timeline

    def admit(self, entries: list[Any], jobs: int, *, block: bool) -> None:
        self._timeline.admit(entries)

    def finish_function(self, fn: MappedFunction) -> None:
        """The map is over."""


def greedy(durations: Sequence[float], workers: int) -> float:
    """Seconds that it takes if each call goes, in the order given, to the worker that is free first, at no cost."""
    free_at = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)
