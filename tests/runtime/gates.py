"""Gates: a job stands still until its test lets it go on, and nobody sleeps to wait.

A job gets the gate's `door`, a path and nothing else, so that it crosses into any worker. It announces
itself through one FIFO and waits at another; the test reads who has come, and lets one through, or all.
"""

import os
import select
from dataclasses import dataclass
from pathlib import Path

from tests.support import WAIT_S, process_tree, thread_tracebacks


@dataclass(frozen=True)
class Door:
    """A gate as jobs see it."""

    path: str

    def enter(self, token: object = "") -> None:
        """Say that I am here, and wait until I am let through."""
        self.announce(token)
        self.wait()

    def announce(self, token: object = "") -> None:
        """Say that I am here. One line of at most 4096 bytes, whole whoever else writes."""
        fd = os.open(f"{self.path}.arrived", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(fd, f"{os.getpid()} {token}\n".encode())
        finally:
            os.close(fd)

    def wait(self) -> None:
        """Wait until I am let through, or the gate is open."""
        fd = os.open(f"{self.path}.way", os.O_RDONLY | os.O_NONBLOCK)
        try:
            if os.path.exists(f"{self.path}.open"):
                return
            os.set_blocking(fd, True)
            os.read(fd, 1)
        finally:
            os.close(fd)

    @property
    def is_open(self) -> bool:
        """Whether the test has opened the gate for good."""
        return os.path.exists(f"{self.path}.open")


@dataclass(frozen=True)
class Arrival:
    """Who stands, or stood, at the door."""

    pid: int
    token: str


class Gate:
    """A gate as its test sees it; see the module's text."""

    def __init__(self, path: Path) -> None:
        self.door = Door(str(path))
        self._buffer = b""
        os.mkfifo(f"{path}.arrived")
        os.mkfifo(f"{path}.way")
        # Both ends of each, so that neither side waits for the other, and nothing ends before close().
        self._arrived = os.open(f"{path}.arrived", os.O_RDWR | os.O_NONBLOCK)
        self._way = os.open(f"{path}.way", os.O_RDWR | os.O_NONBLOCK)

    def arrival(self, timeout: float = WAIT_S) -> Arrival:
        """The next that comes. An AssertionError with all tracebacks if nobody does."""
        found = self.arrival_or_none(timeout)
        if found is None:
            raise AssertionError(f"nobody came in {timeout:g} s\n{thread_tracebacks()}\n{process_tree()}")
        return found

    def arrival_or_none(self, timeout: float) -> Arrival | None:
        """The next that comes within that time; None: nobody."""
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._arrived], [], [], timeout)
            if not ready:
                return None
            self._buffer += os.read(self._arrived, 4096)
        line, _, self._buffer = self._buffer.partition(b"\n")
        pid, _, token = line.decode().partition(" ")
        return Arrival(int(pid), token)

    def arrivals(self, count: int) -> list[Arrival]:
        """The next so many."""
        return [self.arrival() for _ in range(count)]

    def release(self, count: int = 1) -> None:
        """Let so many through."""
        os.write(self._way, b"." * count)

    def open(self) -> None:
        """Let everyone through, from now on."""
        path = Path(f"{self.door.path}.open")
        if not path.exists():
            path.touch()
            self.release(4096)

    def close(self) -> None:
        """Open it and give its descriptors back."""
        self.open()
        os.close(self._arrived)
        os.close(self._way)
