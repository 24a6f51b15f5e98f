"""A worker's row and log: records arrive whole and in order, whatever their sizes; rubbish is noticed."""

import os
import random
import threading
from collections.abc import Iterator

import pytest

from mpengine.runtime import channel as channel_module
from mpengine.runtime.channel import BadFrame, LogReader, LogWriter
from mpengine.wire import messages as wire
from tests.support import WAIT_S, wait_for


class Channel:
    """Both ends in one process; a full log is read by `on_full`, or is an error."""

    def __init__(self) -> None:
        self.reader = LogReader()
        self.rung = 0
        self.waits = 0
        self.got: list[tuple[int, int, bytes]] = []
        self.writer = LogWriter(self.reader.fd, self.ring, self.wait)

    def ring(self) -> None:
        self.rung += 1

    def wait(self) -> None:
        self.waits += 1
        assert self.waits < 10_000
        self.read()

    def read(self, most: int = 1 << 30) -> None:
        for record in self.reader.records():
            if not most:
                return  # not given free, and so read again
            self.got.append((record.kind, record.index, bytes(record.blob)))
            most -= 1

    def close(self) -> None:
        self.writer.row.release()
        self.writer.unmap()
        self.reader.close()


@pytest.fixture
def channel() -> Iterator[Channel]:
    made = Channel()
    yield made
    made.close()


def test_a_record_arrives_as_it_was_committed(channel: Channel) -> None:
    channel.writer.commit(
        wire.VALUE, b"blob", batch=5, index=3, count=2, started_at=1.5, duration=0.25, peak_memory=1 << 40
    )
    (record,) = channel.reader.records()
    assert (record.kind, record.batch, record.index, record.count) == (wire.VALUE, 5, 3, 2)
    assert (record.started_at, record.duration, record.peak_memory) == (1.5, 0.25, 1 << 40)
    assert record.blob == b"blob"
    assert list(channel.reader.records()) == []


@pytest.mark.parametrize("seed", range(4))
def test_any_sizes_in_any_rhythm_around_the_ring_many_times(channel: Channel, seed: int) -> None:
    chance = random.Random(seed)
    sizes = [0, 1, 7, 8, 9, 63, 64, 1000, 30_000, wire.LOG_BYTES // 8, wire.LOG_BYTES // 8 + 1, 300_000]
    sent = []
    for index in range(600):
        blob = chance.randbytes(1) * chance.choice(sizes)
        channel.writer.commit(wire.VALUE, blob, index=index)
        sent.append((wire.VALUE, index, blob))
        if chance.random() < 0.2:
            channel.read(chance.randrange(1, 40))
    channel.read()
    assert channel.got == sent


@pytest.mark.parametrize("left", [0, 8, 56, 64, 72, 120, 128])
def test_the_end_of_the_ring_at_any_distance(channel: Channel, left: int) -> None:
    used = 0
    while wire.LOG_BYTES - used - left > 2 * wire.RECORD.size + 100_000:
        channel.writer.commit(wire.VALUE, b"f" * 99_936)
        used += 100_000
    rest = wire.LOG_BYTES - used - left - wire.RECORD.size
    channel.writer.commit(wire.VALUE, b"r" * rest)
    channel.read()
    channel.got.clear()
    sent = [(wire.VALUE, index, bytes([65 + index]) * size) for index, size in enumerate((0, 10, 64, 5000))]
    for kind, index, blob in sent:
        channel.writer.commit(kind, blob, index=index)
    channel.read()
    assert channel.got == sent


def test_a_full_log_waits_and_rings_and_overwrites_nothing(channel: Channel) -> None:
    sent = [(wire.VALUE, index, bytes([index % 251]) * 50_000) for index in range(200)]
    for kind, index, blob in sent:
        channel.writer.commit(kind, blob, index=index)
    assert channel.waits
    assert channel.rung
    channel.read()
    assert channel.got == sent


def test_a_record_is_free_only_when_the_next_is_asked_for(channel: Channel) -> None:
    channel.writer.commit(wire.VALUE, b"one")
    records = channel.reader.records()
    assert next(records).blob == b"one"
    assert channel.reader.words[wire.CONSUMED] == 0
    assert next(records, None) is None
    assert channel.reader.words[wire.CONSUMED] == channel.reader.words[wire.COMMITTED]


def test_large_blobs_take_the_way_behind_the_log_and_their_memory_goes_back(channel: Channel) -> None:
    def allocated() -> int:
        return os.fstat(channel.reader.fd).st_blocks * 512

    blob = os.urandom(1 << 20) * 80
    channel.writer.commit(wire.VALUE, blob, index=1)
    assert channel.writer.words[wire.COMMITTED] == wire.RECORD.size
    channel.read()
    assert channel.got == [(wire.VALUE, 1, blob)]
    channel.writer.commit(wire.VALUE, b"b" * 200_000, index=2)
    assert allocated() < 8 << 20
    channel.read()
    assert channel.got[1] == (wire.VALUE, 2, b"b" * 200_000)


def test_blobs_that_the_kernel_does_not_take_at_once(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_MOST_BYTES", 70_000)
    blobs = [os.urandom(size) for size in (200_000, 140_000, 300_001)]
    for index, blob in enumerate(blobs):
        channel.writer.commit(wire.VALUE, blob, index=index)
    channel.read()
    assert [blob for _, _, blob in channel.got] == blobs


def test_large_blobs_wait_for_the_reader_above_a_bound(channel: Channel) -> None:
    blob = b"x" * (40 << 20)
    for index in range(4):
        channel.writer.commit(wire.VALUE, blob, index=index)
    assert channel.waits
    assert os.fstat(channel.reader.fd).st_size <= wire.BULK_BASE + 3 * len(blob)
    channel.read()
    assert [index for _, index, _ in channel.got] == [0, 1, 2, 3]
    assert all(data == blob for _, _, data in channel.got)


def test_no_room_for_a_large_blob_logs_nothing(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "no room")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="no room"):
            channel.writer.commit(wire.VALUE, b"x" * 500_000, index=0)
    channel.writer.commit(wire.ERROR, b"instead", index=0)
    channel.read()
    assert channel.got == [(wire.ERROR, 0, b"instead")]


def test_what_is_not_committed_is_not_there(channel: Channel) -> None:
    channel.writer.commit(wire.VALUE, b"done", index=0)
    start = channel.writer._committed  # half a record, as a killed worker leaves it
    wire.RECORD.pack_into(channel.writer.log, start, wire.RECORD_MAGIC, wire.VALUE, 0, 1, 1, 0, 0.0, 0.0, 0, 4, 0)
    channel.read()
    assert channel.got == [(wire.VALUE, 0, b"done")]


def corrupt_magic(channel: Channel) -> None:
    channel.writer.commit(wire.VALUE, b"x")
    channel.writer.log[0] ^= 0xFF


def corrupt_length(channel: Channel) -> None:
    wire.RECORD.pack_into(channel.writer.log, 0, wire.RECORD_MAGIC, wire.VALUE, 0, 0, 1, 0, 0.0, 0.0, 0, 1 << 40, 0)
    channel.writer.words[wire.COMMITTED] = wire.RECORD.size


def corrupt_bulk_offset(channel: Channel) -> None:
    wire.RECORD.pack_into(channel.writer.log, 0, wire.RECORD_MAGIC, wire.VALUE, 0, 0, 1, 0, 0.0, 0.0, 0, 8, 64)
    channel.writer.words[wire.COMMITTED] = wire.RECORD.size


def corrupt_bulk_length(channel: Channel) -> None:
    record = (wire.RECORD_MAGIC, wire.VALUE, 0, 0, 1, 0, 0.0, 0.0, 0, 1 << 50, wire.BULK_BASE)
    wire.RECORD.pack_into(channel.writer.log, 0, *record)
    channel.writer.words[wire.COMMITTED] = wire.RECORD.size


def corrupt_committed(channel: Channel) -> None:
    channel.writer.words[wire.COMMITTED] = wire.LOG_BYTES + 8


def corrupt_backwards(channel: Channel) -> None:
    channel.writer.commit(wire.VALUE, b"x")
    list(channel.reader.records())
    channel.writer.words[wire.COMMITTED] = 8


def corrupt_all(channel: Channel) -> None:
    channel.writer.log[:] = b"\xff" * wire.LOG_BYTES
    channel.writer.words[wire.COMMITTED] = 4096


@pytest.mark.parametrize(
    "corrupt",
    [
        corrupt_magic, corrupt_length, corrupt_bulk_offset, corrupt_bulk_length, corrupt_committed, corrupt_backwards,
        corrupt_all,
    ],
)  # fmt: skip
def test_rubbish_is_a_bad_frame(channel: Channel, corrupt: object) -> None:
    corrupt(channel)  # type: ignore[operator]
    with pytest.raises(BadFrame):
        list(channel.reader.records())


def test_writing_to_the_descriptor_itself_harms_nothing(channel: Channel) -> None:
    channel.writer.commit(wire.VALUE, b"safe")
    os.write(channel.reader.fd, b"rubbish" * 100)  # a job that writes to every descriptor it finds
    channel.read()
    assert channel.got == [(wire.VALUE, 0, b"safe")]


def test_the_row_tells_what_is_claimed_started_and_shown(channel: Channel) -> None:
    reader, words = channel.reader, channel.writer.words
    assert reader.claim() == 0
    assert reader.started()[1] == -1
    channel.writer.row[:] = wire.TICKET.pack(9, wire.JOBS, 3, 0, 0)
    assert reader.claim() == 9
    for batch, index in ((1, 0), (9, 2), (1 << 39, wire.INDEX_MASK - 1)):
        words[wire.STARTED] = wire.started_word(batch, index)
        assert reader.started()[:2] == (batch, index)
    channel.writer.doubles[wire.PROGRESS_DONE] = 2.5
    channel.writer.doubles[wire.PROGRESS_TOTAL] = 10.0
    assert reader.progress() == (2.5, 10.0)


def test_a_reader_beside_a_writer_sees_whole_records_only() -> None:
    reader = LogReader()
    pace = threading.Event()
    writer = LogWriter(reader.fd, lambda: None, lambda: pace.wait(0.0005) and None)  # type: ignore[arg-type]
    count = 4_000

    def write() -> None:
        for index in range(count):
            writer.commit(wire.VALUE, bytes([index % 256]) * (index * 37 % 3000), index=index)

    thread = threading.Thread(target=write)
    thread.start()
    got = 0

    def read_all() -> bool:
        nonlocal got
        for record in reader.records():
            assert record.index == got
            assert record.blob == bytes([got % 256]) * (got * 37 % 3000)
            got += 1
        return got == count

    wait_for(read_all, WAIT_S)
    thread.join()
    writer.row.release()
    writer.unmap()
    reader.close()
