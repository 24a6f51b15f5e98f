"""What a worker's initializer leaves behind, for functions and classes that travel by value.

Each pickle brings globals of its own for the functions in it, a copy of the names that they use; and a class that comes
again has its attributes set again. So what the initializer of a script sets would be where no job ever looks. A worker
keeps it, and lays it over what comes later from the same module or class:

- every name that the initializer, or what it calls, has set;
- every object that their code names and that may be changed in place, for instance a dict that they have filled.

All else is as it was when the job was submitted: functions, classes and modules, which a notebook may have defined
anew, and numbers and strings, which the initializer can only have read. Modules that are imported need nothing of this,
for what is in them is found by name.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from types import CodeType, FunctionType, MethodType, ModuleType

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

_AS_THEY_COME = (
    type,
    ModuleType,
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
)  # and so does all that binds to an instance
_MAIN = ("__main__", "__mp_main__")  # a forked worker has it, and what is in it travels by value all the same

# By the module's name, or the class's module and name. Complete before the first job, then only read.
_kept: dict[str | tuple[str, str], dict[str, Any]] = {}


@contextlib.contextmanager
def keeping(initializer: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[None]:
    """Around the call of an initializer."""
    scopes, names = _reached(initializer, *args)
    before = {key: dict(scope) for key, scope in scopes.items()}
    yield
    for key, scope in scopes.items():
        old = before[key]
        left = {
            name: value
            for name, value in dict(scope).items()  # a copy: it may have started a thread that sets more
            if not (name.startswith("__") and name.endswith("__"))
            and (old.get(name, _kept) is not value or (name in names and _may_be_changed(value)))
        }
        if left:
            _kept[key] = left


def lay_over_globals(scope: dict[str, Any]) -> None:
    """Over those of a function that has just come."""
    if _kept:
        scope.update(_kept.get(scope.get("__name__", ""), ()))


def lay_over_class(cls: type) -> None:
    """Over the attributes of one that has just come."""
    if _kept:
        for name, value in _kept.get((cls.__module__, cls.__qualname__), {}).items():
            setattr(cls, name, value)


def _may_be_changed(value: Any) -> bool:
    return not isinstance(value, _AS_THEY_COME) and not hasattr(type(value), "__get__")


def _reached(*roots: Any) -> tuple[dict[Any, Mapping[str, Any]], set[str]]:
    """Of what may be called from `roots` and came by value: globals and classes by their keys, and all names used."""
    scopes: dict[Any, Mapping[str, Any]] = {}
    names: set[str] = set()
    seen: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        it = waiting.pop()
        if id(it) in seen:
            continue
        seen[id(it)] = it
        if isinstance(it, functools.partial):
            waiting += [it.func, *it.args, *it.keywords.values()]
        elif isinstance(it, (MethodType, staticmethod, classmethod)):
            waiting += [it.__func__, getattr(it, "__self__", None)]
        elif isinstance(it, property):
            waiting += [it.fget, it.fset]
        elif isinstance(it, FunctionType):
            waiting += [cell.cell_contents for cell in it.__closure__ or () if _is_filled(cell)]
            if _is_by_value(it.__globals__.get("__name__"), it.__globals__):
                scopes[it.__globals__["__name__"]] = it.__globals__
                used = _names(it.__code__)
                names |= used
                waiting += [it.__globals__[name] for name in used if name in it.__globals__]
        elif isinstance(it, type):
            if _is_by_value(it.__module__, it):
                scopes[it.__module__, it.__qualname__] = vars(it)
                waiting += [*vars(it).values(), *it.__bases__]
        elif _may_be_changed(it):
            waiting.append(type(it))  # its methods may be called
    return scopes, names


def _is_by_value(module: Any, it: Any) -> bool:
    """Whether these globals, or this class, came by value; in a forked worker: whether the jobs' will."""
    if not isinstance(module, str):
        return False
    there = getattr(sys.modules.get(module), "__dict__", {})
    if there is not it and not (isinstance(it, type) and there.get(it.__name__) is it):
        return True
    cloudpickle = sys.modules.get("cloudpickle")
    registered = cloudpickle.list_registry_pickle_by_value() if cloudpickle is not None else ()
    return module in _MAIN or any(module == name or module.startswith(f"{name}.") for name in registered)


def _names(code: CodeType) -> set[str]:
    """Of globals, and of attributes."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (looked at)
    except ValueError:
        return False
    return True
