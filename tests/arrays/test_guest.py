"""A guest tells what it looks at beyond a job, and when that is over: no more, no less, whenever things come and go."""

import gc
import os
import random
import threading
from collections.abc import Iterator

import pytest

from mpengine.arrays import parcel
from mpengine.arrays.guest import Guest
from mpengine.arrays.parcel import COPY, OWN, SHARED
from mpengine.arrays.segment import Lease
from tests.arrays.conftest import Memory, in_child, mappings
from tests.support import WAIT_S

MODES = [OWN, COPY, SHARED]


@pytest.fixture
def guest(memory: Memory) -> Iterator[Guest]:
    made = Guest(memory.segment.key, memory.fd)
    yield made
    made.forget()


@pytest.fixture
def leases(memory: Memory) -> list[Lease]:
    """Of four blocks."""
    return [memory.segment.put([bytes([n]) * 5000]) for n in range(4)]


class Parent:
    """What the parent makes of the news; see `runtime.workforce`."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def hear(self, released: list[int], held: list[int]) -> None:
        assert set(released) <= self.held
        self.held -= set(released)
        self.held |= set(held)  # it may be told twice


@pytest.mark.parametrize("mode", MODES)
def test_a_block_is_opened_by_its_place(guest: Guest, leases: list[Lease], mode: int) -> None:
    assert parcel.sources[guest_key(guest)] is guest
    for n, lease in enumerate(leases):
        assert bytes(guest.open(lease.place, mode)) == bytes([n]) * 5000


def guest_key(guest: Guest) -> int:
    return next(key for key, source in parcel.sources.items() if source is guest)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_still_looked_at_is_told_once_and_so_is_its_end(guest: Guest, leases: list[Lease], mode: int) -> None:
    view = guest.open(leases[1].place, mode)
    assert (guest.has_news, guest.looks_at_any()) == (True, True)
    assert guest.news() == ([], [leases[1].number])
    assert (guest.has_news, guest.looks_at_any()) == (False, True)
    assert guest.news() == ([], [])
    del view
    assert (guest.has_news, guest.looks_at_any()) == (True, False)
    assert guest.has_news  # also after somebody has looked
    assert guest.news() == ([leases[1].number], [])
    assert guest.news() == ([], [])
    assert (guest.has_news, guest.looks_at_any()) == (False, False)


def test_what_comes_and_goes_between_two_news_is_not_worth_a_word(guest: Guest, leases: list[Lease]) -> None:
    guest.open(leases[0].place, OWN)
    assert guest.news() == ([], [])
    assert not guest.has_news


def test_a_slice_is_a_look_as_any_other(guest: Guest, leases: list[Lease]) -> None:
    part = guest.open(leases[0].place, COPY)[10:20]
    assert guest.news() == ([], [leases[0].number])
    assert guest.news() == ([], [])
    del part
    assert guest.news() == ([leases[0].number], [])


def test_of_many_looks_at_one_block_the_first_and_the_last_count(guest: Guest, leases: list[Lease]) -> None:
    one = guest.open(leases[0].place, SHARED)
    other = guest.open(leases[0].place, SHARED)
    assert guest.news() == ([], [leases[0].number])
    del one
    third = guest.open(leases[0].place, SHARED)
    assert guest.news() == ([], [])
    del other
    assert guest.news() == ([], [])
    assert guest.looks_at_any()
    del third
    assert guest.news() == ([leases[0].number], [])


def test_a_block_that_is_dropped_and_opened_again_between_two_news_stays_held(
    guest: Guest, leases: list[Lease]
) -> None:
    """As one of many shared objects does, of which a process keeps only so many rebuilt."""
    parent = Parent()
    view = guest.open(leases[0].place, SHARED)
    parent.hear(*guest.news())
    for _ in range(2):
        del view
        view = guest.open(leases[0].place, SHARED)
        parent.hear(*guest.news())
        assert parent.held == {leases[0].number}
    assert bytes(view) == bytes(5000)
    del view
    parent.hear(*guest.news())
    assert not parent.held


@pytest.mark.parametrize("seed", range(10))
def test_whatever_comes_and_goes_the_parent_holds_what_is_looked_at(
    guest: Guest, leases: list[Lease], seed: int
) -> None:
    chance = random.Random(seed)
    parent = Parent()
    views: list[tuple[int, memoryview]] = []
    for _ in range(300):
        what = chance.random()
        if what < 0.45:
            lease = chance.choice(leases)
            views.append((lease.number, guest.open(lease.place, chance.choice(MODES))))
        elif what < 0.9 and views:
            views.pop(chance.randrange(len(views)))
        else:
            parent.hear(*guest.news())
            assert parent.held == {number for number, _ in views}
            assert guest.looks_at_any() == bool(views)


def test_threads_that_open_and_drop_beside_the_news(guest: Guest, leases: list[Lease]) -> None:
    parent = Parent()
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        views = []
        try:
            start.wait(WAIT_S)
            for _ in range(400):
                views.append(guest.open(chance.choice(leases).place, SHARED))
                if len(views) > 3:
                    del views[chance.randrange(4)]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    start.wait(WAIT_S)
    while any(thread.is_alive() for thread in threads):
        parent.hear(*guest.news())
    assert not failures
    gc.collect()
    parent.hear(*guest.news())
    assert not parent.held
    assert not guest.looks_at_any()


def test_a_block_that_cannot_be_opened_is_not_held(guest: Guest, leases: list[Lease]) -> None:
    guest._fd = -1
    with pytest.raises(OSError, match="No such file"):
        guest.open(leases[0].place, OWN)
    gc.collect()
    assert guest.news() == ([], [])


def test_the_descriptor_need_not_be_writable_and_a_stray_write_to_its_copy_lands_nowhere(
    memory: Memory, leases: list[Lease]
) -> None:
    fd = os.open(f"/proc/self/fd/{memory.fd}", os.O_RDONLY | os.O_CLOEXEC)
    guest = Guest(memory.segment.key, fd)
    view = guest.open(leases[0].place, OWN)
    view[0] = 7
    assert memory.content(leases[0].offset, 1) == b"\7"
    copy = guest._open_file()
    os.write(copy, b"rubbish" * 1000)
    os.close(copy)
    assert memory.content(leases[0].offset, 5000) == b"\7" + bytes(4999)
    assert memory.content(leases[1].offset, 5000) == b"\1" * 5000
    del view
    os.close(fd)


def test_what_nobody_looks_at_is_unmapped_when_it_is_to_be_forgotten(
    memory: Memory, guest: Guest, leases: list[Lease]
) -> None:
    guest.forget()  # nothing was opened
    views = [guest.open(leases[0].place, OWN), guest.open(leases[1].place, COPY)]
    assert mappings(memory.fd) == 2
    del views[1]
    guest.forget()
    assert mappings(memory.fd) == 1
    assert bytes(views[0]) == bytes(5000)
    views.clear()
    assert mappings(memory.fd) == 0


def test_what_was_looked_at_before_a_fork_is_told_to_be_over(guest: Guest, leases: list[Lease]) -> None:
    views = [guest.open(lease.place, mode) for lease, mode in zip(leases, MODES, strict=False)]
    assert len(guest.news()[1]) == 3
    assert in_child(lambda: [bytes(view[:2]) for view in views]) == [b"\0\0", b"\1\1", b"\2\2"]
    assert guest.news() == ([lease.number for lease in leases[:3]], [])
    assert [bytes(view) for view in views] == [bytes([n]) * 5000 for n in range(3)]


def test_a_guest_that_is_gone_is_no_source_any_more(memory: Memory) -> None:
    guest = Guest(memory.segment.key, memory.fd)
    del guest
    assert memory.segment.key not in parcel.sources
