"""The job queue: one `multiprocessing.JoinableQueue` for all workers, safe to die in.

A plain JoinableQueue cannot be trusted: a worker that waits in `get()` holds the read lock, and takes it to its grave;
and one that dies between the two reads of a message leaves the stream out of step. Here there is no lock at all:

- The pipe is in packet mode (O_DIRECT, see pipe(2)): a write of up to 4096 bytes is one packet, and a read takes
  exactly one. The kernel hands a packet to one reader, whole.
- A worker reads with `readv` straight into its row of shared memory, and the kernel copies a packet there *before* it
  takes it out of the pipe, under the pipe's mutex, with no place in between where the reader could be killed. So taking
  and claiming are one step: after a worker's death its row says which batch it took last, and what no row says is
  still in the pipe or was never sent. Nothing has to be repaired, and no other worker is disturbed. See `queue_end`.
- Only the parent puts, straight into the pipe, without a feeder thread and without ever blocking. It keeps the queue
  shallow, and may take batches back by reading, as any worker would: each packet has one reader.
- The parent alone counts: `task_done` once per put, when no worker will look at that batch any more. So `join` ends
  also when workers die, and nothing about the counting is shared.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
from multiprocessing import queues
from typing import TYPE_CHECKING

from mpengine.runtime import descriptors
from mpengine.wire.messages import PACKET_BYTES

_F_SETPIPE_SZ = 1031
_PIPE_BYTES = 1 << 20  # one page a packet: room for 256 batches, two for each of 128 workers


if TYPE_CHECKING:
    _JoinableQueue = queues.JoinableQueue[bytes]
else:
    _JoinableQueue = queues.JoinableQueue


class JobQueue(_JoinableQueue):
    """See the module's text. Messages are tickets: bytes, at most `PACKET_BYTES` each."""

    def __init__(self) -> None:
        # Not super().__init__(): its locks are named semaphores, which a killed program leaves behind.
        with descriptors.no_fork:
            self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
            # A description of its own, for O_NONBLOCK must not reach the workers' end.
            self._back_fd = os.open(f"/proc/self/fd/{self.read_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            descriptors.own(self.read_fd, self.write_fd, self._back_fd)
        os.set_blocking(self.write_fd, False)
        try:
            fcntl.fcntl(self.write_fd, _F_SETPIPE_SZ, _PIPE_BYTES)
        except PermissionError:
            pass  # the user's pipe quota is used up: 16 packets then, and `put` says when they are full
        self._unfinished = 0
        self._all_done = threading.Condition()

    # ---- the parent's side ---------------------------------------------------------------------------------------

    def put(self, obj: bytes, block: bool = False, timeout: float | None = None) -> None:
        """Write one ticket. Never blocks. Raises queue.Full if there is no room."""
        if len(obj) > PACKET_BYTES:
            raise ValueError(f"JobQueue: a ticket of {len(obj)} bytes does not fit in a packet of {PACKET_BYTES}")
        try:
            os.write(self.write_fd, obj)
        except BlockingIOError:
            raise queue.Full from None
        self.was_put()

    def was_put(self) -> None:
        """Count a ticket that was written to `write_fd` by other means than `put`."""
        with self._all_done:
            self._unfinished += 1

    def take_back(self) -> list[bytes]:
        """Take out every ticket that no worker has claimed, oldest first. Does not count them as done."""
        tickets: list[bytes] = []
        while True:
            try:
                ticket = os.read(self._back_fd, PACKET_BYTES)
            except BlockingIOError:
                return tickets
            if not ticket:
                return tickets
            tickets.append(ticket)

    def task_done(self) -> None:
        """A put ticket is settled. Only the parent calls this."""
        with self._all_done:
            if self._unfinished <= 0:
                raise ValueError("task_done() called too many times")
            self._unfinished -= 1
            if not self._unfinished:
                self._all_done.notify_all()

    def join(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until every put ticket is settled; False if `timeout` seconds pass before."""
        with self._all_done:
            return self._all_done.wait_for(lambda: not self._unfinished, timeout)

    def qsize(self) -> int:
        """Tickets put and not settled: in the pipe or with a worker."""
        return self._unfinished

    def empty(self) -> bool:
        return not self._unfinished

    def full(self) -> bool:
        return False

    def close(self) -> None:
        descriptors.close(self.read_fd, self.write_fd, self._back_fd)

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:
        """Claim the next ticket without a row: what dies with it, is lost. For tests and tools."""
        return os.read(self.read_fd, PACKET_BYTES)
