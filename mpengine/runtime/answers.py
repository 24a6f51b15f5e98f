"""The way back of a job on the short way: its worker's answer, straight to the thread that waits for it.

One pipe in packet mode (see `job_queue`) from all workers to the parent. A packet is an offer, not the result: the
worker has logged the end of the job before, and the dispatcher reads that log as ever. What is lost here is late, no
more; so nobody has to read this pipe, and a worker that finds it full goes on.

A thread in `JobFuture.result` may *attend*: it reads the pipe until its job's answer comes. One at a time; others wait
for the dispatcher. Which of the two, the attendant or the dispatcher, brings the value to the future is decided there
(`JobFuture.take`). If the future is resolved in any other way, the dispatcher wakes the attendant by a packet.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpengine.runtime import descriptors
from mpengine.runtime.clock import monotonic
from mpengine.wire import messages as wire

if TYPE_CHECKING:
    from mpengine.futures import JobFuture

_LONGEST_POLL_S = 3600.0  # poll refuses months


class Answers:
    """See the module's text. All methods may be called from any thread.

    Args:
        wake: Wake the dispatcher, which may not listen to the workers' bells (see `Dispatcher`).

    Attributes:
        write_fd: For the workers.
        taken: Values that attendants have brought to their futures, ever.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        with descriptors.no_fork:
            self._read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
            descriptors.own(self._read_fd, self.write_fd)
        os.set_blocking(self.write_fd, False)
        self._to_close = [(self._read_fd, self.write_fd)]
        self.taken = 0
        self._wake = wake
        self._attending = threading.Lock()
        self._attended: JobFuture | None = None
        self._closed = False
        self._pid = os.getpid()

    def attend(self, future: JobFuture, seq: int, timeout: float | None) -> None:
        """Wait for the answer of this batch; return when the future is resolved, or the time is over.

        Returns at once if another thread attends.
        """
        if self._is_closed() or not self._attending.acquire(blocking=False):
            return
        try:
            self._attended = future  # before the look at its state: see `resolved`
            until = None if timeout is None else monotonic() + timeout
            while not future.done():
                if until is not None and not self._readable(until):
                    if monotonic() >= until:
                        return
                    continue
                packet = os.read(self._read_fd, wire.PACKET_BYTES)
                if len(packet) < wire.ANSWER.size or wire.ANSWER.unpack_from(packet)[0] != seq:
                    continue  # an answer that nobody waited for, or the dispatcher's call to look again
                if len(packet) == wire.ANSWER.size:
                    self._wake()  # no value, or one that is too large: the dispatcher brings it
                elif future.take(packet[wire.ANSWER.size :]):
                    self.taken += 1
                    if not future.done():
                        self._wake()  # somebody else has begun to wait for it
                else:
                    self._wake()
        finally:
            # An exception may come between any two steps. Then at worst the lock stays taken, and all wait for the
            # dispatcher from now on.
            self._attended = None
            self._attending.release()
            if self._is_closed():
                self.close()

    def _is_closed(self) -> bool:
        return self._closed or os.getpid() != self._pid  # a forked copy: the descriptors are not its own

    def _readable(self, until: float) -> bool:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        return bool(poll.poll(min(_LONGEST_POLL_S, max(0.0, until - monotonic())) * 1000))

    def resolved(self, future: JobFuture) -> None:
        """The dispatcher has resolved this future. First its state, then this: so an attendant sees the one or the
        other."""
        if self._attended is future:
            try:
                os.write(self.write_fd, b"\0")
            except BlockingIOError:
                return  # full: then it reads, and looks at the state after each packet

    def close(self) -> None:
        """No more workers, and every future is resolved. If a thread attends, it closes the pipe when it leaves.

        Once: by the second time, the numbers may be somebody else's. A thread that is about to attend finds its future
        done, and does not read.
        """
        self._closed = True
        if self._attended is None:
            with contextlib.suppress(IndexError):
                descriptors.close(*self._to_close.pop())
