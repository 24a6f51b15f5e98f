"""What a job leaves in its worker, and must not hit the jobs after it. Looked at between two batches.

    an interval timer       is switched off: its signal would end the worker, or raise in the middle of the next job
    a limit it has lowered  is raised again, or the worker makes way for a fresh one
    its own handlers for    are replaced by ours: with the default action, the parent's word to the next job would end
    our signals             the worker
    a thread that exits     has to wait until the job that runs by then is over; then the worker leaves

What else a job changes (the working directory, the environment, modules) is left as it is: as in ProcessPoolExecutor,
jobs may count on what the one before them has set up.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.getsignal is ten times as slow: it makes an enumeration of it
import faulthandler
import os
import posix
import resource
import signal
import threading
from collections.abc import Callable

from mpengine.runtime.clock import monotonic
from mpengine.runtime.signals import INTERRUPT_SIGNAL, STACK_SIGNAL

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any, NoReturn

_LOOK_S = 0.001  # between looks at what takes a system call each; a round trip is not to wait for them
_TIMERS = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)  # and ITIMER_REAL, also known as alarm
_LIMITS = (
    resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE,
)  # fmt: skip


class Leftovers:
    """Made when the worker is ready: what its initializer has set up is not a job's.

    Args:
        on_interrupt: Handler of INTERRUPT_SIGNAL.
        crash_fd: Where stacks are written.
    """

    def __init__(self, on_interrupt: Callable[..., Any], crash_fd: int) -> None:
        self._on_interrupt = on_interrupt
        self._crash_fd = crash_fd
        self._alarm_is_free = not any(signal.getitimer(signal.ITIMER_REAL))
        self._timers = [timer for timer in _TIMERS if not any(signal.getitimer(timer))]
        self._limits = [(number, resource.getrlimit(number)) for number in _LIMITS]
        self._look_at = 0.0
        self._set_handlers()

    def _set_handlers(self) -> None:
        signal.signal(INTERRUPT_SIGNAL, self._on_interrupt)
        faulthandler.register(STACK_SIGNAL, self._crash_fd, all_threads=True)

    def clear(self) -> bool:
        """Undo what can be undone; False: this worker is not fit for further jobs."""
        if self._alarm_is_free and signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        if _signal.getsignal(INTERRUPT_SIGNAL) is not self._on_interrupt:
            self._set_handlers()
        if monotonic() < self._look_at:
            return True
        self._look_at = monotonic() + _LOOK_S
        for timer in self._timers:
            if signal.getitimer(timer)[0]:
                signal.setitimer(timer, 0.0)
        try:
            for number, at_first in self._limits:
                now = resource.getrlimit(number)
                if now != at_first and _is_lower(now[0], at_first[0]):
                    resource.setrlimit(number, at_first)
        except (ValueError, OSError):  # the hard limit, too, and that cannot be raised
            return False
        return True


def _is_lower(limit: int, other: int) -> bool:
    return limit != resource.RLIM_INFINITY and (other == resource.RLIM_INFINITY or limit < other)


class ExitGuard:
    """Takes the place of `os._exit`, so that a thread which a job has left behind does not end another job.

    The main thread calls `enter` before a batch and `leave` after it. Either it sees there that a thread waits to exit,
    or that thread sees that a batch is under way.

    Args:
        leave_soon: Have the worker leave after the job that it runs. Called in the thread that wants to exit.
    """

    def __init__(self, leave_soon: Callable[[], None]) -> None:
        self._leave_soon = leave_soon
        self._pid = os.getpid()
        self._own = frozenset(threading.enumerate())  # the main thread's and the initializer's
        self._strangers: frozenset[threading.Thread] = frozenset()  # what jobs before this batch have left
        self._busy = False
        self._exit = os._exit
        exit_ = self._wait_and_exit

        def _exit(status: int) -> NoReturn:
            exit_(status)

        _exit.__module__, _exit.__qualname__ = posix.__name__, "_exit"  # it is pickled as what it stands for
        os._exit = posix._exit = _exit

    def enter(self) -> None:
        """A batch begins."""
        self._busy = True

    def leave(self) -> None:
        """A batch has ended: the threads that are left are none of the next one's."""
        if len(threading._active) > len(self._own) or self._strangers:  # type: ignore[attr-defined]
            self._strangers = frozenset(threading.enumerate()) - self._own
        self._busy = False

    def _wait_and_exit(self, status: int) -> NoReturn:
        if threading.current_thread() in self._strangers and os.getpid() == self._pid:
            self._leave_soon()  # before the look: see the class's text
            while self._busy:
                threading.Event().wait()  # for ever: the worker ends with what it runs
        self._exit(status)
