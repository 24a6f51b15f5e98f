"""Arrays, bytes and views of them cross as they are, whatever their kind and wherever they lie."""

import ctypes
import gc
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpengine.arrays import files, parcel
from mpengine.arrays.guest import Guest
from mpengine.arrays.parcel import COPY, LARGE, OWN
from mpengine.arrays.segment import Segment
from mpengine.wire import codec
from tests.runtime import jobs

# Types of small elements, plain and not; those with objects come apart in the pickle.
DTYPES = [
    "?", "i1", "u1", "<i2", ">i4", "u8", "e", "<f4", ">f8", "g", "c8", "c16", "S3", "<U2", ">U2", "V5", "M8[ns]",
    "m8[s]", [("number", "i4"), ("text", "S3"), ("part", "f8", (2,))],
    {"names": ["a", "b"], "formats": ["u2", "S1"], "offsets": [0, 4], "itemsize": 7}, "O",
]  # fmt: skip
FORMATS = "?bBhHiIlLqQfdnNc"


@contextmanager
def both_sides() -> Iterator[Segment]:
    """A segment, and a source from which what is packed for it is opened."""
    fd = files.create("test")
    segment = Segment(fd, 0, 12)
    guest = Guest(segment.key, fd)
    try:
        yield segment
    finally:
        del guest
        segment.unmap()
        gc.collect()
        os.close(fd)


@pytest.fixture(scope="module")
def segment() -> Iterator[Segment]:
    with both_sides() as made:
        yield made


@st.composite
def arrays(draw: Callable[[Any], Any]) -> Any:
    """Of any type and shape, of none to many elements, in any order, with gaps, backwards, read-only."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    if draw(st.booleans()):
        shape = [draw(st.sampled_from([1, 40_000, 100_000])) // max(1, 8 ** len(shape)), *shape]
    count = int(np.prod(shape, dtype=int))
    seed = draw(st.integers(0, 2**32 - 1))
    if dtype.hasobject:
        array = np.array([None, "text", 7, (1, 2)], object)[np.arange(count) % 4].reshape(shape)
    else:
        data = np.random.default_rng(seed).integers(0, 2, count * dtype.itemsize, np.uint8)
        array = np.frombuffer(bytearray(data), dtype, count).reshape(shape)
    array = draw(st.sampled_from([np.asarray, np.asfortranarray, np.copy]))(array)
    if array.ndim and draw(st.booleans()):
        array = array[:: draw(st.sampled_from([1, 2, -1, -3]))]
    if array.ndim > 1 and draw(st.booleans()):
        array = array.swapaxes(0, draw(st.integers(0, array.ndim - 1)))
    if draw(st.booleans()):
        array = array.view()
        array.flags.writeable = False
    return array


@st.composite
def blobs(draw: Callable[[Any], Any]) -> Any:
    """Bytes or a bytearray, on either side of what is large."""
    size = draw(st.sampled_from([0, 1, 100, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]))
    kind: Any = draw(st.sampled_from([bytes, bytearray]))
    return kind(draw(st.binary(min_size=1, max_size=8)) * (size // 1 + 1))[:size]


@st.composite
def views(draw: Callable[[Any], Any]) -> memoryview:
    """Of any format that Python can make, of any shape, read-only or not, with gaps or without."""
    kind = draw(st.sampled_from(FORMATS))
    size = memoryview(bytes(8)).cast(kind).itemsize
    shape = draw(st.lists(st.integers(1, 4), max_size=3))
    if draw(st.booleans()):
        shape = [draw(st.sampled_from([1000, 20_000, 150_000])), *shape[:1]]
    count = int(np.prod(shape, dtype=int))
    data = bytes(range(2)) * (count * size)
    data = data[: count * size]
    view = memoryview(data if draw(st.booleans()) else bytearray(data)).cast(kind, shape)
    if view.ndim == 1 and draw(st.booleans()):
        view = view[:: draw(st.sampled_from([1, 2, -1]))]
        view = view[: draw(st.sampled_from([0, 1, len(view)]))]
    return view


values = st.recursive(
    arrays() | blobs() | views() | st.integers() | st.text(max_size=3),
    lambda parts: (
        st.lists(parts, max_size=3) | st.tuples(parts, parts) | st.dictionaries(st.text(max_size=3), parts, max_size=3)
    ),
    max_leaves=4,
)


def assert_same(back: Any, value: Any) -> None:
    """The same kind of thing, with the same content; what pickle itself makes of it, but for its being writable."""
    assert type(back) is type(value)
    if isinstance(value, np.ndarray):
        usual = pickle.loads(pickle.dumps(value, 5))
        assert back.dtype in (value.dtype, usual.dtype)  # numpy turns the bytes of some that have gaps
        assert back.shape == value.shape
        assert back.flags.writeable
        if value.size > 1:
            assert (back.flags.c_contiguous, back.flags.f_contiguous) == (
                usual.flags.c_contiguous,
                usual.flags.f_contiguous,
            )
        if value.dtype.hasobject:
            assert back.tolist() == value.tolist()
        else:
            same = back if back.dtype == value.dtype else back.astype(value.dtype)
            for name in value.dtype.names or (...,):  # not what lies between the fields, which is anything
                assert same[name].tobytes() == value[name].tobytes()
    elif isinstance(value, memoryview):
        assert (back.format, back.shape, back.readonly) == (value.format, value.shape, value.readonly)
        assert back.tobytes() == value.tobytes()
    elif isinstance(value, (list, tuple)):
        assert len(back) == len(value)
        for one, other in zip(back, value, strict=True):
            assert_same(one, other)
    elif isinstance(value, dict):
        assert list(back) == list(value)
        assert_same(list(back.values()), list(value.values()))
    else:
        assert back == value


@given(args=st.lists(values, max_size=3).map(tuple), named=values, mode=st.sampled_from([OWN, COPY]))
@example(args=(np.zeros((3, 0, 2)), memoryview(b"")), named=np.zeros(()), mode=OWN)
@example(args=(np.zeros(LARGE, ">i4")[::-1],), named=memoryview(bytearray(LARGE))[::-2], mode=OWN)
def test_a_call_arrives_as_it_was_packed(segment: Segment, args: tuple[Any, ...], named: Any, mode: int) -> None:
    blob = codec.pack_call(jobs.echo, args, {"named": named}, segment, mode)
    for _ in range(2 if mode == COPY else 1):
        fn, back, kwargs = codec.loads(blob)
        assert fn is jobs.echo
        assert_same(back, args)
        assert_same(kwargs, {"named": named})
        scribble((back, kwargs))
    del back, kwargs, blob
    assert segment.in_use == 0


@given(value=values)
def test_a_result_arrives_as_it_was_packed(segment: Segment, value: Any) -> None:
    blob = codec.pack_result(value, segment)
    back = codec.loads(blob)
    assert_same(back, value)
    del blob
    gc.collect()
    assert_same(back, value)


def scribble(value: Any) -> None:
    """Write all over it, as jobs may."""
    if isinstance(value, np.ndarray):
        if not value.dtype.hasobject:
            value[...] = np.zeros((), value.dtype)
    elif isinstance(value, bytearray):
        value[:] = bytes(len(value))
    elif isinstance(value, (list, tuple)):
        for part in value:
            scribble(part)
    elif isinstance(value, dict):
        scribble(list(value.values()))
    elif isinstance(value, memoryview) and not value.readonly and value.c_contiguous and value.nbytes:
        value.cast("B")[:] = bytes(value.nbytes)


@pytest.mark.parametrize("count", [3, LARGE])
@pytest.mark.parametrize("kind", [">i4", "c8", [("a", "i4")], "S3"])
def test_views_of_a_kind_that_python_cannot_make_arrive_as_bytes(segment: Segment, kind: Any, count: int) -> None:
    array: Any = np.ones(count, kind)
    blob = codec.pack([memoryview(array), memoryview(array)[::2]], segment)
    assert codec.loads(blob) == [array.tobytes(), array[::2].tobytes()]


def test_so_do_views_of_ctypes_and_empty_ones_of_many_dimensions() -> None:
    for value in (memoryview((ctypes.c_int * 3)(1, 2, 3)), np.zeros((0, 3)).data, np.zeros((3, 0)).data):
        back = codec.loads(codec.pack(value))
        assert type(back) is bytes
        assert back == value.tobytes()


def test_a_view_of_an_array_keeps_its_format_and_shape(segment: Segment) -> None:
    array = np.arange(LARGE, dtype=np.float64).reshape(-1, 4)
    for value in (array, array.T, array[::2]):
        blob = codec.pack(value.data, segment)
        back = codec.loads(blob)
        assert (back.format, back.shape, back.readonly) == ("d", value.shape, False)
        assert back.tobytes() == value.tobytes()


def test_arrays_of_other_classes_keep_them(segment: Segment) -> None:
    masked = np.ma.masked_array(np.arange(LARGE), np.arange(LARGE) % 2 == 1)
    record = np.zeros(LARGE, [("a", "i4")]).view(np.recarray)
    blob = codec.pack((masked, record), segment)
    back_masked, back_record = codec.loads(blob)
    assert (back_masked == masked).all()
    assert back_masked.mask.sum() == LARGE // 2
    assert type(back_record) is np.recarray
    assert (back_record.a == 0).all()


def test_the_same_array_twice_is_the_same_on_the_other_side(segment: Segment) -> None:
    array = np.zeros(LARGE)
    blob = codec.pack([array, array], segment)
    one, other = codec.loads(blob)
    assert one is other
    assert parcel.size_of(blob) < 1.1 * array.nbytes
