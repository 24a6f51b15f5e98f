"""A worker's life: start, take batches, run them, leave.

    main ─▶ leash, signals, initializer ─▶ READY ─▶ loop: claim ─▶ run ─▶ log ─▶ (ring)  ─▶ pill, or leaving

Whatever a job does, its end is logged exactly once, and the loop goes on with the next. What it logs counts from the
moment of the log's store; what it has not started is not its to lose. It imports nothing of the parent's side: each
spawned child pays for its imports.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import os
import pickle
import signal
import sys
from multiprocessing import util

from mpengine import current
from mpengine.arrays.guest import Guest
from mpengine.arrays.segment import fetch
from mpengine.runtime import leash
from mpengine.runtime.channel import LogWriter
from mpengine.runtime.clock import monotonic
from mpengine.runtime.ends import WorkerEnds
from mpengine.runtime.leftovers import ExitGuard, Leftovers
from mpengine.runtime.queue_end import QueueEnd
from mpengine.runtime.running import Runner
from mpengine.runtime.signals import STACK_SIGNAL
from mpengine.runtime.weighing import portions, resident_bytes
from mpengine.wire import messages as wire
from mpengine.wire.kept_globals import keeping
from mpengine.wire.remote_error import pack_error, traceback_of

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_FULL_WAIT_S = 0.0005  # between looks at a log that the parent has not read yet
_WEIGH_S = 0.01  # between looks at what this process holds
_ROOM = 0.75  # of what is left to the memory limit at its start: a worker that keeps more makes way for a fresh one
_OOM_SCORE = 300  # more than the parent's: about as if it held so many thousandths of the memory more
_THREAD_LIMITS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip

EXIT_DONE = 0
EXIT_START_FAILED = 70  # EX_SOFTWARE
EXIT_DAMAGED = 71  # EX_OSERR: a job has closed what the worker needs; it ran nothing when it left


def main(ends: WorkerEnds) -> NoReturn:
    """Run a worker in this process until it gets a pill. Never returns."""
    if ends.output_fd is not None:
        ends.lead_output()
    leash.wait_to_be_held(ends.leash_fd)
    leash.arm(ends.leash_fd)
    _offer_to_oom_killer()
    _set_signals(ends.crash_fd)
    worker = Worker(ends)
    status = EXIT_START_FAILED
    if worker.start():
        status = worker.loop()
    _leave(status)


def _set_signals(crash_fd: int) -> None:
    signal.set_wakeup_fd(-1)  # a forked worker has its parent's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it was blocked while this process started
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable(crash_fd)
    faulthandler.register(STACK_SIGNAL, crash_fd, all_threads=True)


def _offer_to_oom_killer() -> None:
    """When the machine runs out of memory, the kernel is to take a worker, and not the program that waits for it."""
    with contextlib.suppress(OSError, ValueError):
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)  # a file object costs five times as much
        try:
            os.pwrite(fd, b"%d" % min(1000, int(os.read(fd, 16)) + _OOM_SCORE), 0)
        finally:
            os.close(fd)


before_leaving: list[Callable[[], None]] = []


def _leave(status: int) -> NoReturn:
    """The way out after a pill: multiprocessing's finalizers (a queue's feeder thread flushes there), then `_exit`.

    Not a normal return: threads that a job has left behind must not keep the process.
    """
    for leave in before_leaving:
        with contextlib.suppress(BaseException):
            leave()
    with contextlib.suppress(BaseException):
        util._exit_function()  # type: ignore[attr-defined]
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(status)


def _log_failed_start(error: BaseException) -> None:
    """As ProcessPoolExecutor's workers do; but only for those who have set up logging here, as an initializer may have.

    All others are told by the EngineBroken: what the last resort of logging prints would be noise.
    """
    logging = sys.modules.get("logging")
    if logging is None:
        return
    with contextlib.suppress(BaseException):  # a user's handler
        logger = logging.getLogger("concurrent.futures")
        if logger.hasHandlers():
            tb = traceback_of(error)
            logger.critical("Exception in initializer:", exc_info=(type(error), error, tb and tb.tb_next))


class Worker:
    """See the module's text."""

    def __init__(self, ends: WorkerEnds) -> None:
        self._ends = ends
        self._queue = QueueEnd.of_its_own(ends.queue_fd)
        # A description of its own, as for the queue. Packet mode is the writer's, and not to be had from open(2).
        self._answer_fd = os.open(f"/proc/self/fd/{ends.answer_fd}", os.O_WRONLY | os.O_CLOEXEC)
        fcntl.fcntl(self._answer_fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
        os.close(ends.answer_fd)
        self._log = LogWriter(ends.channel_fd, self.ring, self._wait)
        self._weigh_at = 0.0
        self._heavy_from = 0.0  # bytes
        self._inline = memoryview(bytearray(wire.INLINE_BYTES))
        self._log.guest = Guest(ends.arena_key, ends.arena_fd)
        # Blocks that are free, and warm, are no job's: they must not count for the next.
        self._log.segment.maps = ends.memory_limit is None
        self._runner = Runner(self._log, self.ring, self._fetch, ends.max_tasks)

    # ---- start -----------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Everything up to READY; False if it failed, which is then logged."""
        ends = self._ends
        if ends.threads is not None:
            for name in _THREAD_LIMITS:
                os.environ.setdefault(name, str(ends.threads))
        try:
            initializer, initargs = ends.initializer, ends.initargs
            if ends.output_fd is not None:
                self._print_to(ends.output_fd, ends.log_level)
            if ends.packed_initializer is not None:
                initializer, initargs = pickle.loads(ends.packed_initializer)
                ends.packed_initializer = None
            if initializer is not None:
                with keeping(initializer, initargs):
                    initializer(*initargs)
        except BaseException as error:
            tb = traceback_of(error)
            self._log.commit(wire.START_FAILED, pack_error(error, tb and tb.tb_next))
            self.ring()
            _log_failed_start(error)
            return False
        gc.freeze()  # a collection would write to every page that a forked worker shares with its parent
        if ends.memory_limit is not None:
            own = portions(os.getpid()).private
            self._heavy_from = resident_bytes(os.getpid()) + _ROOM * max(0, ends.memory_limit - own)
        self._leftovers = Leftovers(self._runner.on_signal, ends.crash_fd)
        self._exits = ExitGuard(self._runner.leave_soon)
        current.provide(self._runner.describe)
        self._log.commit(wire.READY)
        self.ring()
        return True

    def _print_to(self, fd: int, log_level: int) -> None:
        from mpengine.runtime.printing import Printer  # here: logging, which it imports, costs milliseconds

        runner = self._runner
        runner.printer = Printer(fd, runner.job_id, runner.shielded, log_level)
        runner.printer.take_over()
        before_leaving.append(runner.printer.flush)

    # ---- the loop --------------------------------------------------------------------------------------------------

    def loop(self) -> int:
        """Take and run batches; return the exit code when it is time to leave."""
        row, inline, queue, runner = self._log.row, self._inline, self._queue, self._runner
        while True:
            runner.rest()
            try:
                size = queue.get_into(row, inline)
            except OSError:  # a job has closed it
                return EXIT_DAMAGED
            runner.idle = False
            if size < wire.TICKET.size:
                return EXIT_DAMAGED
            seq, kind, _items, offset, length = wire.TICKET.unpack(row)
            if kind == wire.PILL:
                return EXIT_DONE
            try:
                if length:
                    body = self._fetch(offset, length)
                else:
                    body = inline[: size - wire.TICKET.size]
            except (OSError, MemoryError, EOFError):
                # Nothing of it has started: another worker can run all of it.
                self._log.commit(wire.GAVE_BACK, batch=seq)
                self.ring()
                return EXIT_DAMAGED
            self._exits.enter()
            if kind == wire.JOBS:
                self._runner.run_jobs(seq, body)
            elif kind == wire.LONE:
                self._runner.run_jobs(seq, body, self.answer)
            elif kind == wire.CALL:
                self._runner.run_call(seq, body, self.answer)
            else:
                self._runner.run_span(seq, body)
            del body
            self._exits.leave()
            if self._runner.leaving or not self._leftovers.clear() or self._has_grown():
                self._log.commit(wire.LEAVING)
                self.ring()
                return EXIT_DONE

    def _has_grown(self) -> bool:
        """Whether what jobs have left behind is so much that the next might be killed for it."""
        limit = self._ends.memory_limit
        if limit is None or monotonic() < self._weigh_at:
            return False
        self._weigh_at = monotonic() + _WEIGH_S
        if resident_bytes(os.getpid()) <= self._heavy_from:
            return False
        self._runner.slim(has_grown=True)
        return resident_bytes(os.getpid()) > self._heavy_from

    def _fetch(self, offset: int, length: int) -> memoryview:
        return fetch(self._ends.arena_fd, offset, length)

    # ---- the parent ------------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Tell the parent that there is something to read. Never blocks for long: a byte that waits is as good."""
        try:
            os.write(self._ends.bell_fd, b"\0")
        except OSError:  # full, or closed by a job: then the parent sees that
            return

    def answer(self, seq: int, value: bytes | None) -> None:
        """Offer the end of a lone job, which is logged, to whoever waits for it. Never blocks; may be lost."""
        packet = wire.ANSWER.pack(seq)
        if value is not None and len(value) <= wire.PACKET_BYTES - wire.ANSWER.size:
            packet += value
        try:
            os.write(self._answer_fd, packet)
        except OSError:  # full of answers that nobody waits for, or closed by a job: the dispatcher brings it
            return

    def _wait(self) -> None:
        if leash.parent_gone(self._ends.leash_fd, _FULL_WAIT_S):
            os._exit(EXIT_DAMAGED)
