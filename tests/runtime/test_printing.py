"""The worker's end of what jobs print: where a line is cut, and that nothing comes in the middle of it."""

import contextlib
import fcntl
import os
import sys
import termios
from collections.abc import Iterator

import pytest

from mpengine.runtime.printing import Printer
from mpengine.wire import output as wire

Found = list[tuple[int, str | None, bytes]]


class End:
    """A printer on a pipe, the id of the job that runs, and whether it is shielded while bytes are in the pipe."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self.job: str | None = "a"
        self.parser = wire.Parser()
        self.sent_in_shield = 0
        self.printer = Printer(self.write_fd, lambda: self.job, self.shield, 0)

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        before = self.waiting()
        yield
        self.sent_in_shield += self.waiting() - before

    def waiting(self) -> int:
        """Bytes in the pipe."""
        answer = fcntl.ioctl(self.read_fd, termios.FIONREAD, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def read(self) -> Found:
        try:
            return self.parser.feed(os.read(self.read_fd, 1 << 20))
        except BlockingIOError:
            return []


@pytest.fixture
def end() -> Iterator[End]:
    end = End()
    yield end
    os.close(end.read_fd)
    with contextlib.suppress(OSError):
        os.close(end.write_fd)


def test_a_line_is_sent_when_it_ends(end: End) -> None:
    end.printer.write(1, b"one")
    assert end.read() == []
    end.printer.write(1, b" line\nand")
    assert end.read() == [(1, "a", b"one line")]
    end.printer.flush()
    assert end.read() == [(1, "a", b"and")]


def test_the_streams_do_not_mix(end: End) -> None:
    end.printer.write(1, b"out")
    end.printer.write(2, b"err")
    end.printer.write(1, b"\n")
    end.printer.write(2, b"\n")
    assert end.read() + end.read() == [(1, "a", b"out"), (2, "a", b"err")]


def test_the_next_job_does_not_end_the_line_of_the_one_before(end: End) -> None:
    end.printer.write(1, b"begun")
    end.job = "b"
    end.printer.write(1, b"mine\n")
    assert end.read() == [(1, "a", b"begun"), (1, "b", b"mine")]


def test_a_line_is_sent_while_the_job_cannot_be_broken_off(end: End) -> None:
    end.printer.write(1, b"line\n")
    assert end.sent_in_shield == end.waiting() > 0


def test_a_line_that_never_ends_does_not_fill_the_memory(end: End) -> None:
    for number in range(3000):
        end.printer.write(2, b"\r%5d of 3000 " % number + b"." * 40)
    end.printer.flush()
    found = end.read()
    assert sum(len(data) for _, _, data in found) < 1 << 17
    assert b"2999 of 3000" in found[-1][2]


def test_a_long_text_without_lines_is_sent_in_pieces(end: End) -> None:
    os.set_blocking(end.read_fd, False)
    end.printer.write(1, b"x" * 40_000)
    assert end.read() == []
    end.printer.write(1, b"x" * 20_000)
    end.printer.write(1, b"x" * 2_000)
    assert end.read() == []
    end.printer.write(1, b"\n")
    assert b"".join(data for _, _, data in end.read()) == b"x" * 62_000


def test_nobody_there_to_read_is_no_error(end: End) -> None:
    os.close(end.write_fd)
    end.printer.write(1, b"line\n")
