"""Users' objects to bytes by value, with cloudpickle. Imported when one needs it, for that takes milliseconds."""

from __future__ import annotations

import io
import pickle
import struct
import sys
from collections import ChainMap
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, ClassVar

import cloudpickle
from cloudpickle.cloudpickle import _class_reduce, _class_setstate, _function_setstate

from mpengine.arrays.parcel import current_packing
from mpengine.wire.kept_globals import lay_over_class, lay_over_globals

PROTOCOL = 5

_NO_FILE = "<dynamic-code>"


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """By value what must be; functions with the name of their file, so that a traceback can show their lines.

    cloudpickle 3.1.3 takes that away, for pickles that are the same wherever the file lies.
    """

    @staticmethod
    def _reduce_code(code: CodeType) -> tuple[Any, ...]:
        kind, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
        return kind, tuple(code.co_filename if type(part) is str and part == _NO_FILE else part for part in parts)

    dispatch_table: ClassVar[Any] = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)

    def reducer_override(self, obj: Any) -> Any:
        """As cloudpickle's, and what comes finds what the worker's initializer has left for it."""
        if issubclass(type(obj), type):
            reduced = _class_reduce(obj)
            return (*reduced[:5], _set_class_state) if reduced is not NotImplemented and len(reduced) == 6 else reduced
        if isinstance(obj, FunctionType):
            reduced = self._function_reduce(obj)
            return (*reduced[:5], _set_function_state) if reduced is not NotImplemented else reduced
        return NotImplemented


def _set_function_state(function: Any, state: Any) -> None:
    _function_setstate(function, state)
    lay_over_globals(function.__globals__)


def _set_class_state(cls: Any, state: Any) -> None:
    _class_setstate(cls, state)
    lay_over_class(cls)


def _reduce_memoryview(view: memoryview) -> tuple[Any, ...]:
    """As a memoryview, where cloudpickle makes bytes of it; of a kind that Python cannot make, as bytes, too."""
    kind, shape, readonly = view.format, view.shape, view.readonly
    if not _can_be_made(view):
        return bytes, (view.tobytes(),)
    if not view.nbytes:
        return _empty, (kind, readonly)
    pieces = view if view.c_contiguous else view.tobytes() if readonly else bytearray(view.tobytes())
    return _view, (pickle.PickleBuffer(pieces), kind, shape)


def _can_be_made(view: memoryview) -> bool:
    try:
        memoryview(bytes(view.itemsize)).cast(view.format)  # type: ignore[call-overload]
    except (ValueError, TypeError):
        return False
    return view.nbytes > 0 or view.ndim == 1


def _view(buffer: Any, kind: Any, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer)
    return view if (view.format, view.shape) == (kind, shape) else view.cast("B").cast(kind, shape)


def _empty(kind: Any, readonly: bool) -> memoryview:
    """A view of nothing cannot be cast."""
    size = struct.calcsize(kind)
    return memoryview(bytes(size) if readonly else bytearray(size)).cast(kind)[:0]


class _Writable:
    """The bytes of an array that is read-only, as numpy takes them for one that is not. Only to be read from."""

    def __init__(self, array: Any) -> None:
        self.array = array  # held as long as somebody looks at its bytes
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {"data": (address, False), "shape": (array.nbytes,), "typestr": "|u1", "version": 3}


def _reduce_array(array: Any) -> tuple[Any, ...]:
    """As numpy does; and one that is read-only, here, arrives as the other side's own, which may write to it.

    One with gaps that is to be shared goes without them: numpy would put its bytes into the pickle, and each worker
    would have a copy of its own, which one job could change under another.
    """
    packing = current_packing()
    if packing is not None and packing.is_shared and not (array.flags.forc or array.dtype.hasobject):
        array = array.copy(order="C")
    reduced: tuple[Any, ...] = array.__reduce_ex__(PROTOCOL)
    parts = reduced[1]
    if array.flags.writeable or not parts or type(parts[0]) is not pickle.PickleBuffer:
        return reduced
    same = sys.modules["numpy"].asarray(_Writable(array))
    return reduced[0], (pickle.PickleBuffer(same), *parts[1:])


_ours: dict[type, Any] = Pickler.dispatch_table.maps[0]
_ours[memoryview] = _reduce_memoryview


def dumps_by_value(obj: Any, buffer_callback: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    """Pickle a user's object, with all that lives in `__main__` or is registered to travel by value."""
    array = getattr(sys.modules.get("numpy"), "ndarray", None)
    if array is not None:
        _ours[array] = _reduce_array
    main = sys.modules.get("__mp_main__")
    if main is not None and main.__name__ not in cloudpickle.list_registry_pickle_by_value():
        _register_mp_main(main)
    buffer = io.BytesIO()
    Pickler(buffer, PROTOCOL, buffer_callback=buffer_callback).dump(obj)
    return buffer.getvalue()


def _register_mp_main(main: Any) -> None:
    try:
        cloudpickle.register_pickle_by_value(main)
    except ValueError:  # it goes by another name: then its classes do, too
        return
