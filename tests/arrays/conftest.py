"""What the tests of shared memory have in common: files that are looked at from outside."""

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpengine.arrays import files
from mpengine.arrays.segment import Segment
from tests.support import WAIT_S, still_running


def mappings(fd: int) -> int:
    """How many parts of a file this process has mapped."""
    inode = str(os.fstat(fd).st_ino)
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        return sum(line.split()[4] == inode and "memfd:" in line for line in lines)


def allocated(fd: int) -> int:
    """Bytes of memory that the system holds for a file."""
    return os.fstat(fd).st_blocks * 512


def in_child(look: Callable[[], Any]) -> Any:
    """What `look()` says in a forked copy of this process: anything that `eval` makes of its `repr`."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.write(write, repr(look()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    try:
        assert not still_running([pid], WAIT_S)
        assert os.waitpid(pid, 0)[1] == 0
        return eval(os.read(read, 65536))
    finally:
        os.close(read)


class Memory:
    """A file, and its owner's side."""

    def __init__(self, base: int = 0) -> None:
        self.fd = files.create("test")
        self.base = base
        self.segment = Segment(self.fd, base, 12)

    def content(self, offset: int, length: int) -> bytes:
        """What lies in a block, whoever looks at it."""
        return os.pread(self.fd, length, self.base + offset)

    def close(self) -> None:
        self.segment.unmap()
        gc.collect()
        os.close(self.fd)


@pytest.fixture
def memory() -> Iterator[Memory]:
    """A file in memory."""
    made = Memory()
    yield made
    made.close()
