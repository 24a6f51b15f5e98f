"""What waits: by priority, first in first out within one, with a place at the front for what comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from mpengine.core.records import Entry, State


class Backlog:
    """Queue of pending records and spans.

    An entry that was settled while it waited is not searched for: it is skipped when its turn comes, so that giving
    up a hundred thousand jobs costs as much as a hundred thousand pops.
    """

    def __init__(self) -> None:
        self._queues: dict[int, deque[Entry]] = {}
        self._order: list[int] = []  # priorities in use, highest first
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def push(self, entry: Entry) -> None:
        """Add at the end of its priority."""
        self._queue(entry.priority).append(entry)
        self._live += 1

    def push_front(self, entries: Iterable[Entry]) -> None:
        """Put back, in this order, before everything of the same priority."""
        for entry in reversed(list(entries)):
            self._queue(entry.priority).appendleft(entry)
            self._live += 1

    def _queue(self, priority: int) -> deque[Entry]:
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            self._order = sorted(self._queues, reverse=True)
        return queue

    def settled(self) -> None:
        """One of the entries in here has just been settled."""
        self._live -= 1

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
        self._live -= 1
        return entry

    def __iter__(self) -> Iterator[Entry]:
        """All that waits, in the order of its turn."""
        for priority in self._order:
            for entry in self._queues[priority]:
                if entry.state is State.PENDING:
                    yield entry
