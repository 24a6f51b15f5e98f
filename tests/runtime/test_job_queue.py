"""The job queue: tickets are claimed whole, by one reader each, whatever happens to the reader."""

import fcntl
import mmap
import os
import queue
import random
import signal
import struct
import termios
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from mpengine.runtime import descriptors
from mpengine.runtime.job_queue import JobQueue
from mpengine.runtime.queue_end import QueueEnd
from mpengine.wire.messages import PACKET_BYTES, TICKET
from tests.support import WAIT_S, wait_for


@pytest.fixture
def tickets() -> Iterator[JobQueue]:
    made = JobQueue()
    yield made
    made.close()


def ticket(number: int, size: int = TICKET.size) -> bytes:
    return TICKET.pack(number, 0, 0, 0, 0).ljust(size, b"x")


def full(tickets: JobQueue, data: bytes) -> bool:
    """Put it, or say that there is no room."""
    try:
        tickets.put(data)
    except queue.Full:
        return True
    return False


def number_of(data: bytes) -> int:
    return int(TICKET.unpack_from(data)[0])


def test_each_ticket_is_read_whole_and_in_order(tickets: JobQueue) -> None:
    sizes = [TICKET.size, TICKET.size + 1, 100, PACKET_BYTES - 1, PACKET_BYTES]
    for number, size in enumerate(sizes):
        tickets.put(ticket(number, size))
    assert tickets.qsize() == len(sizes)
    for number, size in enumerate(sizes):
        assert tickets.get() == ticket(number, size)


def test_a_claim_lands_in_the_row_and_the_rest_behind_it(tickets: JobQueue) -> None:
    row, inline = bytearray(TICKET.size), bytearray(PACKET_BYTES)
    tickets.put(ticket(7, 40))
    assert QueueEnd(tickets.read_fd).get_into(memoryview(row), memoryview(inline)) == 40
    assert number_of(bytes(row)) == 7
    assert inline[:8] == b"x" * 8


def test_a_ticket_that_does_not_fit_is_refused(tickets: JobQueue) -> None:
    with pytest.raises(ValueError, match="4097"):
        tickets.put(b"x" * (PACKET_BYTES + 1))
    assert tickets.empty()


def test_put_never_blocks_and_says_when_it_is_full(tickets: JobQueue) -> None:
    put = 0
    while not full(tickets, ticket(put)):
        put += 1
    assert put >= 16
    assert tickets.qsize() == put  # the one that did not fit is not counted
    assert number_of(tickets.get()) == 0
    tickets.put(ticket(put))
    assert [number_of(t) for t in tickets.take_back()] == list(range(1, put + 1))


def test_take_back_takes_what_is_there_and_does_not_wait(tickets: JobQueue) -> None:
    assert tickets.take_back() == []
    for number in range(5):
        tickets.put(ticket(number))
    tickets.get()
    assert [number_of(t) for t in tickets.take_back()] == [1, 2, 3, 4]
    assert tickets.take_back() == []
    assert tickets.qsize() == 5  # what was taken back is still to be settled


def test_join_waits_until_every_ticket_is_settled(tickets: JobQueue) -> None:
    assert tickets.join(0)
    tickets.put(ticket(1))
    tickets.put(ticket(2))
    assert not tickets.join(0.01)
    tickets.task_done()
    joined = threading.Event()
    thread = threading.Thread(target=lambda: tickets.join(WAIT_S) and joined.set())  # type: ignore[func-returns-value]
    thread.start()
    assert not joined.is_set()
    tickets.task_done()
    wait_for(joined)
    thread.join()
    with pytest.raises(ValueError, match="too many"):
        tickets.task_done()


def fork_reader(tickets: JobQueue, out: int, row: mmap.mmap) -> int:
    """A process that claims tickets for ever, and writes their numbers to a pipe."""
    pid = os.fork()
    if pid:
        return pid
    try:
        end = QueueEnd(tickets.read_fd)
        view, inline = memoryview(row)[: TICKET.size], memoryview(bytearray(PACKET_BYTES))
        while True:
            end.get_into(view, inline)
            os.write(out, TICKET.unpack_from(view)[0].to_bytes(8, "little"))
    finally:
        os._exit(1)


@pytest.mark.parametrize("seed", range(3))
def test_many_readers_claim_each_ticket_once_also_when_they_are_killed(seed: int) -> None:
    """What a dead reader had claimed is in its row; everything else is read by another, or still there."""
    chance = random.Random(seed)
    tickets = JobQueue()
    rows = [mmap.mmap(-1, mmap.PAGESIZE) for _ in range(4)]
    read, write = os.pipe()
    os.set_blocking(read, False)
    total, put, seen = 6_000, 1, b""
    descriptors.keep_in_fork(tickets.read_fd)
    readers: dict[int, mmap.mmap] = {}
    claimed_by_the_dead: list[int] = []
    kills = 0
    try:
        for row in rows:
            readers[fork_reader(tickets, write, row)] = row
        while put <= total or not tickets_are_out(tickets):
            for _ in range(50):
                if put > total or full(tickets, ticket(put)):
                    break
                put += 1
            seen += drain(read)
            if kills < 12 and chance.random() < 0.1:
                kills += 1
                pid = chance.choice(list(readers))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                row = readers.pop(pid)
                claimed_by_the_dead.append(number_of(row[: TICKET.size]))
                row[: TICKET.size] = bytes(TICKET.size)
                readers[fork_reader(tickets, write, row)] = row
        for pid, row in readers.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            claimed_by_the_dead.append(number_of(row[: TICKET.size]))
        seen += drain(read)
    finally:
        descriptors.keep_in_fork()
        for pid in readers:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue
        os.close(read)
        os.close(write)
        tickets.close()
    told = Counter(int.from_bytes(seen[at : at + 8], "little") for at in range(0, len(seen), 8))
    assert kills
    assert max(told.values()) == 1, "a ticket was claimed twice"
    missing = set(range(1, total + 1)) - set(told)
    assert missing <= set(claimed_by_the_dead), "a ticket was lost that no dead reader had claimed"


def tickets_are_out(tickets: JobQueue) -> bool:
    """Whether the pipe is empty. Reads nothing."""
    return not struct.unpack("i", fcntl.ioctl(tickets.read_fd, termios.FIONREAD, b"\0" * 4))[0]


def drain(fd: int) -> bytes:
    parts = []
    while True:
        try:
            parts.append(os.read(fd, 1 << 16))
        except BlockingIOError:
            return b"".join(parts)
