"""Large arrays among the arguments of many jobs: each crosses once, and none that lies in a file is copied.

Only arguments themselves are looked at, not what lies inside other objects.
"""

from __future__ import annotations

import mmap
import sys
import weakref
from typing import Any

from mpengine import Engine, Shared

_BY_REFERENCE = {"r": "r", "r+": "r+", "w+": "r+"}  # how it was opened, and is to be opened again: not emptied


class LargeArrays:
    """Those that the jobs of one call have been given. One thread at a time.

    Args:
        smallest: Bytes above which an array crosses once, and is read-only in the jobs; None: none does.
    """

    def __init__(self, engine: Engine, smallest: int | None) -> None:
        self._engine = engine
        self._smallest = sys.maxsize if smallest is None else smallest
        self._shared: dict[int, tuple[weakref.ref[Any], Shared[Any]]] = {}  # by id of the array; while it lives

    def replace_in(self, calls: list[Any]) -> list[Any]:
        """Calls as joblib has them, (function, args, kwargs), with what is to be sent for arrays in their places.

        In the job those are arrays again.

        Raises:
            MemoryError: There is no room to share one.
        """
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return calls
        array = numpy.ndarray
        replaced = []
        for call in calls:
            function, args, kwargs = call
            if any(isinstance(value, array) for value in (*args, *kwargs.values())):
                args = tuple(self._replace(value, numpy) for value in args)
                kwargs = {name: self._replace(value, numpy) for name, value in kwargs.items()}
                call = function, args, kwargs
            replaced.append(call)
        return replaced

    def clear(self) -> None:
        """The call is over. What its jobs still use stays until they end."""
        self._shared.clear()

    def _replace(self, argument: Any, numpy: Any) -> Any:
        """What to send in its place."""
        if not isinstance(argument, numpy.ndarray):
            return argument
        in_file = _part_of_file(argument, numpy)
        if in_file is not None:
            return in_file
        # A subclass would lose what it has beside its numbers; objects have no bytes of their own to share.
        is_plain = type(argument) in (numpy.ndarray, numpy.memmap) and not argument.dtype.hasobject
        return self._share(argument) if is_plain and argument.nbytes > self._smallest else argument

    def _share(self, array: Any) -> Shared[Any]:
        key = id(array)
        known = self._shared.get(key)
        if known is None or known[0]() is not array:
            # When the array goes, so does this; jobs on their way have what they need.
            gone = weakref.ref(array, lambda ref: self._forget(key, ref))
            known = self._shared[key] = gone, self._engine.share(array)
        return known[1]

    def _forget(self, key: int, ref: weakref.ref[Any]) -> None:
        known = self._shared.get(key)
        if known is not None and known[0] is ref:
            del self._shared[key]


class PartOfFile:
    """An array in a file that is mapped. It is mapped in the job, too, which sees and changes the file itself."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> Any:
        from numpy import memmap  # whoever has such an array has imported it

        return memmap, self._arguments


def _part_of_file(array: Any, numpy: Any) -> PartOfFile | None:
    """The array as a reference; None: it lies in no file, or not in one piece, or is a private copy of it."""
    whole = array
    while isinstance(whole, numpy.ndarray) and not isinstance(whole.base, mmap.mmap):
        whole = whole.base
    if not isinstance(whole, numpy.memmap) or whole.mode not in _BY_REFERENCE or whole.filename is None:
        return None
    if type(array) not in (numpy.ndarray, numpy.memmap) or not array.size:
        return None
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return None
    offset = whole.offset + array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    order = "C" if array.flags.c_contiguous else "F"
    # A view that was made read-only stays so.
    mode = _BY_REFERENCE[whole.mode] if array.flags.writeable else "r"
    return PartOfFile(str(whole.filename), array.dtype, mode, offset, array.shape, order)
