"""Drawing the input of `map` and `run`: lazily, a bounded window ahead of what the consumer has taken.

An input whose next item is always there (a list, a range, ...) is drawn in the consumer's own turn: at the call, and
whenever it asks for the next result. Any other may block for as long as it likes, and results must not wait for that;
so a drawer thread asks it for the next item, but only while the window has room: it never runs further ahead.

The window has two bounds. Jobs under way, up to where the consumer receives their results: so much work that the
workers do not run dry; a consumer that is slow stops the drawing with that. And jobs drawn and not handed out. Those
are more where results are handed out in order: the ones behind a long job are received and wait for their turn, and as
long as memory allows the workers must not wait with them.

A source is known to its iterator and to the drawer thread, which does not know the iterator: one that is dropped is
collected, closes its source, and the thread ends with the next item, or at once if it waits for room.
"""

from __future__ import annotations

import contextvars
import itertools
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from mpengine.arrays.parcel import LARGE, pack_in, size_of
from mpengine.core import events as ev
from mpengine.core.records import Entry, Span
from mpengine.mailbox import Mailbox
from mpengine.plain import NUMBERS, text_bytes
from mpengine.runtime.any_dispatcher import AnyDispatcher
from mpengine.runtime.clock import monotonic
from mpengine.runtime.dispatcher import Dispatcher
from mpengine.runtime.outbox import MappedFunction
from mpengine.wire import codec

AHEAD_S = 0.060  # work to have drawn ahead, per worker: outlasts a consumer that thinks for a while
LEAST_AHEAD = 4  # jobs drawn ahead per worker while nothing is known about them
MOST_DRAWN = 1 << 20  # jobs drawn and not handed out
AHEAD_BYTES = 64 << 20  # the same for large ones: their arguments, and their results until those are handed out
GATHER_S = 0.001  # items are sent at least this often while they are drawn
MOST_BYTES = 1 << 20  # of arguments sent at once
BULK = 4096  # items of a list drawn at once, as long as they are plain values
LOT = 32  # items between two looks at the clock
_FORGET = 0.9  # how much of a larger result remains with each that is smaller
_QUANTUM_BITS = 3  # a full window is refilled by an eighth at least: one by one, each job would be a batch

_SURE = (list, tuple, range, set, frozenset, dict, deque, str, bytes, bytearray)
_RANGE_ITERATOR = type(iter(range(0)))  # all it gives are numbers
_SURE_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


def never_blocks(iterable: Iterable[Any]) -> bool:
    """Whether the next item is always there. False for all we do not know, such as generators and files."""
    kind = type(iterable)
    return kind in _SURE or kind in _SURE_VIEWS or (kind.__module__, kind.__qualname__) == ("numpy", "ndarray")


class Source(ABC):
    """What the drawing of jobs and of calls have in common: the window, the sending, the end.

    The lock guards the sending and all counts; user code never runs under it.

    `most_ahead` bounds the memory of free jobs under way.

    Args:
        sure: The input never blocks: `pull` draws. Else a thread of this source does.
        buffersize: Jobs drawn and not handed out, at most; None: the engine's own measure.

    Attributes:
        early_bytes: Of results that the consumer has received before their turn; the consumer's to change.
    """

    most_ahead: int
    _dispatcher: AnyDispatcher

    def __init__(self, dispatcher: AnyDispatcher, items: Iterator[Any], *, sure: bool, buffersize: int | None) -> None:
        self.mailbox = Mailbox()
        self._dispatcher = dispatcher
        self._items = items
        self._sure = sure
        self._most_drawn = MOST_DRAWN if buffersize is None else buffersize
        self._key = 0  # of the function drawn last, for the pace
        self._lock = threading.Lock()
        self._waits = False  # the drawer thread, for room
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()  # a word to it; may be put from a finalizer
        self._ahead = 0  # jobs drawn and not handed out
        self._ahead_bytes = 0  # of their arguments, as long as they have no result
        self.early_bytes = 0
        self._result_bytes = 0.0  # of a job, as a guess for those that have no result yet
        self._gathered: list[Any] = []  # drawn, made ready, and not sent
        self._bytes = 0  # about so many of those
        self._unanswered = 0  # jobs sent and not received back
        self._drawn = 0  # jobs, ever
        self._ended = False

    # ---- the consumer ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Draw the first window."""
        if self._sure:
            self.pull()
        else:
            context = contextvars.copy_context()
            name = f"{self._dispatcher.name}-drawer"
            threading.Thread(target=context.run, args=(self._draw_all,), name=name, daemon=True).start()

    def pull(self) -> None:
        """In the consumer's turn: draw what the window has room for, but no more than one lot while results wait."""
        if not self._sure:
            return
        while not self._ended and self._has_room():
            self._draw_some()
            if not self.mailbox.empty():
                return

    def received(self, jobs: int, size: int) -> None:
        """Results of so many jobs, and of about so many bytes, have arrived with the consumer."""
        with self._lock:
            self._result_bytes = max(size / jobs, self._result_bytes * _FORGET)
            self._ahead_bytes -= self._ahead_bytes * jobs // self._unanswered  # their share of it
            self._unanswered -= jobs
            if self._is_hungry():
                self._send()  # nobody else would, if the input blocks now
            self._call_drawer()

    @property
    def drawn(self) -> int:
        """Jobs, ever."""
        return self._drawn

    @property
    def is_at_its_end(self) -> bool:
        """Whether no more will be drawn."""
        return self._ended or self.mailbox.closed

    def handed_out(self, jobs: int) -> None:
        """The consumer's user has taken so many results."""
        with self._lock:
            self._ahead -= jobs
            self._call_drawer()

    def _call_drawer(self) -> None:
        """Tell the drawer thread if it waits for room and there is some. With the lock."""
        if self._waits and self._has_room():
            self._waits = False
            self._room.put(None)

    def close(self) -> None:
        """Nobody wants more: stop what was drawn. From the consumer, or when it has dropped the iterator."""
        if self.mailbox.closed:
            return
        self.mailbox.closed = True  # first: whoever sends something after this says so himself, see `_send`
        # No lock: the garbage collector may call this in a thread that holds it.
        self._dispatcher.post(ev.StreamClosed(self.mailbox))
        self._room.put(None)

    # ---- drawing -----------------------------------------------------------------------------------------------------

    def _window(self) -> int:
        """How many jobs may be under way."""
        seconds = self._dispatcher.books.pace.seconds(self._key)
        ahead = 0 if seconds is None else int(AHEAD_S / max(seconds, 1e-9))
        return min(self.most_ahead, self._most_drawn, self._dispatcher.slots * max(LEAST_AHEAD, ahead))

    def _room_for(self, window: int) -> int:
        """How many more may be drawn now."""
        return min(window - self._unanswered, self._most_drawn - self._ahead)

    def _is_hungry(self) -> bool:
        """Whether so little is under way that an item must not wait for others to go with it."""
        return self._unanswered < LEAST_AHEAD * self._dispatcher.slots

    def _has_room(self) -> bool:
        window = self._window()
        size = self._ahead_bytes + self.early_bytes + self._result_bytes * self._unanswered
        if size > AHEAD_BYTES and self._ahead >= self._dispatcher.slots:
            return False
        return self._room_for(window) >= max(1, window >> _QUANTUM_BITS)

    def _draw_some(self) -> None:
        """Draw and send one lot, in the consumer's turn."""
        try:
            more = self._gather(self._lot())
        except KeyboardInterrupt:  # Ctrl-C, in the thread that asks: it is not to wait for results
            self.close()
            raise
        except BaseException as error:  # the input's own, or an argument's that cannot be pickled
            self._end(error)
        else:
            if more:
                self._send()
            else:
                self._end(None)

    def _gather(self, most: int) -> bool:
        """Draw up to so many items; False: there are no more. Ends early when they are slow to pickle, or large."""
        started = monotonic()
        lot = 1
        while (left := most - len(self._gathered)) > 0:
            wanted = min(lot, left)
            if self._take(itertools.islice(self._items, wanted)) < wanted:
                return False
            if self._bytes > MOST_BYTES or monotonic() - started > GATHER_S:
                break
            lot = min(2 * lot, LOT)
        return True

    def _draw_all(self) -> None:
        """Draw and send all of it, in the drawer thread."""
        lot, most, sent_at = 1, self._lot(), monotonic()
        try:
            while self._wait_for_room():
                started = monotonic()
                if self._take(itertools.islice(self._items, lot)) < lot:
                    break
                now = monotonic()
                hungry = self._is_hungry()
                if hungry or len(self._gathered) >= most or self._bytes > MOST_BYTES or now - sent_at > GATHER_S:
                    with self._lock:
                        self._send()
                    most, sent_at = self._lot(), now
                # The time is looked at again after a quarter of what it may take; one by one while nothing is known.
                fits = int(GATHER_S / 4 * lot / max(now - started, 1e-6))
                lot = 1 if hungry else max(1, min(2 * lot, fits, most - len(self._gathered)))
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _take(self, items: Iterator[Any]) -> int:
        """Make these ready to be sent; returns how many they were. User code."""
        count = 0
        for item in items:
            self._gathered.append(self._prepare(item))
            count += 1
        return count

    def _wait_for_room(self) -> bool:
        """In the drawer thread: until the window has room; False: nobody wants more."""
        while not self.mailbox.closed:
            with self._lock:
                if self._gathered or self._has_room():
                    return True
                self._waits = True
            self._room.get()
        return False

    @abstractmethod
    def _lot(self) -> int:
        """How many items to send at once."""

    @abstractmethod
    def _prepare(self, item: Any) -> Any:
        """Make an item ready to be sent: what could change later is pickled now. Adds to `_bytes`. User code."""

    @abstractmethod
    def _pack(self, prepared: list[Any]) -> tuple[list[Entry], int]:
        """Prepared items as entries for the ledger, and their bytes. With the lock, if it is shared."""

    def _send(self) -> None:
        """Send what is gathered. With the lock, if it is shared: the drawer thread adds to what is gathered without."""
        jobs = len(self._gathered)
        if not jobs:
            return
        prepared = self._gathered[:jobs]
        del self._gathered[:jobs]
        self._bytes = 0
        entries, size = self._pack(prepared)
        self._dispatcher.admission.admit(entries, jobs, block=False)
        self._ahead += jobs
        self._ahead_bytes += size
        self._unanswered += jobs
        self._drawn += jobs
        if self.mailbox.closed:
            self._dispatcher.post(ev.StreamClosed(self.mailbox))

    def _end(self, problem: BaseException | None) -> None:
        """There is no more. What was drawn before is worth its results; then comes the input's own error."""
        with self._lock:
            self._ended = True
            self._items = iter(())
            try:
                self._send()
            except Exception as error:  # the engine was shut down meanwhile
                problem = error if problem is None else problem
            self.mailbox.end(self._drawn, problem)


class CallSource(Source):
    """Calls of one function, sent as spans.

    Args:
        items: One item per call; a tuple of arguments where `fn.star`.
    """

    most_ahead = 1 << 18
    _dispatcher: Dispatcher

    def __init__(
        self,
        dispatcher: Dispatcher,
        fn: MappedFunction,
        key: int,
        items: Iterator[Any],
        *,
        sure: bool,
        buffersize: int | None,
    ) -> None:
        super().__init__(dispatcher, items, sure=sure, buffersize=buffersize)
        self._fn = fn
        self._key = key
        self._in_bulk = not fn.star  # all items so far were plain values
        # What was ever gathered besides numbers. Noted before the item is: whoever sends it must know.
        self._kinds: set[type] = set()

    def _lot(self) -> int:
        return max(1, min(self._room_for(self._window()), self._dispatcher.books.pace.calls(self._key)))

    def _gather(self, most: int) -> bool:
        """As in `Source`; plain values are drawn without a look at each."""
        gathered = self._gathered
        while self._in_bulk and len(gathered) < most:
            known, wanted = len(gathered), min(BULK, most - len(gathered))
            try:
                gathered.extend(itertools.islice(self._items, wanted))
            except Exception as error:  # a dict that was changed, say
                self._items = _raising(error)
                self._in_bulk = False
            new = gathered[known:]
            if type(self._items) is not _RANGE_ITERATOR and [*map(type, new)].count(int) < len(new):
                kinds = set(map(type, new))
                self._kinds |= kinds - NUMBERS
                if not kinds <= codec.ATOMS or (not kinds <= NUMBERS and text_bytes(new) > MOST_BYTES):
                    self._in_bulk = False
                    self._items = itertools.chain(new, self._items)  # each is to be looked at, and these, too
                    del gathered[known:]
            if self._in_bulk and len(new) < wanted:
                return False
        return len(gathered) >= most or super()._gather(most - len(gathered))

    def _prepare(self, item: Any) -> Any:
        kind = type(item)
        if kind in NUMBERS or (self._fn.star and all(type(part) in NUMBERS for part in item)):
            return item
        if (kind is str or kind is bytes) and len(item) < LARGE:
            self._bytes += len(item)
            self._kinds.add(kind)
            return item
        try:
            blob = codec.pack(item, self._dispatcher.arena)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            call = f"call {self._drawn + len(self._gathered)} of map(`{self._fn.name}`)"
            with pack_in(self._dispatcher.arena):  # as above: a `Shared` is not to blame
                blame = codec.blame_arguments(item if self._fn.star else (item,), {}, error)
            codec.annotate(error, f"mpengine: {call}: {blame}")
            raise
        self._bytes += size_of(blob)
        self._kinds.add(_Pickled)
        return _Pickled(blob)

    def _pack(self, prepared: list[Any]) -> tuple[list[Entry], int]:
        count, flags = len(prepared), None
        if _Pickled in self._kinds and _Pickled in set(map(type, prepared)):
            flags = bytearray(codec.flag_of(item.blob) if type(item) is _Pickled else 0 for item in prepared)
            prepared = [item.blob if type(item) is _Pickled else item for item in prepared]
        size = text_bytes(prepared) if self._kinds else 0
        payload = codec.dump_values(prepared, flags)
        span = Span(self.mailbox, self._fn, payload, position=self._drawn, first=0, stop=count, key=self._key)
        return [span], size

    def close(self) -> None:
        """As in `Source`; and the function's room is free."""
        if not self.mailbox.closed:
            super().close()
            self._dispatcher.finish_function(self._fn)


def _raising(error: Exception) -> Iterator[Any]:
    """An input that gives no more than this error."""
    yield from ()
    raise error


class _Pickled:
    __slots__ = ("blob",)

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
