"""The parent's small parts in-process: collector, outbox, descriptors."""

import errno
import gc
import os
import queue
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from mpengine import Job
from mpengine.arrays.segment import fetch
from mpengine.core import events as ev
from mpengine.core.records import Batch, Record, Span
from mpengine.futures import JobFuture
from mpengine.runtime import descriptors
from mpengine.runtime.channel import LogReader, LogWriter
from mpengine.runtime.collector import Collector
from mpengine.runtime.held import Held
from mpengine.runtime.inbox import Inbox
from mpengine.runtime.outbox import MappedFunction, Outbox
from mpengine.runtime.supervisor import _launch_all
from mpengine.wire import codec
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import pack_error
from tests.runtime import jobs
from tests.support import WAIT_S


class NoLane:
    """A short way on which nothing is."""

    def finish(self, seq: int) -> None:
        return None

    def may_be_left(self, seq: int) -> bool:
        return False


NO_LANE = NoLane()


class Sink:
    """A future as the outbox knows it."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self.started: list[Record] = []

    def start(self, record: Record) -> bool:
        self.started.append(record)
        return self.wanted

    def settle(self, record: Record, outcome: Any) -> None:
        raise AssertionError("nobody settles here")


def record(payload: bytes = b"payload", *, id: str | None = None, wanted: bool = True, **options: Any) -> Record:
    return Record(Job(jobs.echo, id=id), Sink(wanted=wanted), payload=payload, **options)


def batch_of(*records: Record, seq: int = 1) -> Batch:
    return Batch(seq, records=records, now=0.0)


# ---- the collector ---------------------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[tuple[LogReader, LogWriter]]:
    reader = LogReader()
    writer = LogWriter(reader.fd, lambda: None, lambda: pytest.fail("the log is full"))
    yield reader, writer
    writer.row.release()
    writer.unmap()
    reader.close()


def collect(log: tuple[LogReader, LogWriter], *batches: Batch) -> tuple[list[Any], list[Any], str]:
    known = {batch.seq: batch for batch in batches}
    events, about, problem = Collector(known.get, lambda seq: None, NO_LANE).collect(7, 4182, log[0])
    return list(events), list(about), problem


def test_reports_of_one_batch_are_one_event_in_order(log: Any) -> None:
    _, writer = log
    first, second = batch_of(record(), record(), seq=1), batch_of(record(), seq=2)
    for index in range(2):
        about_it = {"started_at": 5.0, "duration": 0.5, "peak_memory": 9}
        writer.commit(wire.VALUE, codec.dumps([index]), batch=1, index=index, **about_it)
    writer.commit(wire.VALUE, codec.dumps("x"), batch=2)
    events, about, problem = collect(log, first, second)
    assert [type(event) for event in events] == [ev.Reported, ev.Reported]
    assert [(event.worker, event.batch) for event in events] == [(7, 1), (7, 2)]
    assert [(r.index, r.value) for r in events[0].reports] == [(0, [0]), (1, [1])]
    report = events[0].reports[0]
    assert (report.started_at, report.duration, report.peak_memory, report.error) == (5.0, 0.5, 9, None)
    assert (about, problem) == ([], "")


@pytest.mark.parametrize("of_jobs", [False, True])
def test_values_of_a_map_that_are_read_at_once_are_one_report(log: Any, of_jobs: bool) -> None:
    _, writer = log
    fn = MappedFunction("echo", b"", star=False)
    of = [Job(jobs.echo)] * 20 if of_jobs else None
    span = Span(None, fn, b"", position=0, first=0, stop=20, jobs=of)  # type: ignore[arg-type]
    # One was flushed: its time is unknown.
    for index, duration in ((0, 1e-4), (2, 2e-4), (4, 3e-4), (6, 0.0), (8, 1e-4)):
        writer.commit(wire.VALUES, b"ab%d" % index, batch=1, index=index, count=2, duration=duration)
    writer.commit(wire.ERROR, pack_error(ValueError(), None), batch=1, index=10)
    writer.commit(wire.VALUES, b"cd", batch=1, index=11, count=2, duration=1e-4)
    (event,), _, problem = collect(log, Batch(1, span=span, now=0.0))
    assert not problem
    ends = [(report.index, report.count) for report in event.reports]
    if of_jobs:
        assert ends == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (10, 1), (11, 2)]
        return
    assert ends == [(0, 6), (6, 2), (8, 2), (10, 1), (11, 2)]
    assert event.reports[0].value == [b"ab0", b"ab2", b"ab4"]
    assert event.reports[0].duration == pytest.approx(6e-4)


def test_giving_back_keeps_its_place_behind_the_reports(log: Any) -> None:
    _, writer = log
    writer.commit(wire.VALUE, codec.dumps(1), batch=1, index=0)
    writer.commit(wire.GAVE_BACK, batch=1, index=1)
    events, _, _ = collect(log, batch_of(record(), record()))
    assert [type(event) for event in events] == [ev.Reported, ev.GaveBack]
    assert events[1].item == 1


def test_a_value_that_cannot_be_unpickled_is_an_error_and_the_next_one_comes(log: Any) -> None:
    _, writer = log
    writer.commit(wire.VALUE, b"rubbish", batch=1, index=0)
    writer.commit(wire.VALUE, codec.dumps("good"), batch=1, index=1)
    (event,), _, _ = collect(log, batch_of(record(id="bad one"), record()))
    bad, good = event.reports
    assert bad.error is not None
    assert any("'bad one'" in note and "4182" in note for note in bad.error.__notes__)
    assert (good.value, good.error) == ("good", None)


@pytest.mark.parametrize("of_jobs", [False, True])
@pytest.mark.parametrize("done", range(5))
def test_what_a_dead_worker_had_kept_and_not_logged(log: Any, done: int, of_jobs: bool) -> None:
    """Of that, what the books do not have yet."""
    reader, writer = log
    held = Held(writer, 1, 0, ["a", "b", "c", "d"] if of_jobs else None)
    for index in range(3):
        held.times.append(float(index))
        held.keep(codec.dumps([index]), [index], is_atom=False)
    held.append_pickled(codec.dumps([3]))
    held.keep_all()
    span = Span(None, None, b"", position=0, first=0, stop=4, jobs=[Job(jobs.echo)] * 4 if of_jobs else None)  # type: ignore[arg-type]
    batch = Batch(1, span=span, now=0.0)
    batch.done = done
    event = Collector({1: batch}.get, lambda seq: None, NO_LANE).unlogged(7, reader)
    if done == 4:
        assert event is None
    else:
        assert event is not None
        (report,) = event.reports
        values, flags, times = codec.load_values(report.value if of_jobs else report.value[0])
        assert (report.index, report.count, times) == (done, 4 - done, None)
        assert flags == bytes([1] * (4 - done))
        assert [codec.loads(value) for value in values] == [[index] for index in range(done, 4)]
    batch.size = 2  # the rest was given to another worker
    event = Collector({1: batch}.get, lambda seq: None, NO_LANE).unlogged(7, reader)
    assert (event is None) == (done >= 2)
    assert Collector(lambda seq: None, lambda seq: None, NO_LANE).unlogged(7, reader) is None


@pytest.mark.parametrize("rubbish", [b"\xff" * 8, codec.dump_values([1, 2, 3], None)], ids=["no pickle", "too many"])
def test_rubbish_among_what_a_dead_worker_had_kept_costs_no_more_than_what_is_behind_it(
    log: Any, rubbish: bytes
) -> None:
    reader, writer = log
    held = Held(writer, 1, 0, None)
    held.values += [0, 1]
    held.keep_all()
    assert held._write_pending(rubbish, 1)
    batch = Batch(1, span=Span(None, None, b"", position=0, first=0, stop=9), now=0.0)  # type: ignore[arg-type]
    event = Collector({1: batch}.get, lambda seq: None, NO_LANE).unlogged(7, reader)
    assert event is not None
    (report,) = event.reports
    assert (report.index, report.count) == (0, 2)


@pytest.mark.parametrize("taken", [True, False])
def test_a_value_that_was_taken_directly_is_not_made_again(log: Any, taken: bool) -> None:
    _, writer = log
    one = record()
    future = JobFuture(one.job)
    assert future.start(one)
    blob = codec.dumps(["one of its kind"])
    if taken:
        assert future.take(blob)
    writer.commit(wire.OFFERED, blob, batch=1)
    collector = Collector({1: batch_of(one)}.get, {1: future}.get, NO_LANE)
    (event,), _, _ = collector.collect(7, 4182, log[0])
    assert isinstance(event, ev.Reported)
    (report,) = event.reports
    assert report.value == ["one of its kind"]
    assert report.handed_over is taken
    assert not taken or report.value is future.result()
    assert not future.take(blob)


def test_errors_name_their_job(log: Any) -> None:
    _, writer = log
    writer.commit(wire.ERROR, pack_error(ValueError("x"), None), batch=1, index=1)
    writer.commit(wire.SKIPPED, batch=1, index=2)
    (event,), _, _ = collect(log, batch_of(record(), record(id="mine", retries=2), record()))
    error, skipped = event.reports
    assert type(error.error) is ValueError
    assert any("'mine'" in note and "attempt 1 of 3" in note for note in error.error.__notes__)
    assert skipped.skipped


def test_an_error_of_a_batch_that_is_closed_by_now(log: Any) -> None:
    log[1].commit(wire.ERROR, pack_error(ValueError("late"), None), batch=99, index=5)
    (event,), _, _ = collect(log)
    assert type(event.reports[0].error) is ValueError


def test_records_about_the_worker_itself_are_apart(log: Any) -> None:
    _, writer = log
    writer.commit(wire.READY)
    writer.commit(wire.VALUE, codec.dumps(1), batch=1)
    writer.commit(wire.HELD, bytes(8))
    writer.commit(wire.RELEASED, bytes(8))
    writer.commit(wire.LEAVING)
    events, about, _ = collect(log, batch_of(record()))
    assert [r.kind for r in about] == [wire.READY, wire.HELD, wire.RELEASED, wire.LEAVING]
    assert len(events) == 1


def test_a_value_in_shared_memory_is_looked_at_and_not_copied(log: Any) -> None:
    reader, writer = log
    value = np.arange(100_000)
    writer.commit(wire.VALUE, codec.pack_result(value, writer.segment), batch=1)
    (event,), _, _ = collect(log, batch_of(record()))
    (report,) = event.reports
    assert (report.value == value).all()
    assert report.value.flags.writeable
    assert reader.borrowed.in_use == value.nbytes
    del event, report
    gc.collect()
    assert reader.borrowed.in_use == 0


def test_values_of_a_map_in_shared_memory_keep_their_blocks_until_they_are_unpacked(log: Any) -> None:
    reader, writer = log
    parcels = [codec.pack_result(np.full(100_000, n), writer.segment) for n in range(2)]
    writer.commit(wire.VALUES, codec.dump_values(parcels, bytearray([2, 2])), batch=1, count=2, duration=1.0)
    span = Span(None, None, b"", position=0, first=0, stop=2)  # type: ignore[arg-type]
    (event,), _, _ = collect(log, Batch(1, span=span, now=0.0))
    ((blob,),) = [report.value for report in event.reports]
    values = [codec.loads(value) for value in codec.load_values(blob)[0]]
    assert [int(value.sum()) for value in values] == [0, 100_000]
    del event, blob
    gc.collect()
    assert reader.borrowed.in_use == 1_600_000
    del values
    assert reader.borrowed.in_use == 0


def test_a_parcel_whose_blocks_are_gone_is_an_error_and_the_next_one_comes(log: Any) -> None:
    _, writer = log
    blob = codec.pack_result(np.arange(100_000), writer.segment)
    writer.commit(wire.VALUE, bytes(blob), batch=1, index=0)  # without its leases
    writer.commit(wire.VALUE, codec.dumps("good"), batch=1, index=1)
    (event,), _, problem = collect(log, batch_of(record(), record()))
    bad, good = event.reports
    assert type(bad.error) is LookupError
    assert (good.value, problem) == ("good", "")


@pytest.mark.parametrize("kind", [0xFF, 77])
def test_rubbish_is_a_problem_and_what_came_before_it_counts(log: Any, kind: int) -> None:
    _, writer = log
    writer.commit(wire.VALUE, codec.dumps("good"), batch=1, index=0)
    writer.commit(kind, b"", batch=1, index=1)
    (event,), _, problem = collect(log, batch_of(record(), record()))
    assert [r.value for r in event.reports] == ["good"]
    assert "rubbish" in problem


# ---- the outbox ------------------------------------------------------------------------------------------


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    made = Outbox()
    yield made
    made.close()


def read_ticket(outbox: Outbox) -> tuple[int, int, int, memoryview]:
    """As a worker does: batch, kind, items, body."""
    data = outbox.queue.get()
    seq, kind, items, offset, length = wire.TICKET.unpack_from(data)
    body = fetch(outbox.arena_fd, offset, length) if length else memoryview(data)[wire.TICKET.size :]
    return seq, kind, items, body


@pytest.mark.parametrize("size", [0, 10, 3000, 4000, 5000, 1_000_000])
def test_a_batch_of_jobs_small_or_large(outbox: Outbox, size: int) -> None:
    records = [record(b"a" * size, id="first", retries=1, timeout=2.5, deadline=9.0), record(b"b", id="second")]
    batch = batch_of(*records, seq=5)
    assert outbox.put(batch) == []
    assert (outbox.arena.in_use > 0) == (size >= 4000)
    seq, kind, items, body = read_ticket(outbox)
    assert (seq, kind, items) == (5, wire.JOBS, 2)
    header, payloads = wire.split_body(body)
    assert header == [("first", 1, 9.0, 2.5, size), ("second", 1, None, None, 1)]
    assert bytes(payloads) == b"a" * size + b"b"
    assert [r.sink.started for r in records] == [[r] for r in records]  # type: ignore[attr-defined]
    outbox.forget(batch)
    assert outbox.arena.in_use == 0
    assert outbox.queue.join(0)


def test_workers_can_only_read_the_arena(outbox: Outbox) -> None:
    outbox.put(batch_of(record(b"mine" * 5000)))
    _, _, _, offset, length = wire.TICKET.unpack_from(outbox.queue.get())
    with pytest.raises(OSError, match=r"Bad file descriptor|not permitted"):
        os.pwrite(outbox.arena_fd, b"rubbish", offset)
    assert bytes(fetch(outbox.arena_fd, offset, length)).endswith(b"mine" * 5000)


def test_blocks_of_a_batchs_arguments_are_kept_until_it_is_forgotten(outbox: Outbox) -> None:
    one = record(codec.pack_call(jobs.echo, (np.arange(100_000),), {}, outbox.arena))
    batch = batch_of(one)
    outbox.put(batch)
    one.payload = None
    gc.collect()
    assert outbox.arena.in_use == 800_000
    outbox.forget(batch)
    assert outbox.arena.in_use == 0


def test_blocks_of_a_lone_job_that_was_sent_directly_are_kept_until_it_is_forgotten(outbox: Outbox) -> None:
    one = record(codec.pack_call(jobs.echo, (np.arange(100_000),), {}, outbox.arena))
    batch = batch_of(one, seq=3)
    assert outbox.inline_ticket(3, one) is not None
    outbox.was_put(3, one)
    one.payload = None
    gc.collect()
    assert outbox.arena.in_use == 800_000
    outbox.forget(batch)
    assert outbox.arena.in_use == 0


def test_no_room_for_a_body_leaves_nothing_behind(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no room")

    batch = batch_of(record(b"x" * 10_000))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        with pytest.raises(MemoryError, match="no room"):
            outbox.put(batch)
    assert outbox.arena.in_use == 0
    outbox.forget(batch)
    assert outbox.queue.join(0)


def test_cancelled_records_are_sent_empty_and_named(outbox: Outbox) -> None:
    gone = record(b"secret", wanted=False)
    assert outbox.put(batch_of(record(b"x"), gone)) == [gone]
    header, payloads = wire.split_body(read_ticket(outbox)[3])
    assert [entry[-1] for entry in header] == [1, 0]
    assert bytes(payloads) == b"x"


def span_of(fn: MappedFunction, payload: bytes = b"args", count: int = 4) -> Span:
    return Span(None, fn, payload, position=100, first=1, stop=count)  # type: ignore[arg-type]


def test_the_function_of_a_map_crosses_once_and_is_freed_with_its_last_batch(outbox: Outbox) -> None:
    fn = MappedFunction("f", b"function" * 100, star=True)
    batches = [Batch(seq, span=span_of(fn), now=0.0) for seq in (1, 2)]
    for batch in batches:
        outbox.put(batch)
    blocks = set()
    for _ in batches:
        _, kind, items, body = read_ticket(outbox)
        (key, offset, length, first, stop, position, star, names), payload = wire.split_body(body)
        assert (kind, items, key, first, stop, position, star) == (wire.SPAN, 3, fn.key, 1, 4, 101, True)
        assert names is None
        assert bytes(payload) == b"args"
        assert bytes(fetch(outbox.arena_fd, offset, length)) == fn.blob
        blocks.add(offset)
    assert len(blocks) == 1
    outbox.forget(batches[0])
    outbox.finish(fn)
    assert outbox.arena.in_use > 0
    outbox.forget(batches[1])
    assert outbox.arena.in_use == 0


@pytest.mark.parametrize("boxed", [False, True])
def test_a_few_of_many_calls_go_without_the_others(outbox: Outbox, boxed: bool) -> None:
    """As when calls have become slow: each batch would bring the arguments of thousands."""
    fn = MappedFunction("f", b"function", star=False)
    flags = bytearray(n % 2 for n in range(10_000)) if boxed else None
    items: list[Any] = [codec.dumps([n]) if boxed and n % 2 else n for n in range(10_000)]
    span = Span(None, fn, codec.dump_values(items, flags), position=100, first=0, stop=10_000)  # type: ignore[arg-type]
    assert span.payload is not None
    for seq, (first, stop) in enumerate([(0, 9_000), (9_000, 9_003), (9_003, 9_500), (0, 2_500)], 1):
        outbox.put(Batch(seq, span=span.part(first, stop).part(first, stop), now=0.0))
        body = read_ticket(outbox)[3]
        (_, _, _, at, end, position, _, _), payload = wire.split_body(body)
        assert len(payload) <= max(4 * len(span.payload) * (stop - first) // span.total, wire.INLINE_BYTES)
        values, found, _ = codec.load_values(payload)
        assert values[at:end] == items[first:stop]
        assert (None if found is None else found[at:end]) == (None if flags is None else flags[first:stop])
        assert position == 100 + first
    outbox.finish(fn)
    assert outbox._unpacked[1] == []


def test_what_nobody_has_claimed_comes_back_and_pills_are_dropped(outbox: Outbox) -> None:
    batches = [batch_of(record(b"x" * size), seq=seq) for seq, size in ((3, 10), (4, 9000), (5, 10))]
    for batch in batches:
        outbox.put(batch)
    assert outbox.put_pill()
    assert read_ticket(outbox)[0] == 3
    assert outbox.retract() == [4, 5]
    assert outbox.retract() == []
    for batch in batches:
        outbox.forget(batch)
    assert outbox.queue.join(0)
    assert outbox.arena.in_use == 0


def test_a_full_queue_costs_no_memory(outbox: Outbox) -> None:
    put = 0
    while outbox.put_pill():
        put += 1
        assert put < 100_000
    with pytest.raises(queue.Full):
        outbox.put(batch_of(record(b"x" * 10_000)))
    assert outbox.arena.in_use == 0


# ---- descriptors -----------------------------------------------------------------------------------------


def in_fork(look: Any) -> Any:
    """What `look()` says in a forked copy."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, repr(look()).encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        os.waitpid(pid, 0)
        return eval(os.read(read, 4096))
    finally:
        os.close(read)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_forked_copy_closes_what_is_ours_and_nothing_else() -> None:
    mine, other, theirs, also = (*os.pipe(), *os.pipe())
    descriptors.own(mine, other)
    try:
        assert in_fork(lambda: [is_open(fd) for fd in (mine, other, theirs, also)]) == [False, False, True, True]
        descriptors.keep_in_fork(other)
        assert in_fork(lambda: [is_open(fd) for fd in (mine, other)]) == [False, True]
        descriptors.keep_in_fork()
        assert in_fork(lambda: is_open(other)) is False
        assert is_open(mine)
        assert is_open(other)
    finally:
        descriptors.keep_in_fork()
        descriptors.close(mine, other)
        os.close(theirs)
        os.close(also)
    assert not is_open(mine)
    assert not is_open(other)


def test_a_fork_waits_until_new_descriptors_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two, a forked copy would keep a pipe's end open that nobody knows of."""
    made: list[int] = []
    seen_open: list[Any] = []
    pipe2 = os.pipe2

    def pipe_with_a_fork_behind_it(flags: int) -> tuple[int, int]:
        made[:] = pipe2(flags)
        forking.start()
        forking.join(0.3)  # in vain: it waits for us
        return made[0], made[1]

    forking = threading.Thread(target=lambda: seen_open.append(in_fork(lambda: [is_open(fd) for fd in made])))
    monkeypatch.setattr(os, "pipe2", pipe_with_a_fork_behind_it)
    inbox = Inbox()
    monkeypatch.undo()
    forking.join(WAIT_S)
    assert seen_open == [[False, False]]
    inbox.close()


def test_closing_what_is_not_ours_does_nothing() -> None:
    read, write = os.pipe()
    descriptors.own(read)
    descriptors.forget(read)
    descriptors.close(read, write)
    assert is_open(read)
    assert is_open(write)
    os.close(read)
    os.close(write)


def test_no_other_thread_forks_while_a_worker_is_started() -> None:
    """The copy would have multiprocessing's locks as they are at that moment, and could start no worker."""
    requests: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    requests.put(1)
    requests.put(None)
    held: list[bool] = []

    def launch(worker: int) -> None:
        held.append(cast(Any, descriptors.no_fork)._is_owned())

    thread = threading.Thread(target=_launch_all, args=(requests, launch), kwargs={"tracked": True})
    thread.start()
    thread.join(WAIT_S)
    assert held == [True]
