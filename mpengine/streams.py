"""The consumer's side of `map`, `map_unordered` and `run`: draws input lazily, hands results out.

Input is drawn in the consumer's own turn: at the call, and whenever it asks for the next result, as long as the window
has room. The window is counted in jobs drawn and not yet handed out, so memory stays bounded whichever side is slow.
It grows with what the workers can do in `AHEAD_S`, and shrinks to what keeps them busy when drawing itself is slow.
"""

from __future__ import annotations

import concurrent.futures
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mpengine.core import events as ev
from mpengine.core.job import Job, Outcome
from mpengine.core.pace import MAX_ITEMS
from mpengine.core.records import Record, Span
from mpengine.mailbox import Mailbox
from mpengine.runtime.clock import monotonic
from mpengine.runtime.dispatcher import Dispatcher
from mpengine.runtime.outbox import MappedFunction
from mpengine.wire import codec

AHEAD_S = 0.060  # work to have drawn ahead, per worker: outlasts a consumer that thinks for a while
LEAST_AHEAD = 4  # jobs drawn ahead per worker while nothing is known about them
MOST_AHEAD = 1 << 16  # jobs drawn and not handed out: what bounds the memory of free jobs
SLOW_DRAW_S = 0.001  # an input that takes longer than this for an item is drawn only for idle workers
TURN_S = 0.005  # drawing stops after this long when results are waiting
_QUANTUM_BITS = 3  # a full window is refilled by an eighth at least: one by one, each job would be a batch
MOST_BYTES = 1 << 20  # of arguments in one span; and what is drawn ahead of large ones, per worker

_INLINE_ATOMS = codec.ATOMS - {str, bytes}  # whose size need not be looked at


class _Stream:
    """What both kinds have in common: the window, the mailbox, the end."""

    def __init__(
        self, dispatcher: Dispatcher, key: int, *, ordered: bool, deadline: float | None, buffersize: int | None
    ) -> None:
        self._dispatcher = dispatcher
        self._key = key  # of the function drawn last
        self._ordered = ordered
        self._deadline = deadline
        self._buffersize = buffersize
        self._mailbox = Mailbox()
        self._out = 0  # jobs drawn and not handed out
        self._in_flight = 0  # of those, without a result yet
        self._draw_seconds = 0.0  # for an item, when it was drawn last
        self._exhausted = False
        self._problem: BaseException | None = None  # of the input, to be raised after what it gave before

    def close(self) -> None:
        """Nobody wants more: stop what was drawn. From the consumer, or when it has dropped the iterator."""
        if not self._mailbox.closed:
            self._mailbox.closed = True
            if self._in_flight:
                self._dispatcher.post(ev.StreamClosed(self._mailbox))

    def __del__(self) -> None:
        self.close()

    def _window(self) -> int:
        """How many jobs may be drawn and not handed out."""
        workers = self._dispatcher.supervisor.size
        if self._draw_seconds > SLOW_DRAW_S:
            most = workers + 1
        else:
            seconds = self._dispatcher.ledger.pace.seconds(self._key)
            ahead = 0 if seconds is None else int(AHEAD_S / max(seconds, 1e-9))
            most = workers * max(LEAST_AHEAD, ahead)
        return min(most, MOST_AHEAD if self._buffersize is None else self._buffersize)

    def _may_draw(self, since: float) -> bool:
        """Whether it is time to draw another: there is room, and nothing better to do."""
        window = self._window()
        if self._exhausted or window - self._out < max(1, window >> _QUANTUM_BITS):
            return False
        if self._mailbox.empty():
            return True
        if self._draw_seconds > SLOW_DRAW_S:
            return False  # results first: the next item may take for ever
        return monotonic() - since < TURN_S

    def _draw_each(self, items: Iterable[Any], take: Callable[[Any], bool]) -> None:
        """Draw until `take` says it is enough, or the input is slow, has ended or has failed."""
        started = monotonic()
        drawn = 0
        try:
            for item in items:
                drawn += 1
                if take(item) or monotonic() - started > SLOW_DRAW_S:
                    break
            else:
                self._exhausted = True
        except Exception as error:  # the input's own, or an argument's that cannot be pickled
            self._exhausted = True
            self._problem = error
        self._draw_seconds = (monotonic() - started) / max(1, drawn)

    def _sent(self, count: int) -> None:
        self._out += count
        self._in_flight += count

    def _receive(self) -> Any:
        try:
            return self._mailbox.receive(None if self._deadline is None else max(0.0, self._deadline - monotonic()))
        except queue.Empty:
            raise TimeoutError("map: its results are not there in time; give it a longer `timeout`") from None


class MapStream(_Stream):
    """`map` and `map_unordered`: the values of one function, cut into spans.

    Args:
        items: One item per call; a tuple of arguments where `fn.star`.
        problem: Why there is nothing to draw, if so.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        fn: MappedFunction,
        key: int,
        items: Iterator[Any],
        *,
        ordered: bool,
        deadline: float | None,
        buffersize: int | None,
        problem: BaseException | None,
    ) -> None:
        super().__init__(dispatcher, key, ordered=ordered, deadline=deadline, buffersize=buffersize)
        self._fn = fn
        self._items = items
        self._position = 0  # of the next item to draw
        self._next = 0  # of the next value to hand out, if ordered
        self._early: dict[int, tuple[int, Any, BaseException | None]] = {}
        self._problem = problem
        self._exhausted = problem is not None
        self._draw()

    def _draw(self) -> None:
        """Draw and send as much as the window allows, a span at a time."""
        since = monotonic()
        while self._may_draw(since):
            most = min(self._window() - self._out, self._dispatcher.ledger.pace.calls(self._key))
            taken = _Taken(max(1, most), self._fn.star)
            self._draw_each(self._items, taken.take)
            if taken.values:
                self._send(taken)

    def _send(self, taken: _Taken) -> None:
        count = len(taken.values)
        span = Span(
            self._mailbox, self._fn, taken.packed(), position=self._position, first=0, stop=count, key=self._key
        )  # fmt: skip
        self._dispatcher.accept([span], count, block=False)
        self._position += count
        self._sent(count)

    def chunks(self) -> Iterator[list[Any]]:
        """Lists of values, each reversed, so that its consumer can pop them and keep no reference."""
        while True:
            self._draw()
            arrived = self._arrived()
            if arrived is None:
                if self._problem is not None:
                    raise self._problem
                return
            count, blob, error = arrived
            del arrived
            self._out -= count
            if error is not None:
                raise error
            values, problem = _unpacked(blob)
            del blob
            values.reverse()
            yield values
            if problem is not None:
                raise problem

    def _arrived(self) -> tuple[int, Any, BaseException | None] | None:
        """The next to hand out; None if there is no more."""
        while True:
            if self._ordered and self._next in self._early:
                arrived = self._early.pop(self._next)
                self._next += arrived[0]
                return arrived
            if not self._in_flight:
                return None
            position, count, blob, error = self._receive()
            self._in_flight -= count
            if not self._ordered:
                return count, blob, error
            self._early[position] = (count, blob, error)

    def close(self) -> None:
        """As in `_Stream`; and the function's room is free."""
        if not self._mailbox.closed:
            super().close()
            self._dispatcher.finish_function(self._fn)


class _Taken:
    """Items drawn for one span. What could change before it is sent is pickled at once."""

    def __init__(self, most: int, star: bool) -> None:
        self.values: list[Any] = []
        self._flags: bytearray | None = None
        self._most = most
        self._star = star
        self._bytes = 0

    def take(self, item: Any) -> bool:
        """Add an item; True: enough."""
        values = self.values
        if type(item) in _INLINE_ATOMS:
            values.append(item)
        elif self._star and all(type(part) in _INLINE_ATOMS for part in item):
            values.append(item)
        else:
            blob = codec.dumps(item)
            if self._flags is None:
                self._flags = bytearray()
            self._flags.extend(bytes(len(values) - len(self._flags)))
            self._flags.append(1)
            values.append(blob)
            self._bytes += len(blob)
        return len(values) >= self._most or self._bytes > MOST_BYTES

    def packed(self) -> bytes:
        """As the payload of a span."""
        if self._flags is not None:
            self._flags.extend(bytes(len(self.values) - len(self._flags)))
        return codec.dump_values(self.values, self._flags)


def _unpacked(blob: bytes) -> tuple[list[Any], BaseException | None]:
    """The values up to the first that cannot be rebuilt, and its error."""
    values, flags = codec.load_values(blob)
    if flags is None:
        return values, None
    for index, flag in enumerate(flags):
        if flag:
            try:
                values[index] = codec.loads(values[index])
            except BaseException as error:  # a user's object may raise anything while it is rebuilt
                error.add_note("mpengine: the value of a mapped call cannot be unpickled here")
                del values[index:]
                return values, error
    return values, None


class RunStream(_Stream):
    """`run`: outcomes of jobs.

    Args:
        admit: Makes a job a record.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        jobs: Iterator[Job],
        admit: Callable[[Job, Mailbox], Record],
        *,
        ordered: bool,
        deadline: float | None,
        buffersize: int | None,
    ) -> None:
        super().__init__(dispatcher, 0, ordered=ordered, deadline=deadline, buffersize=buffersize)
        self._jobs = jobs
        self._admit = admit
        self._expected: deque[Record] = deque()
        self._early: dict[Record, Outcome] = {}
        self._draw()

    def _draw(self) -> None:
        """Draw and send as much as the window allows."""
        since = monotonic()
        while self._may_draw(since):
            records: list[Any] = []
            most = min(self._window() - self._out, MAX_ITEMS)
            size = 0

            def take(job: Any) -> bool:
                nonlocal size
                record = self._admit(_checked(job), self._mailbox)
                records.append(record)  # noqa: B023 (called in this turn of the loop only)
                size += len(record.payload or b"")
                return len(records) >= most or size > MOST_BYTES  # noqa: B023

            self._draw_each(self._jobs, take)
            if records:
                self._key = records[-1].key
                if self._ordered:
                    self._expected.extend(records)
                self._dispatcher.accept(records, len(records), block=False)
                self._sent(len(records))

    def outcomes(self) -> Iterator[Outcome]:
        """One outcome per job."""
        while True:
            self._draw()
            if not self._out:
                if self._problem is not None:
                    raise self._problem
                return
            outcome = self._arrived()
            self._out -= 1
            broken = self._dispatcher.broken
            if broken is not None and outcome.error is broken:
                raise broken
            yield outcome
            del outcome

    def _arrived(self) -> Outcome:
        if not self._ordered:
            outcome: Outcome = self._receive()[1]
            self._in_flight -= 1
            return outcome
        record = self._expected[0]
        while record not in self._early:
            arrived, outcome = self._receive()
            self._in_flight -= 1
            self._early[arrived] = outcome
        self._expected.popleft()
        return self._early.pop(record)


def _checked(job: Any) -> Job:
    if not isinstance(job, Job):
        raise TypeError(f"run: its input must yield Jobs, got {type(job).__name__}; wrap it: Job(fn, (argument,))")
    return job


# ---- the iterators that users hold ---------------------------------------------------------------------------------


def iterate(stream: MapStream) -> Iterator[Any]:
    """Values; keeps no reference to what it has handed out."""
    try:
        for values in stream.chunks():
            while values:
                yield values.pop()
    finally:
        stream.close()


def iterate_outcomes(stream: RunStream) -> Iterator[Outcome]:
    """Outcomes."""
    try:
        yield from stream.outcomes()
    finally:
        stream.close()


def iterate_values(stream: RunStream) -> Iterator[Any]:
    """The values of outcomes; the first error ends it."""
    try:
        for outcome in stream.outcomes():
            value = outcome.unwrap()
            del outcome
            yield value
            del value
    finally:
        stream.close()


def map_by_submit(
    submit: Callable[..., concurrent.futures.Future[Any]],
    fn: Callable[..., Any],
    items: Iterator[tuple[Any, ...]],
    deadline: float | None,
    buffersize: int,
) -> Iterator[Any]:
    """`map` for those who have put their own `submit` in place: each call goes through it."""
    futures = deque(submit(fn, *args) for _, args in zip(range(buffersize), items, strict=False))

    def values() -> Iterator[Any]:
        try:
            while futures:
                timeout = None if deadline is None else max(0.0, deadline - monotonic())
                value = futures[0].result(timeout)
                futures.popleft()
                futures.extend(submit(fn, *args) for _, args in zip(range(1), items, strict=False))
                yield value
                del value
        finally:
            for future in futures:
                future.cancel()

    return values()
