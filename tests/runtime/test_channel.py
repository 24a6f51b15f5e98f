"""A worker's row and log: records arrive whole and in order, whatever their sizes; rubbish is noticed."""

import errno
import gc
import os
import random
import threading
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mpengine.arrays import files, parcel
from mpengine.arrays import segment as segment_module
from mpengine.arrays.guest import Guest
from mpengine.arrays.parcel import OWN, SHARED, Parcel
from mpengine.arrays.segment import PIECE_BYTES, Segment
from mpengine.runtime.channel import BadFrame, LogReader, LogWriter
from mpengine.wire import codec
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

    @property
    def in_use(self) -> int:
        """Bytes of the writer's blocks, after it has looked at what was given back."""
        self.writer.segment._take_back()
        return self.writer.segment.in_use

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

    def send(self, value: Any, index: int = 0) -> tuple[int, ...]:
        """As a worker does with the value of a job; the offsets of its blocks."""
        blob = codec.pack_result(value, self.writer.segment)
        self.writer.commit(wire.VALUE, blob, index=index)
        return tuple(lease.offset for lease in blob.leases) if type(blob) is Parcel else ()

    def receive(self) -> Any:
        """The value of the only record that is there."""
        (record,) = self.reader.records()
        return codec.loads(record.blob)

    def kill(self) -> None:
        """The worker is gone."""
        self.writer.row.release()
        self.writer.unmap()

    def close(self) -> None:
        self.kill()
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


def allocated(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_large_blobs_take_the_way_behind_the_log_and_their_memory_is_used_again(channel: Channel) -> None:
    blob = os.urandom(1 << 20) * 80
    for index in range(3):
        channel.writer.commit(wire.VALUE, blob, index=index)
        assert channel.writer.words[wire.COMMITTED] == (index + 1) * wire.RECORD.size
        channel.read()
        assert channel.got.pop() == (wire.VALUE, index, blob)
        assert allocated(channel.reader.fd) < 82 << 20
    channel.writer.commit(wire.VALUE, b"b" * 200_000, index=4)
    channel.read()
    assert channel.got == [(wire.VALUE, 4, b"b" * 200_000)]
    assert allocated(channel.reader.fd) < 82 << 20
    while channel.writer.segment.cool():
        continue
    assert allocated(channel.reader.fd) < 2 << 20


def test_blobs_that_the_kernel_does_not_take_at_once(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_module, "_MOST_BYTES", 70_000)
    blobs = [os.urandom(size) for size in (200_000, 140_000, 300_001)]
    for index, blob in enumerate(blobs):
        channel.writer.commit(wire.VALUE, blob, index=index)
    channel.read()
    assert [blob for _, _, blob in channel.got] == blobs


def test_large_blobs_that_nobody_has_read_lie_side_by_side(channel: Channel) -> None:
    blobs = [bytes([index]) * 5_000_000 for index in range(10)]
    for index, blob in enumerate(blobs):
        channel.writer.commit(wire.VALUE, blob, index=index)
    assert not channel.waits
    assert channel.in_use == sum(map(len, blobs))
    channel.read()
    assert [blob for _, _, blob in channel.got] == blobs
    assert channel.in_use == 0


def test_a_large_blob_that_is_read_twice_is_the_same_the_second_time(channel: Channel) -> None:
    """As when its caller is about to take it: the record is left, and its block with it."""
    first, second = os.urandom(300_000), os.urandom(300_000)
    channel.writer.commit(wire.OFFERED, first)
    assert next(channel.reader.records()).blob == first
    channel.writer.commit(wire.OFFERED, second, index=1)
    channel.read()
    assert channel.got == [(wire.OFFERED, 0, first), (wire.OFFERED, 1, second)]


def no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, "no room")


def test_no_room_for_a_large_blob_logs_nothing(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", no_room)
        with pytest.raises(MemoryError, match="no room"):
            channel.writer.commit(wire.VALUE, b"x" * 500_000, index=0)
    assert channel.writer.words[wire.COMMITTED] == 0
    assert channel.in_use == 0
    channel.writer.commit(wire.ERROR, b"instead", index=0)
    channel.read()
    assert channel.got == [(wire.ERROR, 0, b"instead")]


def test_large_blobs_beyond_what_the_table_can_name_log_nothing(channel: Channel) -> None:
    channel.writer.segment._most = 8 << wire.BLOCK_BITS
    channel.writer.commit(wire.VALUE, b"x" * (6 << wire.BLOCK_BITS), index=0)
    with pytest.raises(MemoryError):
        channel.writer.commit(wire.VALUE, b"y" * (4 << wire.BLOCK_BITS), index=1)
    channel.read()
    channel.writer.commit(wire.VALUE, b"y" * (4 << wire.BLOCK_BITS), index=1)
    channel.read()
    assert [index for _, index, _ in channel.got] == [0, 1]


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


def corrupt_block_beyond_the_file(channel: Channel) -> None:
    channel.writer.commit(wire.VALUE, b"x" * 200_000)
    corrupt_block(channel, (PIECE_BYTES >> wire.BLOCK_BITS) + 1, 8)


def corrupt_block_beyond_the_table(channel: Channel) -> None:
    os.ftruncate(channel.reader.fd, 1 << 40)
    corrupt_block(channel, wire.MOST_BLOCKS + 1, 8)


def corrupt_block_length(channel: Channel) -> None:
    channel.writer.commit(wire.VALUE, b"x" * 200_000)
    corrupt_block(channel, 1, 1 << 50)


def corrupt_block(channel: Channel, number: int, length: int) -> None:
    record = (wire.RECORD_MAGIC, wire.VALUE, 0, 0, 1, 0, 0.0, 0.0, 0, length, number)
    wire.RECORD.pack_into(channel.writer.log, 0, *record)
    channel.writer.words[wire.COMMITTED] = wire.RECORD.size


def corrupt_numbers(channel: Channel) -> None:
    channel.writer.commit(wire.RELEASED, b"x" * 12)


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
        corrupt_magic, corrupt_length, corrupt_numbers, corrupt_block_beyond_the_file, corrupt_block_beyond_the_table,
        corrupt_block_length, corrupt_committed, corrupt_backwards, corrupt_all,
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


# ---- parcels -------------------------------------------------------------------------------------------------------


def test_a_parcel_arrives_with_leases_of_its_blocks(channel: Channel) -> None:
    value = [np.arange(100_000), "small", np.ones(50_000)]
    size = value[0].nbytes + value[2].nbytes  # type: ignore[attr-defined]
    channel.send("before", 1)
    offsets = channel.send(value, 2)
    before, record, *others = list(channel.reader.records())
    assert not others
    assert type(before.blob) is bytes
    assert type(record.blob) is Parcel
    assert (record.kind, record.index) == (wire.VALUE, 2)
    assert tuple(lease.offset for lease in record.blob.leases) == offsets
    assert [lease.length for lease in record.blob.leases] == [800_000, 400_000]
    borrowed = channel.reader.borrowed
    assert borrowed is not None
    assert parcel.sources[channel.writer.segment.key] is borrowed
    assert (borrowed.in_use, channel.in_use, channel.reader.lent) == (size, size, 2)
    first, middle, last = codec.loads(record.blob)
    assert (first == value[0]).all()
    assert (last == value[2]).all()
    assert middle == "small"
    assert first.flags.writeable


def test_the_record_behind_a_parcel_has_no_leases(channel: Channel) -> None:
    channel.send(np.arange(100_000))
    channel.send("small")
    parcelled, plain = channel.reader.records()
    assert type(parcelled.blob) is Parcel
    assert type(plain.blob) is bytes


def test_leases_of_a_record_that_is_read_twice_are_there_the_second_time(channel: Channel) -> None:
    channel.send(np.arange(100_000))
    assert type(next(channel.reader.records()).blob) is Parcel
    gc.collect()
    assert channel.in_use == 800_000
    assert (channel.receive() == np.arange(100_000)).all()


def test_the_writer_uses_a_block_again_when_the_last_look_at_it_is_over(channel: Channel) -> None:
    (offset,) = channel.send(np.arange(100_000))
    value = channel.receive()[10:]
    assert channel.in_use == 800_000
    (other,) = channel.send(np.zeros(100_000))
    assert other != offset
    channel.receive()
    assert (value == np.arange(10, 100_000)).all()
    assert channel.in_use == 800_000
    del value
    assert channel.reader.borrowed is not None
    assert channel.reader.borrowed.in_use == 0
    assert channel.in_use == 0
    assert {*channel.send(np.zeros(100_000)), *channel.send(np.zeros(100_000))} == {offset, other}


def test_a_parcel_that_nobody_opens_gives_its_blocks_back(channel: Channel) -> None:
    channel.send(np.arange(100_000))
    assert [type(record.blob) for record in channel.reader.records()] == [Parcel]
    assert channel.in_use == 0


def test_a_parcel_that_is_large_itself_arrives(channel: Channel) -> None:
    value = [np.full(1 << 14, n) for n in range(300)]
    with parcel.pack_in(channel.writer.segment) as packing:
        data = codec.dumps(value)
    blob = Parcel(data + bytes(200_000), parcel.seal(data, packing, OWN).leases)  # type: ignore[attr-defined]
    channel.writer.commit(wire.VALUE, blob)
    (record,) = channel.reader.records()
    assert type(record.blob) is Parcel
    assert record.blob == blob
    assert len(record.blob.leases) == 300
    del record, blob
    assert channel.in_use == 0


def test_what_was_never_lent_is_not_given_back(channel: Channel) -> None:
    lease = channel.writer.segment.put([b"x" * 200_000])
    channel.reader.table[:100] = b"\1" * 100  # a job has written there
    assert channel.in_use == 200_000
    assert channel.writer.segment.put([b"y"]).offset != lease.offset


RUBBISH = [
    b"",
    b"1234567",
    array("Q", [7, 1]).tobytes(),
    array("Q", [7, 1, 0, 8, 2]).tobytes(),
    array("Q", [7, 1, 1 << 41, 8]).tobytes(),
    array("Q", [7, 1, 0, 1 << 63]).tobytes(),
    array("Q", [7, 1, wire.MOST_BLOCKS << wire.BLOCK_BITS, 8]).tobytes(),
]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=["no key", "odd", "part", "half", "beyond", "long", "table"])
def test_rubbish_that_names_blocks_is_a_bad_frame(channel: Channel, rubbish: bytes) -> None:
    os.ftruncate(channel.reader.fd, 1 << 40)
    channel.writer.commit(wire.VALUE, b"before")
    channel.writer.commit(wire.LENT, rubbish)
    channel.writer.commit(wire.VALUE, b"value")
    records = channel.reader.records()
    assert next(records).blob == b"before"
    with pytest.raises(BadFrame):
        list(records)


# ---- news of the parent's blocks -----------------------------------------------------------------------------------


@pytest.fixture
def arena() -> Iterator[tuple[Segment, Guest]]:
    """The parent's segment, and the worker's side of it."""
    fd = files.create("test")
    segment = Segment(fd, 0, 12)
    yield segment, Guest(segment.key, fd)
    segment.unmap()
    gc.collect()
    os.close(fd)


def told(channel: Channel) -> list[Any]:
    """Kinds of the records, with the numbers they name."""
    return [
        (record.kind, *array("Q", record.blob)) if record.kind in (wire.HELD, wire.RELEASED) else record.kind
        for record in channel.reader.records()
    ]


def test_blocks_that_are_looked_at_are_told_before_the_end_of_the_job(
    channel: Channel, arena: tuple[Segment, Guest]
) -> None:
    segment, guest = arena
    channel.writer.guest = guest
    leases = [segment.put([b"x" * 5000]) for _ in range(3)]
    one, other, passing = (guest.open(lease.place, SHARED) for lease in leases)
    del passing
    channel.writer.commit(wire.VALUE)
    assert told(channel) == [(wire.HELD, leases[0].number, leases[1].number), wire.VALUE]
    channel.writer.commit(wire.VALUE)
    assert told(channel) == [wire.VALUE]
    del one
    third = guest.open(leases[2].place, SHARED)
    channel.writer.commit(wire.ERROR, b"x" * 500_000)
    assert told(channel) == [(wire.RELEASED, leases[0].number), (wire.HELD, leases[2].number), wire.ERROR]
    del other, third
    channel.writer.tell_news(guest)
    assert told(channel) == [(wire.RELEASED, leases[1].number, leases[2].number)]


def test_a_value_that_is_a_parcel_is_told_after_the_news_of_its_job(
    channel: Channel, arena: tuple[Segment, Guest]
) -> None:
    segment, guest = arena
    channel.writer.guest = guest
    lease = segment.put([b"x" * 5000])
    view = guest.open(lease.place, SHARED)
    channel.send(np.arange(100_000))
    first, second = channel.reader.records()
    assert (first.kind, second.kind) == (wire.HELD, wire.VALUE)
    assert type(second.blob) is Parcel
    del view


def test_news_of_many_blocks_are_told_in_parts(channel: Channel, arena: tuple[Segment, Guest]) -> None:
    segment, guest = arena
    channel.writer.guest = guest
    leases = [segment.put([b"x"]) for _ in range(2500)]
    views = [guest.open(lease.place, OWN) for lease in leases]
    channel.writer.commit(wire.VALUE)
    *held, end = told(channel)
    assert [len(numbers) - 1 for _, *numbers in held] == [1023, 1023, 451]
    assert sorted(n for _, *numbers in held for n in numbers) == [lease.number for lease in leases]
    assert end == wire.VALUE
    del views


# ---- after the worker's death --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_opened", [True, False])
def test_what_is_looked_at_outlives_the_channel_and_the_rest_of_its_memory_goes(is_opened: bool) -> None:
    channel = Channel()
    segment, reader = channel.writer.segment, channel.reader
    size = 8 << 20
    for fill in range(4):
        channel.send(np.full(size, fill, np.uint8))
    kept: list[Any] = [record.blob for record in reader.records()]
    if is_opened:
        kept = [codec.loads(blob) for blob in kept]
    watch = os.dup(reader.fd)
    try:
        del kept[1], kept[2]  # 0 and 2 are left
        channel.kill()
        del segment
        reader.close()
        assert allocated(watch) < 2 * size + (3 << 20)
        for fill, value in zip((0, 2), kept, strict=True):
            assert ((codec.loads(value) if type(value) is Parcel else value) == fill).all()
        with pytest.raises(LookupError):
            codec.loads(pickle_of_nothing(channel.writer.segment.key))
        del value
        del kept[0]
        assert allocated(watch) < size + (3 << 20)
        assert len(descriptors_of(watch)) == 2
        kept.clear()
        assert allocated(watch) < 3 << 20
        assert len(descriptors_of(watch)) == 1
    finally:
        os.close(watch)


def test_blocks_whose_record_was_never_written_go_with_their_worker() -> None:
    """It was killed between the two."""
    channel = Channel()
    blob = codec.pack_result(np.zeros(8 << 20, np.uint8), channel.writer.segment)
    assert type(blob) is Parcel
    channel.writer._tell_lent(blob.leases)
    assert list(channel.reader.records()) == []
    assert channel.writer.segment.in_use == 8 << 20
    watch = os.dup(channel.reader.fd)
    try:
        channel.close()
        assert descriptors_of(watch) == [watch]
    finally:
        os.close(watch)


def pickle_of_nothing(key: int) -> bytes:
    """Of a parcel whose block nobody holds."""
    return codec.dumps(parcel._Stub((parcel.open_parcel, (key, b"", ((10**6, 0, 8),), OWN))))


def descriptors_of(fd: int) -> list[int]:
    """All of this process that stand for the same file."""
    same = os.fstat(fd).st_ino
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.stat(f"/proc/self/fd/{name}").st_ino == same:
                found.append(int(name))
        except OSError:
            continue
    return found


def test_what_a_job_wrote_to_the_descriptor_keeps_no_memory_after_the_workers_death() -> None:
    channel = Channel()
    channel.send(np.zeros(8 << 20, np.uint8))
    channel.send(np.zeros(8 << 20, np.uint8))
    values = [codec.loads(record.blob) for record in channel.reader.records()]
    os.write(channel.reader.fd, b"rubbish" * 100)
    watch = os.dup(channel.reader.fd)
    try:
        del values[0]
        channel.kill()
        channel.reader.close()
        assert allocated(watch) < (8 << 20) + (3 << 20)
        values.clear()
        assert len(descriptors_of(watch)) == 1
    finally:
        os.close(watch)


def test_a_channel_of_which_nothing_is_left_closes_its_descriptor() -> None:
    channel = Channel()
    channel.send(np.zeros(100_000))
    channel.receive()
    watch = os.dup(channel.reader.fd)
    channel.close()
    assert descriptors_of(watch) == [watch]
    os.close(watch)
