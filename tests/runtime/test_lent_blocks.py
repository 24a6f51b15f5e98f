"""A worker's end of large data: what it tells of blocks, in which order, and when it may be interrupted."""

import os
from array import array
from collections.abc import Iterator
from typing import Any

import pytest

from mpengine.arrays import files
from mpengine.arrays.guest import Guest
from mpengine.arrays.parcel import OWN, Parcel
from mpengine.arrays.segment import Segment
from mpengine.runtime.channel import LogReader, LogWriter
from mpengine.runtime.running import Runner
from mpengine.wire import codec
from mpengine.wire import messages as wire

LENGTH = 300_000


class Channel:
    """Both ends in one process."""

    def __init__(self) -> None:
        self.reader = LogReader()
        self.writer = LogWriter(self.reader.fd, lambda: None, lambda: pytest.fail("the log is full"))

    def close(self) -> None:
        self.writer.row.release()
        self.writer.unmap()
        self.reader.close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel()
    yield made
    made.close()


def test_a_large_blob_that_is_left_in_the_log_is_still_there(channel: Channel) -> None:
    channel.writer.commit(wire.OFFERED, b"a" * LENGTH)
    next(channel.reader.records())  # as the collector leaves it to the caller who is about to take it
    channel.writer.commit(wire.VALUE, b"b" * LENGTH)
    assert [bytes(record.blob[:1]) for record in channel.reader.records()] == [b"a", b"b"]


def test_the_release_of_a_block_is_told_before_that_it_was_opened_again(channel: Channel) -> None:
    arena_fd = files.create("test")
    arena = Segment(arena_fd, 0, 12)
    lease = arena.put([b"x" * LENGTH])
    guest = channel.writer.guest = Guest(arena.key, arena_fd)
    view = guest.open(lease.place, OWN)
    channel.writer.commit(wire.VALUE)
    del view
    view = guest.open(lease.place, OWN)
    channel.writer.commit(wire.VALUE)
    held: set[int] = set()
    for record in channel.reader.records():
        if record.kind == wire.HELD:
            held.update(array("Q", record.blob))
        elif record.kind == wire.RELEASED:
            held.difference_update(array("Q", record.blob))
    assert held == {lease.number}
    del view
    arena.close(lambda: None)
    os.close(arena_fd)


class RestlessGuest:
    """While it forgets, the parent asks again, and again its signal comes."""

    has_news = False

    def __init__(self, runner: Runner, words: memoryview) -> None:
        self.kept: dict[int, Any] = {}
        self.depth = self.most = self.times = 0
        self._runner = runner
        self._words = words

    def looks_at_any(self) -> bool:
        return False

    def forget(self) -> None:
        self.depth += 1
        self.times += 1
        self.most = max(self.most, self.depth)
        if self.times < 3:
            self._words[wire.LEAN] += 1
            self._runner.on_signal(0, None)
        self.depth -= 1


@pytest.mark.parametrize("by_signal", [True, False])
def test_what_the_parent_wants_of_an_idle_worker_is_done_one_by_one(channel: Channel, by_signal: bool) -> None:
    words = channel.writer.words
    runner = Runner(channel.writer, lambda: None, lambda offset, length: memoryview(b""), None)
    guest = RestlessGuest(runner, words)
    channel.writer.guest = guest  # type: ignore[assignment]
    if by_signal:
        runner.rest()
    words[wire.LEAN] += 1
    if by_signal:
        runner.on_signal(0, None)
    else:
        runner.rest()
    assert (guest.times, guest.most) == (3, 1)
    assert runner.idle


def large_then_look(value: Any) -> Any:
    if value:
        return bytearray(LENGTH)
    LOOKED.append(READERS[-1].unlogged())
    return None


READERS: list[LogReader] = []
LOOKED: list[Any] = []


def test_a_large_value_of_a_short_call_is_not_left_pending(channel: Channel) -> None:
    """Of those the parent finds no leases when their worker is dead."""
    packed = codec.dumps(large_then_look)
    runner = Runner(channel.writer, lambda: None, lambda offset, length: memoryview(packed), None)
    payload = codec.dump_values([1, 0], None)
    READERS.append(channel.reader)
    LOOKED.clear()
    runner._last_ring = float("inf")  # so that it is not yet time for the log
    runner._groups[7] = (1, True)
    runner.run_span(5, memoryview(b"".join(wire.body_parts((7, 0, len(packed), 0, 2, 0, False, None), [payload]))))
    READERS.clear()
    assert LOOKED == [(0, -1, [])]
    first = next(record for record in channel.reader.records() if record.kind == wire.VALUES)
    assert type(first.blob) is Parcel
