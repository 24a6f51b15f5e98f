"""What the tests' tasks do. Imported by workers: so nothing of pytest here."""

import os
import signal
import threading
import time
from typing import Any

import joblib

from tests.runtime.gates import Door


def pid(_: object = None) -> int:
    return os.getpid()


def pass_by(door: Door, value: Any) -> Any:
    door.enter(value)
    return value


def announce_and_hang(door: Door, value: Any) -> None:
    """Until it is interrupted, which it says."""
    door.announce(f"in {value}")
    try:
        while True:
            time.sleep(0.005)
    finally:
        door.announce(f"out {value}")


def wait() -> None:
    """Until it is interrupted."""
    while True:
        time.sleep(0.005)


def fail(text: str) -> None:
    raise LookupError(text)


def fail_behind(door: Door, text: str) -> None:
    door.enter()
    raise LookupError(text)


def fail_if(value: int, culprit: int) -> int:
    if value == culprit:
        raise LookupError(f"task {value}")
    return value


def die(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: str) -> str:
    """Kills its worker, unless it did so before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "second"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def take_memory(size: int) -> int:
    return len(bytearray(b"x") * size)


def variable(name: str) -> str | None:
    return os.environ.get(name)


def nested(n_jobs: int, depth: int, **options: Any) -> Any:
    """What a `Parallel` in a task does: for each of its tasks, process, thread, and the same of one in it."""
    here = (os.getpid(), threading.get_ident())
    if not depth:
        return here
    parallel = joblib.Parallel(n_jobs=n_jobs, **options)
    below = parallel(joblib.delayed(nested)(n_jobs, depth - 1, **options) for _ in range(4))
    return here, type(parallel._backend).__name__, below


def children() -> int:
    """How many processes there are below this one."""
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
        return len(file.read().split())


def is_writable(array: Any) -> tuple[bool, float]:
    return bool(array.flags.writeable), float(array.sum())


def look(array: Any, door: Door) -> float:
    door.enter()
    return float(array[0])


def write(array: Any, place: int) -> str:
    array[place] = place + 1
    return type(array).__name__
