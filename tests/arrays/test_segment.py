"""A segment: what is put is fetched, memory is re-used warm and given back, and a full machine is an error."""

import contextlib
import errno
import itertools
import os
import random
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpengine.arrays import files
from mpengine.arrays import segment as segment_module
from mpengine.arrays.segment import ALIGNMENT, PIECE_BYTES, Lease, Segment, fetch, positions
from tests.support import WAIT_S

BITS = 12
PAGE = 1 << BITS
MAPPED = segment_module._MAPPED_FROM  # bytes from which on what is warm is written through a mapping


class Store:
    """A segment and its file."""

    def __init__(self, base: int = 0, **options: Any) -> None:
        self.fd = files.create("test")
        self.base = base
        self.segment = Segment(self.fd, base, BITS, **options)

    def put(self, *parts: Any, alignment: int = 1) -> Lease:
        return self.segment.put(parts, alignment)

    def fetch(self, lease: Lease) -> bytes:
        return bytes(fetch(self.fd, self.base + lease.offset, lease.length))

    def warm(self, lease: Lease) -> int:
        """How many bytes of its block have memory."""
        return self.segment._marks[lease.number].warm

    @property
    def allocated(self) -> int:
        """Bytes of memory that the system holds for it."""
        return os.fstat(self.fd).st_blocks * 512

    def cool(self) -> int:
        """Give all back that is free; in how many steps."""
        return sum(1 for _ in iter(self.segment.cool, False))

    def close(self) -> None:
        self.segment.unmap()
        os.close(self.fd)


@pytest.fixture
def make_store() -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def make(*args: Any, **options: Any) -> Store:
        stores.append(Store(*args, **options))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


def full(*_: object) -> Any:
    raise OSError(errno.ENOSPC, "no room")


# ---- put and fetch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [0, 3 * PAGE])
def test_what_is_put_is_fetched(make_store: Callable[..., Store], base: int) -> None:
    store = make_store(base)
    parts: list[Any] = [b"", b"one", memoryview(b"two" * 5000), b"", bytearray(range(256)) * 4000]
    for _ in range(2):  # cold, and warm through the mapping
        lease = store.put(*parts)
        assert lease.length == sum(map(len, parts))
        assert store.fetch(lease) == b"".join(parts)
        assert os.pread(store.fd, base, 0) == bytes(base)
        del lease


def test_nothing_at_all_has_a_block_too(store: Store) -> None:
    one, other = store.put(b""), store.put(b"", b"")
    assert (one.length, store.fetch(one)) == (0, b"")
    assert one.offset != other.offset


@pytest.mark.parametrize("count", [1, 511, 512, 513, 2000])
def test_any_number_of_parts(store: Store, count: int) -> None:
    parts = [str(n).encode() for n in range(count)]
    assert store.fetch(store.put(*parts)) == b"".join(parts)


@pytest.mark.parametrize("iov", [1, 2, 3, 7])
def test_more_parts_than_the_kernel_takes_at_once(store: Store, monkeypatch: pytest.MonkeyPatch, iov: int) -> None:
    calls: list[int] = []
    pwritev = os.pwritev

    def counted(fd: int, views: list[memoryview], at: int) -> int:
        calls.append(len(views))
        return pwritev(fd, views, at)

    monkeypatch.setattr(segment_module, "_MOST_IOV", iov)
    monkeypatch.setattr(os, "pwritev", counted)
    parts = [os.urandom(n % 5 * 100) for n in range(20)]
    assert store.fetch(store.put(*parts)) == b"".join(parts)
    assert max(calls) == iov


@pytest.mark.parametrize("alignment", [1, 64])
def test_parts_that_the_kernel_does_not_take_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, alignment: int
) -> None:
    calls: list[int] = []
    pwritev = os.pwritev

    def counted(fd: int, views: list[memoryview], at: int) -> int:
        calls.append(sum(map(len, views)))
        return pwritev(fd, views, at)

    monkeypatch.setattr(segment_module, "_MOST_BYTES", 1000)
    monkeypatch.setattr(os, "pwritev", counted)
    parts = [os.urandom(size) for size in (700, 5000, 0, 1, 2999, 400, 400, 400)]
    lease = store.put(*parts, alignment=alignment)
    assert_parts(store, lease, parts, alignment)
    assert max(calls) <= 1000


def test_the_kernel_may_take_less_than_it_is_given(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev, preadv = os.pwritev, os.preadv

    def some_written(fd: int, views: list[memoryview], at: int) -> int:
        return pwritev(fd, [views[0][:700]], at)

    def some_read(fd: int, views: list[memoryview], at: int) -> int:
        return preadv(fd, [views[0][:500]], at)

    monkeypatch.setattr(os, "pwritev", some_written)
    monkeypatch.setattr(os, "preadv", some_read)
    parts = [os.urandom(size) for size in (300, 700, 1, 0, 5000)]
    assert store.fetch(store.put(*parts)) == b"".join(parts)


def assert_parts(store: Store, lease: Lease, parts: list[Any], alignment: int) -> None:
    found = store.fetch(lease)
    for at, part in zip(positions([len(part) for part in parts], alignment), parts, strict=True):
        assert at % alignment == 0
        assert found[at : at + len(part)] == part


@pytest.mark.parametrize("size", [10, MAPPED])
@pytest.mark.parametrize("alignment", [1, 8, ALIGNMENT, PAGE])
def test_each_part_is_aligned(store: Store, alignment: int, size: int) -> None:
    parts = [os.urandom(n * size // 3 + n % 2) for n in range(7)]
    for _ in range(2):
        lease = store.put(*parts, alignment=alignment)
        assert lease.offset % PAGE == 0
        assert_parts(store, lease, parts, alignment)
        del lease


def test_what_is_copied_is_copied_in_steps_that_end_anywhere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_module, "_STEP", 1000)
    store.put(bytes(MAPPED))
    parts = [os.urandom(size) for size in (999, 1000, 1001, 2000, 0, MAPPED - 5000)]
    lease = store.put(*parts)
    assert store.warm(lease) >= MAPPED
    assert store.fetch(lease) == b"".join(parts)


def test_what_the_file_does_not_have_cannot_be_fetched(store: Store) -> None:
    lease = store.put(b"x")
    with pytest.raises(EOFError):
        fetch(store.fd, 1 << 40, 10)
    with pytest.raises(EOFError):
        fetch(store.fd, PIECE_BYTES - 5, 10)
    assert lease.length == 1
    gone = os.dup(store.fd)
    os.close(gone)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fetch(gone, 0, 10)


def test_a_copy_that_was_fetched_is_writable_and_the_callers_own(store: Store) -> None:
    lease = store.put(b"mine")
    copy = fetch(store.fd, lease.offset, 4)
    copy[:] = b"your"
    assert store.fetch(lease) == b"mine"


# ---- blocks ----------------------------------------------------------------------------------------------------------


def test_blocks_in_use_never_overlap_and_free_ones_are_used_again(store: Store) -> None:
    chance = random.Random(7)
    live: dict[Lease, bytes] = {}
    top = 0
    for _ in range(400):
        if live and chance.random() < 0.5:
            lease = chance.choice(list(live))
            assert store.fetch(lease) == live.pop(lease)
            del lease
        else:
            body = os.urandom(chance.choice([1, 4095, 4096, 4097, 20_000, 100_000]))
            lease = store.put(body)
            assert lease.length == len(body)
            live[lease] = body
            del lease
        if chance.random() < 0.05:
            store.segment.cool()
        top = max([top, *(lease.offset + lease.length for lease in live)])
        assert store.segment.in_use == sum(map(len, live.values()))
    for lease, body in live.items():
        assert store.fetch(lease) == body
    live.clear()
    del lease
    assert store.segment.in_use == 0
    again = [store.put(b"x" * 4096) for _ in range(3)]
    assert max(lease.offset for lease in again) <= top  # room that was used before


def test_a_block_that_comes_back_is_taken_again_and_takes_no_further_memory(store: Store) -> None:
    first = store.put(b"a" * MAPPED)
    offset = first.offset
    assert store.warm(first) == MAPPED
    held = store.allocated
    del first
    again = store.put(b"b" * (MAPPED - 100))
    assert (again.offset, store.warm(again)) == (offset, MAPPED)
    assert store.allocated == held
    assert store.fetch(again) == b"b" * (MAPPED - 100)


@pytest.mark.parametrize("size", [10, MAPPED - 1, MAPPED, 3 * MAPPED])
def test_only_what_is_warm_and_large_goes_through_a_mapping(
    store: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A write through a mapping to new room would end the process if the machine is full."""
    calls: list[int] = []
    pwritev = os.pwritev

    def counted(fd: int, views: list[memoryview], at: int) -> int:
        calls.append(at)
        return pwritev(fd, views, at)

    monkeypatch.setattr(os, "pwritev", counted)
    for _ in range(3):
        store.put(b"x" * size)
    assert len(calls) == (3 if size < MAPPED else 1)
    lease = store.put(b"y" * 2 * size)  # of which a part is warm, at most
    assert len(calls) == (4 if size < MAPPED else 2)
    assert store.fetch(lease) == b"y" * 2 * size


def test_each_lease_has_a_number_of_its_own(store: Store) -> None:
    one, other = store.put(b"one"), store.put(b"other")
    assert one.place == (one.number, one.offset, 3)
    gone, offset = one.number, one.offset
    del one
    again = store.put(b"again")
    assert again.offset == offset
    assert again.number not in (gone, other.number)
    assert store.segment.taken == 3


def test_what_is_pinned_is_not_free_when_its_lease_is_gone(store: Store) -> None:
    lease = store.put(b"x" * 5000)
    number, place = lease.number, lease.place
    assert store.segment.pin(number)
    assert store.segment.pin(number)
    del lease
    assert store.segment.in_use == 5000
    other = store.put(b"y" * 5000)
    store.segment.unpin(number)
    third = store.put(b"z" * 5000)
    assert place[1] not in (other.offset, third.offset)
    assert bytes(fetch(store.fd, place[1], place[2])) == b"x" * 5000
    store.segment.unpin(number)
    assert store.segment.in_use == 10_000
    assert store.put(b"again" * 1000).offset == place[1]


def test_what_was_unpinned_before_its_lease_has_gone_is_free_with_that(store: Store) -> None:
    lease = store.put(b"x")
    assert store.segment.pin(lease.number)
    store.segment.unpin(lease.number)
    assert store.segment.in_use == 1
    number = lease.number
    del lease
    assert store.segment.in_use == 0
    assert not store.segment.pin(number)


def test_who_keeps_a_block_hears_that_its_last_lease_is_gone(store: Store) -> None:
    heard: list[int] = []
    store.segment.dropped = heard.append
    kept, passing = store.put(b"x"), store.put(b"y")
    store.segment.let_stay(kept)
    number = kept.number
    again = kept
    del kept, passing
    assert not heard
    del again
    assert heard == [number]


def test_segments_have_different_keys(make_store: Callable[..., Store]) -> None:
    keys = {make_store().segment.key for _ in range(10)}
    assert len(keys) == 10
    assert all(0 <= key < 1 << 64 for key in keys)


def test_in_use_is_what_leases_are_held_of_and_peak_the_most_of_it(store: Store) -> None:
    segment = store.segment
    leases = [store.put(b"x" * size) for size in (1, 5000, 100_000)]
    assert (segment.in_use, segment.peak) == (105_001, 105_001)
    del leases[1]
    assert (segment.in_use, segment.peak) == (100_001, 105_001)
    leases.append(store.put(b"y" * 4999))
    assert (segment.in_use, segment.peak) == (105_000, 105_001)
    leases.append(store.put(b"z" * 2))
    assert (segment.in_use, segment.peak) == (105_002, 105_002)
    leases.clear()
    assert (segment.in_use, segment.peak, segment.taken) == (0, 105_002, 5)


def test_leases_that_were_held_for_others_are_dropped_before_a_block_is_taken(make_store: Callable[..., Store]) -> None:
    held: list[Lease] = []
    free: list[Lease] = []
    store = make_store(look=free.clear)
    held.append(store.put(b"x" * 5000))
    offset = held[0].offset
    assert store.put(b"y").offset != offset
    free.append(held.pop())
    assert store.put(b"z" * 5000).offset == offset


# ---- giving memory back ----------------------------------------------------------------------------------------------


def test_what_is_free_goes_back_to_the_system_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_module, "_COOLED_BITS", 20)
    kept = store.put(b"k" * 100_000)
    large = store.put(bytes(8 << 20))
    is_warm = [store.segment.is_warm]
    assert not store.segment.cool()
    held = store.allocated
    assert held >= 8 << 20
    del large
    is_warm.append(store.segment.is_warm)
    assert store.allocated == held
    for step in range(1, 9):
        assert store.segment.cool()
        assert store.allocated == held - (step << 20)
        is_warm.append(store.segment.is_warm)
    assert not store.segment.cool()
    is_warm.append(store.segment.is_warm)
    assert is_warm == [False, *[True] * 8, False, False]
    assert store.allocated < 1 << 17
    assert store.fetch(kept) == b"k" * 100_000


def test_only_what_has_memory_is_given_back(store: Store) -> None:
    leases = [store.put(os.urandom(size)) for size in (5000, 70_000, 100, 40_000)]
    kept = leases[1::2]
    content = [store.fetch(lease) for lease in kept]
    leases.clear()
    assert store.cool() >= 2
    assert store.cool() == 0
    assert [store.fetch(lease) for lease in kept] == content
    assert store.allocated == sum(-(-lease.length // PAGE) * PAGE for lease in kept)


def test_an_empty_segment_that_was_made_cold_begins_anew(store: Store) -> None:
    leases = [store.put(b"x" * 100_000) for _ in range(10)]
    assert store.segment.top >= 10 * 100_000
    leases.clear()
    store.cool()
    assert (store.segment.top, store.allocated) == (0, 0)
    lease = store.put(b"and on" * 20_000)
    assert lease.offset == 0
    assert store.fetch(lease) == b"and on" * 20_000


def test_what_was_made_cold_reads_as_zero_and_can_be_written_again(store: Store) -> None:
    lease = store.put(b"x" * MAPPED)
    place = lease.offset
    del lease
    store.cool()
    assert bytes(fetch(store.fd, place, MAPPED)) == bytes(MAPPED)
    lease = store.put(b"y" * MAPPED)
    assert (lease.offset, store.warm(lease)) == (place, MAPPED)
    assert store.fetch(lease) == b"y" * MAPPED


def test_memory_that_cannot_be_given_back_now_stays_warm(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(b"x" * MAPPED)
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", full)
        assert not store.segment.cool()
    assert store.segment.is_warm
    assert store.cool() == 1
    assert store.allocated == 0
    lease = store.put(b"y" * MAPPED)
    assert store.fetch(lease) == b"y" * MAPPED


def test_what_is_written_after_unmapping_is_mapped_anew(store: Store) -> None:
    for fill in (b"a", b"b", b"c"):
        lease = store.put(fill * MAPPED)
        assert store.fetch(lease) == fill * MAPPED
        store.segment.unmap()
        del lease


# ---- no room ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EBADF, errno.ENOMEM])
def test_no_room_is_a_memory_error_and_the_block_is_free_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, "not this time")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", fail)
        with pytest.raises(MemoryError, match=r"70,000 bytes in shared memory: .*not this time") as caught:
            store.put(b"x" * 70_000)
        assert isinstance(caught.value.__cause__, OSError)
    assert store.segment.in_use == 0
    assert store.put(b"y" * 70_000).offset == 0


def test_what_was_written_before_there_was_no_room_goes_back_to_the_system(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = os.pwritev
    room = 1 << 20

    def half(fd: int, views: list[memoryview], at: int) -> int:
        return pwritev(fd, [views[0][:room]], at) if at < room else full()

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", half)
        with pytest.raises(MemoryError):
            store.put(bytes(2 << 20))
    assert store.allocated == 0
    assert not store.segment.is_warm or not store.segment.cool()
    assert store.segment.in_use == 0


def test_a_part_that_is_warm_is_given_back_too_when_the_rest_has_no_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(b"x" * 5000)
    store.put(b"y" * 5000)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        with pytest.raises(MemoryError):
            store.put(b"z" * 8192)
    lease = store.put(b"z" * 8192)
    assert lease.offset == 0
    assert store.fetch(lease) == b"z" * 8192


def test_an_interrupt_while_writing_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev = os.pwritev

    def interrupted(fd: int, views: list[memoryview], at: int) -> int:
        pwritev(fd, views, at)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", interrupted)
        with pytest.raises(KeyboardInterrupt) as kept:
            store.put(b"x" * MAPPED)
    assert kept.value.__traceback__ is not None  # and its frames
    assert (store.segment.in_use, store.allocated) == (0, 0)


def test_a_file_that_cannot_grow_is_a_memory_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", full)
        with pytest.raises(MemoryError, match="no room") as kept:
            store.put(b"x")
    assert kept.value.__traceback__ is not None
    assert store.segment.in_use == 0
    lease = store.put(b"y")
    assert store.fetch(lease) == b"y"
    assert os.fstat(store.fd).st_size == PIECE_BYTES


def test_a_mapping_that_cannot_be_made_is_a_memory_error_and_the_block_stays_warm(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(b"x" * MAPPED)
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", full)
        with pytest.raises(MemoryError, match="no room") as kept:
            store.put(b"y" * MAPPED)
    assert kept.value.__traceback__ is not None
    assert store.segment.in_use == 0
    assert store.segment.is_warm
    lease = store.put(b"y" * MAPPED)
    assert store.fetch(lease) == b"y" * MAPPED


def test_a_bound_on_the_blocks_is_a_memory_error_and_holds_for_all_of_them(make_store: Callable[..., Store]) -> None:
    store = make_store(most=4)
    leases = [store.put(b"x" * PAGE) for _ in range(3)]
    with pytest.raises(MemoryError):
        store.put(b"y" * 2 * PAGE)
    leases.append(store.put(b"x" * PAGE))
    with pytest.raises(MemoryError):
        store.put(b"y")
    assert store.segment.in_use == 4 * PAGE
    del leases[2:]
    lease = store.put(b"z" * 2 * PAGE)
    assert (lease.offset, store.fetch(lease)) == (2 * PAGE, b"z" * 2 * PAGE)
    assert os.fstat(store.fd).st_size == PIECE_BYTES


# ---- signals and threads ---------------------------------------------------------------------------------------------


def test_a_block_is_taken_and_written_under_the_shield(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    depth: list[str] = []
    seen: list[bool] = []
    pwritev = os.pwritev

    @contextlib.contextmanager
    def shield() -> Iterator[None]:
        depth.append("in")
        try:
            yield
        finally:
            depth.pop()

    def watched(fd: int, views: list[memoryview], at: int) -> int:
        seen.append(bool(depth))
        return pwritev(fd, views, at)

    monkeypatch.setattr(os, "pwritev", watched)
    for _ in range(2):
        store.segment.shield = shield()
        store.put(b"x")
    store.segment.shield = shield()
    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", full)
        with pytest.raises(MemoryError):
            store.put(bytes(PIECE_BYTES + 1))
    assert seen == [True, True]
    assert not depth


def test_a_lease_may_be_dropped_in_the_middle_of_taking_one(make_store: Callable[..., Store]) -> None:
    """As by the garbage collector, in the thread that holds the lock."""
    held: list[Lease] = []
    store = make_store(look=held.clear)
    held.append(store.put(b"x" * 5000))
    other = store.put(b"y" * 5000)
    assert not held
    assert (other.offset, store.segment.in_use) == (0, 5000)


def test_many_threads_put_and_drop_at_once(store: Store) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(5)
    stop = threading.Event()
    swap: deque[tuple[Lease, int]] = deque()  # a lease that was put by one thread is dropped by another

    def work(seed: int) -> None:
        chance = random.Random(seed)
        live: list[tuple[Lease, int]] = []
        try:
            start.wait(WAIT_S)
            for _ in range(250):
                size = chance.choice([10, 5000, MAPPED, 150_000, 700_000])
                body = chance.randbytes(64) * (size // 64 + 1)
                live.append((store.put(body), zlib.crc32(body)))
                swap.append(live.pop(chance.randrange(len(live))))
                with contextlib.suppress(IndexError):
                    live.append(swap.popleft())
                while len(live) > 6:
                    check(*live.pop(chance.randrange(len(live))))
            for entry in live:
                check(*entry)
        except BaseException as error:
            failures.append(error)

    def check(lease: Lease, checksum: int) -> None:
        assert zlib.crc32(store.fetch(lease)) == checksum

    def cool() -> None:
        try:
            start.wait(WAIT_S)
            while not stop.is_set():
                store.segment.cool()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    cooler = threading.Thread(target=cool)
    for thread in (*workers, cooler):
        thread.start()
    for thread in workers:
        thread.join(WAIT_S)
    stop.set()
    cooler.join(WAIT_S)
    assert not failures
    lease: Lease | None
    for lease, checksum in swap:
        check(lease, checksum)
    swap.clear()
    lease = None
    assert store.segment.in_use == 0
    store.cool()
    assert store.allocated == 0


def test_positions_are_aligned_and_never_overlap() -> None:
    for lengths in itertools.product([0, 1, 63, 64, 65], repeat=3):
        places = positions(lengths, 64)
        assert places[0] == 0
        assert not any(place % 64 for place in places)
        for (place, length), after in zip(zip(places, lengths, strict=True), places[1:], strict=False):
            assert place + length <= after < place + length + 64
    assert positions([3, 0, 5], 1) == [0, 3, 3]
