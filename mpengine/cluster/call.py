"""In a worker of a node: run a call that comes from far away. The node's own process never unpickles users' objects."""

from __future__ import annotations

from mpengine.arrays.parcel import note_read_only
from mpengine.interrupt import JobInterrupt
from mpengine.wire import codec
from mpengine.wire.remote_error import pack_error, traceback_of

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MOST_FUNCTIONS = 16  # kept unpickled

_functions: dict[tuple[str, int], Any] = {}
_shared: dict[int, Any] = {}  # of the job that runs, or is about to


def run_call(
    payload: bytes, function: tuple[tuple[str, int], bytes] | None, shared: Sequence[Kept]
) -> tuple[bool, bytes]:
    """Run a pickled call.

    Args:
        payload: Function, arguments and keyword arguments; only the arguments if there is a function.
        function: A key that is its own in all of the cluster's life, and its pickle: a function that many jobs have.
        shared: The shared objects in it: when this is called, they have been rebuilt, and are known by their numbers.

    Returns:
        Whether it succeeded, and its value, or its error as `pack_error` makes it.
    """
    try:
        if function is None:
            fn, args, kwargs = codec.loads(payload)
        else:
            fn, (args, kwargs) = _function(*function), codec.loads(payload)
        return True, codec.pack_result(fn(*args, **kwargs))
    except JobInterrupt:
        raise  # the node's engine has asked for it
    except BaseException as error:  # a user's job may raise anything
        note = note_read_only(error)
        if note:
            codec.annotate(error, note)
        tb = traceback_of(error)
        while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
            tb = tb.tb_next
        return False, pack_error(error, tb)
    finally:
        _shared.clear()


def _function(key: tuple[str, int], blob: bytes) -> Any:
    fn = _functions.get(key)
    if fn is None:
        fn = codec.loads(blob)
        while len(_functions) >= MOST_FUNCTIONS:
            del _functions[next(iter(_functions))]
        _functions[key] = fn
    return fn


class Kept:
    """A shared object on its way to a job: it can be found there as soon as it is rebuilt, by those it is a part of."""

    def __init__(self, number: int, shared: Any) -> None:
        self._number = number
        self._shared = shared

    def __reduce__(self) -> Any:
        return _keep, (self._number, self._shared)


def _keep(number: int, shared: Any) -> None:
    _shared[number] = shared


def find_shared(number: int) -> Any:
    """A shared object, while a call that uses it is unpickled or runs."""
    return _shared[number]
