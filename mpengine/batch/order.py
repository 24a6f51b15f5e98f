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

    @property
    def size(self) -> int:
        """About its bytes in memory."""
        return len(self.blob) + (len(self.payload) if isinstance(self.payload, bytes) else 0) + 200


class Order:
    """The entries of one run.

    Args:
        mark: From an earlier run.
        gone: From an earlier run: numbers above the mark whose place in OUT is passed.
        waiting: From an earlier run.
        ordered: OUT is in the order of the input; else entries go as they come.

    Attributes:
        late: Entries of jobs whose place in OUT an earlier run has passed: it had them as failed.
    """

    def __init__(
        self, mark: int = 0, gone: Iterable[int] = (), waiting: Iterable[Entry] = (), *, ordered: bool = True
    ) -> None:
        self.mark = mark
        self.late: dict[int, Entry] = {}
        self._ordered = ordered
        self._waiting: dict[int, Entry] = {}  # in the order they came
        self._gone = set(gone)  # above the mark, and in OUT: where there is no order
        self.size = 0  # of what waits, in bytes
        for entry in waiting:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """A job has ended."""
        if entry.number < self.mark or entry.number in self._gone:
            self.late[entry.number] = entry
        else:
            self._waiting[entry.number] = entry
            self.size += entry.size

    def forget(self, numbers: Iterable[int]) -> None:
        """These jobs, which wait above the mark, are to be tried again."""
        for number in numbers:
            entry = self._waiting.pop(number, None)
            if entry is not None:
                self.size -= entry.size

    def knows(self, number: int) -> bool:
        """Whether a job has ended."""
        return number < self.mark or number in self._waiting or number in self._gone

    def next(self) -> list[Entry]:
        """All that may go to OUT now, in the order it should."""
        if not self._ordered:
            return list(self._waiting.values())
        found = []
        number = self.mark
        while (entry := self._waiting.get(number)) is not None:
            found.append(entry)
            number += 1
        return found

    def took(self, entries: Iterable[Entry]) -> None:
        """These are in OUT. In the order of `next`."""
        for entry in entries:
            del self._waiting[entry.number]
            self.size -= entry.size
            if entry.number == self.mark:
                self.mark += 1
            else:
                self._gone.add(entry.number)
        self._advance()

    @property
    def waiting(self) -> dict[int, Entry]:
        """Above the mark and not in OUT, by number."""
        return self._waiting

    @property
    def gone(self) -> set[int]:
        """The numbers above the mark that are in OUT."""
        return self._gone

    def _advance(self) -> None:
        while self.mark in self._gone:
            self._gone.remove(self.mark)
            self.mark += 1
