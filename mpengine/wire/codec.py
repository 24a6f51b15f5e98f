"""Users' objects to bytes and back.

Plain pickle where it can, cloudpickle where it cannot. What lives in `__main__` (or in a module registered with
`cloudpickle.register_pickle_by_value`) must travel by value, because workers do not import the user's `__main__`; but
plain pickle would happily write its name. So the pickle is searched for the module's name: a hit, also one by chance
in some string, only means that cloudpickle does the work.

`pack...` is for what goes to another process of the engine: large parts of it lie in shared memory (`arrays.parcel`).
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType

from mpengine.arrays.parcel import (
    ALL,
    LARGE,
    OWN,
    Packing,
    Parcel,
    current_packing,
    out_of_band,
    pack_in,
    seal,
    with_leases,
)
from mpengine.wire.culprit import find_culprit

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mpengine.arrays.segment import Lease, Segment

PROTOCOL = 5

# Immutable, and their pickles hold no reference to any other object: values of these types are the same now and later,
# so that a list of them may be pickled at once without changing what each of them was.
ATOMS = frozenset({int, float, str, bytes, bool, complex, type(None)})

_TEXTS = frozenset({str, bytes})

loads = pickle.loads

_ADVICE = "; pass something that can, or make it in the job"


def _further_names() -> tuple[bytes, ...]:
    """Besides `__main__`, the modules whose functions and classes must not travel by name."""
    # Who has registered a module has imported it; another thread may be about to.
    registry = getattr(sys.modules.get("cloudpickle"), "list_registry_pickle_by_value", None)
    registered = () if registry is None else registry()
    if not registered and "__mp_main__" not in sys.modules:
        return ()
    # __mp_main__: we are a child of multiprocessing ourselves, and this is its parent's __main__.
    return (b"__mp_main__", *(name.encode() for name in registered))


def dumps(obj: Any) -> bytes:
    """Pickle a user's object, for this packing if there is one. Raises what the pickler raises."""
    packing = current_packing()
    if packing is not None and packing.is_shared and "numpy" in sys.modules:
        return _dumps_by_value(obj, packing)  # with a pickler that knows arrays
    try:
        data = pickle.dumps(obj, PROTOCOL, buffer_callback=None if packing is None else packing.take)
    except (pickle.PicklingError, AttributeError, TypeError):
        return _dumps_by_value(obj, packing)  # a lambda, a local class; or something that cannot be pickled at all
    if b"__main__" in data or any(name in data for name in _further_names()) or (packing and packing.is_alien):
        del data  # as large as the object, perhaps: not beside the next
        return _dumps_by_value(obj, packing)
    return data


def _dumps_by_value(obj: Any, packing: Packing | None) -> bytes:
    from mpengine.wire.by_value import dumps_by_value  # a worker pays for cloudpickle only if it needs it

    if packing is None:
        return dumps_by_value(obj, None)
    packing.buffers.clear()
    packing.leases.clear()
    return dumps_by_value(obj, packing.take)


def pack(obj: Any, segment: Segment | None = None, mode: int = OWN) -> bytes:
    """Pickle a user's object; with a segment, what is large goes there.

    Args:
        mode: How the other side opens it, see `arrays.parcel`.

    Raises:
        MemoryError: There is no room for it.
    """
    with pack_in(segment) as packing:
        data = dumps(out_of_band(obj))
    return seal(data, packing, mode)


def annotate(error: BaseException, note: str) -> None:
    """Add a note to a user's exception, unless its class forbids that: its own text is worth more than our note."""
    try:
        error.add_note(note)
    except BaseException:
        return


def pack_call(
    fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], segment: Segment | None = None, mode: int = OWN
) -> bytes:
    """Pickle a call, to be run in a worker, as `pack`. Where a part cannot be pickled, a note on the error names it."""
    data = _dump_plain_call(fn, args) if not kwargs and type(fn) is FunctionType else None
    if data is not None:
        return data
    with pack_in(segment) as packing:
        try:
            named = {name: out_of_band(value) for name, value in kwargs.items()}  # whatever mapping it is
            data = dumps((fn, out_of_band(args), named))
        except BaseException as error:
            annotate(error, _blame_call(fn, args, kwargs, error))
            raise
    return seal(data, packing, mode)


def _dump_plain_call(fn: FunctionType, args: tuple[Any, ...]) -> bytes | None:
    """The same for a function that travels by name and arguments that have nothing to be looked into: a third of the
    time. None: it is not one."""
    try:
        if not ATOMS.issuperset(map(type, args)):
            return None
        for arg in args:
            if type(arg) in _TEXTS and len(arg) >= LARGE:
                return None
        data = pickle.dumps((fn, args, {}), PROTOCOL)
    except Exception:  # a class that cannot be hashed; a function that is not found by its name
        return None
    if len(data) >= LARGE or b"__main__" in data or any(name in data for name in _further_names()):
        return None
    return data


class _Packed:
    """Stands for an object that was pickled before."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._blob,)


def dump_packed_call(blob: bytes, args: tuple[Any, ...]) -> bytes:
    """As `pack_call`, of a function that was pickled before, and plain arguments."""
    return pickle.dumps((_Packed(blob), args, {}), PROTOCOL)


def dump_atom(value: Any) -> bytes:
    """Pickle a value of one of the `ATOMS`."""
    return pickle.dumps(value, PROTOCOL)


def pack_result(value: Any, segment: Segment | None = None) -> bytes:
    """Pickle what a job returned, as `pack`. The error gets a note saying that it was the result."""
    with pack_in(segment) as packing:
        try:
            data = dumps(out_of_band(value))
        except Exception as error:
            annotate(error, _blame("the job's result", value, error) + "; return something that can")
            raise
    return seal(data, packing, OWN)


def dump_shared(obj: Any, segment: Segment) -> tuple[bytes, list[memoryview], list[Lease]]:
    """Pickle an object that is to be shared: with all its buffers, and leases of shared objects inside it."""
    with pack_in(segment, smallest=ALL) as packing:
        try:
            data = dumps(out_of_band(obj))
        except Exception as error:
            annotate(error, _blame("the object to be shared", obj, error) + _ADVICE)
            raise
    return data, packing.buffers, packing.leases


def _blame_call(fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException) -> str:
    if can_dump(fn):
        return blame_arguments(args, kwargs, error)
    return _blame("the function", fn, error) + _ADVICE


def blame_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any], error: BaseException) -> str:
    """Which of them it is that cannot be pickled, and which part of that."""
    parts = [(f"argument {number}", arg) for number, arg in enumerate(args, 1)]
    parts += [(f"keyword argument {name!r}", arg) for name, arg in kwargs.items()]
    for name, part in parts:
        if not can_dump(part):
            return _blame(name, part, error) + _ADVICE
    return "the call cannot be pickled as a whole, though each of its parts can"


def _blame(name: str, obj: Any, error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return f"{name} (a {type(obj).__qualname__}) is nested too deeply to be pickled"
    way, part = find_culprit(obj, can_dump)
    because = f", because of its part `{way.strip()}` (a {type(part).__qualname__})" if way else ""
    return f"{name} (a {type(obj).__qualname__}) cannot be pickled{because}"


def can_dump(obj: Any) -> bool:
    """Whether an object can be pickled. Runs the user's code, which may raise anything."""
    try:
        dumps(obj)
    except BaseException:
        return False
    return True


def dump_values(values: list[Any], flags: bytearray | None, times: bytes | None = None) -> bytes:
    """Pack many values at once: atoms as they are, others pickled before by `dumps` and flagged with 1.

    Args:
        values: atoms (or tuples of them), or bytes where flagged.
        flags: as long as `values`, see `flag_of`; None: all are atoms.
        times: float64, one more than `values`: when each was begun, and when the last was there.
    """
    if flags is None:
        return pickle.dumps((values, None, times), PROTOCOL)
    plain = [bytes(value) if flag else value for value, flag in zip(values, flags, strict=True)]
    data = pickle.dumps((plain, bytes(flags), times), PROTOCOL)
    return with_leases(data, values) if 2 in flags else data


def flag_of(blob: bytes) -> int:
    """Of a pickled value among others: 2, if it is a parcel, whose blocks can be opened once; else 1."""
    return 2 if type(blob) is Parcel else 1


def load_values(blob: Any) -> tuple[list[Any], bytes | None, bytes | None]:
    """What `dump_values` was given; flagged values are still pickled."""
    values, flags, times = pickle.loads(blob)
    return values, flags, times


def goes_by_name(module: ModuleType) -> bool:
    """Whether a module is the same wherever it is imported."""
    name = module.__name__
    if name == "__main__" or sys.modules.get(name) is not module:
        return False
    return not any(f"{name}.".startswith(f"{one.decode()}.") for one in _further_names())


def dump_by_name(obj: Any) -> bytes | None:
    """The pickle of a function or class that is found by its name wherever it is loaded; None: it is not one of those.

    Such a pickle is the same whenever it is made; any other holds what the function refers to at the moment.
    """
    if (
        type(obj) is FunctionType
        or isinstance(obj, type)
        or (type(obj) is BuiltinFunctionType and type(obj.__self__) in (ModuleType, type(None)))
    ):
        try:
            data = pickle.dumps(obj, PROTOCOL)
        except Exception:
            return None
        if b"__main__" not in data and not any(name in data for name in _further_names()):
            return data
    return None
