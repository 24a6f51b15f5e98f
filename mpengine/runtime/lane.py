"""Plain calls on their way from `submit` to the ledger: taken in one by one, told to it many at a time.

A plain call is one of a function that crosses once (`functions`), with few and plain arguments, in an engine without
limits for each job. It needs no record: its future is all there is of it, and its arguments cannot change before the
dispatcher packs them, so nothing is pickled here.

Rules:
1. `submit` takes no lock: it appends, and then looks whether the engine was closed in the meantime. If so, and the call
   is still here, it was not let in.
2. The lane is emptied under the admission's lock, by the dispatcher, or by whoever admits something else: so what one
   thread submits keeps its order.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from mpengine.core.ids import OpenIds
from mpengine.core.job import new_number
from mpengine.core.records import Span
from mpengine.functions import Functions, KnownFunction
from mpengine.futures import FutureSink, JobFuture
from mpengine.plain import NUMBERS, is_plain_text, text_bytes
from mpengine.runtime.express import Express
from mpengine.runtime.inbox import Inbox


class Lane:
    """See the module's text.

    Attributes:
        calls: What is in it.
        admitted: Jobs that were let in, ever, on whatever way; those in the lane are not counted yet.
        closed: Nobody is let in. So it is in a forked copy.
        admit_call: The admission's, which knows this lane.
    """

    def __init__(self, functions: Functions, ids: OpenIds, inbox: Inbox, express: Express) -> None:
        self.calls: deque[JobFuture] = deque()
        self.admitted = 0
        self.closed = False
        self.admit_call: Callable[[JobFuture, tuple[int | str, bytes, tuple[Any, ...]]], int]
        self._functions = functions
        self._ids = ids
        self._inbox = inbox
        self._express = express
        self._sink = FutureSink()
        self._has_text = False  # among the arguments, ever
        _open.add(self)

    def submit(self, fn: Any, args: tuple[Any, ...]) -> JobFuture | None:
        """Take in a call; None: it is not plain, or not for this lane. Any thread."""
        function = self._functions.get(fn)
        if function is None:
            return None
        try:
            for arg in args:
                if type(arg) not in NUMBERS:
                    if not is_plain_text(args):
                        return None
                    self._has_text = True
                    break
        except Exception:  # a class that cannot be hashed
            return None
        future = JobFuture(None, function, args, new_number())
        while not self._ids.take_fresh(future):
            future.label = new_number()
        calls = self.calls
        if not calls and self._express.is_open(self.admitted) and self._goes_alone(future, function):
            return future
        calls.append(future)
        if self.closed and self._is_left_behind(future):
            return None
        if self._inbox.is_asleep:
            self._inbox.wake()
        return future

    def _goes_alone(self, future: JobFuture, function: KnownFunction) -> bool:
        """Whether it took the short way."""
        if self.closed or function.desk.is_own_thread():
            return False
        future._desk = function.desk
        future._batch = self.admit_call(future, (future.label, function.mapped.blob, future.args))
        if not future._batch:
            future._desk = None
        return bool(future._batch)

    def _is_left_behind(self, future: JobFuture) -> bool:
        """After the closing: whether it was not let in."""
        try:
            self.calls.remove(future)
        except ValueError:
            return False  # it was taken out before
        self._ids.release_calls([future])
        return True

    def take(self) -> tuple[list[Span], int]:
        """All that is here, as spans, and how many calls that is. Under the admission's lock."""
        calls = [self.calls.popleft() for _ in range(len(self.calls))]
        spans = []
        for function, run in itertools.groupby(calls, _function_of):
            futures = list(run)
            size = sum(text_bytes(future.args) for future in futures) if self._has_text else 0
            spans.append(
                Span(
                    self._sink, function.mapped, None, position=0, first=0, stop=len(futures), key=function.key,
                    jobs=futures, size=size,
                )
            )  # fmt: skip
        return spans, len(calls)


# Asking for the process's number costs as much as all else in `submit`; a forked copy has its lanes closed instead.
_open: weakref.WeakSet[Lane] = weakref.WeakSet()


def _close_all() -> None:
    for lane in _open:
        lane.closed = True


os.register_at_fork(after_in_child=_close_all)


def _function_of(future: JobFuture) -> Any:
    return future._function
