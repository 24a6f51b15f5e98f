"""What waits: by priority, first in first out within one, with a place at the front for what comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from mpengine.core.records import Entry, Span, State


class Backlog:
    """Queue of pending records and spans.

    An entry that was settled while it waited is not searched for: it is skipped when its turn comes, so that giving
    up a hundred thousand jobs costs as much as a hundred thousand pops.

    Attributes:
        calls: How many jobs and calls wait: a span counts as many as it holds.
    """

    def __init__(self) -> None:
        self._queues: dict[int, deque[Entry]] = {}
        self._order: list[int] = []  # priorities in use, highest first
        self._live = 0
        self.calls = 0

    def __len__(self) -> int:
        return self._live

    def push(self, entry: Entry) -> None:
        """Add at the end of its priority."""
        self._queue(entry.priority).append(entry)
        self._add(entry)

    def push_front(self, entries: Iterable[Entry]) -> None:
        """Put back, in this order, before everything of the same priority."""
        for entry in reversed(list(entries)):
            self._queue(entry.priority).appendleft(entry)
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        self._live += 1
        self.calls += _calls(entry)

    def _queue(self, priority: int) -> deque[Entry]:
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            self._order = sorted(self._queues, reverse=True)
        return queue

    def settled(self, entry: Entry) -> None:
        """This entry in here has just been settled."""
        self._live -= 1
        self.calls -= _calls(entry)
        if not self._live:  # nobody may come for long, and what is settled may hold large arguments
            for queue in self._queues.values():
                queue.clear()

    def peek(self) -> Entry | None:
        """The entry whose turn it is, or None."""
        for priority in self._order:
            queue = self._queues[priority]
            while queue:
                if queue[0].state is State.PENDING:
                    return queue[0]
                queue.popleft()
        if self._live == 0 and len(self._order) > 1:
            self._queues.clear()
            self._order = []
        return None

    def pop(self) -> Entry:
        """Take the entry `peek` showed."""
        entry = self.peek()
        assert entry is not None
        self._queues[entry.priority].popleft()
        self.settled(entry)
        return entry

    def pop_part(self, calls: int) -> Span:
        """Take so many calls of the span that `peek` showed, or all of it if it has no more."""
        span = self.peek()
        assert isinstance(span, Span)
        if calls >= len(span):
            self.pop()
            return span
        part = span.part(span.first, span.first + calls)
        span.first += calls
        self.calls -= calls
        return part

    def drop_some(self, span: Span, calls: int) -> None:
        """So many calls of this span in here have been settled, and are out of it."""
        self.calls -= calls
        if not len(span):
            span.state = State.SETTLED
            self.settled(span)

    def __iter__(self) -> Iterator[Entry]:
        """All that waits, in the order of its turn."""
        for priority in self._order:
            for entry in self._queues[priority]:
                if entry.state is State.PENDING:
                    yield entry


def _calls(entry: Entry) -> int:
    return len(entry) if isinstance(entry, Span) else 1
