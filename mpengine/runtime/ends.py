"""What a worker is given at its birth: its ends of everything, and what to do first."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from multiprocessing import context, reduction

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any


class WorkerEnds:
    """Descriptors and settings of one worker. Pickled only while its process is being spawned.

    Not a dataclass: every spawned worker would pay milliseconds for that module and what it imports.
    """

    def __init__(
        self,
        *,
        queue_fd: int,
        arena_fd: int,
        arena_key: int,
        channel_fd: int,
        bell_fd: int,
        answer_fd: int,
        leash_fd: int,
        crash_fd: int,
        output_fd: int | None = None,
        log_level: int = 0,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks: int | None = None,
        memory_limit: int | None = None,
        threads: int | None = 1,
    ) -> None:
        self.queue_fd = queue_fd  # read end: tickets
        self.arena_fd = arena_fd  # the parent's segment, read-only
        self.arena_key = arena_key
        self.channel_fd = channel_fd  # its row and log
        self.bell_fd = bell_fd  # write end: "there is something in my log"
        self.answer_fd = answer_fd  # write end: answers, see `answers`
        self.leash_fd = leash_fd  # read end: the parent lives
        self.crash_fd = crash_fd  # where faulthandler writes
        self.output_fd = output_fd  # write end: what is printed here; None: where the parent prints
        self.log_level = log_level  # of the root logger, if output_fd is there
        self.initializer = initializer
        self.initargs = initargs
        self.max_tasks = max_tasks
        self.memory_limit = memory_limit
        self.threads = threads
        self.packed_initializer: bytes | None = None

    _FDS = ("queue_fd", "arena_fd", "channel_fd", "bell_fd", "answer_fd", "leash_fd", "crash_fd", "output_fd")

    def fds(self) -> list[int]:
        """All descriptors a forked worker keeps."""
        return [fd for name in self._FDS if (fd := getattr(self, name)) is not None]

    def lead_output(self) -> None:
        """In the worker, before all else: descriptors 1 and 2 lead to `output_fd`; ends with these numbers get others.

        A program that was started without them gives these numbers to whatever it opens next, and so would its workers.
        """
        for name in self._FDS:
            fd = getattr(self, name)
            if fd is not None and fd <= 2:
                setattr(self, name, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
        assert self.output_fd is not None
        for fd in (1, 2):
            os.dup2(self.output_fd, fd)  # inheritable: child processes print, too

    def __getstate__(self) -> dict[str, Any]:
        from mpengine.runtime.launching import dump_for_child  # in the parent only: children do not pay for it

        context.assert_spawning(self)
        state = dict(self.__dict__)
        for name in self._FDS:
            if state[name] is not None:
                state[name] = reduction.DupFd(state[name])
        if self.initializer is not None:
            state["packed_initializer"] = dump_for_child((self.initializer, self.initargs))
            state["initializer"], state["initargs"] = None, ()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in self._FDS:
            if state[name] is not None:
                state[name] = state[name].detach()
                os.set_inheritable(state[name], False)
        self.__dict__.update(state)
