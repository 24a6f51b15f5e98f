"""What the jobs of `test_arrays` do: look whether what they have is what it should be, and keep some of it."""

from __future__ import annotations

import contextlib
import os
import traceback
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MOST_KEPT = 12

_kept: list[tuple[Any, int]] = []  # views and what their checksums are
_complaints = ""


def begin(complaints: str) -> None:
    """In each worker. What is wrong there is written into this file: nobody may be there to receive it."""
    global _complaints
    _complaints = complaints


@contextlib.contextmanager
def complaining() -> Iterator[None]:
    try:
        yield
    except Exception:  # not an interrupt, which those get whose map was closed
        with open(_complaints, "a") as file:
            traceback.print_exc(file=file)
        raise


def checksum(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)


def made(size: int, seed: int) -> Any:
    """An array that no other is like."""
    return np.arange(seed, seed + size // 4, dtype=np.uint32) * np.uint32(2654435761)


def check(array: Any, wanted: int, what: str) -> None:
    found = checksum(array)
    if found != wanted:
        raise AssertionError(f"{what} of {array.nbytes} bytes has changed: {found:#x}, not {wanted:#x}")


def check_kept() -> None:
    for array, wanted in _kept:
        check(array, wanted, "what a job has kept")


@complaining()
def look(array: Any, wanted: int, how: str, seed: int) -> tuple[Any, int]:
    """Check it, do with it as said, and return an array with its checksum."""
    check(array, wanted, f"an argument ({how})")
    check_kept()
    if how == "change" and array.flags.writeable:
        array += np.uint32(seed)
    elif how == "keep":
        keep(array[seed % 100 : len(array) - seed % 50])
    elif how == "part":
        array = array[len(array) // 3 :: 2]
    elif how == "new":
        array = made(array.nbytes, seed)
    elif how == "drop":
        _kept.clear()
    elif how == "fork":
        fork(array)
    elif how == "die":
        os._exit(3)
    return array, checksum(array)


def look_at_one(item: tuple[Any, int, str, int]) -> tuple[Any, int]:
    return look(*item)


@complaining()
def look_at_bound(array: Any, wanted: int, seed: int) -> int:
    """For a map whose function has the array bound."""
    check(array, wanted, "what was bound")
    check_kept()
    if seed % 50 == 0:
        keep(array[seed % 1000 :])
    return seed


def keep(array: Any) -> None:
    _kept.append((array, checksum(array)))
    del _kept[:-MOST_KEPT]


def fork(array: Any) -> None:
    """A copy of this process changes all it has, and this process notices nothing."""
    before = checksum(array)
    pid = os.fork()
    if not pid:
        for view in [array, *(kept for kept, _ in _kept)]:
            if view.flags.writeable:
                view += np.uint32(1)
        os._exit(0)
    os.waitpid(pid, 0)
    check(array, before, "after a fork, an argument")
    check_kept()


@complaining()
def drop() -> int:
    """Keep nothing any more; the pid."""
    check_kept()
    _kept.clear()
    return os.getpid()
