"""The first signal is a wish, the second is not."""

import os
import queue
import select
import signal
import threading
from collections.abc import Iterator

import pytest

from mpengine.cli.problems import Interrupted
from mpengine.cli.signals import Stop


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Where the tests run in the background of a script, SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def kill(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_before_the_jobs_run_a_signal_ends_the_command_at_once(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with Stop() as stop, pytest.raises(Interrupted) as raised:
        kill(signum)
    assert raised.value.signum == signum
    assert stop.signum == signum
    assert signal.getsignal(signum) is before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_while_jobs_run_the_first_signal_is_told_in_a_thread_and_raises_nothing(
    signum: signal.Signals,
) -> None:
    told: list[threading.Thread] = []
    with Stop() as stop:
        reader, writer = os.pipe()
        with stop.gently(lambda: told.append(threading.current_thread())):
            before = stop.requested
            kill(signum)
            assert (before, stop.requested) == (False, True)
            assert not stop.wait(reader, select.POLLIN)  # ends, and not because of the reader
            os.write(writer, b"x")
            assert stop.wait(reader, select.POLLIN)
        assert stop.signum == signum
        os.close(reader)
        os.close(writer)
    assert len(told) == 1
    assert told[0] is not threading.current_thread()


def test_the_second_signal_raises_and_the_third_would_kill() -> None:
    with Stop() as stop:
        with stop.gently(lambda: None):
            kill(signal.SIGTERM)
            with pytest.raises(Interrupted) as raised:
                kill(signal.SIGINT)
        assert raised.value.signum == signal.SIGTERM  # the first is what the command was ended by
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_without_a_signal_nobody_is_told() -> None:
    told: list[int] = []
    with Stop() as stop, stop.gently(lambda: told.append(1)):
        pass
    assert told == []


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a job in the background
    try:
        with Stop() as stop:
            kill(signal.SIGINT)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_after_all_is_said_a_signal_just_ends_the_process() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        with Stop() as stop:
            stop.leave()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_whoever_waits_can_be_told_without_a_signal() -> None:
    reader, writer = os.pipe()
    with Stop() as stop:
        stop.request()
        stop.request()
        assert not stop.wait(reader, select.POLLIN)
        assert (stop.requested, stop.signum) == (True, None)
    os.close(reader)
    os.close(writer)


def test_a_signal_that_does_not_end_the_main_threads_wait_is_told_all_the_same() -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    with Stop() as stop, stop.gently(lambda: told.put("stop")):
        # As one that comes just before the wait: another thread has it, and the main thread's wait is not broken off.
        thread = threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
        thread.start()
        assert told.get(timeout=20) == "stop"
        thread.join()
        assert stop.signum == signal.SIGTERM


def test_a_signal_that_is_somebody_elses_is_left_to_him() -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: told.put("theirs"))
    try:
        with Stop() as stop, stop.gently(lambda: told.put("stop")):
            kill(signal.SIGUSR1)
            assert told.get(timeout=20) == "theirs"
            assert not stop.requested
            kill(signal.SIGTERM)
            assert told.get(timeout=20) == "stop"
    finally:
        signal.signal(signal.SIGUSR1, before)
