"""The jobs, good and bad. They live in a module of their own, which every contender's workers can import."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

MEETING_S = 10.0  # for all workers to start, on a machine under load
LONG_S = 600.0  # for ever, next to any bound of a case


def note(notes: str, *words: object) -> None:
    """Appends a line to the notes, in one write: processes may die at any instant, and write at the same one."""
    file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(file)


def noted(notes: str, job: str, body: Callable[..., Any], *arguments: Any) -> Any:
    """A job that leaves on disk that it began, where, and that it ended."""
    note(notes, "began", job, os.getpid())
    value = body(*arguments)
    note(notes, "ended", job, os.getpid())
    return value


def numbered(notes: str, batch: str, body: Callable[..., Any], number: int) -> int:
    """The same for a mapped function, once it is bound to all but its number."""
    noted(notes, f"{batch}-{number}", body)
    return number


# ---- good ones ---------------------------------------------------------------------------------------------


def short(value: Any = None) -> Any:
    time.sleep(0.02)
    return value


def echo(value: Any = None) -> Any:
    return value


def meet(folder: str, number: int) -> int:
    """Returns the worker's pid once that many workers are here."""
    place = Path(folder)
    (place / str(os.getpid())).touch()
    deadline = time.monotonic() + MEETING_S
    while len(list(place.iterdir())) < number and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.getpid()


# ---- ends --------------------------------------------------------------------------------------------------


def exit_0() -> NoReturn:
    os._exit(0)


def exit_1() -> NoReturn:
    os._exit(1)


def sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


def close_descriptors() -> None:
    os.closerange(3, 256)


def raise_system_exit() -> NoReturn:
    raise SystemExit(3)


def raise_keyboard_interrupt() -> NoReturn:
    raise KeyboardInterrupt


def fail_to_initialize() -> NoReturn:
    raise ValueError("the initializer's")


# ---- hangs -------------------------------------------------------------------------------------------------


def sleep() -> None:
    time.sleep(LONG_S)


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(LONG_S)


def swallow_exceptions() -> None:
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        try:
            time.sleep(LONG_S)
        except BaseException:
            continue


def hold_the_gil() -> None:
    """C code that lets go of the interpreter at no time, and that no signal wakes: a lock taken twice."""
    library = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(128)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


# ---- objects that do not cross -----------------------------------------------------------------------------


def unpicklable() -> Any:
    """Has no pickle."""
    return threading.Lock()


def fail_to_load() -> NoReturn:
    raise ValueError("cannot be loaded")


class Unloadable:
    """Its pickle is fine, and fails wherever it is loaded."""

    def __reduce__(self) -> tuple[Callable[[], NoReturn], tuple[()]]:
        return fail_to_load, ()


def unloadable() -> Unloadable:
    return Unloadable()


class NeedsTwo(Exception):
    """An everyday mistake: loading it calls `NeedsTwo(*args)`, and `args` has one of the two."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def raise_needs_two() -> NoReturn:
    raise NeedsTwo("a job's own error", 7)


# ---- what stays --------------------------------------------------------------------------------------------


def leave_a_child() -> str:
    """Forks a process that holds every descriptor its worker has, and goes on."""
    if os.fork() == 0:
        try:
            time.sleep(LONG_S)
        finally:
            os._exit(0)
    return "left"
