"""Bodies of jobs, apart from the tests: workers import this and no pytest."""

import gc
import os
import sys
import threading
import time
import weakref
from typing import Any

from mpengine import JobInterrupt, current_job
from tests.runtime.gates import Door


def echo(value: Any = None) -> Any:
    return value


def square(x: int) -> int:
    return x * x


def add(x: int, y: int) -> int:
    return x + y


def call_of(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def pid(_: object = None) -> int:
    return os.getpid()


def enter(door: Door, token: object = "", value: Any = None) -> Any:
    door.enter(token)
    return value


def enter_and_square(door: Door, x: int) -> int:
    door.enter(x)
    return x * x


def announce(door: Door, token: object = "") -> None:
    door.announce(token)


def announce_and_square(door: Door, x: int) -> int:
    door.announce(x)
    return x * x


def enter_finally(door: Door, end: Door) -> None:
    try:
        door.enter()
    finally:
        end.announce("finally")


def take(seconds: float, value: Any = None) -> Any:
    """A job that has to take time, for the engine's measure of it."""
    time.sleep(seconds)
    return value


def take_a_moment(x: int) -> int:
    time.sleep(0.0005)
    return x


class CustomError(Exception):
    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message, code)
        self.code = code


def fail(message: str = "no luck", code: int = 7) -> None:
    raise CustomError(message, code)


def fail_at(bad: int, x: int) -> int:
    if x == bad:
        raise ValueError(f"{x} is bad")
    return x


def throw(error: BaseException) -> None:
    raise error


def fail_until(path: str, attempts: int) -> str:
    """Fails in the first `attempts` attempts, counted in a file."""
    seen = count_up(path)
    if seen <= attempts:
        raise CustomError(f"attempt {seen}", seen)
    job = current_job()
    assert job is not None
    return f"{job.attempt} {seen}"


def count_up(path: str) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, b".")
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def about_me() -> tuple[str, int, float | None, bool]:
    job = current_job()
    assert job is not None
    job.check()
    return job.id, job.attempt, job.remaining(), job.cancelled


def my_id(_: object = None) -> str | None:
    job = current_job()
    return None if job is None else job.id


def tell_progress(door: Door, done: float, total: float) -> None:
    job = current_job()
    assert job is not None
    job.progress(done, total)
    door.enter("told")


def watch_from_a_thread(door: Door) -> None:
    def look() -> None:
        job = current_job()
        assert job is not None
        while not job.cancelled:
            time.sleep(0.001)
        try:
            job.check()
        except JobInterrupt:
            door.announce("seen")

    thread = threading.Thread(target=look)
    thread.start()
    door.announce("started")
    thread.join()


def swallow_the_interrupt(door: Door) -> str:
    job = current_job()
    assert job is not None
    try:
        while True:
            time.sleep(0.001)
    except JobInterrupt:
        door.announce(f"{job.cancelled} {job.remaining()}")
    return "never seen"


class Unloadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ("cannot be rebuilt",)


class UnloadableHere:
    """Can be unpickled anywhere but in the process that is named."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_elsewhere, (self.pid,)


def rebuild_elsewhere(pid: int) -> UnloadableHere:
    if os.getpid() == pid:
        raise RuntimeError("cannot be rebuilt here")
    return UnloadableHere(pid)


def explode(message: str) -> None:
    raise RuntimeError(message)


class Unpicklable:
    """Cannot be pickled, and says why."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("this one stays at home")


class UnpicklableError(Exception):
    """An exception that cannot be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("this one stays at home")


class TwoArgsError(Exception):
    """Pickles well, and cannot be unpickled: the most common mistake there is."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} has {number}")


def throw_unpicklable() -> None:
    raise UnpicklableError("the text survives")


def throw_two_args() -> None:
    raise TwoArgsError("alice", 3)


def return_unpicklable() -> object:
    return Unpicklable()


_watched: list[Any] = []


class Big:
    """An argument whose end can be seen."""


def watch(argument: Big) -> None:
    _watched.append(weakref.ref(argument))


def watched_are_gone() -> list[bool]:
    gc.collect()
    return [ref() is None for ref in _watched]


_received: list[Any] = []


def remember(value: Any, lock: Any = None, queue: Any = None) -> None:
    """An initializer."""
    _received[:] = [value, lock, queue]


def remembered() -> Any:
    return _received[0]


def use_lock_and_queue(token: str) -> None:
    _, lock, queue = _received
    with lock:
        queue.put(token)


def initialize_badly(message: str) -> None:
    raise LookupError(message)


def initialize_behind(door: Door, message: str) -> None:
    door.enter("initializer")
    raise LookupError(message)


def leave(code: int) -> None:
    os._exit(code)


_shared: list[int] = []


def grow_and_return(_: object) -> list[int]:
    """Returns the very same list each time, which grows."""
    _shared.append(len(_shared))
    return _shared


def shared_list_starts_anew() -> None:
    _shared.clear()


def enter_at(path: str, token: object = "", value: Any = None) -> Any:
    """As `enter`, for calls whose arguments are plain."""
    return enter(Door(path), token, value)


def exit_at(bad: int, x: int) -> int:
    """Ends its worker for one of its arguments."""
    if x == bad:
        os._exit(3)
    return x * x


def unpicklable_at(bad: int, x: int) -> Any:
    return Unpicklable() if x == bad else x


def unloadable_at(bad: int, x: int) -> Any:
    return Unloadable() if x == bad else [x]


def has_loaded(module: str) -> bool:
    """Whether this process has it."""
    return module in sys.modules


def log_in_a_fork() -> int:
    """Fork while this thread holds logging's lock; 0 if a thread of the child can log."""
    import logging

    with logging._lock:  # type: ignore[attr-defined]
        pid = os.fork()
        if not pid:
            thread = threading.Thread(target=logging.getLogger("fork").debug, args=("x",), daemon=True)
            thread.start()
            thread.join(10.0)
            os._exit(int(thread.is_alive()))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
