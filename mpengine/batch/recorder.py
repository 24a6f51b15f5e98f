"""Puts what has ended into OUT, in order, and notes it in the journal: in a thread of its own, so that no job waits.

The order that makes it safe to be killed at any instant: results are written to OUT, OUT is made safe, and then one
transaction of the journal says how far OUT goes and what became of which job. Results that may not go to OUT yet are in
the journal. What the journal does not know of is done again.
"""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mpengine.batch.journal import FailureRow, Journal
from mpengine.batch.order import Entry, Order
from mpengine.batch.sinks import NEW, Late, OneFile, Sink, sync_folder
from mpengine.batch.work import UnfitResult

_PAUSE_S = 0.02  # what comes meanwhile is written together
_LEAST_COMMIT_S = 0.25
_COMMIT_SHARE = 0.1  # of the time, at most, for commits
MOST_HELD = 1 << 27  # bytes that wait to be written; above it, nothing more is read

_T = TypeVar("_T")
Item = tuple[Entry, FailureRow | None]


class Recorder:
    """The one that writes. `start`, `add` and `close` are the main thread's, `has_room` is for all.

    Args:
        clock: Monotonic seconds.
        journal: None: OUT is nothing one could go on with.
        note_failure: Told of each job that did not succeed, in the recorder's thread.
        on_problem: Told once, in the recorder's thread, that nothing can be written any more.
        told: What else the state of the journal is to say; JSON.

    Attributes:
        problem: Why nothing can be written any more.
        refused: Jobs that succeeded and whose result had no place in OUT; they are failures.
    """

    def __init__(
        self,
        sink: Sink,
        order: Order,
        journal: Journal | None,
        *,
        clock: Callable[[], float],
        note_failure: Callable[[FailureRow], None] = lambda row: None,
        on_problem: Callable[[], None] = lambda: None,
        told: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._sink = sink
        self._order = order
        self._journal = journal
        self._clock = clock
        self._note_failure = note_failure
        self._on_problem = on_problem
        self._told = told
        self._arrived: deque[Item] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mpengine-recorder", daemon=True)
        self._failures: dict[int, FailureRow] = {}  # not yet in the journal
        self._places: list[tuple[int, int, int]] = []
        self._kept: set[int] = set(order.waiting) | set(order.late)  # entries that are in the journal
        self._kept_gone: set[int] = set(order.gone)
        self._changed = False
        self._committed_at = clock()
        self._pause_s = _LEAST_COMMIT_S
        self.problem: Exception | None = None
        self.refused: list[tuple[Entry, str]] = []

    def start(self) -> None:
        self._thread.start()

    def add(self, entry: Entry, failure: FailureRow | None) -> None:
        """A job has ended. Does not block."""
        self._arrived.append((entry, failure))
        if not self._wake.is_set():
            self._wake.set()

    def has_room(self) -> bool:
        """Whether what waits to be written is no more than memory should hold."""
        return self._order.size < MOST_HELD and len(self._arrived) < 1 << 18

    def close(self, *, complete: bool) -> None:
        """Write what is left and join the thread.

        Args:
            complete: All jobs of the input have ended.

        Raises:
            Exception: `problem`, if there is one.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join()
        if self.problem is None:
            try:
                self._end(complete)
            except Exception as error:
                self.problem = error
        if self.problem is not None:
            raise self.problem

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._wake.wait()
                self._wake.clear()
                self._turn()
                self._closing.wait(_PAUSE_S)
                while self._changed and not self._wake.is_set() and not self._closing.is_set():
                    self._closing.wait(_PAUSE_S)  # nothing comes: what is there is due some time, too
                    self._commit_if_due()
            self._turn()
        except Exception as error:
            self.problem = error
            self._on_problem()

    def _turn(self) -> None:
        arrived = self._arrived
        while arrived:
            entry, failure = arrived.popleft()
            self._settle(entry, failure)
        self._write(final=False)
        self._commit_if_due()

    def _settle(self, entry: Entry, failure: FailureRow | None) -> None:
        self._changed = True
        if failure is not None:
            self._failures[entry.number] = failure
            self._note_failure(failure)
        if entry.number >= self._order.mark or entry.blob or not entry.failed:
            self._order.add(entry)  # else: it failed again, and has nothing to say in OUT

    def _write(self, *, final: bool) -> None:
        order = self._order
        entries = order.next()
        if not entries or (not final and not self._sink.wants(entries, order.size)):
            return
        taken = self._sink.take(entries, final=final)
        order.took(taken.count)
        for entry, reason in taken.refused:
            self._refuse(entry, reason)
        self._places += taken.places

    def _refuse(self, entry: Entry, reason: str) -> None:
        failure = FailureRow(
            entry.number, entry.id, "failed", UnfitResult.__name__, reason, "", "", 1, 0.0, entry.payload
        )  # fmt: skip
        self._failures[entry.number] = failure
        self._note_failure(failure)
        self.refused.append((entry, reason))

    # ---- the journal -------------------------------------------------------------------------------------------------

    def _commit_if_due(self) -> None:
        if self._journal is None:  # nobody asks for these later, and there may be any number of them
            self._failures.clear()
            self._places.clear()
            self._changed = False
        elif self._changed and self._clock() - self._committed_at >= self._pause_s:
            self._commit()

    def _commit(self, **more: Any) -> None:
        """All that has changed since the last time, as one step."""
        journal, order = self._journal, self._order
        assert journal is not None
        begun = self._clock()
        self._sink.sync()
        with journal.transaction():
            journal.put("state", self._state(self._sink.state(), **more))
            for number, at, size in self._places:
                row = self._failures.get(number)
                if row is not None:
                    self._failures[number] = replace(row, at=at, size=size)
            journal.add_failures(self._failures.values())
            journal.place_failures(place for place in self._places if place[0] not in self._failures)
            present = order.waiting | order.late
            journal.drop(self._kept - present.keys())
            journal.keep(entry for number, entry in present.items() if number not in self._kept)
            journal.drop(self._kept_gone - order.gone)
            journal.keep_gone(order.gone - self._kept_gone)
            journal.note_files(self._sink.notes())
        self._sink.clean()
        self._kept = set(present)
        self._kept_gone = set(order.gone)
        self._failures.clear()
        self._places.clear()
        self._changed = False
        now = self._clock()
        self._committed_at = now
        self._pause_s = max(_LEAST_COMMIT_S, (now - begun) / _COMMIT_SHARE)

    def _state(self, out: dict[str, Any], **more: Any) -> dict[str, Any]:
        order = self._order
        ended = order.mark + len(order) + len(order.gone)
        return {"mark": order.mark, "ended": ended, "out": out, **self._told(), **more}

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _end(self, complete: bool) -> None:
        if self._journal is None:
            self._write(final=True)
            rest = sorted(self._order.waiting.values(), key=lambda entry: entry.number)
            if rest:  # behind one that was not finished
                taken = self._sink.take(rest, final=True)
                for entry, reason in taken.refused:
                    self._refuse(entry, reason)
            self._sink.finish()
            return
        if not complete:
            self._commit()
            return
        self._write(final=True)
        self._sink.finish()
        self._commit(complete=True)
        if self._order.late:
            self._mend()

    def _mend(self) -> None:
        """Put late results in their places: new files, a note that they are to take the old ones' place, and the swap.

        All files at once, so that the note is one: whether a late result is in its place is not asked file by file.
        """
        journal, sink = self._journal, self._sink
        assert journal is not None
        rows = _by_file(sink, {row.number: row for row in journal.failures()})
        states: dict[int, dict[str, Any]] = {}
        mended: list[int] = []
        places: list[tuple[int, int, int]] = []
        for file, entries in sorted(_by_file(sink, self._order.late).items()):
            with sink.opened(file) as one:
                late = self._fitting(one, entries, rows[file])
                if late:
                    states[file] = one.rewrite([Late(splice.at, splice.size, splice.entry.blob) for splice in late])
                    mended += [splice.number for splice in late if not splice.entry.failed]
                    places += shifted(rows[file].values(), late)
        with journal.transaction():
            journal.put("state", self._state(sink.mended(states), complete=True))
            journal.note_files(sink.notes())
            journal.put("swap", list(states))
            journal.add_failures(self._failures.values())
            journal.drop(self._order.late)
            journal.drop_failures(mended)
            journal.place_failures(places)
        sink.clean()
        self._failures.clear()
        swap(journal, sink.path_of)

    def _fitting(self, sink: OneFile, entries: dict[int, Entry], rows: dict[int, FailureRow]) -> list[Splice]:
        """The late results that have a place in their file, in its order."""
        late: list[Splice] = []
        for number, entry in entries.items():
            row = rows[number]
            assert row.at is not None
            try:
                late.append(Splice(row.at, number, row.size, sink.size_of(entry.blob), entry))
            except UnfitResult as error:
                self._refuse(entry, str(error))
        return sorted(late, key=lambda one: (one.at, one.number))


def _by_file(sink: Sink, found: dict[int, _T]) -> dict[int, dict[int, _T]]:
    """What there is of each job, by the file of OUT that its result is in."""
    files: dict[int, dict[int, _T]] = {}
    for number, one in found.items():
        files.setdefault(sink.file_of(number), {})[number] = one
    return files


@dataclass(frozen=True, slots=True)
class Splice:
    """A late result: where it goes, what it takes the place of, and what it needs."""

    at: int
    number: int
    size: int
    new_size: int
    entry: Entry


def shifted(rows: Iterable[FailureRow], late: list[Splice]) -> Iterator[tuple[int, int, int]]:
    """Number, position and size of a file's failures after these were put in their places; `late` is in its order."""
    sizes = {one.number: one.new_size for one in late}
    order = [(one.at, one.number) for one in late]
    grown = [0, *itertools.accumulate(one.new_size - one.size for one in late)]
    for row in rows:
        if row.at is not None:
            before = bisect.bisect_left(order, (row.at, row.number))
            yield row.number, row.at + grown[before], sizes.get(row.number, row.size)


def swap(journal: Journal, path_of: Callable[[int], str]) -> bool:
    """New files take the old ones' place, if the journal says that they should; whether that was still to be done."""
    due: list[int] = journal.get("swap") or []
    waited = [path for path in map(path_of, due) if os.path.exists(path + NEW)]
    for path in waited:
        os.replace(path + NEW, path)
    for folder in {os.path.dirname(path_of(file)) for file in due}:  # also where a killed run has renamed them
        if os.path.isdir(folder):  # else somebody has removed it, which is found when its files are looked for
            sync_folder(folder)
    if due:
        journal.put("swap", [])
    return bool(waited)
