"""A worker's end of the job queue (see there): all that workers need, without what multiprocessing's queues load."""

from __future__ import annotations

import os


class QueueEnd:
    """Takes tickets out.

    Args:
        read_fd: Of the queue.
    """

    def __init__(self, read_fd: int) -> None:
        self._fd = read_fd

    @classmethod
    def of_its_own(cls, given_fd: int) -> QueueEnd:
        """With a description of its own: what a job does to it, it does to this worker alone. Closes the given one."""
        own_fd = os.open(f"/proc/self/fd/{given_fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(given_fd)
        return cls(own_fd)

    def get_into(self, row: memoryview, inline: memoryview) -> int:
        """Claim the next ticket: its first bytes go to `row`, in shared memory, the rest to `inline`. Blocks.

        Returns the number of bytes, 0 if the parent is gone.
        """
        try:
            return os.readv(self._fd, [row, inline])
        except BlockingIOError:  # a job has made it so
            os.set_blocking(self._fd, True)
            return os.readv(self._fd, [row, inline])
