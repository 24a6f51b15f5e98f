"""Drawing the jobs of a `run`, see `drawing`.

Jobs of one function, without limits of their own, travel as calls of a span: hundreds of thousands a second, where one
by one, each with a record in the books, it is tens of thousands. All others are records: those of a function that goes
with each job (`functions`), too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from mpengine.core.job import NO_LIMITS, Job
from mpengine.core.records import Entry, Record, Span
from mpengine.drawing import Source
from mpengine.functions import KnownFunction
from mpengine.plain import NUMBERS, is_plain_text, text_bytes
from mpengine.runtime.any_dispatcher import AnyDispatcher

MOST_AT_ONCE = 1 << 13  # jobs drawn between two sendings
_SHORT_RUN = 4  # jobs of one function in a row, on average; if there are fewer, spans win nothing


class JobSource(Source):
    """Jobs, sent as spans where that is possible, or as records.

    Args:
        admit: Makes a job a record.
        in_spans: The engine has no limits that make each job a case of its own. Nor may it have observers, who come
            and go.
    """

    most_ahead = 1 << 16  # each is an object, and has another for its outcome

    def __init__(
        self,
        dispatcher: AnyDispatcher,
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
        self._observers = dispatcher.observers
        self._prepared: list[KnownFunction | None] = []  # of all that is gathered: its function, if it may go in a span
        self._has_text = False  # among the arguments of jobs for spans, ever

    def _lot(self) -> int:
        return max(1, min(self._room_for(self._window()), MOST_AT_ONCE))

    def _take(self, items: Iterator[Any]) -> int:
        """As in `Source`; what may go in a span needs no more than a look."""
        functions, take_id = self._functions.get, self._dispatcher.ids.take_call
        in_spans = self._in_spans and not self._observers.looking
        gather, note = self._gathered.append, self._prepared.append
        function, fn = None, object()
        count = 0
        for item in items:
            count += 1
            if in_spans and type(item) is Job and item.limits is NO_LIMITS and not item.kwargs:
                if item.fn is not fn or (function is not None and function.holds is not None):
                    fn = item.fn
                    function = functions(fn)
                    self._key = self._key if function is None else function.key
                if function is not None and self._is_plain(item.args) and take_id(item):
                    note(function)  # before the job is gathered: who sends that finds this
                    gather(item)
                    continue
            record = self._prepare(item)
            note(None)
            gather(record)
        return count

    def _prepare(self, item: Any) -> Record:
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
        functions = self._prepared[: len(prepared)]
        del self._prepared[: len(prepared)]
        runs = [(function, len(list(run))) for function, run in itertools.groupby(functions)]
        in_spans = not self._observers.looking and (len(prepared) >= _SHORT_RUN * len(runs) or len(runs) == 1)
        entries: list[Entry] = []
        size = 0
        position = self._drawn
        rest = iter(prepared)
        for function, count in runs:
            run = list(itertools.islice(rest, count))
            # One that travels by value may refer to something else by now: what counts is what it was when drawn.
            if function is not None and (in_spans or function.holds is not None):
                text = sum(text_bytes(job.args) for job in run) if self._has_text else 0
                entries.append(
                    Span(
                        self.mailbox, function.mapped, None, position=position, first=0, stop=count,
                        key=function.key, jobs=run, size=text,
                    )
                )  # fmt: skip
                size += text
            else:
                for at, one in enumerate(run, position):
                    record = one if isinstance(one, Record) else self._admit(one, self.mailbox, has_id=True)
                    record.position = at
                    entries.append(record)
                    size += record.size
            position += count
        return entries, size
