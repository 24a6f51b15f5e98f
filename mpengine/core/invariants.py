"""What is true of a ledger between any two events. For tests, and for hunting bugs; costs a look at everything open.

one place     an open record is in the backlog, delayed, or in one batch; an open call of a map in the first or the last
one count     `open` is what these places hold; accepted - open is what was settled
one story     the numbers of a batch fit together; what was given up is watched; what must end by itself has a timer
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from mpengine.core.books import Books
from mpengine.core.ledger import Ledger
from mpengine.core.records import Batch, Record, Span, State


def check(ledger: Ledger) -> None:
    """Raise AssertionError, saying what is wrong, if the ledger contradicts itself."""
    books = ledger.books
    _check_backlog(books)
    _check_delayed(books)
    for seq, batch in books.batches.items():
        _expect(seq == batch.seq, f"{_name(batch)} is filed under {seq}")
        _check_numbers(batch)
        if batch.span is not None:
            _check_span(batch, batch.span)
        else:
            _check_records(batch)
    _check_places(books)
    _check_counts(books)
    _check_contexts(books)
    _check_timers(books)
    _check_ends(books)
    _check_dooms(books)


def _expect(truth: bool, otherwise: str) -> None:
    if not truth:
        raise AssertionError(otherwise)


# ---- what waits ------------------------------------------------------------------------------------------------------


def _check_backlog(books: Books) -> None:
    waiting = list(books.backlog)
    live = len(books.backlog)
    _expect(len(waiting) == live, f"the backlog counts {live} entries and holds {len(waiting)}")
    calls = sum(1 if isinstance(entry, Record) else len(entry) for entry in waiting)
    _expect(calls == books.backlog.calls, f"the backlog counts {books.backlog.calls} calls and holds {calls}")
    priorities = [entry.priority for entry in waiting]
    _expect(
        priorities == sorted(priorities, reverse=True), f"the backlog is not in the order of priority: {priorities}"
    )
    for entry in waiting:
        if isinstance(entry, Record):
            _expect(entry.batch is None, f"{_name(entry)} waits and is in a batch as well")
            _expect(entry.doom is None, f"{_name(entry)} waits although it was given up")
        else:
            _expect(len(entry) > 0, f"{_name(entry)} waits and holds no call")
            _expect(not entry.cancelled, f"{_name(entry)} waits although nobody wants it")


def _check_delayed(books: Books) -> None:
    timed = {id(record) for _, _, record in books.timers}
    for record in books.delayed:
        _expect(record.state is State.PENDING, f"{_name(record)} is delayed and {record.state.value}")
        _expect(record.batch is None, f"{_name(record)} is delayed and in a batch as well")
        _expect(record.doom is None, f"{_name(record)} is delayed although it was given up")
        _expect(id(record) in timed, f"{_name(record)} is delayed and nothing will ever wake it")


# ---- what was sent ---------------------------------------------------------------------------------------------------


def _check_numbers(batch: Batch) -> None:
    name = _name(batch)
    _expect((batch.span is None) == bool(batch.records), f"{name} must hold either records or one span")
    most = len(batch.records) if batch.span is None else len(batch.span)
    _expect(
        0 <= batch.done < batch.size <= most,
        f"{name} is open: 0 <= done < size <= {most} must hold, not done={batch.done}, size={batch.size}",
    )
    _expect(batch.index >= -1, f"{name} says that item {batch.index} was started")
    if batch.interrupted >= 0:
        _expect(batch.kill_at is not None, f"{name} interrupts item {batch.interrupted} and would never kill")
    if batch.killed:
        _expect(batch.interrupted >= 0, f"{name} had its worker killed without asking its item to end")
    if batch.interrupted >= 0 or batch.revoked_at is not None:
        _expect(batch.worker is not None, f"{name} was taken from a worker it does not know")


def _check_records(batch: Batch) -> None:
    for index, record in enumerate(batch.records):
        name = f"item {index} of {_name(batch)}, {_name(record)},"
        if batch.done <= index < batch.size:
            _expect(record.state is State.QUEUED, f"{name} is open there and {record.state.value}")
            _expect(record.batch is batch, f"{name} believes that it is in {_name(record.batch)}")
        else:
            _expect(record.batch is not batch, f"{name} was reported or given back and still believes that it is there")
    doomed = [record for record in batch.records[batch.done : batch.size] if record.doom is not None]
    if doomed and not batch.killed:
        _expect(batch.check_at is not None, f"{_name(doomed[0])} was given up in {_name(batch)} and nothing sees to it")
    if batch.size - batch.done > 1:
        _expect(batch.check_at is not None, f"{_name(batch)} has several items open and nothing looks after it")


def _check_span(batch: Batch, span: Span) -> None:
    _expect(span.state is State.QUEUED, f"{_name(span)} is in {_name(batch)} and {span.state.value}")
    if not batch.killed and (span.cancelled or batch.size - batch.done > 1):
        _expect(batch.check_at is not None, f"{_name(span)} is in {_name(batch)} and nothing looks after it")


# ---- all together ----------------------------------------------------------------------------------------------------


def _check_places(books: Books) -> None:
    seen: set[int] = set()
    for record in books.records():
        _expect(record.state is not State.SETTLED, f"{_name(record)} is settled and still in the books")
        _expect(id(record) not in seen, f"{_name(record)} is in two places")
        seen.add(id(record))
    of_sink: dict[int, list[tuple[int, int]]] = {}
    for span, first, stop in _calls(books):
        _expect(first < stop, f"{_name(span)} is somewhere with no open call")
        if span.payload is not None:
            start = span.position
            of_sink.setdefault(id(span.sink), []).append((start + first, start + stop))
            continue
        for job in (span.jobs or ())[first:stop]:
            _expect(id(job) not in seen, f"job {job.id!r} is in two places")
            seen.add(id(job))
    for ranges in of_sink.values():
        ranges.sort()
        for (_, stop), (first, _) in itertools.pairwise(ranges):
            _expect(stop <= first, f"call {first} of a map is in two places")


def _calls(books: Books) -> Iterable[tuple[Span, int, int]]:
    """Every place that holds open calls, and which: the first and the one after the last."""
    for entry in books.backlog:
        if isinstance(entry, Span):
            yield entry, entry.first, entry.stop
    for batch in books.batches.values():
        if batch.span is not None:
            yield batch.span, batch.span.first + batch.done, batch.span.first + batch.size


def _check_counts(books: Books) -> None:
    found = sum(1 for _ in books.records()) + sum(stop - first for _, first, stop in _calls(books))
    _expect(books.open == found, f"{books.open} jobs are open by the count, {found} by their places")
    settled = books.ended()
    _expect(
        books.accepted == books.open + settled,
        f"{books.accepted} jobs were accepted, but {books.open} are open and {settled} settled",
    )
    wrong = {status: count for status, count in books.counts.items() if count < 0}
    _expect(not wrong, f"counts below zero: {wrong}")


def _check_contexts(books: Books) -> None:
    for context, records in books.of_context.items():
        _expect(bool(records), f"{context!r} is kept without a job")
        for record in records:
            _expect(record.state is not State.SETTLED, f"{_name(record)} is settled and its context still knows it")
            _expect(record.context is context, f"{_name(record)} is filed under a context that is not its own")
    for record in books.records():
        if record.context is not None:
            known = record in books.of_context.get(record.context, ())
            _expect(known, f"{_name(record)} is open and its context could not end it")


def _check_timers(books: Books) -> None:
    whens = [when for when, _, _ in books.timers]
    for child in range(1, len(whens)):
        _expect(whens[(child - 1) // 2] <= whens[child], "the timers are not a heap")
    timed = {(id(record), when) for when, _, record in books.timers}
    for record in books.records():
        if record.deadline is not None and record.doom is None:
            _expect((id(record), record.deadline) in timed, f"{_name(record)} has a deadline that nothing watches")


def _check_ends(books: Books) -> None:
    if books.broken is not None:
        _expect(books.open == 0, f"the engine is broken and {books.open} jobs still wait for something")
    elif books.abandoned is not None:
        _expect(not books.backlog, "nothing will be started any more, and the backlog still holds something")
        _expect(not books.delayed, "nothing will be started any more, and something waits for its next attempt")


def _check_dooms(books: Books) -> None:
    sent = {job for batch in books.batches.values() for job in batch.jobs(batch.done)}
    for job in books.dooms:
        _expect(job in sent, f"job {job.id!r} is to end before its time, and no worker has it")


def _name(thing: Batch | Record | Span | None) -> str:
    if isinstance(thing, Batch):
        return f"batch {thing.seq}"
    if isinstance(thing, Record):
        return f"job {thing.job.id!r}"
    if isinstance(thing, Span):
        return f"span {thing.position + thing.first}..{thing.position + thing.stop} of map(`{thing.name}`)"
    return "no batch"
