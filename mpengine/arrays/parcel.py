"""Pickles whose large parts lie in blocks of shared memory.

A parcel is itself a pickle, a small one, and travels as any other: to unpickle it opens its blocks and unpickles what
it stands for, whose arrays then look at them (PEP 574, out-of-band buffers). So nobody on its way has to know what it
is, but for two things: whoever keeps a parcel keeps leases of its blocks, and its `size` is that of all of it.
"""

from __future__ import annotations

import operator
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Sequence

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any, Protocol

    from mpengine.arrays.segment import Lease, Segment

    Place = tuple[int, int, int]  # of a block: number, offset, length

    class Source(Protocol):
        """Where the blocks of one segment are opened."""

        kept: dict[int, Any]

        def open(self, place: Place, mode: int) -> memoryview:
            """See `reader.Reader.open`."""


PROTOCOL = 5
LARGE = 1 << 16  # bytes; smaller parts stay in the pickle: `python -m bench arrays` says from what size on it pays

OWN = 0  # writable; its block is nobody else's
COPY = 1  # writable; what is written is a copy, so that the block can be opened again as it was
SHARED = 2  # read-only
ALL = 1  # bytes: no buffer of a shared object stays in its pickle
MOST_KEPT = 16  # objects of shared parcels that a process keeps rebuilt


class Parcel(bytes):
    """A pickle, with leases of the blocks it refers to.

    Attributes:
        leases: Kept with it.
        size: Bytes of the pickle and of all that lies in its blocks.
    """

    leases: tuple[Lease, ...]
    size: int

    def __new__(cls, data: bytes | bytearray, leases: tuple[Lease, ...]) -> Parcel:
        parcel = super().__new__(cls, data)
        parcel.leases = leases
        parcel.size = len(data) + sum(lease.length for lease in leases)
        return parcel

    def __reduce__(self) -> Any:
        raise TypeError("a parcel is a pickle already; its bytes go along, and its leases must be kept")


def size_of(blob: bytes | str) -> int:
    """Its bytes, with all that lies in its blocks if it is a parcel."""
    return blob.size if type(blob) is Parcel else len(blob)


def leases_of(blob: bytes) -> tuple[Lease, ...]:
    """Of its blocks, if it is a parcel."""
    return blob.leases if type(blob) is Parcel else ()


def with_leases(data: bytes, blobs: Sequence[Any]) -> bytes:
    """Data that holds the bytes of these pickles: a parcel if one of them is."""
    leases = tuple(lease for blob in blobs if type(blob) is Parcel for lease in blob.leases)
    return Parcel(data, leases) if leases else data


# ---- packing -------------------------------------------------------------------------------------------------------


class Packing:
    """A pickle that is being made for the other side of a segment; None: for whom it may concern.

    Attributes:
        buffers: What is to lie in blocks, in order.
        leases: Of blocks that it refers to, and that were there before: those of shared objects.
        is_alien: There is an array that would arrive read-only, only because it is so here. A pickler that knows
            arrays is needed.
        is_shared: All buffers are to be given out of band, also those of arrays with gaps.
    """

    def __init__(self, segment: Segment | None, smallest: int) -> None:
        self.segment = segment
        self.is_shared = smallest == ALL
        self.buffers: list[memoryview] = []
        self.leases: list[Lease] = []
        self.is_alien = False
        self._smallest = sys.maxsize if segment is None else smallest

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """As a pickler's `buffer_callback`: whether the buffer is to stay in the pickle."""
        raw = buffer.raw()  # BufferError, if its parts are not one piece: its class should not have offered it
        if raw.readonly and not self.is_alien:
            numpy = sys.modules.get("numpy")
            self.is_alien = numpy is not None and isinstance(raw.obj, numpy.ndarray)
        if len(raw) < self._smallest:
            return True
        self.buffers.append(raw)
        return False


_local = threading.local()


def current_packing() -> Packing | None:
    """What is being packed by this thread; None: whoever pickles is not us."""
    packing = getattr(_local, "packing", None)
    return None if packing is None else packing()


class pack_in:  # noqa: N801, it is a function to those who use it, and a generator's frame would cost a microsecond
    """A context: what this thread pickles in it is for the other side of a segment; gives the `Packing`."""

    __slots__ = ("_outer", "_packing")

    def __init__(self, segment: Segment | None, smallest: int = LARGE) -> None:
        self._packing = Packing(segment, smallest)
        self._outer: weakref.ref[Packing] | None = None

    def __enter__(self) -> Packing:
        self._outer = getattr(_local, "packing", None)
        _local.packing = weakref.ref(self._packing)  # an interrupt may come before `__exit__` has done anything
        return self._packing

    def __exit__(self, *about: object) -> None:
        _local.packing = self._outer


class _Stub:
    def __init__(self, reduced: tuple[Any, ...]) -> None:
        self._reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def seal(data: bytes, packing: Packing, mode: int) -> bytes:
    """A pickle and its buffers as one that can be sent: a parcel, if any of it is large.

    Raises:
        MemoryError: There is no room.
    """
    segment = packing.segment
    if segment is None:
        return data
    leases = [segment.put([buffer]) for buffer in packing.buffers]
    packing.buffers.clear()
    if len(data) >= LARGE:
        leases.insert(0, segment.put([data]))
        inline = None
    elif leases:
        inline = data
    else:
        return with_leases(data, [Parcel(b"", tuple(packing.leases))]) if packing.leases else data
    places = tuple(lease.place for lease in leases)
    sealed = pickle.dumps(_Stub((open_parcel, (segment.key, inline, places, mode))), PROTOCOL)
    return Parcel(sealed, (*leases, *packing.leases))


class OutOfBand:
    """Stands for a large object that no pickler would give out of band: bytes, or an array with gaps."""

    def __init__(self, rebuild: Callable[[Any], Any], buffer: Any) -> None:
        self._reduced = rebuild, (pickle.PickleBuffer(buffer),)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def out_of_band(value: Any) -> Any:
    """A value, or what stands for it while it is pickled; also of the parts of a tuple."""
    kind = type(value)
    if kind is tuple:
        parts = tuple(map(out_of_band, value))
        return value if all(map(operator.is_, parts, value)) else parts
    if kind is bytes or kind is bytearray:
        return OutOfBand(kind, value) if len(value) >= LARGE else value
    numpy = sys.modules.get("numpy")
    if (
        numpy is not None
        and kind is getattr(numpy, "ndarray", None)
        and value.nbytes >= LARGE
        and not value.flags.forc
        and not value.dtype.hasobject
    ):
        return value.copy(order="C")  # as it would arrive, had it gone through the pickle
    return value


# ---- opening -------------------------------------------------------------------------------------------------------

sources: weakref.WeakValueDictionary[int, Source] = weakref.WeakValueDictionary()


def _source(key: int) -> Source:
    source = sources.get(key)
    if source is None:
        raise LookupError("the shared memory it lies in belongs to another engine, or to one that is gone")
    return source


def open_parcel(key: int, data: bytes | None, places: Sequence[Place], mode: int) -> Any:
    """Rebuild what a parcel stands for. Called by `pickle.loads` of it; user code."""
    source = _source(key)
    views: list[Any] = [source.open(place, mode) for place in places]
    pickled = views.pop(0) if data is None else data
    return pickle.loads(pickled, buffers=views)


def open_shared(key: int, place: Place, parts: Sequence[tuple[int, int]]) -> Any:
    """Rebuild an object that was shared, or find it rebuilt. As `open_parcel`.

    Args:
        parts: Where in the block its pickle and its buffers are, as positions and lengths.
    """
    source = _source(key)
    kept = source.kept
    number = place[0]
    if number in kept:
        return kept[number]
    view = source.open(place, SHARED)
    data, *views = [view[at : at + length] for at, length in parts]
    value = pickle.loads(data, buffers=views)
    while len(kept) >= MOST_KEPT:
        del kept[next(iter(kept))]
    kept[number] = value
    return value


def note_read_only(error: BaseException) -> str:
    """What to say of an error that may come of writing to a shared object; "" if it is another."""
    if any(source is not None and source.kept for source in [ref() for ref in sources.valuerefs()]) and (
        (isinstance(error, ValueError) and "read-only" in str(error))
        or (isinstance(error, (TypeError, BufferError)) and ("read-only" in str(error) or "readonly" in str(error)))
    ):
        return (
            "mpengine: what was given to the engine with share() is one copy for all jobs, and read-only; "
            "copy what is to be changed, as with `array.copy()`"
        )
    return ""
