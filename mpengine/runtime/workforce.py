"""The dispatcher's dealings with workers: hear them, look at their boards, ask them, mourn and replace them.

Between the supervisor, which knows processes and no jobs, and the ledger, which knows jobs and no processes.
"""

from __future__ import annotations

import os
import select
import signal
from array import array
from collections.abc import Callable
from typing import Protocol, cast

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.books import Books
from mpengine.core.naming import MAP
from mpengine.core.policy import PILL_GRACE_S, RestartIntensity, Rung
from mpengine.core.records import Batch, Report
from mpengine.core.verdicts import human_bytes
from mpengine.errors import WorkerStartError
from mpengine.observing import Observers, WorkerEnded, WorkerReady, WorkerStarted
from mpengine.runtime import tree, weighing
from mpengine.runtime.clock import monotonic
from mpengine.runtime.collector import Collector
from mpengine.runtime.express import Express, LoneSink
from mpengine.runtime.signals import INTERRUPT_SIGNAL, STACK_SIGNAL
from mpengine.runtime.supervisor import Supervisor, WorkerHandle, WorkerState
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import unpack_error

START_TIMEOUT_S = 60.0  # for imports and the initializer; then the start counts as hung
RESTART_PERIOD_S = 10.0  # see core.policy.RestartIntensity
RESTART_PATIENCE_S = 5.0
DEAF_S = 0.2  # between the closing of a worker's descriptors and its end, if it is dying
RELAUNCH_S = 0.2  # before another try, when the system had no process or descriptor to give


class Mourner(Protocol):
    """Who wants to know of the end of workers: a shutdown under way."""

    def wants_workers(self) -> bool:
        """Whether the dead are to be replaced."""

    def died_in_job(self, handle: WorkerHandle, job: str) -> None:
        """A worker is dead, and this is the job it was in."""

    def ended(self, handle: WorkerHandle) -> None:
        """A worker is dead and buried."""


class Workforce:
    """See the module's text. Dispatcher thread only, unless said otherwise.

    Args:
        epoll: Hears of bells and deaths.
        deaths: Hears of deaths alone.
        tell: Tell the ledger something.
        book: Enter into the books what is on the short way (see `express`).
        give_up: Break the engine: what happened, and why.
        memory_limit: Bytes for each worker; None: no limit.
        lent: Told of a worker that has lent blocks of shared memory.

    Attributes:
        first_alone: The first worker starts by itself. The others follow when it is ready, or as soon as there is more
            than one job: until then they would only take the CPU away from what is waited for. Not with an initializer,
            which may take long. Under `fork` they are there, and stand by.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        books: Books,
        observers: Observers,
        epoll: select.epoll,
        deaths: select.epoll,
        tell: Callable[[ev.Event], None],
        express: Express,
        book: Callable[[], None],
        give_up: Callable[[str, BaseException], None],
        memory_limit: int | None,
        lent: Callable[[WorkerHandle], None],
    ) -> None:
        self.watched: dict[int, WorkerHandle] = {}  # by bell and pidfd
        self.left: dict[int, WorkerHandle] = {}  # whose logs may not have been read to the end, see `answer`
        self.mourner: Mourner | None = None
        self.first_alone = True
        self.broken = False
        self._supervisor = supervisor
        self._books = books
        self._observers = observers
        self._epoll = epoll
        self._deaths = deaths
        self._tell = tell
        self._express = express
        self._book = book
        self._give_up = give_up
        self._memory_limit = memory_limit
        self._lent = lent
        self.collector = Collector(books.batches.get, self._lone_of, express)
        self._intensity = RestartIntensity(3 * supervisor.size + 5, RESTART_PERIOD_S, RESTART_PATIENCE_S)
        self._relaunch_at: float | None = None
        self._due_at: float | None = None  # when `look_after` has something to do, memory aside

    # ---- hearing ---------------------------------------------------------------------------------------------------

    def adopt(self, handle: WorkerHandle) -> None:
        """A process was started."""
        self._supervisor.adopt(handle)
        for fd in (handle.bell_fd, handle.pidfd):
            self.watched[fd] = handle
            self._epoll.register(fd, select.EPOLLIN)
        self._deaths.register(handle.pidfd, select.EPOLLIN)
        if self._observers:
            self._observers.emit(WorkerStarted(handle.pid, handle.started_at))
        if self.broken:
            self._supervisor.kill(handle, "the engine is broken")
        self._reschedule()

    def answer(self, fds: list[int], *, patient: bool) -> None:
        """These descriptors are readable. Deaths last: first all that was logged.

        Args:
            patient: See `Collector.collect`. What is left in a log has its turn with the next call of this.
        """
        left, self.left = self.left, {}
        for one in left.values():
            self._read_on(one, patient)
        dead = []
        for fd in fds:
            handle = self.watched.get(fd)
            if handle is None:
                continue
            if fd == handle.bell_fd:
                self._bell(handle, patient)
            else:
                dead.append(handle)
        for handle in dead:
            self._died(handle)

    def _bell(self, handle: WorkerHandle, patient: bool) -> None:
        try:
            told = os.read(handle.bell_fd, 4096)
        except BlockingIOError:
            return
        self._read_on(handle, patient)
        if not told:
            # It, or a job in it, has closed its end: by exec, by closing all it found, or, most often, by dying.
            self._unwatch(handle.bell_fd)
            handle.deaf_since = monotonic()
            self._reschedule()

    def _read_on(self, handle: WorkerHandle, patient: bool) -> None:
        self.collect(handle, patient=patient)
        if patient:
            self.left[handle.id] = handle

    def collect(self, handle: WorkerHandle, *, patient: bool = False) -> None:
        """Take in all that a worker has logged."""
        lent = handle.log.lent
        events, about, problem = self.collector.collect(handle.id, handle.pid, handle.log, patient=patient)
        if handle.log.lent != lent:
            self._lent(handle)
        if events and type(events[0]) is not ev.Passed:
            self._book()  # they may speak of a batch that is news
        for record in about:
            if record.kind == wire.READY:
                self._ready(handle)
            elif record.kind == wire.LEAVING:
                handle.leaving = True
                handle.gone_by = monotonic() + PILL_GRACE_S
                self.replenish()
                self._reschedule()
            elif record.kind == wire.HELD:
                for number in array("Q", record.blob):
                    if number not in handle.held and self._supervisor.arena.pin(number):
                        handle.held.add(number)
            elif record.kind == wire.RELEASED:
                for number in array("Q", record.blob):
                    if number in handle.held:
                        handle.held.discard(number)
                        self._supervisor.arena.unpin(number)
            else:
                handle.start_error = unpack_error(record.blob, f"in the initializer of worker pid {handle.pid}")
        if events:
            self._intensity.succeeded()
        for event in events:
            self._tell(event)
        if problem and handle.rung is Rung.DIED:
            self._supervisor.kill(handle, problem)

    def _lone_of(self, seq: int) -> LoneSink | None:
        """Where the outcome of a job on the short way goes, whether the books know it yet or not."""
        sink = self._express.sink_of(seq)  # before the books: it leaves here when it is there
        if sink is None:
            batch = self._books.batches.get(seq)
            sink = None if batch is None or not batch.lone else cast(LoneSink, batch.records[0].sink)
        return sink

    def close_offers(self) -> None:
        """Everything is about to end: no attendant takes a value from now on, and what one has is that job's end."""
        for batch in list(self._books.batches.values()):
            taken = cast(LoneSink, batch.records[0].sink).offered() if batch.lone else None
            if taken is not None:
                self._tell(ev.Reported(batch.worker or 0, batch.seq, [Report(0, taken[0], handed_over=True)]))

    def _ready(self, handle: WorkerHandle) -> None:
        handle.state = WorkerState.READY
        handle.ready_at = monotonic()
        if self._memory_limit is not None:
            handle.inherited = weighing.portions(handle.pid).shared
        self._reschedule()
        if self._observers:
            self._observers.emit(WorkerReady(handle.pid, handle.ready_at))
        if not self.broken:
            self._tell(ev.WorkerReady(handle.id, handle.pid))
        self.replenish()

    # ---- looking -----------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Take in all that every worker has logged, and then what its board says."""
        for handle in self._supervisor.alive():
            if handle.state is not WorkerState.READY:
                continue
            self.collect(handle)
            batch, index, since = self.board(handle)
            if batch:
                self._tell(ev.Observed(handle.id, batch, index, since))
                if self._observers:
                    self._tell_started(batch, index)

    def board(self, handle: WorkerHandle) -> tuple[int, int, float | None]:
        """The batch a worker claimed, the item of that it started (-1: none), when (None: not told)."""
        claim = handle.log.claim()
        started, index, since = handle.log.started()
        if started != claim:
            return claim, -1, None
        batch = self._books.batches.get(claim)
        return claim, index, None if batch is not None and batch.span is not None else since

    def job_of(self, handle: WorkerHandle) -> tuple[str | None, float | None]:
        """The job a worker runs now, by name, and since when. Any thread: so it may be over already."""
        id, since, mapped = self._item_of(handle)
        if mapped is not None:
            return f"call {id.removeprefix(MAP)} of map(`{mapped}`)", None
        return id or None, since

    def job_id_of(self, handle: WorkerHandle) -> str | None:
        """The same, as the job itself would say it."""
        return self._item_of(handle)[0] or None

    def _item_of(self, handle: WorkerHandle) -> tuple[str, float | None, str | None]:
        """What a worker runs: id, since when, the function if it is mapped."""
        seq, index, since = self.board(handle)
        news = self._express.sink_of(seq)  # before the books: it leaves here when it is there
        batch = self._books.batches.get(seq)
        if batch is None and news is not None and index == 0:
            return ("", None, None) if news.was_taken() else (news.id, since, None)
        if batch is None or not batch.done <= index < batch.size or self.is_over(batch):
            return "", None, None
        if batch.span is None:
            return batch.records[index].job.id, since, None
        if batch.span.jobs is not None:
            return batch.span.jobs[batch.span.first + index].id, None, None
        return f"{MAP}{batch.span.position + batch.span.first + index}", None, batch.span.name

    @staticmethod
    def is_over(batch: Batch) -> bool:
        """Whether this is the batch of a lone job whose owner has its value. Any thread."""
        return batch.lone and cast(LoneSink, batch.records[0].sink).was_taken()

    def _tell_started(self, seq: int, index: int) -> None:
        batch = self._books.batches.get(seq)
        if batch is not None and batch.records and batch.done <= index < batch.size:
            record = batch.records[index]
            self._observers.started(record, record.attempt + 1, record.started_at)

    # ---- asking ------------------------------------------------------------------------------------------------------

    def ask(self, action: do.Revoke | do.Flush | do.Interrupt) -> None:
        """Leave a worker a word about its batch, and wake it if it has to act now."""
        handle = self._supervisor.handles.get(action.worker)
        if handle is None or handle.log.claim() != action.batch:
            return  # gone, or gone on: its words are about another batch now
        words = handle.log.words
        if isinstance(action, do.Revoke):
            words[wire.REVOKED] = action.batch
            return
        if isinstance(action, do.Flush):
            words[wire.FLUSH] = action.batch
        else:
            words[wire.INTERRUPT] = wire.started_word(action.batch, action.item)
        handle.send(INTERRUPT_SIGNAL)

    def kill(self, action: do.Kill) -> None:
        """Kill a worker for the item it is in: it is stopped first, so that it is killed for no other."""
        handle = self._supervisor.handles.get(action.worker)
        if handle is None:
            return
        stack = handle.request_stack(STACK_SIGNAL)
        handle.stop()
        self.collect(handle)
        if self.board(handle)[:2] == (action.batch, action.item):
            handle.stack = stack
            self._supervisor.kill(handle, action.reason)
        else:
            handle.send(signal.SIGCONT)

    def examine(self, action: do.Examine) -> None:
        """End workers that run nothing and are stopped. What such a one has claimed, it has not started."""
        for handle in self._supervisor.alive():
            if handle.state is WorkerState.READY and self.job_of(handle)[0] is None and tree.is_stopped(handle.pid):
                self._supervisor.kill(handle, "it was stopped (SIGSTOP) while it ran nothing")

    # ---- mourning and replacing --------------------------------------------------------------------------------------

    def _died(self, handle: WorkerHandle) -> None:
        self.left.pop(handle.id, None)
        self.collect(handle)
        self._book()
        ready = handle.state is WorkerState.READY  # it may have said so only now
        unlogged = self.collector.unlogged(handle.id, handle.log)
        if unlogged is not None:
            self._tell(unlogged)
        batch, index, since = self.board(handle)
        job = self.job_of(handle)[0]
        if self.mourner is not None and job is not None:
            self.mourner.died_in_job(handle, job)
        peak = handle.log.words[wire.PEAK_MEMORY]
        for fd in (handle.bell_fd, handle.pidfd):
            self._unwatch(fd)
        self._supervisor.bury(handle)
        now = monotonic()
        if self._observers:
            self._observers.emit(WorkerEnded(handle.pid, handle.exitcode, now))
        if self.mourner is not None:
            self.mourner.ended(handle)
        self._tell(
            ev.WorkerExited(
                handle.id, handle.pid, handle.exitcode, batch=batch, item=index, since=since, peak_memory=peak,
                stack=handle.stack, problem=handle.killed_for, memory=handle.memory,
            )
        )  # fmt: skip
        if handle.start_error is not None:
            self._give_up("its initializer raised", handle.start_error)
        elif job is None and not handle.leaving and handle.rung is Rung.DIED:
            self._failed(handle, ready, now)
        self.replenish()
        self._reschedule()

    def _unwatch(self, fd: int) -> None:
        handle = self.watched.pop(fd, None)
        if handle is not None:
            self._epoll.unregister(fd)
            if fd == handle.pidfd:
                self._deaths.unregister(fd)

    def _failed(self, handle: WorkerHandle, ready: bool, now: float) -> None:
        if self._intensity.failed(now, killed=handle.exitcode == -signal.SIGKILL):
            when = "while they ran nothing" if ready else "before they were ready"
            cause = WorkerStartError(
                f"more than {self._intensity.limit} workers in {RESTART_PERIOD_S:g} s died {when}; the last one, "
                f"pid {handle.pid}, with exit code {handle.exitcode}. {handle.stack}".strip()
            )
            self._give_up("workers die faster than they start", cause)

    def start_failed(self, error: WorkerStartError) -> None:
        """A process could not be started."""
        self._supervisor.starting -= 1
        # No process or descriptor to be had, or the resource tracker was killed in this moment, which is a warning that
        # `-W error` makes an exception: later there may be.
        if isinstance(error.__cause__, (OSError, Warning)):
            if self._supervisor.alive() or not self._intensity.failed(monotonic(), killed=True):
                self._relaunch_at = monotonic() + RELAUNCH_S
                self._reschedule()
                return
        self._give_up("a worker could not be started", error)

    def replenish(self) -> None:
        """Start what is missing."""
        self.first_alone = False
        self._supervisor.let_begin()
        if self.broken or self._relaunch_at is not None:
            return
        if self.mourner is None or self.mourner.wants_workers():
            missing = self._supervisor.missing()
            if missing > 0:
                self._supervisor.start(missing)

    def due(self) -> float | None:
        """When `look_after` has something to do."""
        if self._memory_limit is None or not self._books.batches:
            return self._due_at
        times = [handle.weigh_at for handle in self._supervisor.alive() if _is_at_work(handle)]
        return min(times if self._due_at is None else [self._due_at, *times], default=None)

    def _weigh_all(self, limit: int, now: float) -> None:
        for handle in self._supervisor.alive():
            if _is_at_work(handle) and now >= handle.weigh_at:
                seen = self.board(handle)[:2]
                size, soon = weighing.weigh(handle.pid, limit, handle.inherited)
                handle.weigh_at = now + soon
                if size > limit:
                    self._end_heavy(handle, seen, limit)

    def _end_heavy(self, handle: WorkerHandle, seen: tuple[int, int], limit: int) -> None:
        """Kill it for the item it was seen in; or, if it runs nothing, for what jobs have left behind.

        It is weighed and looked at again while it stands still: a job that has just begun is not at fault.
        """
        stack = handle.request_stack(STACK_SIGNAL) if self.job_of(handle)[0] is not None else ""
        handle.stop()
        self.collect(handle)
        self._book()
        size, _ = weighing.weigh(handle.pid, limit, handle.inherited)
        job = self.job_of(handle)[0]
        if size <= limit or (job is not None and self.board(handle)[:2] != seen):
            handle.send(signal.SIGCONT)
            return
        if job is not None:
            handle.stack = stack
            handle.memory = size
        self._supervisor.kill(handle, f"and its memory_limit is {human_bytes(limit)}")

    def look_after(self, now: float) -> None:
        """What is due by now: another try, the end of the deaf and of those that hang while they start or leave."""
        if self._memory_limit is not None and self._books.batches:
            self._weigh_all(self._memory_limit, now)
        if self._due_at is None or now < self._due_at:
            return
        if self._relaunch_at is not None and now >= self._relaunch_at:
            self._relaunch_at = None
            self.replenish()
        for handle in self._supervisor.alive():
            due = self._due(handle)
            if due is not None and now >= due:
                self._end(handle)
        self._reschedule()

    def _end(self, handle: WorkerHandle) -> None:
        if handle.deaf_since is not None:
            self._supervisor.kill(handle, "its descriptors were closed, by the job or by an exec")
            return
        if handle.leaving:
            # It joins children of its jobs. What else it may wait for, a queue that is being read, is worth its time.
            handle.gone_by = None
            tree.send(tree.descendants(handle.pid), signal.SIGKILL)
            return
        stack = handle.request_stack(STACK_SIGNAL)
        self._supervisor.kill(handle, "it did not become ready")
        cause = WorkerStartError(
            f"worker pid {handle.pid} was not ready after {START_TIMEOUT_S:g} s; look at what its initializer and "
            f"its imports wait for.\n{stack}"
        )
        self._give_up("a worker hangs while it starts", cause)

    @staticmethod
    def _due(handle: WorkerHandle) -> float | None:
        if handle.rung is not Rung.DIED:
            return None  # it is being ended already
        if handle.deaf_since is not None:
            return handle.deaf_since + DEAF_S
        if handle.leaving:
            return handle.gone_by
        return handle.started_at + START_TIMEOUT_S if handle.state is WorkerState.STARTING else None

    def _reschedule(self) -> None:
        """Something has changed that `_due` looks at."""
        times = [self._relaunch_at, *map(self._due, self._supervisor.alive())]
        self._due_at = min((time for time in times if time is not None), default=None)


def _is_at_work(handle: WorkerHandle) -> bool:
    """Whether it may hold a job, and is not being ended."""
    return handle.state is WorkerState.READY and handle.rung is Rung.DIED
