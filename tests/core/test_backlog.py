"""Backlog: whose turn it is."""

import sys

from mpengine.core.backlog import Backlog
from mpengine.core.records import Entry, Record, State
from tests.core.makers import make_record, make_span


def popped(backlog: Backlog) -> list[object]:
    return [backlog.pop() for _ in range(len(backlog))]


def settle(backlog: Backlog, record: Record) -> None:
    record.state = State.SETTLED
    backlog.settled(record)


def test_an_empty_one_has_nothing_to_show() -> None:
    assert Backlog().peek() is None
    assert not Backlog()


def test_first_in_first_out() -> None:
    backlog = Backlog()
    entries: list[Entry] = [make_record(), make_span(3), make_record()]
    for entry in entries:
        backlog.push(entry)
    assert list(backlog) == entries
    assert popped(backlog) == entries


def test_a_higher_priority_goes_first_whenever_it_came() -> None:
    backlog = Backlog()
    low, high, none = make_record(priority=-1), make_record(priority=9), make_record()
    for entry in (low, none, high):
        backlog.push(entry)
    assert list(backlog) == [high, none, low]
    assert popped(backlog) == [high, none, low]


def test_what_comes_back_goes_to_the_front_of_its_priority_in_its_order() -> None:
    backlog = Backlog()
    waiting, high = make_record(), make_record(priority=1)
    back = [make_record(), make_record(), make_record(priority=1)]
    backlog.push(waiting)
    backlog.push(high)
    backlog.push_front(back)
    assert popped(backlog) == [back[2], high, back[0], back[1], waiting]


def test_peek_shows_what_pop_takes_and_takes_nothing() -> None:
    backlog = Backlog()
    backlog.push(make_record())
    backlog.push(make_record(priority=2))
    shown = backlog.peek()
    assert len(backlog) == 2
    assert backlog.pop() is shown


def test_what_was_settled_while_it_waited_is_skipped_and_not_counted() -> None:
    backlog = Backlog()
    first, second, third = (make_record() for _ in range(3))
    for entry in (first, second, third):
        backlog.push(entry)
    settle(backlog, first)
    settle(backlog, third)
    assert len(backlog) == 1
    assert list(backlog) == [second]
    assert popped(backlog) == [second]
    assert backlog.peek() is None


def test_a_priority_whose_jobs_were_all_settled_hides_none_below_it() -> None:
    backlog = Backlog()
    urgent, usual = make_record(priority=5), make_record()
    backlog.push(urgent)
    backlog.push(usual)
    settle(backlog, urgent)
    assert backlog.peek() is usual


def test_after_many_priorities_it_works_as_before() -> None:
    backlog = Backlog()
    for priority in range(50):
        backlog.push(make_record(priority=priority))
    popped(backlog)
    assert backlog.peek() is None
    entry = make_record(priority=3)
    backlog.push(entry)
    assert popped(backlog) == [entry]


def test_what_was_settled_is_not_kept_when_nothing_waits() -> None:
    backlog = Backlog()
    first, second = make_record(), make_record()
    before = sys.getrefcount(second)
    backlog.push(first)
    backlog.push(second)
    settle(backlog, second)
    settle(backlog, first)
    assert sys.getrefcount(second) == before
