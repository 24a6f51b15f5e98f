"""Drawing the jobs of a `run`, see `drawing`.

Jobs of one function, without limits of their own, travel as calls of a span: hundreds of thousands a second, where one
by one, each with a record in the books, it is tens of thousands. All others are records: those of a function that goes
with each job (`functions`), too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from mpengine.core.job import Job
from mpengine.core.pace import MAX_ITEMS
from mpengine.core.records import Entry, Record, Span
from mpengine.drawing import Source
from mpengine.functions import KnownFunction
from mpengine.plain import NUMBERS, is_plain_text, text_bytes
from mpengine.runtime.dispatcher import Dispatcher

_PLAIN_FIELDS = 4  # of a job that says no more than fn, args, kwargs and id
_SHORT_RUN = 4  # jobs of one function in a row, on average; if there are fewer, spans win nothing

_Plain = tuple[KnownFunction, Job]  # a job that may travel in a span


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
        self._functions = dispatcher.functions
        self._has_text = False  # among the arguments of jobs for spans, ever

    def _lot(self) -> int:
        return max(1, min(self._window() - self._ahead, MAX_ITEMS))

    def _prepare(self, item: Any) -> _Plain | Record:
        if self._in_spans and type(item) is Job and len(item.__dict__) == _PLAIN_FIELDS and not item.kwargs:
            function = self._functions.get(item.fn)
            if function is not None and self._is_plain(item.args) and self._dispatcher.ids.take_call(item):
                self._key = function.key
                return function, item
        record = self._admit(item, self.mailbox)
        self._key = record.key
        self._bytes += record.size
        return record

    def _is_plain(self, args: tuple[Any, ...]) -> bool:
        try:
            for arg in args:
                if type(arg) not in NUMBERS:
                    self._has_text = True
                    self._bytes += text_bytes(args)
                    return is_plain_text(args)
        except Exception:  # a class that cannot be hashed
            return False
        return True

    def _pack(self, prepared: list[Any]) -> tuple[list[Entry], int]:
        runs = [(function, list(run)) for function, run in itertools.groupby(prepared, _function_of)]
        in_spans = len(prepared) >= _SHORT_RUN * len(runs) or len(runs) == 1
        entries: list[Entry] = []
        size = 0
        position = self._drawn
        for function, run in runs:
            if function is not None and (in_spans or function.holds is not None):
                # One that travels by value may refer to something else by now: what counts is what it was when drawn.
                jobs = [job for _, job in run]
                text = sum(text_bytes(job.args) for job in jobs) if self._has_text else 0
                entries.append(
                    Span(
                        self.mailbox, function.mapped, None, position=position, first=0, stop=len(jobs),
                        key=function.key, jobs=jobs, size=text,
                    )
                )  # fmt: skip
                size += text
            else:
                for at, one in enumerate(run, position):
                    record = one if isinstance(one, Record) else self._admit(one[1], self.mailbox, has_id=True)
                    record.position = at
                    entries.append(record)
                    size += record.size
            position += len(run)
        return entries, size


def _function_of(prepared: _Plain | Record) -> KnownFunction | None:
    """What stands in a row with the same goes into one span."""
    return prepared[0] if type(prepared) is tuple else None
