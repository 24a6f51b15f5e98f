"""What a function that travels by value takes with it, and whether all of that is still the same.

cloudpickle pickles such a function with the globals its code names, its closure and its defaults. If each of these is a
plain value, a module, something that is found by its name, or another such function, then the pickle can only change
when one of them is replaced by something else, which a look at each of them tells.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

from mpengine.wire import codec

_MISSING = object()
_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_STORES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_NAME", "DELETE_NAME"})
_CELL_STORES = frozenset({"STORE_DEREF", "DELETE_DEREF"})


class References:
    """All that a function and those it refers to depend on."""

    def __init__(self) -> None:
        self._globals: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._functions: list[tuple[FunctionType, CodeType, Any]] = []
        self._seen: set[int] = set()

    def hold(self) -> bool:
        """Whether nothing of it has been replaced."""
        for names, name, value in self._globals:
            if names.get(name, _MISSING) is not value:
                return False
        for fn, code, defaults in self._functions:
            if fn.__code__ is not code or fn.__defaults__ is not defaults or fn.__kwdefaults__ or fn.__dict__:
                return False
        return all(_content(cell) is value for cell, value in self._cells)

    def add(self, fn: FunctionType) -> bool:
        """Take in what a function refers to; False: some of it can change without being replaced."""
        if id(fn) in self._seen:
            return True
        self._seen.add(id(fn))
        defaults = fn.__defaults__ or ()
        if fn.__kwdefaults__ or fn.__dict__ or not all(map(self._is_constant, defaults)):
            return False
        self._functions.append((fn, fn.__code__, fn.__defaults__))
        for cell in fn.__closure__ or ():
            value = _content(cell)
            if value is _MISSING or not self._is_constant(value):
                return False
            self._cells.append((cell, value))
        loaded: set[str] = set()
        for code in _codes(fn.__code__):
            for instruction in dis.get_instructions(code):
                if instruction.opname in _LOADS:
                    loaded.add(instruction.argval)
                elif instruction.opname in _STORES:
                    return False  # a worker would keep what one job has changed for the next
                elif instruction.opname in _CELL_STORES and instruction.argval in fn.__code__.co_freevars:
                    return False
        for name in sorted(loaded):
            value = fn.__globals__.get(name, _MISSING)
            if value is not _MISSING and not self._is_constant(value):
                return False
            self._globals.append((fn.__globals__, name, value))
        return True

    def _is_constant(self, value: Any) -> bool:
        """Whether its pickle is always the same."""
        if type(value) in codec.ATOMS:
            return True
        if type(value) is ModuleType:
            return codec.goes_by_name(value)
        if type(value) is FunctionType:
            return codec.dump_by_name(value) is not None or self.add(value)
        if isinstance(value, type) or type(value) is BuiltinFunctionType:
            return codec.dump_by_name(value) is not None
        return False


def references(fn: FunctionType) -> References | None:
    """What a function refers to; None: some of it can change without being replaced."""
    found = References()
    return found if found.add(fn) else None


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return _MISSING


def _codes(code: CodeType) -> Iterator[CodeType]:
    """It, and those of the functions made in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
