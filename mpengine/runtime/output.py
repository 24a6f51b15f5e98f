"""What workers print, read in a thread of its own: whoever takes it may be as slow as a terminal.

    a worker's pipe ─▶ parser ─▶ frames: their lines, with the id that they name ──────▶ deliver
                            └──▶ raw bytes: whole lines, with the id of the job that runs by now ─┘
                            └──▶ records of logging ─▶ the logger of that name, here

Each worker has a pipe of its own, so that raw bytes are known to be its. A pipe is read to its end, or, once its worker
is dead, as far as there is something: a process that the worker has left behind may hold the other end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import select
import threading
from collections.abc import Callable

from mpengine.observing import JobOutput
from mpengine.runtime import descriptors
from mpengine.wire import output as wire

logger = logging.getLogger("mpengine")

_READ_BYTES = 1 << 16
_MOST_HELD = 1 << 16  # of raw bytes without the end of a line
_STREAMS = {wire.STDOUT: "stdout", wire.STDERR: "stderr"}


class OutputReader:
    """See the module's text.

    Args:
        deliver: Called in that thread with each piece. If it raises, that is logged, and what follows is dropped.
        name: Of the engine.
    """

    def __init__(self, deliver: Callable[[JobOutput], None], name: str) -> None:
        self._deliver: Callable[[JobOutput], None] | None = deliver
        self._thread = threading.Thread(target=self._run, name=f"{name}-output", daemon=True)
        self._pipes: dict[int, _Pipe] = {}  # of this thread, by descriptor
        self._ending = threading.Lock()
        self._ended = False
        self._orders: queue.SimpleQueue[_Pipe | int | None] = queue.SimpleQueue()
        with descriptors.no_fork:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll = select.epoll()
            descriptors.own(self._wake_fd, self._epoll.fileno())
        self._epoll.register(self._wake_fd, select.EPOLLIN)

    def start(self) -> None:
        """Begin to read. Not before workers have been forked by this process: no thread may run beside that."""
        self._thread.start()

    # ---- the dispatcher thread ---------------------------------------------------------------------------------------

    def watch(self, fd: int, pid: int, job_now: Callable[[], str | None]) -> None:
        """Read this pipe of a worker; the descriptor is this object's from now on.

        Args:
            job_now: The id of the job that it runs.
        """
        self._order(_Pipe(fd, pid, job_now))

    def release(self, fd: int) -> None:
        """The worker of this pipe is dead."""
        self._order(fd)

    def close(self, timeout: float) -> None:
        """All workers are dead: deliver what is left, and end the thread. Waits at most so many seconds for that."""
        self._order(None)
        if self._thread.ident is None:  # it could not be started
            self._run()
        elif threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    @property
    def ident(self) -> int | None:
        """Of the thread; None: there is none yet."""
        return self._thread.ident

    def _order(self, order: _Pipe | int | None) -> None:
        with self._ending:  # the descriptor is closed by the thread, which may take the order before it is woken
            if not self._ended:
                self._orders.put(order)
                os.eventfd_write(self._wake_fd, 1)

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        closing = False
        while not closing:
            for fd, _ in self._epoll.poll():
                if fd == self._wake_fd:
                    closing = self._follow_orders()
                elif fd in self._pipes:
                    self._read(self._pipes[fd])
        for fd in list(self._pipes):
            self._drain(fd)
        with self._ending:
            self._ended = True
            fd = self._epoll.fileno()
            with descriptors.no_fork:
                self._epoll.close()
                descriptors.forget(fd)
            descriptors.close(self._wake_fd)

    def _follow_orders(self) -> bool:
        """True: it is time to close."""
        os.eventfd_read(self._wake_fd)
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return False
            if order is None:
                return True
            if isinstance(order, _Pipe):
                self._pipes[order.fd] = order
                self._epoll.register(order.fd, select.EPOLLIN)
            else:
                self._drain(order)

    def _read(self, pipe: _Pipe) -> bool:
        """Read once; False: there is nothing, now or ever. Whatever happens, it goes on: who prints waits for it."""
        try:
            data = os.read(pipe.fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            with contextlib.suppress(OSError):
                self._epoll.unregister(pipe.fd)  # it would be ready for ever; closed when the worker is buried
            return False
        try:
            self._take(pipe, data)
        except Exception:
            logger.exception("lines of worker %d are lost, by a bug of the engine; please report this", pipe.pid)
        return True

    def _drain(self, fd: int) -> None:
        pipe = self._pipes.pop(fd, None)
        if pipe is None:
            return
        for _ in range(1 << 10):  # what is left behind may write for ever
            if not self._read(pipe):
                break
        self._take_raw(pipe, pipe.parser.end(), final=True)
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)
        descriptors.close(fd)

    def _take(self, pipe: _Pipe, data: bytes) -> None:
        for kind, id, content in pipe.parser.feed(data):
            if kind == wire.RAW:
                self._take_raw(pipe, content)
            elif kind == wire.RECORD:
                self._log(pipe, id, content)
            else:
                self._give(JobOutput(id, pipe.pid, _STREAMS[kind], _text(content)))

    def _take_raw(self, pipe: _Pipe, data: bytes, *, final: bool = False) -> None:
        id = pipe.job_now()
        if pipe.raw and id != pipe.raw_id:
            self._give(JobOutput(pipe.raw_id, pipe.pid, "other", _text(pipe.raw)))
            pipe.raw = b""
        lines, end, rest = (pipe.raw + data).rpartition(b"\n")
        if end:
            self._give(JobOutput(id, pipe.pid, "other", _text(lines)))
        if len(rest) > _MOST_HELD or (final and rest):
            self._give(JobOutput(id, pipe.pid, "other", _text(rest)))
            rest = b""
        pipe.raw, pipe.raw_id = rest, id

    def _give(self, output: JobOutput) -> None:
        if self._deliver is None:
            return
        try:
            self._deliver(output)
        except BaseException:  # `SystemExit`, too, would end this thread
            logger.exception("output=%r raised and is dropped; what jobs print is lost from here on", self._deliver)
            self._deliver = None

    def _log(self, pipe: _Pipe, id: str | None, packed: bytes) -> None:
        try:
            record = logging.makeLogRecord(pickle.loads(packed))
            record.job_id = id
            record.msg = f"{JobOutput(id, pipe.pid, 'stderr', '').tag} {record.msg}"
            target = logging.getLogger(record.name)
            if target.isEnabledFor(record.levelno):
                target.handle(record)
        except Exception:
            logger.exception("a log record of worker %d could not be handled", pipe.pid)


class _Pipe:
    def __init__(self, fd: int, pid: int, job_now: Callable[[], str | None]) -> None:
        self.fd = fd
        self.pid = pid
        self.job_now = job_now
        self.parser = wire.Parser()
        self.raw = b""  # a line that has not ended
        self.raw_id: str | None = None


def _text(data: bytes) -> str:
    """Lines without the last one's end."""
    return data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")
