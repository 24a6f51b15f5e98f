"""Ctrl-C and SIGTERM as a wish to stop, and a way to wait for it.

An exception out of a signal handler may strike between any two instructions: in the middle of a line of
OUT, or after an outcome has left the engine and before it is written. So while jobs run (``gently``), the
first signal raises nothing: it makes a pipe readable, for good. Whoever may wait for long (the reader for
its input, the writer for its reader, the thread that cancels the jobs) waits for that pipe too. At all
other times, and for the second signal, ``Interrupted`` is raised at once; a third one ends the process as
if nobody had asked for signals.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mpengine.cli.problems import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NUDGE = signal.SIGURG  # nobody uses it, and it does nothing by itself
_NUDGE_S = 0.1


class Stop:
    """The wish to stop. Made and entered in the main thread; the rest is for all threads."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._gentle = False
        self._before: dict[signal.Signals, Any] = {}
        self.requested = False
        self.signum: int | None = None  # the signal that was the wish; None: there was none

    def __enter__(self) -> Stop:
        for signum in _SIGNALS:
            # Ignored since the start means: a shell's background job, or nohup. It stays so.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        os.close(self._reader)
        os.close(self._writer)

    def leave(self) -> None:
        """From now on, and also after the block, a signal ends the process as if nobody had asked for signals."""
        for signum in self._before:
            signal.signal(signum, signal.SIG_DFL)
        self._before.clear()

    def request(self) -> None:
        """As a signal would: whoever waits for input or for room need wait no longer. For all threads."""
        if not self.requested:
            self.requested = True
            os.write(self._writer, b"!")

    def wait(self, fd: int, event: int, timeout: float | None = None) -> bool:
        """Waits until ``fd`` is ready (True), a stop is requested or the time is over (False)."""
        return fd in _ready({fd: event, self._reader: select.POLLIN}, timeout)

    def wait_for_wish(self, timeout: float) -> bool:
        """Waits until a stop is requested (True) or the time is over (False)."""
        return self._reader in _ready({self._reader: select.POLLIN}, timeout)

    @contextmanager
    def gently(self, on_stop: Callable[[], None]) -> Iterator[None]:
        """Within, the first signal only sets the wish; ``on_stop`` is then called once, in a thread of its own."""
        end_reader, end_writer = os.pipe()
        came_reader, came_writer = os.pipe()  # Python's own handler, in C, writes here whatever the main thread does
        os.set_blocking(came_writer, False)
        main = threading.get_ident()
        nudge_before = signal.signal(_NUDGE, lambda signum, frame: None)
        wakeup_before = signal.set_wakeup_fd(came_writer, warn_on_full_buffer=False)

        def watch() -> None:
            events = {end_reader: select.POLLIN, self._reader: select.POLLIN, came_reader: select.POLLIN}
            while (ready := _ready(events, None)) == {came_reader} and not {*os.read(came_reader, 1024)} & {*_SIGNALS}:
                pass  # another signal that somebody handles
            # A signal that comes just before the main thread waits for a lock does not end that wait: what is to handle
            # it would run when the wait is over, which may be never. Another signal does.
            while came_reader in ready and not self.wait_for_wish(_NUDGE_S):
                if is_ready(end_reader, select.POLLIN, 0):
                    return
                signal.pthread_kill(main, _NUDGE)
            if self.requested:
                on_stop()

        # Not in the handler itself: it may interrupt the very lock that on_stop needs.
        watcher = threading.Thread(target=watch, name="mpengine-cli-stop", daemon=True)
        watcher.start()
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False
            os.close(end_writer)
            watcher.join()
            signal.set_wakeup_fd(wakeup_before)
            signal.signal(_NUDGE, nudge_before)
            for fd in (end_reader, came_reader, came_writer):
                os.close(fd)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._gentle and self.signum is None:
            self.signum = signum
            self.request()
            return
        if self.signum is not None:
            for each in self._before:
                signal.signal(each, signal.SIG_DFL)
        self.signum = self.signum or signum
        self.request()
        raise Interrupted(self.signum)


def is_ready(fd: int, event: int, timeout: float) -> bool:
    """Whether ``fd`` is ready within ``timeout`` seconds, whatever else is wished."""
    return bool(_ready({fd: event}, timeout))


def _ready(events: dict[int, int], timeout: float | None) -> set[int]:
    # poll, not select: with many workers, descriptors may be past select's 1,024. An end or an error is "ready":
    # the read or write that follows tells which.
    poll = select.poll()
    for fd, event in events.items():
        poll.register(fd, event)
    return {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}
