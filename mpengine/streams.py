"""The consumer's side of `map`, `map_unordered` and `run`: receives results, puts them in order, hands them out."""

from __future__ import annotations

import concurrent.futures
import itertools
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol

from mpengine.arrays.parcel import size_of
from mpengine.core.job import Outcome
from mpengine.core.records import SpanEnd
from mpengine.drawing import CallSource, Source
from mpengine.drawing_jobs import JobSource
from mpengine.mailbox import End, Mailbox
from mpengine.outcomes import outcomes_of
from mpengine.runtime.any_dispatcher import AnyDispatcher
from mpengine.runtime.clock import monotonic
from mpengine.wire import codec

_OBJECT_BYTES = 1 << 10  # of a result that waits for its turn, besides its value: what keeps it, and its job
_UNKNOWN_BYTES = 1 << 16  # that a value may have which arrives unpickled


class _Stream:
    """What both kinds have in common: receiving, and the end.

    Args:
        deadline: When waiting ends with TimeoutError, in monotonic seconds; None: never.
    """

    def __init__(self, source: Source, *, ordered: bool, deadline: float | None) -> None:
        self._source = source
        self._ordered = ordered
        self._deadline = deadline
        self._received = 0  # jobs
        self.end: End | None = None

    def close(self) -> None:
        """Nobody wants more."""
        self._source.close()

    def handed_out(self, jobs: int) -> None:
        """The user is about to get so many results."""
        self._source.handed_out(jobs)

    def __del__(self) -> None:
        self.close()  # dropped, perhaps before it was ever asked for anything

    def _receive(self) -> Any:
        """The next result that arrives, of whatever job; None: there are no more."""
        while not self.is_over():
            try:
                timeout = None if self._deadline is None else max(0.0, self._deadline - monotonic())
                arrived = self._source.mailbox.receive(timeout)
            except queue.Empty:
                raise TimeoutError("map: its results are not there in time; give it a longer `timeout`") from None
            if not isinstance(arrived, End):
                return arrived
            self.end = arrived
        return None

    def is_over(self) -> bool:
        """Whether there are no more to receive."""
        return self._source.mailbox.closed or (self.end is not None and self._received >= self.end.jobs)

    def raise_problem(self) -> None:
        """The input's own error, after all it gave before."""
        if self.end is not None and self.end.problem is not None:
            raise self.end.problem


class MapStream(_Stream):
    """`map` and `map_unordered`.

    Attributes:
        counts_each: The window was set by the caller, who can count: each value is handed out by itself.
    """

    def __init__(self, source: CallSource, *, ordered: bool, deadline: float | None, counts_each: bool) -> None:
        super().__init__(source, ordered=ordered, deadline=deadline)
        self.counts_each = counts_each
        self._next = 0  # of the next value to hand out, if ordered
        self._early: dict[int, tuple[int, Sequence[bytes], BaseException | None]] = {}
        source.start()

    def chunks(self) -> Iterator[tuple[list[Any], bool]]:
        """Lists of values, and whether nothing is lost if those stay there until all of them are handed out."""
        while True:
            self._source.pull()
            arrived = self._arrived()
            if arrived is None:
                self.raise_problem()
                return
            count, blobs, error = arrived
            del arrived
            if error is not None:
                raise error
            values, plain, problem = _unpacked(blobs)
            del blobs
            if not self.counts_each:
                self.handed_out(count)
            yield values, plain and not self.counts_each
            if problem is not None:
                raise problem

    def _arrived(self) -> tuple[int, Sequence[bytes], BaseException | None] | None:
        """The next to hand out; None if there is no more."""
        while not (self._ordered and self._next in self._early):
            received = self._receive()
            if received is None:
                return None
            count, report = received.count, received.report
            arrived = (count, () if report is None or report.value is None else report.value, received.error)
            self._received += count
            size = _size_of(arrived[1], 1)
            self._source.received(count, size)
            if not self._ordered or received.position == self._next:
                self._next += count
                return arrived
            self._source.early_bytes += size
            self._early[received.position] = arrived
            self._source.pull()  # the workers go on, however long the one whose turn it is takes
        arrived = self._early.pop(self._next)
        self._source.early_bytes -= _size_of(arrived[1], 1)
        self._next += arrived[0]
        return arrived


def _size_of(blobs: Iterable[bytes], objects: int) -> int:
    """Bytes that results take while they wait for their turn, in so many objects."""
    return objects * _OBJECT_BYTES + sum(map(size_of, blobs))


def _unpacked(blobs: Iterable[bytes]) -> tuple[list[Any], bool, BaseException | None]:
    """The values up to the first that cannot be rebuilt, whether all are plain, and that one's error."""
    values: list[Any] = []
    all_plain = True
    for blob in blobs:
        more, plain, problem = _rebuilt(blob)
        values += more
        all_plain &= plain
        if problem is not None:
            return values, False, problem
    return values, all_plain, None


def _rebuilt(blob: bytes) -> tuple[list[Any], bool, BaseException | None]:
    """`_unpacked`, of one blob."""
    values, flags, _ = codec.load_values(blob)
    if flags is None:
        return values, True, None
    for index, flag in enumerate(flags):
        if flag:
            try:
                values[index] = codec.loads(values[index])
            except KeyboardInterrupt:  # Ctrl-C, in the thread that asks: it ends the iterator, and no job
                raise
            except BaseException as error:  # a user's object may raise anything while it is rebuilt
                codec.annotate(error, "mpengine: the value of a mapped call cannot be unpickled here")
                del values[index:]
                return values, False, error
    return values, False, None


class RunStream(_Stream):
    """`run`: outcomes of jobs. `counts_each`: as in `MapStream`."""

    def __init__(
        self,
        dispatcher: AnyDispatcher,
        source: JobSource,
        *,
        ordered: bool,
        deadline: float | None,
        counts_each: bool,
    ) -> None:
        super().__init__(source, ordered=ordered, deadline=deadline)
        self._counts_each = counts_each
        self._next = 0  # position of the next outcome to hand out, if ordered
        self._early: dict[int, tuple[list[Outcome], int]] = {}  # and their size
        self._dispatcher = dispatcher
        source.start()

    @property
    def mailbox(self) -> Mailbox:
        """Where results arrive."""
        return self._source.mailbox

    def outcomes(self) -> Iterator[Outcome]:
        """One outcome per job."""
        while True:
            self._source.pull()
            outcomes = self._arrived()
            if outcomes is None:
                self.raise_problem()
                return
            yield from self.handing_out(outcomes)

    def handing_out(self, outcomes: list[Outcome]) -> Iterator[Outcome]:
        """One by one; no reference to one is kept while the consumer works."""
        outcomes.reverse()
        broken = self._dispatcher.admission.broken
        if not self._counts_each:
            self.handed_out(len(outcomes))
        while outcomes:
            if broken is not None and outcomes[-1].error is broken:
                raise broken
            if self._counts_each:
                self.handed_out(1)
            yield outcomes.pop()

    def _arrived(self) -> list[Outcome] | None:
        """The next to hand out; None if there is no more."""
        while (outcomes := self.early()) is None:
            received = self._receive()
            if received is None:
                return None
            outcomes = self.take_in(received)
            if outcomes is not None:
                return outcomes
            self._source.pull()
        return outcomes

    def early(self) -> list[Outcome] | None:
        """The next to hand out, if they were received before their turn."""
        if not self._ordered or self._next not in self._early:
            return None
        outcomes, size = self._early.pop(self._next)
        self._source.early_bytes -= size
        self._next += len(outcomes)
        return outcomes

    def take_in(self, received: Any) -> list[Outcome] | None:
        """What has arrived, if it is the next to hand out; else it is kept."""
        if isinstance(received, SpanEnd):
            position, outcomes = received.position, outcomes_of(received)
            known = size = _size_of(() if received.report is None else (received.report.value or b"",), len(outcomes))
        else:
            position, outcomes, known, size = received[0].position, [received[1]], 0, _UNKNOWN_BYTES
        self._received += len(outcomes)
        self._source.received(len(outcomes), known)
        if not self._ordered or position == self._next:
            self._next += len(outcomes)
            return outcomes
        self._source.early_bytes += size
        self._early[position] = (outcomes, size)
        return None


# ---- the iterators that users hold ---------------------------------------------------------------------------------


# Each keeps its engine alive, which nobody else may do, and no reference to what it has handed out. They are started at
# once, up to a first `yield` that nobody sees: closing a generator that was never started runs no `finally`.


class ClosableIterator(Protocol):
    """Values of a `map`; closing it cancels the rest, as dropping it does."""

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...

    def close(self) -> None: ...


class Values(Iterator[Any]):
    """What `map` returns: values come at the speed of a list, where a generator is called for each."""

    __slots__ = ("__weakref__", "_chunks", "_values")

    def __init__(self, stream: MapStream, engine: object) -> None:
        self._chunks = _started(_chunks(stream, engine))
        self._values = itertools.chain.from_iterable(self._chunks)

    def __iter__(self) -> Iterator[Any]:
        return self._values

    def __next__(self) -> Any:
        return next(self._values)

    def close(self) -> None:
        """Cancel the rest; it gives no more values."""
        self._chunks.close()


def iterate_outcomes(stream: RunStream, engine: object) -> Generator[Outcome, None, None]:
    """Outcomes."""
    return _started(_outcomes(stream, engine))


def iterate_values(stream: RunStream, engine: object) -> Generator[Any, None, None]:
    """The values of outcomes; the first error ends it."""
    return _started(_values_of_outcomes(stream, engine))


def _started(generator: Generator[Any, None, None]) -> Generator[Any, None, None]:
    next(generator)
    return generator


def _chunks(stream: MapStream, engine: object) -> Generator[Any, None, None]:
    values: list[Any] = []
    try:
        yield
        for values, plain in stream.chunks():
            yield values if plain else _one_by_one(stream, values)
    finally:
        values.clear()  # who has closed this in the middle of them gets no more
        stream.close()


def _one_by_one(stream: MapStream, values: list[Any]) -> Iterator[Any]:
    """Values, to which no reference is kept while the consumer works."""
    values.reverse()
    try:
        while values:
            if stream.counts_each:
                stream.handed_out(1)
            yield values.pop()
    except KeyboardInterrupt:  # between two of them; a value that it has met is gone, so this must be the end
        values.clear()
        stream.close()
        raise


def _outcomes(stream: RunStream, engine: object) -> Generator[Any, None, None]:
    try:
        yield
        yield from stream.outcomes()
    finally:
        stream.close()


def _values_of_outcomes(stream: RunStream, engine: object) -> Generator[Any, None, None]:
    try:
        yield
        outcomes = stream.outcomes()
        while True:
            box = [outcome.unwrap() for outcome in itertools.islice(outcomes, 1)]
            if not box:
                return
            yield box.pop()
    finally:
        stream.close()


def failing(problem: BaseException) -> Generator[Any, None, None]:
    """A map whose function cannot be sent: the error comes where its first value would."""
    yield from ()
    raise problem


def map_by_submit(
    submit: Callable[..., concurrent.futures.Future[Any]],
    fn: Callable[..., Any],
    items: Iterator[tuple[Any, ...]],
    deadline: float | None,
    buffersize: int,
) -> Generator[Any, None, None]:
    """`map` for those who have put their own `submit` in place: each call goes through it."""
    futures = deque(submit(fn, *args) for _, args in zip(range(buffersize), items, strict=False))

    def values() -> Generator[Any, None, None]:
        try:
            while futures:
                timeout = None if deadline is None else max(0.0, deadline - monotonic())
                box = [futures[0].result(timeout)]
                futures.popleft()
                futures.extend(submit(fn, *args) for _, args in zip(range(1), items, strict=False))
                yield box.pop()
        finally:
            for future in futures:
                future.cancel()

    return values()
