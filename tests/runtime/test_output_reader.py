"""The thread that reads what workers print: it ends, whatever the order of things."""

import os
import threading
from collections.abc import Callable

import pytest

from mpengine import JobOutput
from mpengine.runtime import descriptors
from mpengine.runtime.output import OutputReader
from mpengine.wire import output as wire
from tests.support import WAIT_S, wait_for


def watched(reader: OutputReader, job_now: Callable[[], str | None] = lambda: None) -> tuple[int, int]:
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_fd, False)
    reader.start()
    descriptors.own(read_fd)
    reader.watch(read_fd, 7, job_now)
    return read_fd, write_fd


def test_an_order_that_is_taken_before_its_bell_rings_is_not_rung() -> None:
    """The thread may be awake, take the order and be gone: the bell's descriptor is somebody else's by then."""
    for _ in range(300):
        reader = OutputReader(lambda output: None, "test")
        read_fd, write_fd = watched(reader)
        reader.release(read_fd)
        reader.close(WAIT_S)
        reader.release(read_fd)
        os.close(write_fd)


def test_it_ends_though_somebody_holds_the_other_end() -> None:
    got: list[JobOutput] = []
    reader = OutputReader(got.append, "test")
    read_fd, write_fd = watched(reader)
    os.write(write_fd, b"left behind")
    reader.release(read_fd)
    reader.close(WAIT_S)
    assert [one.text for one in got] == ["left behind"]
    os.close(write_fd)


def test_a_line_of_raw_bytes_is_the_jobs_that_ran_when_it_began() -> None:
    got: list[JobOutput] = []
    job = ["a"]
    reader = OutputReader(got.append, "test")
    read = threading.Event()

    def job_now() -> str:
        read.set()
        return job[0]

    _, write_fd = watched(reader, job_now)
    os.write(write_fd, b"begun")
    wait_for(read)
    job[0] = "b"
    os.write(write_fd, b"next\n" + b"".join(wire.frames(wire.STDERR, "c", b"framed", 1)))
    os.close(write_fd)
    reader.close(WAIT_S)
    assert [(one.job_id, one.stream, one.text) for one in got] == [
        ("a", "other", "begun"),
        ("b", "other", "next"),
        ("c", "stderr", "framed"),
    ]


def test_without_a_worker_it_ends_as_well() -> None:
    reader = OutputReader(lambda output: None, "test")
    reader.start()
    reader.close(WAIT_S)


def test_a_bug_costs_the_lines_it_hits_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    """Who prints would wait for ever for a thread that has ended."""
    got: list[JobOutput] = []
    fails = [True]

    def job_now() -> str:
        if fails:
            fails.clear()
            asked.set()
            raise RuntimeError("a bug")
        return "a"

    asked = threading.Event()
    reader = OutputReader(got.append, "test")
    _, write_fd = watched(reader, job_now)
    os.write(write_fd, b"lost\n")
    wait_for(asked)
    os.write(write_fd, b"heard\n")
    os.close(write_fd)
    reader.close(WAIT_S)
    assert [one.text for one in got] == ["heard"]
    assert "please report this" in caplog.text
