"""Who wakes the dispatcher thread, and when."""

import select
from collections.abc import Iterator

import pytest

from mpengine.runtime.inbox import Inbox


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    yield made
    made.close()


def is_woken(inbox: Inbox) -> bool:
    woken = bool(select.select([inbox.wake_fd], [], [], 0)[0])
    if woken:
        inbox.clear_wake()
    return woken


def test_a_reader_that_is_awake_is_not_woken(inbox: Inbox) -> None:
    inbox.post("a")
    inbox.post_work("b")
    assert not is_woken(inbox)
    assert list(inbox.take()) == ["a", "b"]


def test_one_that_sleeps_is_woken_once(inbox: Inbox) -> None:
    assert inbox.may_sleep()
    inbox.post_work("a")
    assert is_woken(inbox)
    inbox.post("b")
    assert not is_woken(inbox)
    assert not inbox.may_sleep()


def test_one_that_naps_is_not_woken_for_work(inbox: Inbox) -> None:
    assert inbox.may_sleep()
    inbox.nap()
    inbox.post_work("a")
    assert not is_woken(inbox)
    inbox.post("b")
    assert is_woken(inbox)
    inbox.post("c")
    assert not is_woken(inbox)
    assert not inbox.may_sleep()  # after a nap it looks


def test_what_came_before_the_nap_ends_it(inbox: Inbox) -> None:
    assert inbox.may_sleep()
    inbox.post_work("a")
    inbox.nap()
    assert is_woken(inbox)


def test_work_that_comes_after_the_nap_wakes(inbox: Inbox) -> None:
    assert inbox.may_sleep()
    inbox.nap()
    assert inbox.may_sleep()
    inbox.post_work("a")
    assert is_woken(inbox)
