"""Starts, watches, stops and replaces workers. Knows nothing of jobs. Dispatcher thread, but for the launcher's.

    STARTING ──READY logged──▶ READY ──▶ GONE          a handle's states; `rung` says what it took to end it
        └──── died, or START_FAILED logged ──▶ GONE

Starting a process can block (a pipe to a child that is slow to read), so a launcher thread of its own does that and
posts the handle to the dispatcher.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from typing import Any

import psutil

from mpengine.arrays import files
from mpengine.core.policy import Rung
from mpengine.errors import WorkerStartError
from mpengine.runtime import descriptors, leash, tree
from mpengine.runtime.channel import LogReader
from mpengine.runtime.clock import monotonic
from mpengine.runtime.ends import WorkerEnds
from mpengine.runtime.outbox import Outbox
from mpengine.runtime.output import OutputReader
from mpengine.runtime.process import WorkerProcess
from mpengine.runtime.weighing import family, resident_bytes

WORKER_DESCRIPTORS = 18  # of a worker while it is started, a first fork server included; half of them stay
_STACK_WAIT_S = 0.1  # for a worker's faulthandler to write; C code with the GIL held does not delay it
_STACK_BYTES = 1 << 16
_STOP_WAIT_S = 0.1
_OUR_FRAME = f'File "{os.path.dirname(__file__)}{os.sep}'


class WorkerState(Enum):
    """See the module's text."""

    STARTING = "starting"
    READY = "ready"
    GONE = "gone"


@dataclass(eq=False)
class WorkerHandle:
    """The parent's record of one worker."""

    id: int
    process: WorkerProcess
    pid: int
    pidfd: int
    log: LogReader
    bell_fd: int
    leash_fds: tuple[int, int]
    crash_fd: int
    started_at: float
    output_fd: int | None = None  # read end: what it prints; None: it prints where this process prints
    state: WorkerState = WorkerState.STARTING
    ready_at: float | None = None
    leaving: bool = False  # it has said that it goes: recycled
    gone_by: float | None = None  # when it should be, what it has to wait for aside
    killed_for: str = ""  # why we killed it
    rung: Rung = Rung.DIED
    exitcode: int | None = None
    stack: str = ""
    start_error: BaseException | None = None
    family: list[psutil.Process] = field(default_factory=list)  # below it, when it was asked to end
    weigh_at: float = 0.0  # when to look at its memory again
    inherited: int = 0  # bytes it shared with others when it was ready, if there is a memory limit
    memory: int = 0  # bytes it held when it was killed for that
    deaf_since: float | None = None  # when its end of the bell was found closed
    held: set[int] = field(default_factory=set)  # blocks of ours that its objects look at, pinned; by number
    asked_for: frozenset[int] = frozenset()  # of these, when it was last asked to give back what it does not need

    def request_stack(self, signum: int) -> str:
        """Its Python stack now, all threads; "" if it does not answer. Blocks up to 0.1 s."""
        before = os.fstat(self.crash_fd).st_size
        self.send(signum)
        until = monotonic() + _STACK_WAIT_S
        poll_fd = self.pidfd
        while monotonic() < until:
            if os.fstat(self.crash_fd).st_size > before or tree.wait_readable(poll_fd, 0.002):
                break
        tree.wait_readable(poll_fd, 0.002)  # the rest of it: faulthandler writes line by line
        return self.read_stack(before)

    def stop(self) -> None:
        """SIGSTOP, and wait until it does stand still. Blocks up to 0.1 s."""
        self.send(signal.SIGSTOP)
        until = monotonic() + _STOP_WAIT_S
        while not tree.is_stopped(self.pid) and monotonic() < until:
            if tree.wait_readable(self.pidfd, 0.001):
                return  # it has ended

    def send(self, signum: int) -> None:
        """Send it a signal; nothing if it is gone."""
        tree.send_to(self.pidfd, signum)

    def read_stack(self, start: int = 0) -> str:
        """What faulthandler has written from there on, without the engine's own frames."""
        with contextlib.suppress(OSError):
            return _users_lines(os.pread(self.crash_fd, _STACK_BYTES, start).decode(errors="replace"))
        return ""


def _users_lines(dump: str) -> str:
    """A dump of faulthandler, each thread's part up to our own frames; most recent call first."""
    lines = []
    ours = False
    for line in dump.splitlines():
        if not line.startswith("  File "):
            ours = False
        elif _OUR_FRAME in line:
            ours = True
        if not ours:
            lines.append(line)
    return "\n".join(lines).strip()


class Supervisor:
    """See the module's text.

    Args:
        size: Workers to keep.
        context: Of multiprocessing.
        outbox: Where their jobs come from.
        answer_fd: Where their answers go.
        spec: initializer, initargs, max_tasks, memory_limit and threads of `WorkerEnds`.
        post: Hand something to the dispatcher thread: a new handle, or the error of a failed start.
        name: Of the engine, for process names.
        output: Reads what workers print; None: they print where this process prints.
        job_now: The id of the job that a worker runs, for `output`. Set before the first start.
    """

    def __init__(
        self,
        size: int,
        context: BaseContext,
        outbox: Outbox,
        answer_fd: int,
        spec: dict[str, Any],
        post: Callable[[WorkerHandle | WorkerStartError], None],
        name: str,
        output: OutputReader | None,
    ) -> None:
        self.size = size
        self.handles: dict[int, WorkerHandle] = {}
        self.starting = 0  # asked of the launcher, not posted yet
        self.arena = outbox.arena
        self._start_method = context.get_start_method()
        self._outbox = outbox
        self._answer_fd = answer_fd
        self._spec = spec
        self._post = post
        self._name = name
        self._output = output
        self.job_now: Callable[[WorkerHandle], str | None] = lambda handle: None
        self._next_id = 1
        self._requests: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._launcher: threading.Thread | None = None
        self._held_back: list[WorkerHandle] = []

    # ---- starting --------------------------------------------------------------------------------------------------

    def start_here(self, count: int, *, first_alone: bool) -> None:
        """Start workers in the calling thread: for `fork`, before this process has threads of ours.

        Each may begin at once, beside the fork of the next; the dispatcher thread finds it among those we watch. With
        `first_alone` the others stand by until `let_begin`.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as in `_launch_all`
        try:
            for number in range(count):
                self.starting += 1
                self._launch(self._take_id(), self._hold_back if first_alone and number else self.adopt)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def start(self, count: int) -> None:
        """Have workers started by the launcher; returns at once."""
        if self._launcher is None:
            launcher = threading.Thread(
                target=_launch_all, args=(self._requests, self._launch), name=f"{self._name}-launcher", daemon=True,
                kwargs={"tracked": self._start_method != "fork"},
            )  # fmt: skip
            launcher.start()
            self._launcher = launcher
        for _ in range(count):
            self.starting += 1
            self._requests.put(self._take_id())

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _launch(self, worker: int, adopt: Callable[[WorkerHandle], None] | None = None) -> None:
        """Launcher thread: make a worker's ends, start it, post its handle."""
        try:
            handle = self._make(worker)
            if adopt is not None:
                adopt(handle)
            self._post(handle)
        except Exception as error:
            # Its frames are this thread's, which goes on; they say nothing that the text below does not.
            error.__context__ = error.__traceback__ = None
            failure = WorkerStartError(
                f"worker {worker} of {self._name} could not be started ({self._start_method}): "
                f"{type(error).__name__}: {error}"
            )
            failure.__cause__ = error
            self._post(failure)

    def _make(self, worker: int) -> WorkerHandle:
        descriptors.check_room(WORKER_DESCRIPTORS, "the start of a worker")
        with contextlib.ExitStack() as undo:
            log = LogReader()
            undo.callback(log.close)
            with descriptors.no_fork:
                bell_r, bell_w = _owned(undo, *os.pipe2(os.O_CLOEXEC))
                leash_r, leash_w = _owned(undo, *leash.make())
                (crash_fd,) = _owned(undo, files.create("mpengine-crash"))
                output_r, output_w = (None, None) if self._output is None else _owned(undo, *os.pipe2(os.O_CLOEXEC))
            for fd in (bell_r, bell_w, output_r):
                if fd is not None:
                    os.set_blocking(fd, False)
            ends = WorkerEnds(
                queue_fd=self._outbox.queue.read_fd, arena_fd=self._outbox.arena_fd, arena_key=self.arena.key,
                channel_fd=log.fd, bell_fd=bell_w, answer_fd=self._answer_fd, leash_fd=leash_r, crash_fd=crash_fd,
                output_fd=output_w, log_level=logging.root.level, **self._spec,
            )  # fmt: skip
            process = WorkerProcess(self._start_method, f"{self._name}-worker-{worker}", ends)
            process.start()
            undo.callback(process.release)
            undo.callback(process.kill)
            pid = process.pid
            assert pid is not None
            with descriptors.no_fork:
                pidfd = os.pidfd_open(pid)
                descriptors.own(pidfd)
            descriptors.close(bell_w)  # so that its closing at the other side is seen
            if output_w is not None:
                descriptors.close(output_w)
            undo.pop_all()
            return WorkerHandle(
                worker, process, pid, pidfd, log, bell_r, (leash_r, leash_w), crash_fd, monotonic(), output_r
            )  # fmt: skip

    def adopt(self, handle: WorkerHandle) -> None:
        """A handle was posted: from now on its worker is among those we watch, and may begin."""
        if handle.id not in self.handles:  # not one of `start_here`
            self._watch(handle)
            leash.take_hold(handle.leash_fds[1])

    def _hold_back(self, handle: WorkerHandle) -> None:
        self._watch(handle)
        self._held_back.append(handle)

    def _watch(self, handle: WorkerHandle) -> None:
        self.starting -= 1
        self.handles[handle.id] = handle
        if self._output is not None and handle.output_fd is not None:
            self._output.watch(handle.output_fd, handle.pid, functools.partial(self.job_now, handle))

    def let_begin(self) -> None:
        """Those that stand by are wanted now."""
        while self._held_back:
            handle = self._held_back.pop()
            if handle.id in self.handles:
                leash.take_hold(handle.leash_fds[1])

    # ---- ending ------------------------------------------------------------------------------------------------------

    def alive(self) -> list[WorkerHandle]:
        """Workers not known to be dead."""
        return list(self.handles.values())

    def missing(self) -> int:
        """How many to start to be at full size; those about to leave do not count."""
        return self.size - self.starting - sum(not handle.leaving for handle in self.handles.values())

    def terminate(self, handle: WorkerHandle, why: str) -> None:
        """SIGTERM to the worker and all below it."""
        handle.rung = Rung.TERMINATED
        handle.killed_for = handle.killed_for or why
        handle.family = tree.descendants(handle.pid)
        handle.send(signal.SIGTERM)
        handle.send(signal.SIGCONT)  # a stopped process takes no SIGTERM
        tree.send(handle.family, signal.SIGTERM)

    def kill(self, handle: WorkerHandle, why: str) -> None:
        """SIGKILL to the worker and all below it, whatever group or session they moved to."""
        handle.rung = Rung.KILLED
        handle.killed_for = handle.killed_for or why
        below = tree.descendants(handle.pid)
        handle.send(signal.SIGKILL)
        tree.send(below, signal.SIGKILL)

    def bury(self, handle: WorkerHandle) -> None:
        """A worker is dead and its log read: learn its exit code, end what it left in its group, close everything."""
        handle.state = WorkerState.GONE
        handle.exitcode = handle.process.exit_status()
        handle.stack = handle.stack or handle.read_stack()
        self.handles.pop(handle.id, None)
        leash_r, leash_w = handle.leash_fds
        descriptors.close(leash_w)  # the leash first: the kernel kills what is left of the group
        descriptors.close(leash_r, handle.bell_fd, handle.crash_fd, handle.pidfd)
        handle.log.close()
        if self._output is not None and handle.output_fd is not None:
            self._output.release(handle.output_fd)
        for number in handle.held:
            self.arena.unpin(number)
        handle.held.clear()
        handle.process.release()
        tree.send(handle.family, signal.SIGKILL)  # those that moved to a session of their own and ignored SIGTERM

    def close(self) -> None:
        """No more starts. The launcher ends when it has done what it was asked.

        What the user gave for the starts is dropped: locks and queues have names that live as long as they do.
        """
        self._spec = {**self._spec, "initializer": None, "initargs": ()}
        if self._launcher is not None:
            self._requests.put(None)

    def wait_for_starts(self) -> None:
        """After `close`: until those that were asked for are made, and posted."""
        if self._launcher is not None:
            self._launcher.join()


def _owned(undo: contextlib.ExitStack, *fds: int) -> tuple[int, ...]:
    """Take new descriptors into care, one call at a time: the next may find that there are no more to be had."""
    descriptors.own(*fds)
    undo.callback(descriptors.close, *fds)
    return fds


def _launch_all(requests: queue.SimpleQueue[int | None], launch: Callable[[int], None], *, tracked: bool) -> None:
    while (worker := requests.get()) is not None:
        # What is started here inherits the mask: a Ctrl-C must meet neither the fork server while it imports, nor a
        # worker before it ignores that. The tracker first: starting it *un*blocks the signal.
        if not tracked:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            launch(worker)
            continue
        # A copy of this program, forked by another thread in the middle of this, would have multiprocessing's locks as
        # they are now, for ever; it could start no worker of its own.
        with descriptors.no_fork:
            for _ in range(2):  # that one was killed is a warning first, which `-W error` makes an exception
                with contextlib.suppress(OSError, Warning):  # no process to be had: then there is none for the worker
                    resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            launch(worker)


def memory_of(handle: WorkerHandle) -> int:
    """Resident bytes of a worker and all below it."""
    return sum(map(resident_bytes, family(handle.pid)))
