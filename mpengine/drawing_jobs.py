"""Drawing the jobs of a `run`, see `drawing`.

Jobs of one function, without limits of their own, travel as calls of a span: hundreds of thousands a second, where one
by one, each with a record in the books, it is tens of thousands. All others are records.

A span's function is pickled once. That is the same as pickling it with each job only if it is found by its name; a
lambda, a closure or a function of a script refers to what may change from one job to the next, and goes with each job.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from mpengine.core.job import Job, function_name
from mpengine.core.pace import MAX_ITEMS, pace_key
from mpengine.core.records import Entry, Record, Span
from mpengine.drawing import NUMBERS, Source
from mpengine.runtime.dispatcher import Dispatcher
from mpengine.runtime.outbox import MappedFunction
from mpengine.wire import codec

_PLAIN_FIELDS = 4  # of a job that says no more than fn, args, kwargs and id
_MOST_TEXT = 1 << 16  # of a job in a span; a larger one travels alone
_FUNCTIONS = 16  # known at a time
_SHORT_RUN = 4  # jobs of one function in a row, on average; if there are fewer, spans win nothing

_function_of = attrgetter("fn")


class _Function:
    """What is known of a job's function. `mapped`: for spans, if it may travel in one."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn  # held, so that its id is its own
        self.key = pace_key(fn)
        blob = codec.dump_by_name(fn)
        self.mapped = None if blob is None else MappedFunction(function_name(fn), blob, star=True)


class JobSource(Source):
    """Jobs, sent as spans where that is possible, or as records.

    Args:
        admit: Makes a job a record.
        in_spans: The engine has no limits or observers that make each job a case of its own.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        items: Iterator[Any],
        admit: Callable[..., Record],
        *,
        sure: bool,
        buffersize: int | None,
        in_spans: bool,
    ) -> None:
        super().__init__(dispatcher, items, sure=sure, buffersize=buffersize)
        self._admit = admit
        self._in_spans = in_spans
        self._functions: dict[int, _Function] = {}
        self._has_text = False  # among the arguments of jobs for spans, ever

    def _lot(self) -> int:
        return max(1, min(self._window() - self._ahead, MAX_ITEMS))

    def _prepare(self, item: Any) -> Job | Record:
        if self._in_spans and type(item) is Job and len(item.__dict__) == _PLAIN_FIELDS and not item.kwargs:
            function = self._functions.get(id(item.fn)) or self._learn(item.fn)
            if function.mapped is not None and self._is_plain(item.args):
                ids = self._dispatcher.ids
                if item.id not in ids and ids.setdefault(item.id, item) is item:
                    self._key = function.key
                    return item
        record = self._admit(item, self.mailbox)
        self._key = record.key
        self._bytes += record.size
        return record

    def _is_plain(self, args: tuple[Any, ...]) -> bool:
        """Whether these are now and later the same, and small."""
        try:
            for arg in args:
                if type(arg) not in NUMBERS:
                    return self._is_plain_text(args)
        except TypeError:  # a class that cannot be hashed
            return False
        return True

    def _is_plain_text(self, args: tuple[Any, ...]) -> bool:
        if not codec.ATOMS.issuperset(map(type, args)):
            return False
        size = _text_bytes(args)
        self._has_text = True
        self._bytes += size
        return size <= _MOST_TEXT

    def _learn(self, fn: Any) -> _Function:
        while len(self._functions) >= _FUNCTIONS:
            self._forget(next(iter(self._functions)))
        function = self._functions[id(fn)] = _Function(fn)
        return function

    def _forget(self, number: int) -> None:
        function = self._functions.pop(number, None)  # the drawer thread may forget it in the moment of `close`
        if function is not None and function.mapped is not None:
            self._dispatcher.finish_function(function.mapped)

    def _pack(self, prepared: list[Any]) -> tuple[list[Entry], int]:
        if set(map(type, prepared)) == {Job}:
            runs = [list(run) for _, run in itertools.groupby(prepared, _function_of)]
        else:
            runs = [list(run) for _, run in itertools.groupby(prepared, _run_key)]
        in_spans = len(prepared) >= _SHORT_RUN * len(runs) or len(runs) == 1
        entries: list[Entry] = []
        size = 0
        position = self._drawn
        for run in runs:
            if isinstance(run[0], Job) and in_spans:
                entries += self._spans(run, position)
                size += sum(_text_bytes(job.args) for job in run) if self._has_text else 0
            else:
                for at, one in enumerate(run, position):
                    record = one if isinstance(one, Record) else self._admit(one, self.mailbox, has_id=True)
                    record.position = at
                    entries.append(record)
                    size += record.size
            position += len(run)
        return entries, size

    def _spans(self, jobs: list[Job], position: int) -> Iterator[Span]:
        """Jobs of one function, cut to what suits one batch."""
        function = self._functions.get(id(jobs[0].fn)) or self._learn(jobs[0].fn)
        assert function.mapped is not None
        most = self._dispatcher.books.pace.calls(function.key)
        for first in range(0, len(jobs), most):
            part = jobs[first : first + most]
            payload = codec.dump_values([job.args for job in part], None)
            yield Span(
                self.mailbox, function.mapped, payload, position=position + first, first=0, stop=len(part),
                key=function.key, jobs=part,
            )  # fmt: skip

    def close(self) -> None:
        """As in `Source`; and the room of the functions is free."""
        if not self.mailbox.closed:
            super().close()
            for number in list(self._functions):
                self._forget(number)


def _text_bytes(args: tuple[Any, ...]) -> int:
    return sum(len(arg) for arg in args if isinstance(arg, str | bytes))


def _run_key(prepared: Job | Record) -> int:
    """What stands in a row with the same goes into one span."""
    return id(prepared.fn) if isinstance(prepared, Job) else 0
