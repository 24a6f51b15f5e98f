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
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator

from mpengine.core.ledger import Ledger
from mpengine.core.records import Record
from mpengine.runtime.clock import monotonic
from mpengine.runtime.outbox import Outbox


class Express:
    """See the module's text. `send` is called under the admission's lock."""

    def __init__(self, ledger: Ledger, outbox: Outbox) -> None:
        self._ledger = ledger
        self._books = ledger.books
        self._outbox = outbox
        self._lock = threading.Lock()
        self._sent: dict[int, Record] = {}  # by batch; until they are in the books
        self._lane: deque[tuple[Record, int, float, list[int]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._lane)

    def send(self, record: Record, admitted: int) -> bool:
        """Put the job on the short way, if that is open: all jobs admitted before, so many, must have ended.

        The order of the two looks matters: when the books know of all of them, none can become open again.
        """
        if self._books.accepted != admitted or self._books.open or not self._ledger.workers:
            return False
        if record.context is not None or record.payload is None:
            return False  # they may be over before they begin, which is for the ledger to say
        seq = self._ledger.next_seq()
        ticket = self._outbox.inline_ticket(seq, record)
        if ticket is None:
            return False
        written: list[int] = []
        with self._lock:
            self._sent[seq] = record
            self._lane.append((record, seq, monotonic(), written))
            try:
                written.extend(map(os.write, (self._outbox.queue.write_fd,), (ticket,)))
            except BlockingIOError:
                pass  # full of batches that nobody takes: the dispatcher will see to it
        return True

    def take(self) -> Iterator[tuple[Record, int, float, bool]]:
        """What is in the lane: record, batch, when it was put there, whether its ticket was written."""
        while self._lane:
            with self._lock:
                record, seq, at, written = self._lane.popleft()
            yield record, seq, at, bool(written)
            del self._sent[seq]

    def record_of(self, seq: int) -> Record | None:
        """The job of a batch that is not in the books yet; None if it is, or never was on the short way. Any thread."""
        return self._sent.get(seq)
