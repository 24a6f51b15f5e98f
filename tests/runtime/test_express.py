"""The short way: what is in the lane, and what the books may believe of it."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from mpengine.core.ids import OpenIds
from mpengine.core.job import Job, new_number
from mpengine.core.ledger import Ledger
from mpengine.core.records import Record
from mpengine.functions import Functions
from mpengine.futures import JobFuture
from mpengine.runtime import express
from mpengine.runtime.express import Express
from mpengine.runtime.outbox import Outbox
from mpengine.wire import codec
from tests.support import WAIT_S


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    box = Outbox()
    yield box
    box.close()


@pytest.fixture
def lane(outbox: Outbox) -> Express:
    ledger = Ledger(stop_grace=1.0, jitter=lambda: 0.5)
    ledger.workers[1] = 4711
    return Express(ledger, outbox, record_of)


def record_of(sink: Any) -> Record:
    """As the dispatcher does, for a plain call that must go into the books."""
    return Record(sink.job, sink, payload=b"of a plain call")


def plain_call(functions: Functions) -> JobFuture:
    return JobFuture(None, functions.get(operator.neg), (5,), new_number())


def send_call(lane: Express, future: JobFuture, admitted: int) -> int:
    return lane.send_call(future, (future.label, codec.dumps(operator.neg), future.args), admitted)


def record() -> Record:
    job = Job(operator.neg, (5,))
    return Record(job, JobFuture(job), payload=codec.pack_call(job.fn, job.args, job.kwargs))


def test_a_job_on_the_short_way_is_in_the_queue_and_in_the_lane(lane: Express, outbox: Outbox) -> None:
    one = record()
    assert lane.send(one, 0)
    ((taken, seq, _, written),) = lane.take()
    assert taken is one
    assert written
    assert outbox.retract() == [seq]
    assert not lane


def test_the_short_way_is_closed_while_a_job_is_under_way(lane: Express, outbox: Outbox) -> None:
    assert lane.send(record(), 0)
    assert not lane.send(record(), 1)  # the books do not know yet that the first has ended
    assert len(outbox.retract()) == 1


def test_the_short_way_is_open_again_when_the_last_answer_was_taken(lane: Express, outbox: Outbox) -> None:
    one, other = record(), record()
    assert lane.send(one, 0)
    assert isinstance(one.sink, JobFuture)
    assert one.sink.take(codec.dumps(-5))
    assert not lane.send(other, 2)  # another was admitted in between, by whatever way
    assert lane.send(other, 1)
    assert len(outbox.retract()) == 2


def test_the_dispatcher_is_called_when_the_lane_is_full_or_a_clock_must_run(lane: Express) -> None:
    kept = []

    def send(one: Record, admitted: int) -> Record:
        kept.append(one)
        assert lane.send(one, admitted)
        assert isinstance(one.sink, JobFuture)
        assert one.sink.take(codec.dumps(-5))
        return one

    lane.unhurried = True
    for number in range(express.LANE_MOST - 1):
        assert not lane.is_pressing(send(record(), number).timeout)
    assert lane.is_pressing(send(record(), express.LANE_MOST - 1).timeout)
    assert len(list(lane.take())) == express.LANE_MOST
    limited = record()
    limited.timeout = 5.0
    assert lane.is_pressing(send(limited, express.LANE_MOST).timeout)
    lane.unhurried = False
    list(lane.take())
    assert lane.is_pressing(send(record(), express.LANE_MOST + 1).timeout)


def test_nobody_sees_the_note_before_the_ticket_is_written(
    lane: Express, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    # Seen once: the dispatcher looked while the write had let go of the GIL, and sent the job a second time.
    writing, go_on = threading.Event(), threading.Event()
    write = os.write

    def slow_write(fd: int, data: bytes) -> int:
        writing.set()
        assert go_on.wait(WAIT_S)
        return write(fd, data)

    monkeypatch.setattr(express.os, "write", slow_write)  # type: ignore[attr-defined]
    sender = threading.Thread(target=lane.send, args=(record(), 0))
    sender.start()
    assert writing.wait(WAIT_S)
    taken: list[Any] = []
    looking = threading.Event()

    def look() -> None:
        looking.set()
        taken.extend(lane.take())

    looker = threading.Thread(target=look)
    looker.start()
    assert looking.wait(WAIT_S)
    looker.join(0.05)  # it has every chance to look too early
    go_on.set()
    sender.join(WAIT_S)
    looker.join(WAIT_S)
    assert [written for *_, written in taken] == [True]


def test_a_full_queue_leaves_the_job_to_the_dispatcher(lane: Express, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise BlockingIOError

    monkeypatch.setattr(express.os, "write", full)  # type: ignore[attr-defined]
    assert lane.send(record(), 0)
    assert [written for *_, written in lane.take()] == [False]


# ---- plain calls -----------------------------------------------------------------------------------------------------


@pytest.fixture
def functions() -> Functions:
    class Desk:
        ids = OpenIds()

    return Functions(cast(Any, Desk()), lambda function: None)


def test_a_plain_call_that_is_over_never_comes_to_the_books(
    lane: Express, outbox: Outbox, functions: Functions
) -> None:  # fmt: skip
    future = plain_call(functions)
    seq = send_call(lane, future, 0)
    assert seq
    assert future.running()
    assert lane.sink_of(seq) is future
    assert future.take(codec.dumps(-5))
    found = lane.finish(seq)
    assert found is not None
    assert found[0] is future
    assert not lane
    assert lane.sink_of(seq) is None
    assert outbox.retract() == [seq]
    assert future.finished(found[1], found[1] + 1.0, 2.0, 4711, 1 << 20)[1] == 2.0
    outcome = future.outcome(0)
    assert (outcome.status, outcome.value, outcome.attempts) == ("succeeded", -5, 1)
    assert [outcome.waited, outcome.duration] == pytest.approx([1.0, 2.0])
    assert (outcome.worker_pid, outcome.peak_memory) == (4711, 1 << 20)


def test_one_whose_value_nobody_has_taken_goes_into_the_books(lane: Express, functions: Functions) -> None:
    future = plain_call(functions)
    seq = send_call(lane, future, 0)
    assert lane.finish(seq) is None
    ((taken, number, _, written),) = lane.take()
    assert (taken.sink, number, written) == (future, seq, True)


def test_one_that_somebody_else_waits_for_goes_into_the_books(lane: Express, functions: Functions) -> None:
    future = plain_call(functions)
    seq = send_call(lane, future, 0)
    assert future.take(codec.dumps(-5))
    future.add_done_callback(lambda future: None)
    assert lane.finish(seq) is None
    assert len(list(lane.take())) == 1


def test_they_leave_the_lane_in_any_order(lane: Express, functions: Functions) -> None:
    """Their workers are heard one after another."""
    first, second = plain_call(functions), plain_call(functions)
    one = send_call(lane, first, 0)
    assert first.take(codec.dumps(-5))
    other = send_call(lane, second, 1)
    assert second.take(codec.dumps(-5))
    assert lane.finish(other) is not None
    assert lane.finish(one) is not None
    assert not lane


def test_a_job_with_a_record_goes_into_the_books(lane: Express) -> None:
    one = record()
    seq = lane.send(one, 0)
    assert isinstance(one.sink, JobFuture)
    assert one.sink.take(codec.dumps(-5))
    assert lane.finish(seq) is None


def test_a_cancelled_call_or_one_too_large_is_not_sent(lane: Express, outbox: Outbox, functions: Functions) -> None:
    cancelled = JobFuture(None, None, (5,), new_number())
    assert cancelled.cancel()
    assert not send_call(lane, cancelled, 0)
    large = JobFuture(None, functions.get(len), ("x" * 5000,), new_number())
    assert not lane.send_call(large, (large.label, codec.dumps(len), large.args), 0)
    assert not large.running()
    assert not lane
    assert outbox.retract() == []
