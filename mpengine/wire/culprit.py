"""Which part of an object cannot be pickled: the attribute, item or variable that a user can do something about."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

_DEPTH = 20
_PARTS = 10_000  # looked at in one object


def find_culprit(obj: Any, can_dump: Callable[[Any], bool]) -> tuple[str, Any]:
    """Go down to the innermost part that cannot be pickled.

    Runs the user's code (`__reduce__`, `__getstate__`, `repr` of keys), which may raise anything; that ends the search.

    Args:
        obj: Cannot be pickled.
        can_dump: Whether a part can be.

    Returns:
        The way to it, as in Python ("" if it is `obj` itself: each part of it can be pickled, or cannot be seen), and
        the part.
    """
    way = ""
    seen = {id(obj)}
    for _ in range(_DEPTH):
        parts = itertools.islice(_parts(obj), _PARTS)
        found = next(((step, part) for step, part in parts if id(part) not in seen and not can_dump(part)), None)
        if found is None:
            break
        step, obj = found
        seen.add(id(obj))
        way += step
    return way, obj


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """What pickling an object pickles in turn, as far as that can be told from outside."""
    try:
        if isinstance(obj, dict):
            for key, value in obj.items():
                yield f" key {_short(key)}", key
                yield f"[{_short(key)}]", value
        elif isinstance(obj, list | tuple):
            for index, item in enumerate(obj):
                yield f"[{index}]", item
        elif isinstance(obj, set | frozenset):
            for item in obj:
                yield " element", item
        elif isinstance(obj, MethodType):
            yield ".__self__", obj.__self__
        elif isinstance(obj, functools.partial):
            yield from ((".func", obj.func), (".args", obj.args), (".keywords", obj.keywords))
        elif isinstance(obj, FunctionType):
            yield from _variables(obj)
        elif not isinstance(obj, type):
            yield from _attributes(obj)
    except BaseException:  # the user's code
        return


def _variables(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Of a function that travels by value: its closure, its defaults, and the globals it names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        yield f" variable {name!r}", cell.cell_contents
    yield " defaults", function.__defaults__
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f" global {name!r}", function.__globals__[name]


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    reduce: Any = type(obj).__reduce__
    if reduce is not object.__reduce__:
        obj.__reduce__()  # one that raises by itself is the culprit, and not some part that it would not send anyway
    state = obj.__getstate__()
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            for name, value in part.items():
                yield (f".{name}" if isinstance(name, str) else f" state {_short(name)}"), value
        elif part is not None:
            yield " state", part


def _short(key: Any) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}..."
