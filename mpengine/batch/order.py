"""Which results may go to OUT now. Pure: it takes what has ended, and gives what is next.

Each job of a run has a number, counted along the input. All below the *mark* have their outcome in OUT, or had nothing
to put there. An entry above the mark waits for those before it, or until its sink wants to be written to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class Entry:
    """How one job ended, as far as OUT is concerned.

    Attributes:
        blob: What goes to OUT; b"": nothing.
        failed: It did not succeed, and may be tried again by another run.
        payload: What it was given, in case that OUT cannot take its result.
    """

    number: int
    id: str
    blob: bytes
    failed: bool
    payload: object = None


class Order:
    """The entries of one run.

    Args:
        mark: From an earlier run.
        gone: From an earlier run: numbers above the mark whose place in OUT is passed.
        waiting: From an earlier run.
        ordered: OUT is in the order of the input; else entries go as they come.

    Attributes:
        late: Entries of jobs whose place in OUT an earlier run has passed: it had them as failed.
        size: About the bytes of all that waits.
    """

    def __init__(
        self, mark: int = 0, gone: Iterable[int] = (), waiting: Iterable[Entry] = (), *, ordered: bool = True
    ) -> None:
        self.mark = mark
        self.late: dict[int, Entry] = {}
        self.size = 0
        self._ordered = ordered
        self._ready: list[Entry] = []  # in the order of OUT
        self._early: dict[int, Entry] = {}  # those behind one that has not ended: there are none without order
        self._gone = set(gone)  # above the mark, and in OUT: where there is no order
        for entry in waiting:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """A job has ended."""
        number = entry.number
        if number < self.mark or number in self._gone:
            self.late[number] = entry
            return
        self.size += _size(entry)
        if not self._ordered:
            self._ready.append(entry)
        elif number != self.mark + len(self._ready):
            self._early[number] = entry
        else:
            self._ready.append(entry)
            if self._early:
                self._follow()

    def _follow(self) -> None:
        number = self.mark + len(self._ready)
        while (entry := self._early.pop(number, None)) is not None:
            self._ready.append(entry)
            number += 1

    def forget(self, numbers: Iterable[int]) -> None:
        """These jobs, which wait above the mark, are to be tried again."""
        kept = self.waiting
        for number in numbers:
            kept.pop(number, None)
        self._ready, self._early, self.size = [], {}, 0
        for entry in kept.values():
            self.add(entry)

    def knows(self, number: int) -> bool:
        """Whether a job has ended."""
        return number < self.mark or number in self._gone or number in self.waiting

    def next(self) -> list[Entry]:
        """All that may go to OUT now, in the order it should."""
        return self._ready

    def took(self, count: int) -> None:
        """So many of `next` are in OUT."""
        taken = self._ready[:count]
        del self._ready[:count]
        self.size -= sum(map(_size, taken))
        if self._ordered:
            self.mark += count
            return
        self._gone.update(entry.number for entry in taken)
        while self.mark in self._gone:
            self._gone.remove(self.mark)
            self.mark += 1

    @property
    def waiting(self) -> dict[int, Entry]:
        """Above the mark and not in OUT, by number. A new dict."""
        return {entry.number: entry for entry in self._ready} | self._early

    @property
    def gone(self) -> set[int]:
        """The numbers above the mark that are in OUT."""
        return self._gone

    def __len__(self) -> int:
        """How many wait."""
        return len(self._ready) + len(self._early)


def _size(entry: Entry) -> int:
    payload = entry.payload
    return len(entry.blob) + 200 + (len(payload) if type(payload) is bytes else 0)
