"""Where results of a `map` or `run` wait for their consumer: the sink the ledger knows.

Apart from the iterator that owns it, which the ledger must not know: an iterator that is dropped is collected at once,
and says so.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any

from mpengine.core.job import Outcome
from mpengine.core.records import Call, Record, Span, SpanEnd


class End:
    """The last thing that is drawn: so many jobs there were, and this went wrong with the input."""

    __slots__ = ("jobs", "problem")

    def __init__(self, jobs: int, problem: BaseException | None) -> None:
        self.jobs = jobs
        self.problem = problem


class Mailbox:
    """Filled by the dispatcher thread, and at the end by whoever draws the input; emptied by the consumer.

    Attributes:
        bell: Called by whoever has put something in; None: the consumer waits in `receive`.
    """

    def __init__(self) -> None:
        self._mail: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.empty = self._mail.empty
        self.closed = False
        self.bell: Callable[[], None] | None = None

    def receive(self, timeout: float | None) -> Any:
        """The next that arrives: an `End`, or what the methods below put. queue.Empty after `timeout` seconds."""
        return self._mail.get(timeout=timeout)

    def end(self, jobs: int, problem: BaseException | None) -> None:
        """Nothing more will be drawn; results may still follow."""
        self._put(End(jobs, problem))

    def _put(self, mail: Any) -> None:
        self._mail.put(mail)
        if self.bell is not None:
            self.bell()

    # ---- as the sink of spans: a SpanEnd ---------------------------------------------------------------------------

    def start_calls(self, span: Span) -> Sequence[Call]:
        """They are about to be sent. If nobody waits for them any more, the ledger has been told."""
        return ()

    def ended(self, part: SpanEnd) -> None:
        """Calls have ended."""
        if not self.closed:
            self._put(part)

    # ---- as the sink of records: (record, outcome) -----------------------------------------------------------------

    def start(self, record: Record) -> bool:
        """The record is about to be sent; False: nobody waits for it any more."""
        return not self.closed

    def settle(self, record: Record, outcome: Outcome) -> None:
        """A job has its outcome."""
        if not self.closed:
            self._put((record, outcome))
