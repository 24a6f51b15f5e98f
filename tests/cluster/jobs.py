"""What jobs of these tests do. Imported by name on the nodes."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from mpengine import current_job


def square(x: int) -> int:
    return x * x


def describe(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return args, kwargs


def fail(text: str) -> None:
    raise KeyError(text)


def note(path: str, text: str) -> None:
    """Add a line; in one write, so that lines of several jobs stay whole."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def noted(path: str, text: str) -> str:
    note(path, text)
    return text


def wait_at(started: str, gate: str) -> str:
    """Say that it has started, then wait until somebody opens the gate."""
    try:
        note(started, str(os.getpid()))
        fd = os.open(gate, os.O_RDONLY)
        try:
            os.read(fd, 1)
        finally:
            os.close(fd)
    finally:
        note(started, "left")
    return "let through"


def sleep_for(seconds: float, path: str | None = None, text: str = "") -> str:
    if path is not None:
        note(path, text)
    time.sleep(seconds)
    return text


def sleep_for_ever() -> None:
    while True:
        time.sleep(1.0)


def kill_yourself(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    os._exit(code)


def fail_until(attempt: int) -> int:
    """Fail in all attempts before this one."""
    job = current_job()
    assert job is not None
    if job.attempt < attempt:
        raise ConnectionError(f"attempt {job.attempt}")
    return job.attempt


def about() -> tuple[str, int, float | None]:
    job = current_job()
    assert job is not None
    return job.id, job.attempt, job.remaining()


def say(text: str) -> None:
    print(text)


def total(array: Any) -> float:
    return float(array.sum())


def write_to(array: Any) -> None:
    array[0] = 1.0


def set_up(path: str) -> None:
    note(path, "set up")


def refuse_to_start() -> None:
    raise LookupError("no such model")


def grow(path: str) -> int:
    """Hold more and more memory."""
    held = []
    for _ in range(1 << 12):
        held.append(bytearray(1 << 20))
    Path(path).touch()
    return len(held)
