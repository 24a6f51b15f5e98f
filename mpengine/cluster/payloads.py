"""What jobs are when they leave for a node: bytes, and what must be there before them."""

from __future__ import annotations

import itertools
import pickle
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mpengine.arrays.parcel import pack_in
from mpengine.cluster.call import find_shared
from mpengine.core.job import function_name
from mpengine.wire import codec

if TYPE_CHECKING:
    from mpengine.arrays.segment import Segment

T = TypeVar("T")

_numbers = itertools.count(1).__next__


class Payload(bytes):
    """A pickled call.

    Attributes:
        function: Of many jobs, which crosses once for each node; then the pickle has only arguments.
        shared: The shared objects in it, by their numbers; each after those that it is made of.
        size: Its bytes.
    """

    function: CarriedFunction | None
    shared: Mapping[int, SharedAbroad[Any]]
    size: int

    def __new__(
        cls, data: bytes, function: CarriedFunction | None, shared: Mapping[int, SharedAbroad[Any]]
    ) -> Payload:  # fmt: skip
        payload = super().__new__(cls, data)
        payload.function = function
        payload.shared = shared
        payload.size = len(data)
        return payload


class CarriedFunction:
    """A function that was pickled before, and that jobs have in place of the function itself."""

    def __init__(self, fn: Callable[..., Any], home: object, dropped: Callable[[int], None]) -> None:
        self.number = _numbers()
        self.func = fn  # as of a partial: its name, and the key of its pace
        self.__qualname__ = function_name(fn)
        self.blob, self.shared = _dumps(lambda: codec.pack(fn), home)
        weakref.finalize(self, dropped, self.number).atexit = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)


class SharedAbroad(Generic[T]):
    """An object that lies in the shared memory of each node whose jobs use it, once. Made by `share` of such an engine.

    As `mpengine.Shared`; its pickle is kept here, for the nodes that have it not yet.

    Attributes:
        nbytes: Bytes of shared memory that it takes on a node.
    """

    def __init__(self, obj: T, home: object, dropped: Callable[[int], None]) -> None:
        self.number = _numbers()
        self._home = home
        here: Any = home  # what is packed is for nobody's segment: it goes out of band, and no further
        segment: Segment = here
        (data, buffers, _), self.others = _with_shared(lambda: codec.dump_shared(obj, segment), home)
        # Copies: what is changed after this must not show on the node that comes next.
        self.parts = (data, *(bytes(buffer) for buffer in buffers))
        self.nbytes = sum(map(len, self.parts))
        weakref.finalize(self, dropped, self.number).atexit = False

    def __reduce__(self) -> tuple[Any, ...]:
        packing = getattr(_local, "packing", None)
        if packing is None or packing[0] is not self._home:
            raise TypeError(
                "a shared object can only be sent to jobs of the engine that shared it; "
                "give anybody else the object itself, or share it with that engine"
            )
        packing[1].update(self.others)  # first what it is made of: in this order they are rebuilt
        packing[1][self.number] = self
        return find_shared, (self.number,)

    def __repr__(self) -> str:
        return f"<SharedAbroad {self.nbytes:,} bytes>"


_local = threading.local()


def pack_job(fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], home: object) -> Payload:
    """Pickle a call for a node. As `codec.pack_call`; nothing goes in shared memory from here."""
    if type(fn) is CarriedFunction:
        data, shared = _dumps(lambda: codec.pack((args, dict(kwargs))), home)
        return Payload(data, fn, {**fn.shared, **shared})
    data, shared = _dumps(lambda: codec.pack_call(fn, args, kwargs), home)
    return Payload(data, None, shared)


def _dumps(dump: Callable[[], bytes], home: object) -> tuple[bytes, Mapping[int, SharedAbroad[Any]]]:
    with pack_in(None):  # not for a local engine, if this is inside a job's or another's packing
        return _with_shared(dump, home)


def _with_shared(dump: Callable[[], T], home: object) -> tuple[T, dict[int, SharedAbroad[Any]]]:
    """What `dump` makes, and the shared objects of this engine that are in it."""
    outer = getattr(_local, "packing", None)
    found: dict[int, SharedAbroad[Any]] = {}
    _local.packing = (home, found)
    try:
        return dump(), found
    finally:
        _local.packing = outer


def dumps(messages: Iterable[Any]) -> bytes:
    """Messages of ours, as they are sent: plain values, and bytes that were pickled before."""
    return pickle.dumps(list(messages), pickle.HIGHEST_PROTOCOL)
