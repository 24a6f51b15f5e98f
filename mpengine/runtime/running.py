"""In a worker: run the items of a batch one after another and log how each ended.

Before each item, in this order: store which one starts (`STARTED`), then look whether the batch was revoked. The parent
does the reverse, and so the two can never both believe that the item is theirs (see core/patrol.py).

User code runs only between `self._armed = True` and `False`, and only there may the parent's signal break it off: the
handler checks that the item to be interrupted is still the one that runs. Armed is cleared before the exception is
raised, so one request raises once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import resource
import threading
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType

from mpengine.arrays import parcel
from mpengine.arrays.parcel import LARGE, Parcel, note_read_only
from mpengine.core.naming import MAP, id_text
from mpengine.current import CurrentJob
from mpengine.interrupt import JobInterrupt
from mpengine.runtime.channel import LogWriter
from mpengine.runtime.clock import monotonic
from mpengine.runtime.held import Held
from mpengine.runtime.loops import run_each, run_plain
from mpengine.wire import codec
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import pack_error, traceback_of

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from mpengine.runtime.printing import Printer

RING_S = 0.001  # results wait at most this long for the log, and the bell, while jobs keep ending
GROUP_S = 0.0001  # of short calls of a map, whose values are made safe together: what a crash may cause to run again
SHORT_S = 0.00003  # shorter calls of a map go in such groups; to make safe each by itself would cost them too much
MAX_GROUP = 1024
FUNCTIONS = 16  # mapped functions kept unpickled
_CALL_FILE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "cluster", "call.py")  # of a node's jobs
_OUR_FILES = (__file__, run_plain.__code__.co_filename, _CALL_FILE)
_READER_FILE = os.path.join(os.path.dirname(parcel.__file__), "reader.py")  # which is imported when it is needed
PEAK_AFTER_S = 0.001  # shorter jobs are not worth the system call that tells the peak memory


class Runner:
    """Runs batches for a worker.

    Attributes:
        idle: The main thread runs nothing, so that the signal handler may.
        printer: Where what jobs print goes, if not where the parent prints.

    Args:
        log: Where the ends go.
        ring: Tell the parent to read it.
        fetch: Read a block of the arena.
        max_tasks: Leave after this many calls; None: stay.
    """

    def __init__(
        self,
        log: LogWriter,
        ring: Callable[[], None],
        fetch: Callable[[int, int], memoryview],
        max_tasks: int | None,
    ) -> None:
        self.leaving = False
        self.idle = False
        self._log = log
        self._lean_seen = 0
        log.segment.shield = _Shield(self)
        self._words = log.words
        self._ring_bell = ring
        self._fetch = fetch
        self._tasks_left = max_tasks
        self._pid = os.getpid()
        self._armed = False
        self._last_ring = 0.0
        self._peak = 0
        self._current: tuple[str | int, int, float | None] | None = None
        self._functions: dict[int, Any] = {}
        self._packed: dict[bytes, Any] = {}  # functions of lone calls, by their pickles
        self._groups: dict[int, tuple[int, bool]] = {}  # of mapped functions: calls in a group, whether they are short
        self._held: Held | None = None
        self._progress_shown = False
        self._main_thread = threading.get_ident()
        self.printer: Printer | None = None

    def leave_soon(self) -> None:
        """Start no further item. Any thread."""
        self.leaving = True

    # ---- what a job may ask ----------------------------------------------------------------------------------------

    def describe(self) -> CurrentJob | None:
        """For `current_job()`."""
        about = self._about() if os.getpid() == self._pid else None
        if about is None:
            return None
        word = self._words[wire.STARTED]
        return CurrentJob(*about, lambda: self._words[wire.INTERRUPT] == word, self._show_progress)

    def job_id(self) -> str | None:
        """Of the job that runs; also in a process that it has forked."""
        about = self._about()
        return None if about is None else about[0]

    def _about(self) -> tuple[str, int, float | None] | None:
        """Of the job that runs: id, attempt, deadline."""
        word = self._words[wire.STARTED]
        held, current = self._held, self._current  # any thread asks: both may change meanwhile
        if not word & wire.INDEX_MASK:
            return None
        if held is not None:
            batch, index = wire.split_started(word)
            if batch != held.batch:
                return None
            return f"{MAP}{held.position + index}" if held.names is None else id_text(held.names[index]), 1, None
        if current is not None:
            label, attempt, deadline = current
            return id_text(label), attempt, deadline
        return None

    def shielded(self) -> AbstractContextManager[None]:
        """A context in which the job is not broken off."""
        if threading.get_ident() != self._main_thread or os.getpid() != self._pid:
            return contextlib.nullcontext()  # signals are the main thread's
        return _Shield(self)

    def _show_progress(self, done: float, total: float) -> None:
        self._progress_shown = True
        self._log.doubles[wire.PROGRESS_DONE] = done
        self._log.doubles[wire.PROGRESS_TOTAL] = total

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """The parent wants something of the item that runs; a request that comes too late is nothing."""
        if self.idle and os.getpid() == self._pid:
            self.rest()
            return
        if not self._armed or os.getpid() != self._pid:
            return
        word = self._words[wire.STARTED]
        if self._words[wire.INTERRUPT] == word:
            if _is_forking(frame):  # Python would swallow it there; a job that goes on is killed
                return
            self._armed = False
            raise JobInterrupt("the job's time is over, or it was cancelled")
        if self._held is not None and self._words[wire.FLUSH] == self._held.batch:
            self._armed = False
            self._held.log(in_call=True)
            self._held.block.clear()  # the calls have become slow: the next group is to be smaller
            self._ring()
            self._armed = True

    def rest(self) -> None:
        """Between two batches: be idle; what the parent wants, now or by its signal, is done at once."""
        if self.printer is not None:
            self.printer.flush()
        self.idle = True
        while self._words[wire.LEAN] != self._lean_seen:  # after `idle` was set: a signal before that did nothing
            self.idle = False  # one that comes meanwhile must not begin it again in the middle
            self.slim()
            self.idle = True

    def slim(self, *, has_grown: bool = False) -> None:
        """Give back the memory that is not in use. Between two batches.

        Args:
            has_grown: There is more of it than there should be: look for garbage, too.
        """
        self._lean_seen = self._words[wire.LEAN]
        self._functions.clear()
        guest = self._log.guest
        if guest is not None:
            guest.kept.clear()
            if has_grown or guest.looks_at_any():
                gc.collect()
            guest.forget()
            if guest.has_news:
                self._log.tell_news(guest)
                self._ring()
        while self._log.segment.cool():
            pass
        self._log.segment.unmap()

    # ---- jobs --------------------------------------------------------------------------------------------------------

    def run_jobs(
        self, seq: int, body: memoryview, answer: Callable[[int, bytes | None], None] | None = None
    ) -> None:  # fmt: skip
        """Run a batch of jobs: each is logged by itself, before the next starts.

        Args:
            answer: For a lone job: called with its pickled value once that is logged; None: it has none.
        """
        header, payloads = wire.split_body(body)
        last = len(header) - 1
        at = 0
        for index, (name, attempt, deadline, timeout, size) in enumerate(header):
            if self.leaving:
                self._give_back(seq, index)
                return
            payload = payloads[at : at + size]
            at += size
            self._clear_progress()
            now = monotonic()
            self._log.doubles[wire.STARTED_AT] = now
            self._words[wire.STARTED] = wire.started_word(seq, index)
            if self._words[wire.REVOKED] == seq:
                self._give_back(seq, index)
                return
            if size:
                self._current = (name, attempt, _earlier(deadline, None if timeout is None else now + timeout))
                kind, blob = self._run_one(codec.loads, payload)
                self._current = None
                if answer is not None and kind == wire.VALUE:
                    kind = wire.VALUE if type(blob) is Parcel else wire.OFFERED
                self._log_end(kind, blob, seq, index, now)
                if answer is not None:
                    answer(seq, blob if kind == wire.OFFERED else None)
                del blob
            else:
                self._log.commit(wire.SKIPPED, batch=seq, index=index)
            if index == last or index == 0 or monotonic() - self._last_ring > RING_S:
                self._ring()
            self._count(1)

    def run_call(self, seq: int, body: memoryview, answer: Callable[[int, bytes | None], None]) -> None:
        """Run a plain call that is alone: as `run_jobs`, without all that such a call cannot have."""
        if self.leaving:
            self._give_back(seq, 0)
            return
        label, packed, args = pickle.loads(body)
        self._clear_progress()
        now = monotonic()
        self._log.doubles[wire.STARTED_AT] = now
        self._words[wire.STARTED] = wire.started_word(seq, 0)
        if self._words[wire.REVOKED] == seq:
            self._give_back(seq, 0)
            return
        self._current = (label, 1, None)
        kind, blob = self._run_one(self._known_call, packed, args)
        self._current = None
        if kind == wire.VALUE and type(blob) is not Parcel:
            kind = wire.OFFERED
        self._log_end(kind, blob, seq, 0, now)
        answer(seq, blob if kind == wire.OFFERED else None)
        self._ring()
        self._count(1)

    def _known_call(self, packed: bytes, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """A plain call, whose function may have been unpickled before."""
        fn = self._packed.get(packed)
        if fn is None:
            fn = codec.loads(packed)
            while len(self._packed) >= FUNCTIONS:
                del self._packed[next(iter(self._packed))]
            self._packed[packed] = fn
        return fn, args, {}

    def _run_one(self, load: Callable[..., Any], *packed: Any) -> tuple[int, bytes]:
        """Unpickle a call, with `load`, and run it; what it came to, for the log."""
        try:
            try:
                self._armed = True
                fn, args, kwargs = load(*packed)
                value = fn(*args, **kwargs)
                blob = self._pack(value)
            finally:
                self._armed = False
                self._leave_if_forked()
        except BaseException as error:  # a user's job may raise anything
            return self._failed(error)
        return wire.VALUE, blob

    def _pack(self, value: Any) -> bytes:
        if type(value) in codec.ATOMS and (type(value) not in (bytes, str) or len(value) < LARGE):
            return codec.dump_atom(value)
        return codec.pack_result(value, self._log.segment)

    def _failed(self, error: BaseException) -> tuple[int, bytes]:
        tb = _users_part(traceback_of(error))
        note = note_read_only(error)
        if note:
            codec.annotate(error, note)
        if issubclass(type(error), JobInterrupt) and self._words[wire.INTERRUPT] == self._words[wire.STARTED]:
            return wire.INTERRUPTED, _stack_text(tb).encode(errors="replace")
        return wire.ERROR, pack_error(error, tb)

    def _log_end(self, kind: int, blob: bytes, seq: int, index: int, started_at: float) -> None:
        duration = monotonic() - started_at
        self._look_at_peak(duration)
        try:
            self._log.commit(
                kind, blob, batch=seq, index=index, started_at=started_at, duration=duration, peak_memory=self._peak
            )
        except MemoryError as error:  # no room for a large result, or its descriptor was closed: nothing was logged
            error.add_note(f"its result of {len(blob)} bytes could not be handed over")
            blob = pack_error(error, None)
            self._log.commit(wire.ERROR, blob, batch=seq, index=index, started_at=started_at, duration=duration)

    def _look_at_peak(self, duration: float) -> None:
        if duration > PEAK_AFTER_S or not self._peak:
            self._peak = self._words[wire.PEAK_MEMORY] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    # ---- calls of one function --------------------------------------------------------------------------------------

    def run_span(self, seq: int, body: memoryview) -> None:
        """Run calls of one function, in groups; their values are logged when it is time to ring."""
        (key, offset, length, first, stop, position, star, names), payload = wire.split_body(body)
        held = self._held = Held(self._log, seq, position, names)
        self._clear_progress()
        try:
            self._words[wire.STARTED] = wire.started_word(seq, 0)
            fn, values, flags = self._load_span(key, offset, length, payload)
            count = stop - first
            index = 0
            group, short = self._groups.get(key, (1, True))
            while index < count:
                if self.leaving:
                    held.log()
                    self._give_back(seq, index)
                    return
                most = group if self._tasks_left is None else min(group, self._tasks_left)
                before = index
                started_at = monotonic()
                index, revoked, error = self._run_group(
                    fn, values, flags, first, index, min(count, index + most), star, seq, short
                )
                ended_at = monotonic()
                done = index - before
                if names is not None:
                    self._look_at_peak(ended_at - started_at)
                self._clear_progress()
                if error is None:
                    held.keep_all()
                else:
                    held.log()
                    kind, blob = self._failed(error)
                    if held.times:
                        started_at = held.times.pop()
                    self._log.commit(
                        kind, blob, batch=seq, index=index, started_at=started_at, duration=ended_at - started_at,
                        peak_memory=self._peak,
                    )  # fmt: skip
                    index += 1
                    done += 1
                    held.index = index
                    del error
                self._count(done)
                if revoked:
                    held.log()
                    self._give_back(seq, index)
                    return
                if index == count or ended_at - self._last_ring > RING_S:
                    held.log()
                    self._ring()
                seconds = max(1e-9, (ended_at - started_at) / max(1, done))  # a call
                short = seconds < SHORT_S
                bound = GROUP_S if short and names is None else RING_S
                group = max(1, min(MAX_GROUP, 2 * group, int(bound / seconds)))
                self._groups[key] = (group, short)
        finally:
            self._held = None

    def _run_group(
        self, fn: Any, values: list[Any], flags: bytes | None, first: int, index: int, stop: int, star: bool, seq: int,
        short: bool,
    ) -> tuple[int, bool, BaseException | None]:  # fmt: skip
        """Run calls [index, stop). Returns (the first call that gave no value, revoked?, that call's error)."""
        held = self._held
        assert held is not None
        try:
            try:
                self._armed = True
                if held.names is not None or not short or (flags is not None and 2 in flags):
                    revoked = self._run_strictly(fn, values, flags, first, index, stop, star, seq)
                elif flags is None and not star:
                    revoked = run_plain(fn, values[first + index : first + stop], index, seq, self._log, held)
                else:
                    revoked = run_each(fn, values, flags, first, index, stop, star, seq, self._words, held)
            finally:
                self._armed = False
                self._leave_if_forked()
        except BaseException as error:  # a user's job may raise anything
            # From the values, not from a count: an interrupt may come between the value and the count, and then it
            # comes too late.
            index = held.next_index()
            if index > wire.split_started(self._words[wire.STARTED])[1]:
                return index, False, None
            return index, False, error
        return held.next_index(), revoked, None

    def _run_strictly(
        self, fn: Any, values: list[Any], flags: bytes | None, first: int, index: int, stop: int, star: bool, seq: int
    ) -> bool:
        """As `loops.run_each`; each value is safe before the next call starts. Of jobs, their times are noted."""
        words, held, loads, atoms = self._words, self._held, codec.loads, codec.ATOMS
        assert held is not None
        is_timed = held.names is not None
        base = wire.started_word(seq, 0)
        held.block = list(range(index, stop))
        for at in held.block:
            words[wire.STARTED] = base + at
            if words[wire.REVOKED] == seq:
                return True
            if is_timed:
                held.times.append(monotonic())
            self._armed = True
            value = values[first + at]
            if flags is not None and flags[first + at]:
                value = loads(value)
            value = fn(*value) if star else fn(value)
            blob = self._pack(value)
            is_atom = type(value) in atoms and type(blob) is not Parcel
            self._armed = False  # the handler must not log while this is half done
            held.keep(blob, value, is_atom=is_atom)
        return False

    def _load_span(
        self, key: int, offset: int, length: int, payload: memoryview
    ) -> tuple[Any, list[Any], bytes | None]:
        values, flags, _ = codec.load_values(payload)
        fn = self._functions.get(key)
        if fn is None:
            try:
                try:
                    self._armed = True
                    fn = codec.loads(self._fetch(offset, length))
                finally:
                    self._armed = False
            except BaseException as error:  # the user's function cannot be unpickled here: each call fails with that
                return _Raise(error), values, flags
            while len(self._functions) >= FUNCTIONS:
                oldest = next(iter(self._functions))
                del self._functions[oldest]
                self._groups.pop(oldest, None)
            self._functions[key] = fn
        return fn, values, flags

    def _clear_progress(self) -> None:
        """What the job before said of itself does not hold for the next."""
        if self._progress_shown:
            self._show_progress(0.0, 0.0)
            self._progress_shown = False

    def _arm_again(self) -> None:
        self._armed = True
        word = self._words[wire.STARTED]
        if self._words[wire.INTERRUPT] == word and word & wire.INDEX_MASK:
            self._armed = False
            raise JobInterrupt("the job's time is over, or it was cancelled")

    # ---- small things ------------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        self._ring_bell()
        self._last_ring = monotonic()

    def _give_back(self, seq: int, index: int) -> None:
        self._log.commit(wire.GAVE_BACK, batch=seq, index=index)
        self._ring()

    def _count(self, calls: int) -> None:
        if self._tasks_left is not None:
            self._tasks_left -= calls
            if self._tasks_left <= 0:
                self.leaving = True

    def _leave_if_forked(self) -> None:
        """A job's fork returns twice; the copy has no business here."""
        if os.getpid() != self._pid:
            os._exit(0)


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class _Shield:
    """A context in which no request of the parent's breaks the job off; one that comes meanwhile has its turn then."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._was_armed = False

    def __enter__(self) -> None:
        self._was_armed, self._runner._armed = self._runner._armed, False

    def __exit__(self, *about: object) -> None:
        if self._was_armed:
            self._runner._arm_again()


class _Raise:
    """Stands in for a function that could not be unpickled."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, *args: Any) -> Any:
        raise self._error


def _is_forking(frame: FrameType | None) -> bool:
    """Whether it is in, or below, what a fork waits for."""
    while frame is not None:
        if frame.f_code.co_name == "before_fork" and frame.f_code.co_filename == _READER_FILE:
            return True
        frame = frame.f_back
    return False


def _stack_text(tb: TracebackType | None) -> str:
    """Where the job was when it was broken off, without our signal handler's frame."""
    frames = [frame for frame in traceback.extract_tb(tb) if frame.filename not in _OUR_FILES]
    return "".join(traceback.format_list(frames))


def _users_part(tb: TracebackType | None) -> TracebackType | None:
    """The traceback without our own frames at its top."""
    while tb is not None and tb.tb_frame.f_code.co_filename in _OUR_FILES:
        tb = tb.tb_next
    return tb
