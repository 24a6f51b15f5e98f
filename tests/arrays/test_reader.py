"""Objects that look at a block: who sees what is written, how long the block is theirs, and what a fork leaves them."""

import ctypes
import gc
import mmap
import os
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mpengine.arrays import mapping as mapping_module
from mpengine.arrays import segment as segment_module
from mpengine.arrays.mapping import Mapping, Piece
from mpengine.arrays.parcel import COPY, OWN, SHARED
from mpengine.arrays.reader import Reader
from mpengine.arrays.segment import PIECE_BYTES, Lease
from tests.arrays.conftest import Memory, in_child, mappings

MODES = [OWN, COPY, SHARED]
PAGE = mmap.PAGESIZE


@pytest.fixture(params=[0, 3 * PAGE], ids=["at 0", "behind others"])
def memory(request: pytest.FixtureRequest) -> Iterator[Memory]:
    """A file in memory, whose blocks may begin somewhere."""
    made = Memory(request.param)
    yield made
    made.close()


@pytest.fixture
def reader(memory: Memory) -> Iterator[Reader]:
    made = Reader(lambda: os.dup(memory.fd), memory.base)
    yield made
    made.forget()


def other_lease(lease: Lease) -> Lease:
    """As the other side has it: nothing follows from its end."""
    return Lease(*lease.place, lambda lease: None)


# ---- who sees what is written --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 100, PAGE, PAGE + 1, 100_000])
def test_what_is_looked_at_is_what_was_put(memory: Memory, reader: Reader, mode: int, size: int) -> None:
    content = os.urandom(size)
    memory.segment.put([b"before"])
    view = reader.open(memory.segment.put([content]), mode)
    assert bytes(view) == content
    assert (view.format, view.shape, view.nbytes) == ("B", (size,), size)


@pytest.mark.parametrize("size", [100, PAGE + 1, 100_000])
def test_what_is_written_by_the_owner_is_in_the_block(memory: Memory, reader: Reader, size: int) -> None:
    lease = memory.segment.put([bytes(size)])
    view = reader.open(lease, OWN)
    view[0] = view[-1] = 7
    assert memory.content(lease.offset, size) == b"\7" + bytes(size - 2) + b"\7"
    os.pwrite(memory.fd, b"\5", memory.base + lease.offset + 1)
    assert view[1] == 5


@pytest.mark.parametrize("size", [100, PAGE + 1, 100_000])
def test_what_is_written_to_a_copy_nobody_else_sees(memory: Memory, reader: Reader, size: int) -> None:
    lease = memory.segment.put([bytes(size)])
    one, other = reader.open(lease, COPY), reader.open(lease, COPY)
    one[0] = one[-1] = 7
    assert bytes(other) == memory.content(lease.offset, size) == bytes(size)
    assert bytes(reader.open(lease, COPY)) == bytes(size)
    assert (one[0], one[-1]) == (7, 7)


def test_what_is_shared_cannot_be_written_to(memory: Memory, reader: Reader) -> None:
    view = reader.open(memory.segment.put([bytes(100)]), SHARED)
    assert view.readonly
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 7
    array = np.frombuffer(view, np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 7
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        array.flags.writeable = True


def test_neighbours_in_a_page_are_not_touched(reader: Reader, memory: Memory) -> None:
    leases = [memory.segment.put([bytes([n]) * 100]) for n in range(3)]
    views = [reader.open(lease, OWN) for lease in leases]
    views[1][:] = b"x" * 100
    assert [bytes(view[:1]) for view in views] == [b"\0", b"x", b"\2"]


# ---- how long a block is kept --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_lease_is_kept_by_whatever_looks_at_it_and_goes_with_the_last(
    memory: Memory, reader: Reader, mode: int
) -> None:
    def looks(view: memoryview) -> Iterator[Any]:
        yield view
        yield view[10:20]
        yield view.cast("Q")[::2]
        yield np.frombuffer(view, np.int64)
        yield np.frombuffer(view, np.uint8).reshape(20, 50)[3:7, ::2].T
        yield np.frombuffer(view, np.float32)[5:].data
        yield pickle.PickleBuffer(view)
        yield pickle.loads(pickle.dumps(np.zeros(125), 5, buffer_callback=lambda _: None), buffers=[view])

    count = len(list(looks(memoryview(bytearray(1000)))))
    for n in range(count):
        lease = memory.segment.put([bytes(1000)])
        gone = weakref.ref(lease)
        view = reader.open(lease, mode)
        del lease
        look = list(looks(view))[n]
        del view
        gc.collect()
        assert gone() is not None
        assert memory.segment.in_use == 1000
        del look
        assert gone() is None
        assert memory.segment.in_use == 0


def test_each_look_keeps_a_block_for_itself(memory: Memory, reader: Reader) -> None:
    lease = memory.segment.put([bytes(1000)])
    views = [reader.open(lease, mode) for mode in MODES]
    del lease
    while views:
        assert memory.segment.in_use == 1000
        views.pop()
    assert memory.segment.in_use == 0


def test_a_block_outlives_its_reader(memory: Memory) -> None:
    reader = Reader(lambda: os.dup(memory.fd), memory.base)
    view = reader.open(memory.segment.put([b"mine" * 1000]), OWN)
    gone = weakref.ref(reader)
    del reader
    assert gone() is None
    assert bytes(view) == b"mine" * 1000
    assert memory.segment.in_use == 4000


def test_a_mapping_that_cannot_be_made_keeps_no_lease(
    memory: Memory, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int | None:
        ctypes.set_errno(12)
        return mapping_module._FAILED

    lease = memory.segment.put([bytes(1000)])
    with monkeypatch.context() as patched:
        patched.setattr(mapping_module, "_libc", Refusing(mmap=refused))
        for mode in MODES:
            with pytest.raises(MemoryError, match="cannot be mapped"):
                reader.open(lease, mode)
    del lease
    gc.collect()
    assert memory.segment.in_use == 0


class Refusing:
    """The C library, with some functions replaced."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(ctypes.CDLL(None, use_errno=True), name)


# ---- the mapping ---------------------------------------------------------------------------------------------------


def test_blocks_of_a_piece_have_one_mapping_and_no_descriptor(memory: Memory, reader: Reader) -> None:
    before = set(os.listdir("/proc/self/fd"))
    views = [reader.open(memory.segment.put([bytes([n]) * 5000]), OWN) for n in range(20)]
    assert mappings(memory.fd) == 1
    views += [reader.open(memory.segment.put([bytes([n]) * 5000]), COPY) for n in range(20, 30)]
    assert mappings(memory.fd) == 11
    assert set(os.listdir("/proc/self/fd")) == before
    assert [view[-1] for view in views] == list(range(30))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of a few pages, so that blocks are larger than one."""
    monkeypatch.setattr(segment_module, "PIECE_BYTES", 4 * PAGE)
    monkeypatch.setattr(mapping_module, "PIECE_BYTES", 4 * PAGE)
    return 4 * PAGE


@pytest.mark.parametrize("mode", MODES)
def test_blocks_larger_than_a_piece(small_pieces: int, memory: Memory, reader: Reader, mode: int) -> None:
    sizes = [100, small_pieces, small_pieces + 1, 5 * small_pieces, 3 * PAGE, 9 * small_pieces - 1]
    leases = [memory.segment.put([bytes([n]) * size]) for n, size in enumerate(sizes)]
    views = [reader.open(lease, mode) for lease in leases]
    for n, (size, view, lease) in enumerate(zip(sizes, views, leases, strict=True)):
        assert len(view) == size
        assert bytes(view) == bytes([n]) * size
        if mode != SHARED:
            view[-1] = 99
            assert (memory.content(lease.offset, size)[-1] == 99) == (mode == OWN)


def test_warm_blocks_larger_than_a_piece_are_written_and_made_cold(small_pieces: int, memory: Memory) -> None:
    size = 40 * small_pieces
    for fill in (b"a", b"b"):
        lease = memory.segment.put([fill * size])
        assert memory.content(lease.offset, size) == fill * size
        del lease
    while memory.segment.cool():
        continue
    assert os.fstat(memory.fd).st_blocks == 0


def test_a_block_of_real_size_over_several_pieces(memory: Memory, reader: Reader) -> None:
    size = PIECE_BYTES + PAGE + 5
    lease = memory.segment.put([b"begin", bytes(size - 8), b"end"])
    small = memory.segment.put([b"small"])
    view = reader.open(lease, OWN)
    assert (bytes(view[:5]), bytes(view[-3:]), len(view)) == (b"begin", b"end", size)
    assert bytes(reader.open(small, OWN)) == b"small"
    assert memory.content(lease.offset, 5) == b"begin"


def test_the_last_mappings_stay_for_those_who_come(
    small_pieces: int, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping_module, "_MOST", 3)
    opened: list[int] = []

    def open_file() -> int:
        opened.append(1)
        return os.dup(memory.fd)

    os.ftruncate(memory.fd, memory.base + 100 * small_pieces)
    mapping = Mapping(open_file, memory.base)
    find = lambda n: mapping.find(n * small_pieces + PAGE, 100)  # noqa: E731
    for n in (0, 1, 2):
        assert find(n)[1] == PAGE
    assert (len(opened), mappings(memory.fd)) == (3, 3)
    find(0)
    assert len(opened) == 3
    find(3)  # and 1 goes, which is the oldest now
    assert (len(opened), mappings(memory.fd)) == (4, 3)
    for n in (0, 2, 3):
        find(n)
    assert len(opened) == 4
    kept, _ = find(1)
    assert (len(opened), mappings(memory.fd)) == (5, 3)
    mapping.forget()
    assert mappings(memory.fd) == 1
    del kept
    assert mappings(memory.fd) == 0


def test_a_piece_is_unmapped_with_the_last_that_looks_at_it(memory: Memory) -> None:
    os.ftruncate(memory.fd, memory.base + 4 * PAGE)
    piece = Piece(memory.fd, 4 * PAGE, mmap.MAP_SHARED, memory.base)
    block = piece.block(PAGE, 100)
    assert ctypes.addressof(block) == piece.address + PAGE
    view = piece.view(0, 1)
    del piece, block
    assert mappings(memory.fd) == 1
    del view
    assert mappings(memory.fd) == 0


def test_a_piece_that_could_not_be_mapped_unmaps_nothing(memory: Memory) -> None:
    for about, kind in (
        ((memory.fd, 0, mmap.MAP_SHARED, 0), OSError),
        ((memory.fd, 1 << 50, mmap.MAP_SHARED, 0), MemoryError),
    ):
        with pytest.raises(kind, match="bytes of shared memory cannot be mapped"):
            Piece(*about)
    gc.collect()


# ---- a fork --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["at once", "page by page"])
def populates(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel can make copies of many pages at once."""
    if not request.param:
        libc = mapping_module._libc
        refused = lambda address, length, advice: (  # noqa: E731
            -1 if advice == mapping_module._MADV_POPULATE_WRITE else libc.madvise(address, length, advice)
        )
        monkeypatch.setattr(mapping_module, "_libc", Refusing(madvise=refused, mmap=libc.mmap, munmap=libc.munmap))
    return bool(request.param)


SIZES = [100, PAGE, 5 * PAGE + 17]


@pytest.mark.parametrize("mode", [OWN, COPY])
@pytest.mark.parametrize("size", SIZES)
def test_a_forked_child_and_its_parent_have_memory_of_their_own(
    memory: Memory, reader: Reader, populates: bool, mode: int, size: int
) -> None:
    view = reader.open(memory.segment.put([b"a" * size]), mode)
    view[0] = ord("b")

    def child() -> tuple[bytes, bytes]:
        seen = bytes(view)
        view[1:4] = b"kid"
        return seen, bytes(view)

    seen, changed = in_child(child)
    assert seen == b"b" + b"a" * (size - 1)
    assert changed == b"bkid" + b"a" * (size - 4)
    assert bytes(view) == seen
    view[-1] = ord("z")
    assert bytes(view) == b"b" + b"a" * (size - 2) + b"z"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_after_a_fork_a_block_is_free_and_who_looked_at_it_keeps_its_content(
    memory: Memory, reader: Reader, populates: bool, mode: int, size: int
) -> None:
    lease = memory.segment.put([b"a" * size])
    offset = lease.offset
    view = reader.open(lease, mode)
    array = np.frombuffer(view, np.uint8)
    del lease
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.read(read, 1)  # the block has been written anew
            status = 0 if bytes(view) == b"a" * size and (array == ord("a")).all() else 2
        finally:
            os._exit(status)
    try:
        assert memory.segment.in_use == 0
        again = memory.segment.put([b"x" * size])
        assert again.offset == offset
        assert bytes(view) == b"a" * size
        assert (array == ord("a")).all()
    finally:
        os.write(write, b".")
        assert os.waitpid(pid, 0)[1] == 0
        os.close(read)
        os.close(write)
    del view, array
    assert memory.content(offset, size) == b"x" * size


def test_what_is_written_after_a_fork_is_not_in_the_block(memory: Memory, reader: Reader, populates: bool) -> None:
    lease = memory.segment.put([bytes(3 * PAGE)])
    view = reader.open(other_lease(lease), OWN)
    in_child(lambda: None)
    view[:] = b"x" * 3 * PAGE
    assert memory.content(lease.offset, 3 * PAGE) == bytes(3 * PAGE)


def test_a_fork_leaves_neighbours_and_those_who_come_as_they_were(
    memory: Memory, reader: Reader, populates: bool
) -> None:
    leases = [memory.segment.put([bytes([n]) * PAGE]) for n in range(3)]
    view = reader.open(other_lease(leases[1]), OWN)
    in_child(lambda: None)
    others = [reader.open(other_lease(lease), OWN) for lease in leases]
    for n, other in enumerate(others):
        other[0] = 100 + n
        assert memory.content(leases[n].offset, 1) == bytes([100 + n])
    assert bytes(view) == b"\1" * PAGE


def test_many_forks_in_a_row(memory: Memory, reader: Reader, populates: bool) -> None:
    views = []
    for n in range(5):
        views.append(reader.open(memory.segment.put([bytes([n]) * 2 * PAGE]), MODES[n % 3]))
        expected = [bytes([k]) * 2 * PAGE for k in range(n + 1)]
        assert in_child(lambda: [view[-1] for view in views]) == list(range(n + 1))
        assert [bytes(view) for view in views] == expected
        assert memory.segment.in_use == 0
    views.clear()
    reader.forget()
    assert mappings(memory.fd) == 0


def test_a_block_that_is_larger_than_a_piece_in_a_fork(
    small_pieces: int, memory: Memory, reader: Reader, populates: bool
) -> None:
    size = 3 * small_pieces + 5
    view = reader.open(memory.segment.put([b"a" * size]), OWN)
    assert in_child(lambda: (view[0], view[-1])) == (97, 97)
    assert memory.segment.in_use == 0
    memory.segment.put([b"x" * size])
    assert bytes(view) == b"a" * size


def test_a_child_can_look_at_further_blocks(memory: Memory, reader: Reader) -> None:
    first = reader.open(memory.segment.put([b"first"]), OWN)
    lease = memory.segment.put([b"second"])
    assert in_child(lambda: bytes(reader.open(other_lease(lease), OWN))) == b"second"
    assert bytes(first) == b"first"
