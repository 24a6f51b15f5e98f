"""Bodies of jobs that leave something behind in their worker, apart from the tests."""

import gc
import multiprocessing
import os
import posix
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mpengine.runtime.signals import INTERRUPT_SIGNAL
from tests.faults.jobs import pause

SOON_S = 0.05


def a_thread() -> None:
    threading.Thread(target=pause, args=(600,)).start()


def a_busy_thread() -> None:
    def spin() -> None:
        while True:
            sum(range(1000))

    threading.Thread(target=spin, daemon=True).start()


def a_timer_that_exits() -> None:
    threading.Timer(SOON_S, os._exit, (7,)).start()


def a_thread_that_exits() -> None:
    def leave() -> None:
        pause(SOON_S)
        os._exit(0)

    threading.Thread(target=leave, daemon=True).start()


def an_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, SOON_S)


def an_alarm_that_raises() -> None:
    def raise_(*_: object) -> None:
        raise OSError("alarm")

    signal.signal(signal.SIGALRM, raise_)
    signal.setitimer(signal.ITIMER_REAL, SOON_S / 4, SOON_S / 4)


def a_profiling_timer() -> None:
    signal.setitimer(signal.ITIMER_PROF, SOON_S, SOON_S)


def another_folder() -> None:
    os.chdir("/")


def sigterm_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def all_handlers_as_at_birth() -> None:
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)


def our_signal_ignored() -> None:
    signal.signal(INTERRUPT_SIGNAL, signal.SIG_IGN)


def our_signal_handled() -> None:
    signal.signal(INTERRUPT_SIGNAL, lambda *_: None)


def lower(number: int, limit: int) -> None:
    resource.setrlimit(number, (limit, resource.getrlimit(number)[1]))


def no_memory() -> None:
    lower(resource.RLIMIT_AS, 1 << 20)


def no_file_size() -> None:
    lower(resource.RLIMIT_FSIZE, 0)


def no_descriptors() -> None:
    lower(resource.RLIMIT_NOFILE, 3)


def no_stack() -> None:
    lower(resource.RLIMIT_STACK, 1 << 14)


def little_recursion() -> None:
    sys.setrecursionlimit(60)


def streams_closed() -> None:
    sys.stdout.close()
    sys.stderr.close()


def streams_that_raise() -> None:
    class Raising:
        def write(self, *_: object) -> None:
            raise RuntimeError("not here")

        flush = write

    sys.stdout = sys.stderr = Raising()


def no_streams() -> None:
    sys.stdout = sys.stderr = None


def no_environment() -> None:
    os.environ.clear()


def a_profiler() -> None:
    sys.setprofile(lambda *_: None)


def a_tracer() -> None:
    sys.settrace(lambda *_: None)
    threading.settrace(lambda *_: None)


def no_garbage_collection() -> None:
    gc.disable()


def a_forked_child() -> None:
    if not os.fork():
        pause(600)


LEAVINGS: dict[str, list[Callable[[], Any]]] = {
    "threads and children": [a_thread, a_busy_thread, a_forked_child],
    "a timer that exits": [a_timer_that_exits],
    "a thread that exits": [a_thread_that_exits],
    "an alarm": [an_alarm],
    "an alarm that raises": [an_alarm_that_raises],
    "a profiling timer": [a_profiling_timer],
    "all handlers as at birth": [all_handlers_as_at_birth, sigterm_ignored],
    "our signal ignored": [our_signal_ignored],
    "our signal handled": [our_signal_handled],
    "no memory": [no_memory],
    "other limits": [no_file_size, no_descriptors, no_stack],
    "an odd interpreter": [
        another_folder, little_recursion, streams_closed, no_environment, a_profiler, a_tracer, no_garbage_collection,
    ],
    "streams that raise": [streams_that_raise],
    "no streams": [no_streams],
}  # fmt: skip


def a_child_to_join() -> None:
    multiprocessing.get_context("fork").Process(target=pause, args=(600,)).start()


def exit_by_a_thread_of_mine() -> None:
    """The same call in a thread of the running job ends it, and its worker, at once."""
    thread = threading.Thread(target=os._exit, args=(5,))
    thread.start()
    thread.join()


def burn(seconds: float) -> float:
    """Use so much CPU time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))
    return seconds


def what_exits() -> tuple[Any, Any]:
    return os._exit, posix._exit
