"""A program in a terminal of its own: what a person would see there, line by line."""

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte

from tests.support import ROOT, WAIT_S, process_tree

WIDTH, HEIGHT = 80, 24


class Terminal:
    """What a program has written, and how it looks now.

    Attributes:
        raw: All that it has written.
    """

    def __init__(self, child: pexpect.spawn, height: int) -> None:
        self._child = child
        self._screen = pyte.HistoryScreen(WIDTH, height, history=100_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    def lines(self) -> list[str]:
        """What is to be seen now, without the empty lines at the end."""
        return _stripped([*self._screen.display])

    def transcript(self) -> list[str]:
        """The same, with all that has left the screen at its upper end."""
        above = [
            "".join(line[column].data for column in range(WIDTH)).rstrip() for line in self._screen.history.top
        ]  # fmt: skip
        return _stripped([*above, *self._screen.display])

    def wait_for(self, seen: Callable[[list[str]], object]) -> list[str]:
        """Until this is true of the lines to be seen; returns those."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            if seen(self.lines()):
                return self.lines()
            if not self._read():
                break
        shown = "\n".join(self.lines())
        raise AssertionError(f"waited in vain; the terminal shows:\n{shown}\n{process_tree()}")

    def code(self) -> int:
        """Read until the program ends; its exit code."""
        until = time.monotonic() + WAIT_S
        while self._read():
            assert time.monotonic() < until, process_tree()
        self._child.close()
        status: int | None = self._child.exitstatus
        return -int(self._child.signalstatus) if status is None else status

    def type(self, keys: str) -> None:
        """As a person would."""
        self._child.send(keys)

    def _read(self) -> bool:
        try:
            data = self._child.read_nonblocking(1 << 16, timeout=0.2)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True


@contextlib.contextmanager
def terminal(*arguments: str, cwd: Path, height: int = HEIGHT, term: str = "xterm-256color") -> Iterator[Terminal]:
    """`python ARGUMENT...` in a terminal of 80 columns; killed at the end if it still runs."""
    child = pexpect.spawn(
        sys.executable,
        [*arguments],
        dimensions=(height, WIDTH),
        cwd=str(cwd),
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": term},
        timeout=WAIT_S,
        # Where the tests run in the background of a script, SIGINT is ignored, and would be by the program.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield Terminal(child, height)
    finally:
        child.close(force=True)


def _stripped(lines: list[str]) -> list[str]:
    lines = [line.rstrip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return lines
