"""Bodies of jobs for reports."""

import os
import time

from mpengine import current_job
from tests.runtime.gates import Door


def work(n: int) -> int:
    return n * n


def take(seconds: float) -> None:
    time.sleep(seconds)


def fail(message: str) -> None:
    raise ValueError(message)


def fail_first(message: str) -> str:
    job = current_job()
    assert job is not None
    if job.attempt == 1:
        raise LookupError(message)
    return message


def leave(code: int) -> None:
    os._exit(code)


def enter(door: Door) -> None:
    door.enter()
