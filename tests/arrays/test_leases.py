"""A block is nobody else's while somebody looks at it, and nobody writes where it no longer may."""

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from mpengine.arrays import files, parcel, reader
from mpengine.arrays.blocks import Blocks
from mpengine.arrays.borrowed import Borrowed
from mpengine.arrays.guest import Guest
from mpengine.arrays.parcel import OWN
from mpengine.arrays.segment import Lease, Mark, Segment

BITS = 12
LENGTH = 200_000


@pytest.fixture
def fd() -> Iterator[int]:
    made = files.create("test")
    yield made
    os.close(made)


def test_a_lease_that_goes_cannot_be_had_again() -> None:
    found: list[Lease | None] = []
    lease = Lease(1, 0, 10)
    mark = Mark(lease, lambda gone: found.append(gone()))
    assert mark() is lease
    del lease
    assert found == [None]


def test_a_closed_segment_writes_to_no_file(fd: int) -> None:
    segment = Segment(fd, 0, BITS)
    segment.put([b"x"])
    closed: list[bool] = []
    segment.close(lambda: closed.append(True))
    assert closed == [True]
    before = os.fstat(fd).st_size, os.pread(fd, 1, 0)
    with pytest.raises(RuntimeError, match="shut down"):
        segment.put([b"y" * LENGTH])
    assert (os.fstat(fd).st_size, os.pread(fd, 1, 0)) == before


def test_the_file_is_closed_by_the_last_that_writes(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment(fd, 0, BITS)
    closed: list[bool] = []
    write = segment._write

    def close_first(*parts: Any) -> None:
        segment.close(lambda: closed.append(True))
        assert not closed
        write(*parts)

    monkeypatch.setattr(segment, "_write", close_first)
    segment.put([b"x" * LENGTH])
    assert closed == [True]


def test_a_forked_copy_does_not_write(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment(fd, 0, BITS)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(RuntimeError, match="forked copy"):
        segment.put([b"x"])
    assert os.fstat(fd).st_size == 0


def test_without_address_space_the_kernel_writes(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment(fd, 0, BITS)
    segment.put([b"x" * LENGTH])  # and so it is warm

    def refuse(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(segment._map(), "find", refuse)
    lease = segment.put([b"y" * LENGTH])
    assert os.pread(fd, LENGTH, lease.offset) == b"y" * LENGTH


def test_room_that_an_interrupt_hits_is_not_given_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks(BITS)
    blocks.take(1)
    put = blocks._put

    def interrupted(*args: int) -> None:
        put(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "_put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            blocks.take(1 << 20)
    taken = [blocks.take(length) for length in (1, 1, 1 << 20, 1, 1 << 13, 1 << 20)]
    places = [byte for offset, size, _ in taken for byte in range(offset, offset + size, 1 << BITS)]
    assert len(places) == len(set(places))


# ---- in a worker ---------------------------------------------------------------------------------------------------


def test_a_block_that_is_opened_again_is_released_before_it_is_held(fd: int) -> None:
    segment = Segment(fd, 0, BITS)
    lease = segment.put([b"x" * LENGTH])
    guest = Guest(segment.key, fd)
    view = guest.open(lease.place, OWN)
    assert guest.news() == ([], [lease.number])
    del view
    view = guest.open(lease.place, OWN)
    assert guest.news() == ([lease.number], [lease.number])
    del view
    assert guest.news() == ([lease.number], [])
    assert not guest.has_news


def test_a_block_that_goes_before_it_was_told_is_no_news(fd: int) -> None:
    segment = Segment(fd, 0, BITS)
    lease = segment.put([b"x" * LENGTH])
    guest = Guest(segment.key, fd)
    guest.open(lease.place, OWN)
    assert guest.news() == ([], [])
    assert not guest.looks_at_any()


# ---- in the parent -------------------------------------------------------------------------------------------------


@pytest.fixture
def borrowed(fd: int) -> Borrowed:
    os.ftruncate(fd, 1 << 26)
    return Borrowed(1, fd, 0, memoryview(bytearray(1 << 10)), 17)


def test_the_figures_may_be_asked_for_by_any_thread(borrowed: Borrowed) -> None:
    class Raced(deque[int]):
        def popleft(self) -> int:
            self.clear()  # another thread was faster
            return super().popleft()

    borrowed._gone = Raced()
    borrowed.take((1, 0, LENGTH))
    assert borrowed.in_use == 0
    assert borrowed.in_use == 0


def test_a_forked_copy_opens_no_results(borrowed: Borrowed, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = borrowed.take((1, 0, LENGTH))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(LookupError, match="forked copy"):
        borrowed.open(lease.place, OWN)


def test_nothing_is_opened_while_another_thread_forks(borrowed: Borrowed, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = borrowed.take((1, 0, LENGTH))
    view = borrowed.open(lease.place, OWN)
    is_free: list[bool] = []

    def look() -> None:
        if got := reader._no_fork.acquire(blocking=False):
            reader._no_fork.release()
        is_free.append(got)

    def look_from_another_thread() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    reader.before_fork()
    try:
        look_from_another_thread()
    finally:
        reader._no_fork.release()
    assert borrowed._reader is not None
    find = borrowed._reader.mapping.find

    def looking(offset: int, length: int) -> Any:
        look_from_another_thread()
        return find(offset, length)

    monkeypatch.setattr(borrowed._reader.mapping, "find", looking)
    view = borrowed.open(lease.place, OWN)
    look_from_another_thread()
    assert is_free == [False, False, True]
    del view


# ---- packing -------------------------------------------------------------------------------------------------------


def test_an_interrupt_at_its_end_leaves_no_packing_behind() -> None:
    def interrupt(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code is parcel.pack_in.__exit__.__code__:
            raise KeyboardInterrupt

    def pack() -> None:
        with parcel.pack_in(None) as packing:
            assert parcel.current_packing() is packing
            sys.settrace(interrupt)

    before = sys.gettrace()
    try:
        with pytest.raises(KeyboardInterrupt):
            pack()
    finally:
        sys.settrace(before)
    assert parcel.current_packing() is None


def test_a_fork_does_not_wait_for_what_an_interrupt_left_half_done(fd: int) -> None:
    """It came when the memory was private, and its object still among those that are looked at."""
    segment = Segment(fd, 0, BITS)
    lease = segment.put([b"x" * LENGTH])
    looking = reader.Reader(lambda: os.dup(fd), 0)
    view = looking.open(lease, 0)
    (exporter,) = looking._looked_at.values()
    exporter.lease = None
    looking.make_private()
    assert not looking._looked_at
    assert bytes(view) == b"x" * LENGTH
