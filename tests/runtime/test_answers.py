"""The direct way back: who brings a value to its future, and that nobody is left waiting."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpengine.core.ids import OpenIds
from mpengine.core.job import Job, Outcome, Status
from mpengine.core.records import Record
from mpengine.futures import JobFuture
from mpengine.runtime.answers import Answers
from mpengine.wire import codec
from mpengine.wire import messages as wire
from tests.support import WAIT_S, wait_for

SEQ = 7


class Desk:
    """An engine's side of a future."""

    def __init__(self) -> None:
        self.wakes = 0
        self.own = False
        self.answers = Answers(self.wake)
        self.ids = OpenIds()

    def wake(self) -> None:
        self.wakes += 1

    somebody_waits = wake

    def is_own_thread(self) -> bool:
        return self.own

    def request_cancel(self, record: Record, running: bool) -> None:
        """Nobody here to ask."""

    def request_cancel_call(self, call: JobFuture, running: bool) -> None:
        """Nobody here to ask."""


@pytest.fixture
def desk() -> Iterator[Desk]:
    it = Desk()
    yield it
    it.answers.close()


@pytest.fixture
def future(desk: Desk) -> JobFuture:
    return sent(desk)


def sent(desk: Desk, seq: int = SEQ) -> JobFuture:
    """A future on the short way."""
    future = JobFuture(Job(max, (1, 2)))
    future._desk = desk
    future._batch = seq
    assert future.start(record_of(future))
    return future


def record_of(future: JobFuture) -> Record:
    return Record(future.job, future, payload=b"")


def succeeded(future: JobFuture, value: Any) -> Outcome:
    return Outcome(future.job, Status.SUCCEEDED, value, attempts=1)


def answer(desk: Desk, seq: int, value: Any = None, *, blob: bytes | None = None) -> None:
    os.write(desk.answers.write_fd, wire.ANSWER.pack(seq) + (codec.dumps(value) if blob is None else blob))


def fill(desk: Desk) -> None:
    """Answers that nobody waits for, until no more go in."""
    with contextlib.suppress(BlockingIOError):
        while True:
            answer(desk, SEQ + 1, "nobody's")


def in_thread(function: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """What the function returns in a thread of its own."""
    told: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            told.set_result(function())
        except BaseException as error:
            told.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return told


def test_the_answer_is_the_result(desk: Desk, future: JobFuture) -> None:
    answer(desk, SEQ, "there")
    assert future.result() == "there"
    assert future.done()
    assert desk.answers.taken == 1


def test_answers_that_nobody_waited_for_are_passed_over(desk: Desk, future: JobFuture) -> None:
    answer(desk, SEQ - 1, "old")
    os.write(desk.answers.write_fd, b"rubbish of a job")
    os.write(desk.answers.write_fd, b"\0")
    answer(desk, SEQ, "mine")
    assert future.result(WAIT_S) == "mine"


def test_a_result_that_is_not_in_the_answer_is_brought_by_the_dispatcher(desk: Desk, future: JobFuture) -> None:
    waiting = in_thread(future.result)
    answer(desk, SEQ, blob=b"")
    wait_for(lambda: desk.wakes == 1)
    future.settle(record_of(future), succeeded(future, "large"))
    assert waiting.result(WAIT_S) == "large"


def test_an_answer_that_cannot_be_unpickled_is_the_dispatchers_to_explain(desk: Desk, future: JobFuture) -> None:
    waiting = in_thread(future.exception)
    answer(desk, SEQ, blob=b"no pickle")
    wait_for(lambda: desk.wakes == 1)
    assert future.offered() is None
    future.settle(record_of(future), Outcome(future.job, Status.FAILED, error=ValueError("what is wrong")))
    assert str(waiting.result(WAIT_S)) == "what is wrong"


@pytest.mark.parametrize("timeout", [None, WAIT_S])
def test_an_attendant_is_woken_when_the_dispatcher_resolves(
    desk: Desk, future: JobFuture, timeout: float | None
) -> None:  # fmt: skip
    waiting = in_thread(lambda: future.result(timeout))
    wait_for(lambda: desk.answers._attended is future)
    future.settle(record_of(future), succeeded(future, 5))
    assert waiting.result(WAIT_S) == 5


def test_a_full_pipe_does_not_keep_an_attendant_asleep(desk: Desk, future: JobFuture) -> None:
    fill(desk)
    future.settle(record_of(future), succeeded(future, 5))
    assert in_thread(future.result).result(WAIT_S) == 5
    fill(desk)
    other = sent(desk, SEQ + 2)
    waiting = in_thread(other.result)
    wait_for(lambda: desk.answers._attended is other)
    other.settle(record_of(other), succeeded(other, 6))
    assert waiting.result(WAIT_S) == 6


def test_only_one_thread_attends_and_the_others_are_told_all_the_same(desk: Desk, future: JobFuture) -> None:
    first = in_thread(future.result)
    wait_for(lambda: desk.answers._attended is future)
    second = in_thread(future.result)
    wait_for(lambda: desk.wakes == 1)  # it waits for the dispatcher
    answer(desk, SEQ, "both")
    wait_for(lambda: desk.wakes == 2)
    future.settle(record_of(future), succeeded(future, "both"))
    assert first.result(WAIT_S) == "both"
    assert second.result(WAIT_S) == "both"


def test_a_timeout_leaves_the_pipe_to_the_next(desk: Desk, future: JobFuture) -> None:
    with pytest.raises(TimeoutError):
        future.result(0.001)
    other = sent(desk, SEQ + 1)
    answer(desk, SEQ + 1, 1)
    assert other.result() == 1


def test_after_the_end_nobody_attends(desk: Desk, future: JobFuture) -> None:
    desk.answers.close()
    with pytest.raises(TimeoutError):
        future.result(0.001)


def test_the_pipe_is_closed_once() -> None:
    desk = Desk()
    desk.answers.close()
    other = Desk()  # it gets the same numbers
    assert other.answers.write_fd == desk.answers.write_fd
    desk.answers.close()
    assert is_open(other.answers.write_fd)
    other.answers.close()


def test_a_forked_copy_does_not_touch_the_pipe(future: JobFuture) -> None:
    pid = os.fork()
    if not pid:
        try:
            future.result(0.001)
        except TimeoutError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_pipe_stays_open_while_somebody_attends(desk: Desk, future: JobFuture) -> None:
    waiting = in_thread(future.result)
    wait_for(lambda: desk.answers._attended is future)
    desk.answers.close()
    os.fstat(desk.answers.write_fd)  # not closed: the number would be given away under the attendant's read
    future.settle(record_of(future), succeeded(future, 5))
    assert waiting.result(WAIT_S) == 5
    wait_for(lambda: not is_open(desk.answers.write_fd))


def test_the_value_is_the_attendants_or_the_dispatchers_never_both(future: JobFuture) -> None:
    assert future.take(codec.dumps([1]))
    assert future.offered() == ([1],)
    assert future.offered()[0] is future.result()  # type: ignore[index]


def test_an_attendant_that_comes_too_late_takes_nothing(desk: Desk, future: JobFuture) -> None:
    assert future.offered() is None
    assert not future.take(codec.dumps([1]))
    assert not future.done()
    future.settle(record_of(future), succeeded(future, [2]))
    assert future.result() == [2]


def test_an_interrupted_attendants_value_is_brought_by_the_dispatcher(future: JobFuture) -> None:
    value = [1]
    assert future.__dict__.setdefault("_value", value) is value  # and then came the interrupt
    assert future.offered() == ([1],)
    future.settle(record_of(future), succeeded(future, value))
    assert future.result() is value


def test_an_attendant_leaves_a_future_that_others_wait_for_to_the_dispatcher(future: JobFuture) -> None:
    called: list[Any] = []
    future.add_done_callback(called.append)
    assert not future.take(codec.dumps([1]))
    assert not future.done()
    future.settle(record_of(future), succeeded(future, [1]))
    assert called == [future]


def test_no_state_changes_under_whoever_holds_the_condition(future: JobFuture) -> None:
    # `wait` and `as_completed` count who is done, and then wait for the others.
    with future._condition:
        resolving = in_thread(lambda: future.settle(record_of(future), succeeded(future, 5)))
        with pytest.raises(TimeoutError):
            resolving.result(0.05)
        assert not future.done()
    resolving.result(WAIT_S)
    assert future.result() == 5


def test_an_attendant_is_woken_before_the_callbacks_run(desk: Desk, future: JobFuture) -> None:
    waiting = in_thread(future.result)
    wait_for(lambda: desk.answers._attended is future)
    heard: list[Any] = []
    future.add_done_callback(lambda _: heard.append(waiting.result(WAIT_S)))
    future.settle(record_of(future), succeeded(future, 5))
    assert heard == [5]


def test_a_callback_can_ask_for_the_outcome_of_a_job_that_was_just_answered(desk: Desk, future: JobFuture) -> None:
    assert future.take(codec.dumps(5))
    desk.own = True
    assert future.outcome().value == 5


def test_a_very_long_time_may_be_waited(desk: Desk, future: JobFuture) -> None:
    waiting = in_thread(lambda: future.result(threading.TIMEOUT_MAX))
    answer(desk, SEQ, 5)
    assert waiting.result(WAIT_S) == 5


def test_the_outcome_is_there_when_the_books_know_it(desk: Desk, future: JobFuture) -> None:
    answer(desk, SEQ, 5)
    assert future.result() == 5
    waiting = in_thread(future.outcome)
    wait_for(lambda: desk.wakes == 1)
    assert not waiting.done()
    outcome = succeeded(future, 5)
    future.settle(record_of(future), outcome)
    assert waiting.result(WAIT_S) is outcome


@pytest.mark.parametrize(
    "listen",
    [
        lambda future: future.add_done_callback(print),
        lambda future: concurrent.futures.wait([future], 0),
        lambda future: future.outcome(0),
    ],
)
def test_who_waits_for_the_dispatcher_makes_that_known(
    desk: Desk, future: JobFuture, listen: Callable[[JobFuture], Any]
) -> None:  # fmt: skip
    assert future.is_quiet()
    with contextlib.suppress(TimeoutError):
        listen(future)
    assert not future.is_quiet()
    assert desk.wakes == 1


def test_looking_costs_nobody_anything(desk: Desk, future: JobFuture) -> None:
    assert (future.done(), future.running(), future.cancelled()) == (False, True, False)
    assert future.is_quiet()
    assert not desk.wakes


def test_start_and_cancel_agree_on_who_was_first() -> None:
    future = JobFuture(Job(max, (1, 2)))
    assert future.cancel()
    assert not future.start(record_of(future))
    other = JobFuture(Job(max, (1, 2)))
    assert other.start(record_of(other))
    assert not other.cancel()
    assert other.running()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
