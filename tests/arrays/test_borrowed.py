"""Blocks that were lent: how their owner hears that they are back, and what becomes of them when it is dead."""

import gc
import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mpengine.arrays import files, parcel
from mpengine.arrays.borrowed import FIRST, LOOK, Borrowed
from mpengine.arrays.parcel import OWN
from mpengine.arrays.segment import Lease, Mark, Segment
from tests.arrays.conftest import allocated, in_child, mappings
from tests.support import WAIT_S

BITS = 13
UNIT = 1 << BITS
BASE = 4096


class Loan:
    """A worker's segment, and the parent's side of it; the table is in this process's memory."""

    def __init__(self) -> None:
        self.fd = files.create("test")
        self.segment = Segment(self.fd, BASE, BITS)
        self.table = memoryview(bytearray(1000))
        self.borrowed = Borrowed(self.segment.key, self.fd, BASE, self.table, BITS)
        self.watch = os.dup(self.fd)
        self.is_closed = False
        self.lent: list[Lease] = []

    def lend(self, size: int) -> Lease:
        """A block of this size, of ones, is the parent's: its lease there."""
        lease = self.segment.put([b"\1" * size])
        self.lent.append(lease)
        return self.borrowed.take(lease.place)

    def back(self) -> list[int]:
        """Offsets of the blocks that are back."""
        return [at << BITS for at, byte in enumerate(self.table[FIRST:]) if byte]

    def close(self) -> bool:
        """As when the worker is dead."""
        self.is_closed = True
        self.segment.unmap()
        owns = self.borrowed.close(os.fstat(self.fd).st_size)
        if not owns:
            os.close(self.fd)
        return owns


@pytest.fixture
def loan() -> Iterator[Loan]:
    made = Loan()
    watch = made.watch
    yield made
    if not made.is_closed:
        made.close()
    made.__dict__.pop("borrowed", None)
    gc.collect()
    os.close(watch)


def test_what_was_lent_is_told_to_be_back_when_its_lease_is_gone(loan: Loan) -> None:
    leases = [loan.lend(size) for size in (100, 3 * UNIT, UNIT)]
    assert (loan.back(), loan.table[LOOK]) == ([], 0)
    assert loan.borrowed.in_use == 100 + 4 * UNIT
    offset = leases[1].offset
    del leases[1]
    assert (loan.back(), loan.table[LOOK]) == ([offset], 1)
    assert loan.borrowed.in_use == 100 + UNIT
    loan.table[LOOK] = 0
    leases.clear()
    assert len(loan.back()) == 3
    assert loan.table[LOOK] == 1
    assert loan.borrowed.in_use == 0


def test_what_is_open_is_not_back(loan: Loan) -> None:
    lease = loan.lend(1000)
    view = loan.borrowed.open(lease.place, OWN)
    del lease
    assert bytes(view) == b"\1" * 1000
    assert loan.back() == []
    part = np.frombuffer(view, np.uint8)[5:7]
    del view
    assert loan.back() == []
    del part
    assert loan.back() == [0]


def test_who_opens_what_nobody_holds_is_told_so(loan: Loan) -> None:
    lease = loan.lend(1000)
    place = lease.place
    del lease
    with pytest.raises(LookupError, match="nobody holds"):
        loan.borrowed.open(place, OWN)
    with pytest.raises(LookupError, match="nobody holds"):
        loan.borrowed.open((77, 0, 8), OWN)


def test_it_is_the_source_of_its_segment_as_long_as_it_is_there(loan: Loan) -> None:
    key = loan.segment.key
    assert parcel.sources[key] is loan.borrowed
    lease = loan.lend(1000)
    loan.close()
    del loan.borrowed
    assert parcel.sources[key].open(lease.place, OWN)[0] == 1  # its lease keeps it
    del lease
    assert key not in parcel.sources


def test_the_look_byte_is_the_last_that_is_stored(loan: Loan) -> None:
    """Who clears it and then looks finds all that was stored before it."""
    stored: list[int] = []

    class Table:
        def __setitem__(self, at: int, value: int) -> None:
            stored.append(at)

    leases = [loan.lend(100), loan.lend(100)]
    loan.borrowed._table = Table()  # type: ignore[assignment]
    del leases[1]
    assert stored == [FIRST + 1, LOOK]
    leases.clear()
    assert stored == [FIRST + 1, LOOK, FIRST, LOOK]


def test_many_threads_drop_at_once(loan: Loan) -> None:
    leases = [loan.lend(100) for _ in range(400)]
    offsets = {lease.offset for lease in leases}
    parts = [leases[n::4] for n in range(4)]
    leases.clear()
    start = threading.Barrier(4)

    def drop(part: list[Lease]) -> None:
        start.wait(WAIT_S)
        while part:
            part.pop()

    threads = [threading.Thread(target=drop, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert set(loan.back()) == offsets
    assert loan.borrowed.in_use == 0


def test_a_forked_copy_tells_nothing_and_gives_nothing_back(loan: Loan) -> None:
    # As the real table: in memory that both processes have mapped.
    shared = mmap.mmap(-1, 4096)
    loan.borrowed._table = memoryview(shared)
    leases = [loan.lend(1000)]
    place = leases[0].place

    def drop() -> tuple[int, int]:
        leases.clear()
        loan.borrowed._table = None
        again = Lease(*place)
        mark = Mark(again, loan.borrowed._came_back)
        del again
        assert mark() is None
        return shared[FIRST], allocated(loan.watch)

    held = allocated(loan.watch)
    assert in_child(drop) == (0, held)
    assert shared[LOOK] == 0
    assert loan.borrowed.open(place, OWN)[0] == 1
    leases.clear()
    assert shared[FIRST] == 1
    loan.borrowed._table.release()
    loan.borrowed._table = None
    shared.close()


# ---- after the owner's death ---------------------------------------------------------------------------------------


def test_with_nothing_lent_the_descriptor_stays_the_callers(loan: Loan) -> None:
    loan.lend(1000)
    assert loan.borrowed.in_use == 0
    assert loan.close() is False


@pytest.mark.parametrize("is_opened", [True, False])
def test_of_a_dead_owner_only_what_is_looked_at_keeps_memory(loan: Loan, is_opened: bool) -> None:
    sizes = [UNIT, 5 * UNIT, 100, 20 * UNIT, 3 * UNIT + 1, 2 * UNIT]
    looks: dict[int, Any] = {n: loan.lend(size) for n, size in enumerate(sizes)}
    if is_opened:
        looks = {n: loan.borrowed.open(lease.place, OWN) for n, lease in looks.items()}
    del looks[0], looks[3], looks[5]
    assert allocated(loan.watch) > 30 * UNIT
    assert loan.close() is True
    assert allocated(loan.watch) == sum(pages(sizes[n]) for n in looks)
    for n, look in looks.items():
        view = look if is_opened else loan.borrowed.open(look.place, OWN)
        assert bytes(view) == b"\1" * sizes[n]
    view = look = None
    for n in (1, 4, 2):
        del looks[n]
        if is_opened:
            gc.collect()
        assert allocated(loan.watch) == sum(pages(sizes[k]) for k in looks)


def pages(size: int) -> int:
    """What so many bytes take; the rest of their block never had memory."""
    return -(-size // 4096) * 4096


def test_the_descriptor_is_closed_with_the_last_look(loan: Loan) -> None:
    lease = loan.lend(1000)
    view = loan.borrowed.open(lease.place, OWN)
    del lease
    other = loan.lend(1000)
    fd = loan.fd
    assert loan.close() is True
    del loan.borrowed
    assert os.fstat(fd)
    del other
    gc.collect()
    assert os.fstat(fd)
    assert view[0] == 1
    del view
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert mappings(loan.watch) == 0


def test_what_is_gone_while_the_table_is_unmapped_gives_its_memory_back(loan: Loan) -> None:
    """A finalizer that has seen the table a moment ago."""
    lease = loan.lend(4 * UNIT)
    assert loan.close()
    loan.borrowed._table = loan.table
    loan.table.release()
    held = allocated(loan.watch)
    del lease
    assert allocated(loan.watch) == held - 4 * UNIT


def test_memory_that_cannot_be_given_back_goes_with_the_file(loan: Loan, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(fd: int) -> int:
        raise OSError(24, "Too many open files")

    leases = [loan.lend(UNIT), loan.lend(4 * UNIT)]
    loan.close()
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", no_descriptor)
        del leases[0]
    assert allocated(loan.watch) == 5 * UNIT
    leases.clear()
    assert allocated(loan.watch) == UNIT


def test_of_a_dead_owner_nothing_stays_mapped_for_those_who_come(loan: Loan) -> None:
    lease = loan.lend(1000)
    loan.borrowed.open(lease.place, OWN)
    loan.segment.unmap()
    assert mappings(loan.watch) == 1
    loan.close()
    assert mappings(loan.watch) == 0
    assert lease.length == 1000
