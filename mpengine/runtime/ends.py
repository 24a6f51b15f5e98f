"""What a worker is given at its birth: its ends of everything, and what to do first."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import context, reduction
from typing import Any

from mpengine.runtime.job_queue import JobQueue


@dataclass
class WorkerEnds:
    """Descriptors and settings of one worker. Pickled only while its process is being spawned."""

    queue: JobQueue
    arena_fd: int  # bodies of batches, read-only
    channel_fd: int  # its row and log
    bell_fd: int  # write end: "there is something in my log"
    answer_fd: int  # write end: answers, see `answers`
    leash_fd: int  # read end: the parent lives
    crash_fd: int  # where faulthandler writes
    initializer: Callable[..., Any] | None = None
    initargs: tuple[Any, ...] = ()
    max_tasks: int | None = None
    memory_limit: int | None = None
    threads: int | None = 1
    packed_initializer: bytes | None = field(default=None, repr=False)

    _FDS = ("arena_fd", "channel_fd", "bell_fd", "answer_fd", "leash_fd", "crash_fd")

    def fds(self) -> list[int]:
        """All descriptors a forked worker keeps."""
        return [self.queue.read_fd, *(getattr(self, name) for name in self._FDS)]

    def __getstate__(self) -> dict[str, Any]:
        from mpengine.runtime.launching import dump_for_child  # in the parent only: children do not pay for it

        context.assert_spawning(self)
        state = dict(self.__dict__)
        for name in self._FDS:
            state[name] = reduction.DupFd(state[name])
        if self.initializer is not None:
            state["packed_initializer"] = dump_for_child((self.initializer, self.initargs))
            state["initializer"], state["initargs"] = None, ()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in self._FDS:
            state[name] = state[name].detach()
            os.set_inheritable(state[name], False)
        self.__dict__.update(state)
