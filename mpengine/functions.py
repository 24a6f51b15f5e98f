"""Functions that cross once per worker, and not with each job.

The pickle of a function that is found by its name is the same whenever it is made. One that travels by value, such as a
function of a script, takes with it what it refers to; so it is pickled once only as long as all of that is the very
same and cannot change: modules, plain values, other such functions (`wire/references.py`). Any other function goes with
each of its jobs, as it is at that moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from mpengine.core.job import function_name
from mpengine.core.pace import pace_key
from mpengine.runtime.outbox import MappedFunction
from mpengine.wire import codec
from mpengine.wire.references import references

if TYPE_CHECKING:
    from mpengine.futures import Desk

_MOST = 16  # known at a time: as many as a worker keeps unpickled
_MOST_CODES = 4096
_MOST_TIMES = 16


class KnownFunction:
    """One that crosses once.

    Attributes:
        desk: Whom a future of a call of it asks.
        holds: Whether its pickle still says what it is; None: always.
    """

    __slots__ = ("desk", "fn", "holds", "key", "mapped")

    def __init__(self, fn: Any, blob: bytes, holds: Callable[[], bool] | None, desk: Desk) -> None:
        self.fn = fn  # held, so that its id is its own
        self.key = pace_key(fn)
        self.mapped = MappedFunction(function_name(fn), blob, star=True)
        self.holds = holds
        self.desk = desk


class Functions:
    """Those an engine knows. Any thread.

    Args:
        finish: Told of one that is not known any more.
    """

    def __init__(self, desk: Desk, finish: Callable[[MappedFunction], None]) -> None:
        self._desk = desk
        self._finish = finish
        self._known: dict[int, KnownFunction] = {}
        self._learnt: Counter[CodeType] = Counter()
        self._others: dict[int, CodeType] = {}  # of functions that go with each job; held, so that its id is its own

    def get(self, fn: Any) -> KnownFunction | None:
        """What is known of it; None: it must go with each job."""
        known = self._known.get(id(fn))
        if known is None:
            return self._learn(fn)
        if known.holds is not None and not known.holds():
            self._forget(id(fn))
            return self._learn(fn)
        return known

    def _learn(self, fn: Any) -> KnownFunction | None:
        if type(fn) is FunctionType and id(fn.__code__) in self._others:
            return None
        blob, holds = codec.dump_by_name(fn), None
        if blob is None:
            if type(fn) is not FunctionType:
                return None
            blob, holds = _dump_with_references(fn)
            if blob is None:
                self._remember_other(fn.__code__)
                return None
            self._count(fn.__code__)
        while len(self._known) >= _MOST:
            self._forget(next(iter(self._known)))
        # Another thread may have been faster: then its own is the one, and of ours nobody has heard.
        return self._known.setdefault(id(fn), KnownFunction(fn, blob, holds, self._desk))

    def _remember_other(self, code: CodeType) -> None:
        if len(self._others) >= _MOST_CODES:
            self._others.clear()
        self._others[id(code)] = code

    def _count(self, code: CodeType) -> None:
        """One that travels by value was learnt. If that happens again and again, it goes better with each job.

        What it refers to keeps being replaced; or it is made anew for each job, as a lambda in a loop is.
        """
        self._learnt[code] += 1
        if self._learnt[code] > _MOST_TIMES:
            del self._learnt[code]
            self._remember_other(code)
        elif len(self._learnt) > _MOST_CODES:
            self._learnt.clear()

    def _forget(self, number: int) -> None:
        known = self._known.pop(number, None)  # two threads may forget it at once
        if known is not None:
            self._finish(known.mapped)


def _dump_with_references(fn: FunctionType) -> tuple[bytes | None, Callable[[], bool] | None]:
    found = references(fn)
    if found is None:
        return None, None
    try:
        blob = codec.dumps(fn)
    except Exception:  # what it is, the job itself will say
        return None, None
    return (blob, found.hold) if found.hold() else (None, None)
