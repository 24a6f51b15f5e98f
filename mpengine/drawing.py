"""Drawing the input of `map` and `run`: lazily, a bounded window ahead of what the consumer has taken.

An input whose next item is always there (a list, a range, ...) is drawn in the consumer's own turn: at the call, and
whenever it asks for the next result. Any other may block for as long as it likes, and results must not wait for that;
so a drawer thread asks it for the next item, but only while the window has room: it never runs further ahead. Either
way the items drawn and not handed out are bounded, whichever side is slow.

A source is known to its iterator and to the drawer thread, which does not know the iterator: one that is dropped is
collected, closes its source, and the thread ends with the next item, or at once if it waits for room.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mpengine.core import events as ev
from mpengine.core.pace import MAX_ITEMS
from mpengine.core.records import Entry, Record, Span
from mpengine.mailbox import Mailbox
from mpengine.runtime.clock import monotonic
from mpengine.runtime.dispatcher import Dispatcher
from mpengine.runtime.outbox import MappedFunction
from mpengine.wire import codec

AHEAD_S = 0.060  # work to have drawn ahead, per worker: outlasts a consumer that thinks for a while
LEAST_AHEAD = 4  # jobs drawn ahead per worker while nothing is known about them
MOST_AHEAD = 1 << 16  # jobs drawn and not handed out: what bounds the memory of free jobs
AHEAD_BYTES = 64 << 20  # the same for large ones
TURN_S = 0.005  # a consumer's turn of drawing ends after this long when results are waiting
GATHER_S = 0.001  # items are sent at least this often while they are drawn
MOST_BYTES = 1 << 20  # of arguments sent at once
_QUANTUM_BITS = 3  # a full window is refilled by an eighth at least: one by one, each job would be a batch

_SURE = (list, tuple, range, set, frozenset, dict, deque, str, bytes, bytearray)
_SURE_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_INLINE_ATOMS = codec.ATOMS - {str, bytes}  # whose size need not be looked at


def never_blocks(iterable: Iterable[Any]) -> bool:
    """Whether the next item is always there. False for all we do not know, such as generators and files."""
    kind = type(iterable)
    return kind in _SURE or kind in _SURE_VIEWS or (kind.__module__, kind.__qualname__) == ("numpy", "ndarray")


class Source(ABC):
    """What the drawing of jobs and of calls have in common: the window, the sending, the end.

    The lock guards what is gathered and all counts; user code never runs under it.

    Args:
        sure: The input never blocks: `pull` draws. Else a thread of this source does.
        buffersize: Jobs drawn and not handed out, at most; None: the engine's own measure.
    """

    def __init__(self, dispatcher: Dispatcher, items: Iterator[Any], *, sure: bool, buffersize: int | None) -> None:
        self.mailbox = Mailbox()
        self._dispatcher = dispatcher
        self._items = items
        self._sure = sure
        self._buffersize = buffersize
        self._key = 0  # of the function drawn last, for the pace
        self._lock = threading.Lock()
        self._waits = False  # the drawer thread, for room
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()  # a word to it; may be put from a finalizer
        self._ahead = 0  # jobs drawn and not handed out
        self._ahead_bytes = 0  # of their arguments, as long as they have no result
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
        """In the consumer's turn: draw what the window has room for."""
        if not self._sure:
            return
        since = monotonic()
        while not self._ended and self._has_room() and (self.mailbox.empty() or monotonic() - since < TURN_S):
            self._draw_some()

    def received(self, jobs: int, size: int = 0) -> None:
        """Results of so many jobs, with so many bytes of arguments, have arrived with the consumer."""
        with self._lock:
            self._unanswered -= jobs
            self._ahead_bytes -= size
            if self._is_hungry():
                self._send()  # nobody else would, if the input blocks now

    def handed_out(self, jobs: int) -> None:
        """The consumer's user has taken so many results."""
        with self._lock:
            self._ahead -= jobs
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
        """How many jobs may be drawn and not handed out."""
        seconds = self._dispatcher.books.pace.seconds(self._key)
        ahead = 0 if seconds is None else int(AHEAD_S / max(seconds, 1e-9))
        most = self._dispatcher.supervisor.size * max(LEAST_AHEAD, ahead)
        return min(most, MOST_AHEAD if self._buffersize is None else self._buffersize)

    def _is_hungry(self) -> bool:
        """Whether so little is under way that an item must not wait for others to go with it."""
        return self._unanswered < LEAST_AHEAD * self._dispatcher.supervisor.size

    def _has_room(self) -> bool:
        window = self._window()
        if self._ahead_bytes > AHEAD_BYTES and self._ahead >= self._dispatcher.supervisor.size:
            return False
        return window - self._ahead >= max(1, window >> _QUANTUM_BITS)

    def _draw_some(self) -> None:
        """Draw and send one lot, in the consumer's turn."""
        most = self._lot()
        started = monotonic()
        try:
            for item in self._items:
                if self._add(self._prepare(item), most) or monotonic() - started > GATHER_S:
                    self._send()
                    return
        except BaseException as error:  # the input's own, or an argument's that cannot be pickled
            self._end(error)
        else:
            self._end(None)

    def _draw_all(self) -> None:
        """Draw and send all of it, in the drawer thread."""
        most = self._lot()
        started = monotonic()
        try:
            for item in self._items:
                prepared = self._prepare(item)
                now = monotonic()
                with self._lock:
                    if self._add(prepared, most) or self._is_hungry() or now - started > GATHER_S:
                        self._send()
                        most, started = self._lot(), now
                del item, prepared
                self._wait_for_room()
                if self.mailbox.closed:
                    break
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _wait_for_room(self) -> None:
        """In the drawer thread: until the window has room, or nobody wants more."""
        while not self.mailbox.closed:
            with self._lock:
                if self._gathered() or self._has_room():
                    return
                self._waits = True
            self._room.get()

    @abstractmethod
    def _gathered(self) -> bool:
        """Whether a lot is being gathered, for which there was room."""

    @abstractmethod
    def _lot(self) -> int:
        """How many items to send at once."""

    @abstractmethod
    def _prepare(self, item: Any) -> Any:
        """Make an item ready to be sent: what could change later is pickled now. User code: without the lock."""

    @abstractmethod
    def _add(self, prepared: Any, most: int) -> bool:
        """Add it to what is gathered; True: that is enough for one lot. With the lock, if it is shared."""

    @abstractmethod
    def _take(self) -> tuple[list[Entry], int, int] | None:
        """What is gathered, as entries for the ledger, with the number of jobs and their bytes."""

    def _send(self) -> None:
        """Send what is gathered. With the lock, if it is shared."""
        taken = self._take()
        if taken is None:
            return
        entries, jobs, size = taken
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
                problem = problem or error
            self.mailbox.end(self._drawn, problem)


class CallSource(Source):
    """Calls of one function, sent as spans.

    Args:
        items: One item per call; a tuple of arguments where `fn.star`.
    """

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
        self._values: list[Any] = []
        self._flags: bytearray | None = None
        self._bytes = 0

    def _lot(self) -> int:
        return max(1, min(self._window() - self._ahead, self._dispatcher.books.pace.calls(self._key)))

    def _gathered(self) -> bool:
        return bool(self._values)

    def _prepare(self, item: Any) -> Any:
        if type(item) in _INLINE_ATOMS or (self._fn.star and all(type(part) in _INLINE_ATOMS for part in item)):
            return item
        return _Pickled(codec.dumps(item))

    def _add(self, prepared: Any, most: int) -> bool:
        values = self._values
        if type(prepared) is _Pickled:
            if self._flags is None:
                self._flags = bytearray()
            self._flags.extend(bytes(len(values) - len(self._flags)))
            self._flags.append(1)
            self._bytes += len(prepared.blob)
            values.append(prepared.blob)
        else:
            values.append(prepared)
        return len(values) >= most or self._bytes > MOST_BYTES

    def _take(self) -> tuple[list[Entry], int, int] | None:
        count, size = len(self._values), self._bytes
        if not count:
            return None
        if self._flags is not None:
            self._flags.extend(bytes(count - len(self._flags)))
        payload = codec.dump_values(self._values, self._flags)
        self._values, self._flags, self._bytes = [], None, 0
        span = Span(self.mailbox, self._fn, payload, position=self._drawn, first=0, stop=count, key=self._key)
        return [span], count, size

    def close(self) -> None:
        """As in `Source`; and the function's room is free."""
        if not self.mailbox.closed:
            super().close()
            self._dispatcher.finish_function(self._fn)


class _Pickled:
    __slots__ = ("blob",)

    def __init__(self, blob: bytes) -> None:
        self.blob = blob


class JobSource(Source):
    """Jobs, sent as records.

    Args:
        admit: Makes a job a record.
        drawn: Told of each record, in order, before it is sent.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        items: Iterator[Any],
        admit: Callable[[Any, Mailbox], Record],
        drawn: Callable[[Record], None],
        *,
        sure: bool,
        buffersize: int | None,
    ) -> None:
        super().__init__(dispatcher, items, sure=sure, buffersize=buffersize)
        self._admit = admit
        self._tell_drawn = drawn
        self._records: list[Entry] = []
        self._bytes = 0

    def _lot(self) -> int:
        return max(1, min(self._window() - self._ahead, MAX_ITEMS))

    def _gathered(self) -> bool:
        return bool(self._records)

    def _prepare(self, item: Any) -> Record:
        return self._admit(item, self.mailbox)

    def _add(self, prepared: Record, most: int) -> bool:
        self._key = prepared.key
        self._records.append(prepared)
        self._tell_drawn(prepared)
        self._bytes += prepared.size
        return len(self._records) >= most or self._bytes > MOST_BYTES

    def _take(self) -> tuple[list[Entry], int, int] | None:
        if not self._records:
            return None
        taken = (self._records, len(self._records), self._bytes)
        self._records, self._bytes = [], 0
        return taken
