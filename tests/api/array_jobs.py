"""What jobs do with large data, apart from the tests: workers import this and no pytest."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

kept: list[Any] = []  # what jobs leave behind in their worker
loaded = 0  # times that a `Counted` was rebuilt in this process


class Counted:
    """A buffer behind a class that counts how often it is rebuilt."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _count, (pickle.PickleBuffer(self.data),)


def _count(data: Any) -> Counted:
    global loaded
    loaded += 1
    return Counted(np.frombuffer(data, np.uint8))


class Buffered:
    """A user's class that gives its bytes out of band, as PEP 574 has it."""

    def __init__(self, name: str, data: Any) -> None:
        self.name = name
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol < 5:
            raise TypeError("this class needs protocol 5")
        return Buffered, (self.name, pickle.PickleBuffer(self.data))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buffered) and (self.name, self.data) == (other.name, other.data)

    __hash__ = None  # type: ignore[assignment]


def echo(value: Any) -> Any:
    return value


def second(_: object, value: Any) -> Any:
    return value


def pair(one: Any, other: Any) -> Any:
    return one, other


def with_names(*, one: Any, other: Any) -> Any:
    return {"one": one, "other": other}


def size_of(value: Any) -> int:
    return len(value)


def total(array: Any) -> float:
    return float(array.sum())


def total_of_row(array: Any, row: int) -> float:
    return float(array[row].sum())


def filled(size: int, value: int) -> Any:
    return np.full(size, value, np.uint8)


def add_in_place(array: Any, value: int = 1) -> Any:
    array += value
    return array


def is_writable(array: Any) -> bool:
    return bool(array.flags.writeable)


def write_to(array: Any) -> None:
    array[0] = 1


def keep(*values: Any) -> int:
    """Keep the last of these in the worker; returns its pid."""
    kept.append(values[-1])
    return os.getpid()


def keep_a_view(array: Any) -> int:
    """Keep a part of it."""
    kept.append(array[len(array) // 4 : len(array) // 2])
    return os.getpid()


def ends_of_kept() -> list[tuple[int, int]]:
    """The least and the greatest of each array that was kept."""
    return [(int(array.min()), int(array.max())) for array in kept]


def drop_kept() -> int:
    kept.clear()
    return os.getpid()


def fail_the_first_time(path: str, array: Any) -> Any:
    """Changes its argument, and fails if it is the first that comes."""
    array += 1
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return array
    raise ValueError("the first attempt")


def die_the_first_time(path: str, array: Any) -> Any:
    array += 1
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return array
    os._exit(3)


def times_loaded(_: Counted, __: int) -> tuple[int, int]:
    """The pid, and how often a `Counted` was rebuilt here."""
    return os.getpid(), loaded


def add_and_say(array: Any, value: int) -> tuple[int, int]:
    """Add to the array that was bound; the pid, and what its first element is by now."""
    array += value
    return os.getpid(), int(array[0])


def fork_and_change(array: Any, other: Any) -> tuple[int, int, int, int]:
    """A copy of this process changes both; what it saw of ours, and we see of its."""
    ours, theirs = os.pipe()
    go_on, say = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(go_on, 1)
        seen = bytes([array[0], other[0]])
        array[:] = 77
        other[:] = 78
        os.write(theirs, seen)
        os._exit(0)
    array[:] = 5
    other[:] = 6
    os.write(say, b"x")
    seen = os.read(ours, 2)
    os.waitpid(pid, 0)
    for fd in (ours, theirs, go_on, say):
        os.close(fd)
    return seen[0], seen[1], int(array.max()), int(other.max())


def call(fn: Callable[[], Any]) -> Any:
    return fn()


def enter_and_sum(door: Any, array: Any) -> float:
    door.enter("with it")
    return float(array.sum())
