"""Parcels: what lies in blocks and what in the pickle, who may open them, and what their keepers are told."""

import copy
import gc
import pickle
import threading
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mpengine.arrays import parcel
from mpengine.arrays.guest import Guest
from mpengine.arrays.parcel import (
    COPY,
    LARGE,
    MOST_KEPT,
    OWN,
    SHARED,
    OutOfBand,
    Parcel,
    current_packing,
    note_read_only,
    out_of_band,
    pack_in,
    size_of,
    with_leases,
)
from mpengine.arrays.segment import Lease
from mpengine.arrays.shared import Shared
from mpengine.wire import codec
from tests.arrays.conftest import Memory
from tests.support import WAIT_S, run_python

SMALL = LARGE - 1000  # so that the pickle in which it lies is not large either


@pytest.fixture
def guest(memory: Memory) -> Iterator[Guest]:
    """The side that opens what is packed for the memory's segment."""
    made = Guest(memory.segment.key, memory.fd)
    yield made
    made.kept.clear()
    made.forget()


def leases_of(blob: bytes) -> list[int]:
    """Bytes in each of its blocks."""
    return [lease.length for lease in blob.leases] if type(blob) is Parcel else []


def numbers_of(blob: bytes) -> tuple[int, ...]:
    """Of its blocks; of those that `parcel.leases_of` finds."""
    return tuple(lease.number for lease in parcel.leases_of(blob))


def bytes_of(count: int) -> Any:
    return np.arange(count).astype(np.uint8)


# ---- what lies where -----------------------------------------------------------------------------------------------


def test_large_buffers_lie_in_blocks_and_others_in_the_pickle(memory: Memory, guest: Guest) -> None:
    value = {"large": bytes_of(LARGE), "small": bytes_of(SMALL), "larger": bytes_of(3 * LARGE), "text": "t" * 10}
    blob = codec.pack(value, memory.segment)
    assert type(blob) is Parcel
    assert leases_of(blob) == [LARGE, 3 * LARGE]
    assert SMALL < len(blob) < LARGE
    assert blob.size == size_of(blob) == len(blob) + 4 * LARGE
    assert numbers_of(blob) == tuple(lease.number for lease in blob.leases)
    assert memory.segment.in_use == 4 * LARGE
    back = codec.loads(blob)
    assert back.keys() == value.keys()
    for name in ("large", "small", "larger"):
        assert (back[name] == value[name]).all()
        assert back[name].flags.writeable


def test_what_has_no_large_part_is_a_plain_pickle(memory: Memory) -> None:
    value = [bytes_of(100), "text", b"b" * 1000]
    blob = codec.pack(value, memory.segment)
    assert type(blob) is bytes
    assert memory.segment.taken == 0
    assert codec.loads(blob)[1:] == value[1:]


def test_without_a_segment_everything_is_in_the_pickle() -> None:
    for value in (bytes_of(2 * LARGE), b"x" * 2 * LARGE, list(range(LARGE))):
        blob = codec.pack(value)
        assert type(blob) is bytes
        assert np.array_equal(codec.loads(blob), value)


def test_a_pickle_that_is_large_itself_lies_in_a_block(memory: Memory, guest: Guest) -> None:
    value = [str(n) for n in range(LARGE)]
    blob = codec.pack(value, memory.segment)
    assert type(blob) is Parcel
    assert len(blob) < 300
    assert len(leases_of(blob)) == 1
    assert codec.loads(blob) == value


def test_a_large_pickle_and_its_buffers_are_told_apart(memory: Memory, guest: Guest) -> None:
    value = (bytes_of(LARGE), [str(n) for n in range(LARGE)], bytes_of(LARGE + 1))
    blob = codec.pack(value, memory.segment)
    assert len(leases_of(blob)) == 3
    assert leases_of(blob)[1:] == [LARGE, LARGE + 1]
    first, texts, last = codec.loads(blob)
    assert (first == value[0]).all()
    assert texts == value[1]
    assert (last == value[2]).all()


@pytest.mark.parametrize("mode", [OWN, COPY, SHARED])
def test_the_mode_says_how_it_is_opened(memory: Memory, guest: Guest, mode: int) -> None:
    blob = codec.pack(np.zeros(LARGE, np.uint8), memory.segment, mode)
    one = codec.loads(blob)
    assert one.flags.writeable == (mode != SHARED)
    if mode != SHARED:
        one[0] = 7
        assert codec.loads(blob)[0] == (7 if mode == OWN else 0)


def test_its_blocks_are_kept_by_the_parcel_and_by_what_was_opened(memory: Memory, guest: Guest) -> None:
    blob = codec.pack(bytes_of(LARGE), memory.segment)
    assert memory.segment.in_use == LARGE
    del blob
    assert memory.segment.in_use == 0


def test_no_room_is_a_memory_error_and_keeps_nothing(memory: Memory) -> None:
    memory.segment._most = 2 * LARGE
    with pytest.raises(MemoryError):
        codec.pack([bytes_of(LARGE), bytes_of(2 * LARGE)], memory.segment)
    gc.collect()
    assert memory.segment.in_use == 0


# ---- out of band ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_lie_in_a_block_from_a_size_on(memory: Memory, guest: Guest, kind: Any) -> None:
    small, large = kind(b"s" * (LARGE - 1)), kind(b"l" * LARGE)
    assert out_of_band(small) is small
    assert type(out_of_band(large)) is OutOfBand
    assert leases_of(codec.pack(small, memory.segment))[1:] == []
    blob = codec.pack(large, memory.segment)
    assert leases_of(blob) == [LARGE]
    back = codec.loads(blob)
    assert type(back) is kind
    assert back == large


def test_parts_of_tuples_are_looked_at_and_other_containers_are_not(memory: Memory, guest: Guest) -> None:
    large = b"l" * LARGE
    value = (1, (large, ("x", bytearray(large))), [large])
    blob = codec.pack(value, memory.segment)
    assert sorted(leases_of(blob))[:2] == [LARGE, LARGE]
    assert codec.loads(blob) == value
    small = (1, ("x", b"small"), [large])
    assert out_of_band(small) is small


def test_kinds_that_only_look_like_bytes_or_tuples_are_left_alone() -> None:
    class Bytes(bytes):
        pass

    Pair = namedtuple("Pair", "one other")
    for value in (Bytes(LARGE), Pair(b"x" * LARGE, 1), memoryview(bytes(LARGE)), "t" * LARGE, LARGE):
        assert out_of_band(value) is value


def test_an_array_with_gaps_is_copied_for_its_block(memory: Memory, guest: Guest) -> None:
    whole = np.arange(4 * LARGE).reshape(-1, 8)
    for value in (whole[:, ::2], whole[::3], whole.T[::2]):
        blob = codec.pack(value, memory.segment)
        assert leases_of(blob) == [value.nbytes]
        back = codec.loads(blob)
        assert (back == value).all()
        assert back.flags.c_contiguous


def test_arrays_that_pickle_can_do_itself_or_that_hold_objects_are_not_copied() -> None:
    objects = np.array([None] * 2 * LARGE, object)[::2]
    for value in (np.zeros((LARGE, 2)), np.asfortranarray(np.zeros((LARGE, 2))), objects, np.zeros(100)[::2]):
        assert out_of_band(value) is value


def test_an_order_of_an_array_is_kept(memory: Memory, guest: Guest) -> None:
    value = np.asfortranarray(np.arange(LARGE).reshape(-1, 4))
    blob = codec.pack(value, memory.segment)
    back = codec.loads(blob)
    assert back.flags.f_contiguous
    assert (back == value).all()


def test_large_arguments_are_looked_at_and_those_with_names(memory: Memory, guest: Guest) -> None:
    large = b"l" * LARGE
    blob = codec.pack_call(len, (large,), {"name": bytearray(large)}, memory.segment)
    assert leases_of(blob) == [LARGE, LARGE]
    assert codec.loads(blob) == (len, (large,), {"name": bytearray(large)})


# ---- arrays that are read-only here --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, SMALL, LARGE, 3 * LARGE])
@pytest.mark.parametrize("is_nested", [False, True])
def test_a_read_only_array_arrives_writable(memory: Memory, guest: Guest, size: int, is_nested: bool) -> None:
    value = bytes_of(size)
    value.flags.writeable = False
    blob = codec.pack({"part": [value]} if is_nested else value, memory.segment)
    assert leases_of(blob) == ([size] if size >= LARGE else [])
    back = codec.loads(blob)
    back = back["part"][0] if is_nested else back
    assert (back == value).all()
    back[0] = 77
    assert value[0] == 0
    assert not value.flags.writeable


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 3), ()])
def test_so_does_one_of_any_shape(shape: tuple[int, ...]) -> None:
    value = np.full(shape, 7, order="F")
    value.flags.writeable = False
    back = codec.loads(codec.pack(value))
    assert back.flags.writeable
    assert (back.shape, back.dtype, back.tolist()) == (shape, value.dtype, value.tolist())


def test_a_view_of_something_read_only_does_too() -> None:
    value = np.frombuffer(b"abcdefgh", np.uint16)
    back = codec.loads(codec.pack([value, value[1:]]))
    assert [part.flags.writeable for part in back] == [True, True]
    assert [part.tobytes() for part in back] == [b"abcdefgh", b"cdefgh"]


class MakesArray:
    """Is pickled as an array that is read-only, and that nobody else holds."""

    def __reduce__(self) -> Any:
        array = np.full(LARGE, 7, np.uint8)
        array.flags.writeable = False
        return np.ndarray.copy, (array,)


def test_a_read_only_array_is_held_until_it_is_packed(memory: Memory, guest: Guest) -> None:
    with pack_in(memory.segment) as packing:
        data = codec.dumps(MakesArray())
    others = [np.full(LARGE, 9, np.uint8) for _ in range(4)]  # in its place, if that is free
    blob = parcel.seal(data, packing, OWN)
    assert (codec.loads(blob) == 7).all()
    assert len(others) == 4


def test_an_array_that_was_shared_arrives_as_a_jobs_own(memory: Memory, guest: Guest) -> None:
    """When a job returns, or passes on, what it was given read-only."""
    given = codec.pack(bytes_of(2 * LARGE), memory.segment, SHARED)
    value = codec.loads(given)
    assert not value.flags.writeable
    blob = codec.pack(value, memory.segment)
    assert leases_of(blob) == leases_of(given) == [2 * LARGE]
    back = codec.loads(blob)
    back[:] = 7
    assert (value == bytes_of(2 * LARGE)).all()


# ---- who opens it --------------------------------------------------------------------------------------------------


def test_whoever_else_unpickles_it_is_told_why_that_fails(memory: Memory) -> None:
    blob = codec.pack(bytes_of(LARGE), memory.segment)
    with pytest.raises(LookupError, match="belongs to another engine, or to one that is gone"):
        pickle.loads(blob)
    done = run_python("-c", f"import pickle; pickle.loads(bytes.fromhex({blob.hex()!r}))")
    assert "LookupError: the shared memory it lies in belongs to another engine" in done.stderr


def test_a_parcel_is_not_pickled_itself(memory: Memory) -> None:
    blob = codec.pack(bytes_of(LARGE), memory.segment)
    for fail in (pickle.dumps, codec.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a parcel is a pickle already"):
            fail(blob)
    assert pickle.loads(pickle.dumps(bytes(blob))) == blob


# ---- what keepers of parcels are told ------------------------------------------------------------------------------


def lease(number: int, length: int) -> Lease:
    return Lease(number, 0, length, lambda lease: None)


def test_sizes_and_numbers_of_any_pickle() -> None:
    one = Parcel(b"12345", (lease(7, 1000), lease(9, 1)))
    assert one == b"12345"
    assert (size_of(one), numbers_of(one)) == (1006, (7, 9))
    assert (size_of(b"12345"), numbers_of(b"12345")) == (5, ())
    assert size_of("text") == 4


def test_data_made_of_pickles_keeps_the_leases_of_all_of_them() -> None:
    one, other = Parcel(b"1", (lease(1, 10),)), Parcel(b"2", (lease(2, 20), lease(3, 30)))
    both = with_leases(b"data", [b"plain", one, 5, None, other])
    assert type(both) is Parcel
    assert both == b"data"
    assert (numbers_of(both), size_of(both)) == ((1, 2, 3), 64)
    data = b"data"
    assert with_leases(data, [b"plain", 7]) is data
    assert with_leases(data, [Parcel(b"none", ())]) is data


def test_values_of_a_map_that_are_parcels_keep_their_blocks(memory: Memory, guest: Guest) -> None:
    parcels = [codec.pack(bytes_of(LARGE + n), memory.segment) for n in range(2)]
    blob = codec.dump_values([5, *parcels, codec.dumps([1])], bytearray([0, 2, 2, 1]))
    assert numbers_of(blob) == numbers_of(parcels[0]) + numbers_of(parcels[1])
    del parcels
    values, flags, _ = codec.load_values(blob)
    assert flags == bytes([0, 2, 2, 1])
    assert [len(codec.loads(value)) for value in values[1:]] == [LARGE, LARGE + 1, 1]
    assert [codec.flag_of(value) for value in (blob, b"")] == [2, 1]
    assert type(codec.dump_values([codec.dumps([1])], bytearray([1]))) is bytes


# ---- packing -------------------------------------------------------------------------------------------------------


def test_a_packing_is_for_its_thread_and_its_context_alone(memory: Memory) -> None:
    seen: list[Any] = []
    assert current_packing() is None
    with pack_in(memory.segment) as outer:
        assert current_packing() is outer
        with pack_in(None) as inner:
            assert current_packing() is inner
            assert inner.segment is None
        assert current_packing() is outer
        with pytest.raises(KeyError), pack_in(memory.segment):
            raise KeyError
        assert current_packing() is outer
        thread = threading.Thread(target=lambda: seen.append(current_packing()))
        thread.start()
        thread.join(WAIT_S)
    assert seen == [None]
    assert current_packing() is None


class Packs:
    """Packs something else while it is pickled itself."""

    def __init__(self, large: Any, fails: bool) -> None:
        self.large = large
        self.fails = fails

    def __reduce__(self) -> Any:
        try:
            inner = codec.pack([self.large, Refuses()] if self.fails else self.large)
        except ZeroDivisionError:
            inner = codec.dumps("failed")
        return pickle.loads, (inner,)


class Refuses:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_packed_while_something_is_packed_has_a_packing_of_its_own(
    memory: Memory, guest: Guest, fails: bool
) -> None:
    value = [bytes_of(LARGE), Packs(bytes_of(LARGE + 1), fails), bytes_of(LARGE + 2)]
    blob = codec.pack(value, memory.segment)
    assert LARGE in leases_of(blob)
    assert LARGE + 2 in leases_of(blob)
    assert LARGE + 1 not in leases_of(blob)
    first, inner, last = codec.loads(blob)
    assert (first == value[0]).all()
    assert (last == value[2]).all()
    assert inner == "failed" if fails else (inner == bytes_of(LARGE + 1)).all()
    assert current_packing() is None


def test_what_was_taken_before_a_pickler_gave_up_is_not_packed_twice(memory: Memory, guest: Guest) -> None:
    value = [bytes_of(LARGE), lambda: 7]
    blob = codec.pack(value, memory.segment)
    assert leases_of(blob) == [LARGE]
    array, function = codec.loads(blob)
    assert (array == value[0]).all()
    assert function() == 7


def test_what_cannot_be_packed_takes_no_block(memory: Memory) -> None:
    with pytest.raises(ZeroDivisionError):
        codec.pack([bytes_of(LARGE), Refuses()], memory.segment)
    assert memory.segment.taken == 0


# ---- shared objects ------------------------------------------------------------------------------------------------


def share(memory: Memory, value: Any) -> tuple[Shared[Any], list[int]]:
    """As the engine does; and the numbers of blocks that were dropped."""
    dropped: list[int] = []
    memory.segment.dropped = dropped.append
    data, buffers, others = codec.dump_shared(value, memory.segment)
    return Shared(data, buffers, others, memory.segment), dropped


def test_a_shared_object_lies_in_one_block_and_goes_along_by_its_number(memory: Memory, guest: Guest) -> None:
    value = {"large": bytes_of(LARGE), "small": np.arange(5), "text": "text"}
    shared, dropped = share(memory, value)
    (number,) = {lease.number for lease in shared._leases}
    assert memory.segment.in_use == shared.nbytes > LARGE
    assert repr(shared) == f"<Shared {shared.nbytes:,} bytes>"
    blob = codec.pack_call(len, (shared, [shared]), {}, memory.segment)
    assert set(numbers_of(blob)) == {number}
    assert len(blob) < 500
    _, (one, (other,)), _ = codec.loads(blob)
    assert one is other is codec.loads(blob)[1][0]
    assert (one["large"] == value["large"]).all()
    assert not one["large"].flags.writeable
    assert not one["small"].flags.writeable
    assert (one["small"].tolist(), one["text"]) == ([0, 1, 2, 3, 4], "text")
    for name in ("large", "small"):
        assert one[name].__array_interface__["data"][0] % 64 == 0
    assert memory.segment.pin(number)
    del shared, one, other
    gc.collect()
    assert not dropped  # the call has it
    del blob
    assert dropped == [number]
    guest.kept.clear()
    memory.segment.unpin(number)
    assert memory.segment.in_use == 0


@pytest.mark.parametrize("other", [b"l" * LARGE, b"small", lambda: 7, (lambda: 7, bytes_of(LARGE))])
def test_a_shared_object_beside_any_other_is_kept_once(memory: Memory, guest: Guest, other: Any) -> None:
    shared, _ = share(memory, bytes_of(LARGE))
    ((number, *_),) = [lease.place for lease in shared._leases]
    blob = codec.pack_call(len, (shared, other), {}, memory.segment)
    del shared
    gc.collect()
    assert numbers_of(blob).count(number) == 1
    assert (codec.loads(blob)[1][0] == bytes_of(LARGE)).all()


def test_a_shared_object_goes_nowhere_but_to_jobs_of_its_engine(memory: Memory) -> None:
    shared, _ = share(memory, [1])
    other = Memory()
    with pytest.raises(TypeError, match="jobs of the engine that made it"):
        pickle.dumps(shared)
    with pytest.raises(TypeError, match="jobs of the engine that made it"):
        codec.pack(shared, other.segment)
    with pytest.raises(TypeError, match="jobs of the engine that made it"):
        codec.pack(shared)
    other.close()


def test_a_shared_object_inside_another_is_kept_by_it(memory: Memory, guest: Guest) -> None:
    inner, _ = share(memory, bytes_of(LARGE))
    inner_bytes = inner.nbytes
    outer, _ = share(memory, {"inner": inner})
    del inner
    gc.collect()
    assert memory.segment.in_use == outer.nbytes + inner_bytes
    blob = codec.pack(outer, memory.segment)
    assert len(numbers_of(blob)) == 2
    assert (codec.loads(blob)["inner"] == bytes_of(LARGE)).all()


def test_only_the_last_shared_objects_are_kept_rebuilt(memory: Memory, guest: Guest) -> None:
    blobs = [codec.pack(share(memory, [n])[0], memory.segment) for n in range(MOST_KEPT + 1)]
    values = [codec.loads(blob) for blob in blobs]
    assert values == [[n] for n in range(MOST_KEPT + 1)]
    assert list(guest.kept.values()) == values[1:]
    assert codec.loads(blobs[1]) is values[1]
    again = codec.loads(blobs[0])
    assert again == values[0]
    assert again is not values[0]


# ---- errors --------------------------------------------------------------------------------------------------------


def error_of(use: Any) -> BaseException:
    with pytest.raises(Exception) as caught:
        use()
    return caught.value


def test_an_error_that_may_come_of_writing_to_a_shared_object_is_explained(memory: Memory, guest: Guest) -> None:
    array = np.zeros(3)
    array.flags.writeable = False
    errors = [
        error_of(lambda: array.__setitem__(0, 1)),
        error_of(lambda: array.sort()),
        error_of(lambda: memoryview(b"x").__setitem__(0, 1)),
        error_of(lambda: memoryview(bytearray(1)).toreadonly().__setitem__(0, 1)),
    ]
    assert [note_read_only(error) for error in errors] == [""] * 4  # nothing was shared
    blob = codec.pack(share(memory, array)[0], memory.segment)
    value = codec.loads(blob)
    assert value.tolist() == [0, 0, 0]
    for error in errors:
        assert "share()" in note_read_only(error)
        assert "array.copy()" in note_read_only(error)
    for other in (ValueError("other"), KeyError("read-only"), TypeError("x"), KeyboardInterrupt("read-only")):
        assert note_read_only(other) == ""


def test_sources_that_are_gone_are_not_asked(memory: Memory) -> None:
    guest = Guest(memory.segment.key, memory.fd)
    guest.kept[1] = "something"
    assert note_read_only(ValueError("read-only"))
    del guest
    assert note_read_only(ValueError("read-only")) == ""
    assert memory.segment.key not in parcel.sources
