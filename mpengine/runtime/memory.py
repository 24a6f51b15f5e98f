"""Shared memory as a whole: how much there is, and when what is kept warm goes back to the system.

Blocks that are free again stay warm for those who come. When for a while none was taken on either side, they are given
back, here and in the workers, which drop with them what they keep rebuilt (mapped functions, shared objects). A worker
is told at once if it keeps something that is gone here.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable

from mpengine.arrays.borrowed import Borrowed
from mpengine.arrays.segment import Segment
from mpengine.runtime.clock import monotonic
from mpengine.runtime.signals import INTERRUPT_SIGNAL
from mpengine.runtime.supervisor import Supervisor, WorkerHandle, WorkerState
from mpengine.wire import messages as wire

COOL_S = 1.0  # without a block being taken
_BLOCK_UNIT = 512  # of `st_blocks`


class Memory:
    """See the module's text. Dispatcher thread, but for the figures.

    Args:
        is_busy: Whether a worker runs a job.
        post: Have the dispatcher thread call something; any thread, finalizers too.
    """

    def __init__(
        self,
        arena: Segment,
        arena_fd: int,
        supervisor: Supervisor,
        is_busy: Callable[[WorkerHandle], bool],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._peak = 0
        # Also of workers that are dead. No set: one cannot be gone through while another thread adds to it.
        self._borrowed: weakref.WeakValueDictionary[int, Borrowed] = weakref.WeakValueDictionary()
        self._arena = arena
        self._arena_fd = arena_fd
        self._supervisor = supervisor
        self._is_busy = is_busy
        self._post = post
        self._cool_at: float | None = None
        self._seen = 0  # blocks taken, when this was last looked at

    # ---- figures; any thread ---------------------------------------------------------------------------------------

    def in_use(self) -> int:
        """Bytes of blocks that are looked at, or may be, on either side."""
        found = [ref() for ref in self._borrowed.valuerefs()]
        return self._arena.in_use + sum(borrowed.in_use for borrowed in found if borrowed is not None)

    def size(self) -> int:
        """Bytes the system holds for all of it, the workers' logs included."""
        fds = [self._arena_fd, *(handle.log.fd for handle in list(self._supervisor.handles.values()))]
        size = 0
        for fd in fds:
            try:
                size += os.fstat(fd).st_blocks * _BLOCK_UNIT
            except OSError:  # its worker was buried this moment
                continue
        return size

    @property
    def peak(self) -> int:
        """The most that `in_use` ever was, each time that a block was taken or lent."""
        return max(self._peak, self._arena.peak)

    def lent(self, handle: WorkerHandle) -> None:
        """A worker has lent blocks."""
        log, borrowed = handle.log, handle.log.borrowed
        if borrowed is not None and id(borrowed) not in self._borrowed:
            self._borrowed[id(borrowed)] = borrowed
            post = self._post

            def stir() -> None:
                log.cooled = -1

            borrowed.returned = lambda: post(stir)
        self._peak = max(self._peak, self.in_use())

    # ---- giving back -----------------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When `look_after` has something to do."""
        if self._cool_at is None and (self._arena.is_warm or any(map(_is_warm, self._supervisor.alive()))):
            self._cool_at = monotonic() + COOL_S
        return self._cool_at

    def look_after(self, now: float) -> None:
        """Give back what is due."""
        if self._cool_at is None or now < self._cool_at:
            return
        taken = self._arena.taken + sum(handle.log.lent for handle in self._supervisor.alive())
        if taken != self._seen:
            self._seen = taken
            self._cool_at = now + COOL_S
        elif not self._arena.cool():  # a part of it; the rest in the next turns
            self._arena.unmap()
            self._cool_at = None
            self.slim(handle for handle in self._supervisor.alive() if _is_warm(handle))

    def dropped(self, number: int) -> None:
        """This block has gone here, but for workers that may keep what was made of it."""
        if self._cool_at is None:  # who drops it may be a step away from saying that it is free
            self._cool_at = monotonic() + COOL_S
        self.slim(handle for handle in self._supervisor.alive() if number in handle.held)

    def slim(self, handles: Iterable[WorkerHandle]) -> None:
        """Have workers drop what they keep and does not belong to a job; those that run one, when it is over."""
        for handle in handles:
            handle.log.cooled = handle.log.lent
            if handle.log.borrowed is not None:
                handle.log.borrowed.is_cold = True  # before it is asked: what comes back from here on may be too late
            handle.asked_for = frozenset(handle.held)
            if handle.state is WorkerState.READY:
                handle.log.words[wire.LEAN] += 1
                if not self._is_busy(handle):
                    handle.send(INTERRUPT_SIGNAL)


def _is_warm(handle: WorkerHandle) -> bool:
    """Whether it may have free blocks with memory, or keep what it has rebuilt, since it was last asked."""
    return handle.log.lent != handle.log.cooled or (bool(handle.held) and handle.held != handle.asked_for)
