"""What the jobs of `test_chaos` do, well or badly. Each notes in a diary on disk what it began and ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

HANG_S = 600.0
HOG_BYTES = 2 << 30


def work(diary: str, id: str, kind: str, seconds: float) -> Any:
    """Note, do as `kind` says, note."""
    note(diary, f"begin {id}")
    value = KINDS[kind](id, seconds)
    note(diary, f"end {id}")
    return value


def note(diary: str, line: str) -> None:
    """One line, whole, whoever is killed meanwhile."""
    fd = os.open(diary, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


def spin(id: str, seconds: float) -> str:
    """Compute so long."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return id


def large(id: str, seconds: float) -> tuple[str, bytes]:
    """Too much for an answer, and for the log's ring."""
    return id, b"." * 3_000_000


def fail(id: str, seconds: float) -> None:
    raise ValueError(id)


def keep_a_lock(id: str, seconds: float) -> Any:
    """A result that cannot be pickled."""
    return threading.Lock()


def end_the_process(id: str, seconds: float) -> None:
    os._exit(3)


def crash(id: str, seconds: float) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    threading.Event().wait(HANG_S)


def hang(id: str, seconds: float) -> None:
    """Until it is interrupted."""
    threading.Event().wait(HANG_S)


def hang_deaf(id: str, seconds: float) -> None:
    """Until it is killed."""
    until = time.monotonic() + HANG_S
    while time.monotonic() < until:
        try:
            threading.Event().wait(1.0)
        except BaseException:
            continue


def hog(id: str, seconds: float) -> int:
    """Until it holds too much."""
    held: list[bytes] = []
    while len(held) << 20 < HOG_BYTES:
        held.append(b"\1" * (1 << 20))
    return len(held)


KINDS: dict[str, Callable[[str, float], Any]] = {
    "spin": spin,
    "large": large,
    "fail": fail,
    "lock": keep_a_lock,
    "exit": end_the_process,
    "crash": crash,
    "hang": hang,
    "deaf": hang_deaf,
    "hog": hog,
}


def double(x: int) -> int:
    """For a map beside all that."""
    return 2 * x
