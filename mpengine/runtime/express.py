"""The short way for a job when nothing else is under way: its caller's thread puts the ticket into the queue itself.

A round trip is a chain of threads that wake each other, and waking one costs more than all the work in between. On the
short way the worker starts while the dispatcher still wakes up to enter the job into the books.

Rules:
1. A job is in the lane before its ticket is in the queue. So whoever learns of a batch that is not in the books, from a
   log, a board or a ticket taken back, empties the lane first, and then knows it.
2. Writing the ticket and noting that it was written are one call into C, between whose parts no KeyboardInterrupt can
   come: the note is never wrong. A job in the lane without the note is accepted as any other.
3. Only the dispatcher thread enters what is in the lane into the books; the lock keeps it from looking at a note while
   the ticket is being written.
4. A plain call (`lane`) has no record on this way. Most are over before the dispatcher looks, their values with those
   who waited for them: then nobody needs one, and all that the books learn of them is that they were (`finish`).
5. While one thread sends, waits and sends again, its answers come to it directly (`answers`), and the dispatcher, whose
   work would hold it up, lets the lane fill (`unhurried`): to `LANE_MOST` jobs, or for the time of a light sleep.
"""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, cast

from mpengine.core.ledger import Ledger
from mpengine.core.records import Record, Sink
from mpengine.runtime.clock import monotonic
from mpengine.runtime.outbox import Outbox
from mpengine.wire import messages as wire

LANE_MOST = 8  # more, and booking them holds up the next caller; fewer, and it is woken more often


class LoneSink(Sink, Protocol):
    """Where the outcome of a job on the short way goes: to a future. See `futures.JobFuture`."""

    @property
    def id(self) -> str:
        """The job's id."""

    def describe(self) -> str:
        """The job and its attempt, for messages."""

    def start(self, record: Record | None) -> bool:
        """The job is about to be sent; False: it was cancelled."""

    def was_taken(self) -> bool:
        """Whether an attendant (see `answers`) has the value: the job is over, be it that the books do not know yet."""

    def is_quiet(self) -> bool:
        """Whether nobody waits for it but, perhaps, an attendant."""

    def offered(self) -> tuple[Any] | None:
        """The value, if an attendant has taken it; else none will from now on."""

    def is_over_quietly(self) -> bool:
        """Whether an attendant has taken the value, and nobody else waits for anything."""

    def finished(self, at: float, started_at: float, duration: float, pid: int, peak: int) -> tuple[int, float]:
        """A plain call that an attendant has taken is over; returns its function's key, and its time."""


class Express:
    """See the module's text. `send` and `send_call` are called under the admission's lock.

    Args:
        record_of: Makes the record of a plain call.

    Attributes:
        unhurried: The dispatcher sleeps lightly, and will look at the lane soon without being woken.
    """

    def __init__(self, ledger: Ledger, outbox: Outbox, record_of: Callable[[LoneSink], Record]) -> None:
        self.unhurried = False
        self._ledger = ledger
        self._books = ledger.books
        self._outbox = outbox
        self._record_of = record_of
        self._lock = threading.Lock()
        self._sent: dict[int, LoneSink] = {}  # by batch; until they are in the books
        self._lane: dict[int, _Sent] = {}  # in the order in which they were sent
        # The last job that was sent, and how many were admitted with it. Weak: it is its owner's. When it is gone, the
        # books know of its end, for until then they hold it.
        self._last: weakref.ref[LoneSink] | None = None
        self._last_admitted = -1

    def __bool__(self) -> bool:
        return bool(self._lane)

    def is_open(self, admitted: int) -> bool:
        """Whether all jobs that were admitted, so many, have ended. Any thread; `send` looks again."""
        return bool(self._ledger.workers) and self._is_idle(admitted)

    def send(self, record: Record, admitted: int) -> int:
        """Put the job on the short way, if that is open: all jobs admitted before, so many, must have ended.

        Returns the number of its batch, or 0: it was not sent.
        """
        if not self.is_open(admitted):
            return 0
        if record.context is not None or record.deadline is not None or record.payload is None:
            return 0  # they may be over before they begin, which is for the ledger to say
        seq = self._ledger.next_seq()
        ticket = self._outbox.inline_ticket(seq, record)
        return 0 if ticket is None else self._send(cast(LoneSink, record.sink), record, seq, ticket, admitted)

    def send_call(self, sink: LoneSink, call: tuple[int | str, bytes, tuple[Any, ...]], admitted: int) -> int:
        """As `send`, for a plain call: the label of its id, its pickled function, its arguments."""
        if not self.is_open(admitted):
            return 0
        seq = self._ledger.next_seq()
        ticket = wire.TICKET.pack(seq, wire.CALL, 1, 0, 0) + pickle.dumps(call, 5)
        if len(ticket) > wire.PACKET_BYTES or not sink.start(None):
            return 0
        return self._send(sink, None, seq, ticket, admitted)

    def _send(self, sink: LoneSink, record: Record | None, seq: int, ticket: bytes, admitted: int) -> int:
        written: list[int] = []
        with self._lock:
            self._sent[seq] = sink
            self._lane[seq] = _Sent(sink, record, seq, monotonic(), written)
            try:
                written.extend(map(os.write, (self._outbox.queue.write_fd,), (ticket,)))
            except BlockingIOError:
                self.unhurried = False  # full of batches that nobody takes: the dispatcher will see to it
        self._last = weakref.ref(sink)
        self._last_admitted = admitted + 1
        return seq

    def _is_idle(self, admitted: int) -> bool:
        """The order of the looks matters: when the books know of all of them, none can become open again."""
        if self._books.accepted == admitted and not self._books.open:
            return True
        # All before the last had ended when that was sent.
        last = None if self._last is None else self._last()
        return last is not None and self._last_admitted == admitted and last.was_taken()

    def is_pressing(self, timeout: float | None) -> bool:
        """Whether the dispatcher is to be woken for a job that was just sent."""
        return not self.unhurried or timeout is not None or len(self._lane) >= LANE_MOST

    def take(self) -> Iterator[tuple[Record, int, float, bool]]:
        """What is in the lane: record, batch, when it was put there, whether its ticket was written."""
        while self._lane:
            with self._lock:
                sent = self._lane.pop(next(iter(self._lane)))
            record = self._record_of(sent.sink) if sent.record is None else sent.record
            yield record, sent.seq, sent.at, bool(sent.written)
            del self._sent[sent.seq]

    def finish(self, seq: int) -> tuple[LoneSink, float] | None:
        """If this batch is a plain call in the lane whose value somebody has: take it out for good.

        Returns whose it was, and when it was sent; None: it must go into the books.
        """
        sent = self._lane.get(seq)
        if sent is None or sent.record is not None or not sent.sink.is_over_quietly():
            return None
        with self._lock:
            del self._lane[seq]
        del self._sent[seq]
        return sent.sink, sent.at

    def may_be_left(self, seq: int) -> bool:
        """Whether this batch is a plain call in the lane that nobody waits for but, perhaps, an attendant."""
        sent = self._lane.get(seq)
        return sent is not None and sent.record is None and sent.sink.is_quiet()

    def is_quiet(self) -> bool:
        """Whether that is so for all that is in the lane."""
        return all(map(self.may_be_left, list(self._lane)))

    def sink_of(self, seq: int) -> LoneSink | None:
        """Of a batch that is not in the books yet; None if it is, or never was on the short way. Any thread."""
        return self._sent.get(seq)


class _Sent(NamedTuple):
    sink: LoneSink
    record: Record | None  # None: a plain call
    seq: int
    at: float
    written: list[int]
