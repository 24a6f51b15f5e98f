"""A disk whose every step may be the last of the process."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any


class Killed(Exception):
    """Stands for the end of the process: nothing of what comes after it happens."""


class Effects:
    """Counts what is done to the disk, and ends the process at one of these steps."""

    def __init__(self, end_at: int | None = None) -> None:
        self.done = 0
        self._end_at = end_at

    def step(self) -> None:
        if self.done == self._end_at:
            raise Killed
        self.done += 1


class Disk:
    """A file whose pieces may be torn by the end of the process."""

    def __init__(self, fd: int, effects: Effects) -> None:
        self._fd = fd
        self._effects = effects

    def write(self, data: bytes, *, records: int) -> None:
        try:
            self._effects.step()
        except Killed:
            os.write(self._fd, data[: len(data) // 2])
            raise
        os.write(self._fd, data)


def counted(transaction: Callable[[], Any], effects: Effects) -> Callable[[], Any]:
    @contextlib.contextmanager
    def step() -> Iterator[None]:
        with transaction():
            yield
            effects.step()  # else it is rolled back, as SQLite does for a process that is gone
        effects.step()

    return step


def before(replace: Callable[..., None], effects: Effects) -> Callable[..., None]:
    def step(*names: Any) -> None:
        effects.step()
        replace(*names)
        effects.step()

    return step
