"""The parent's one thread that moves jobs: events to the ledger, its actions to queue, workers, futures, iterators.

    any thread ─ post ─▶ inbox ─┐                     ┌─▶ outbox (job queue)
    bells, logs ─ collector ────┼─▶ ledger.handle ─▶ ─┼─▶ futures, iterators, observers
    pidfds, time ───────────────┘                     └─▶ supervisor (interrupt, kill, start)

Rules:
1. Only this thread touches the ledger, the outbox and the supervisor's handles. Others post.
2. Before anything is decided about a worker's item, everything that worker has logged is taken in.
3. It holds no reference to the engine, and none to what it has delivered: a dropped engine is collected.
4. If it fails, by a bug of ours, everything that waits fails with it at once: nothing hangs.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import select
import signal
import threading
from collections import deque
from collections.abc import Callable

from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.job import Status
from mpengine.core.ledger import Ledger
from mpengine.core.policy import RestartIntensity, Rung
from mpengine.core.records import Entry, Record
from mpengine.errors import EngineBroken, EngineClosed, InternalError, WorkerStartError
from mpengine.observing import EngineState, JobAccepted, Observers, WorkerEnded, WorkerReady, WorkerStarted
from mpengine.options import Options
from mpengine.runtime import descriptors
from mpengine.runtime.clock import monotonic
from mpengine.runtime.collector import Collector
from mpengine.runtime.outbox import MappedFunction, Outbox
from mpengine.runtime.process import prepare_context
from mpengine.runtime.signals import INTERRUPT_SIGNAL, STACK_SIGNAL
from mpengine.runtime.stopping import ShutdownReport, ShutdownRequest, Stopping
from mpengine.runtime.supervisor import Supervisor, WorkerHandle, WorkerState
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import unpack_error

logger = logging.getLogger("mpengine")

START_TIMEOUT_S = 60.0  # for imports and the initializer; then the start counts as hung
RESTART_PERIOD_S = 10.0  # see core.policy.RestartIntensity
RESTART_PATIENCE_S = 5.0
DEAF_S = 0.2  # between the closing of a worker's descriptors and its end, if it is dying
RELAUNCH_S = 0.2  # before another try, when the system had no process or descriptor to give
_POLL_FOREVER = -1
_LONGEST_POLL_S = 3600.0  # epoll refuses weeks

Posted = ev.Event | WorkerHandle | WorkerStartError | ShutdownRequest | Callable[[], None]


class Dispatcher:
    """See the module's text. Starts its workers and its thread at once."""

    def __init__(self, options: Options) -> None:
        prepare_context(options.context)
        self.pid = os.getpid()
        self.name = options.name
        self.started_at = monotonic()
        self.closed = threading.Event()
        self.report: ShutdownReport | None = None
        self.ids: dict[str, Record] = {}  # open jobs; any thread adds, this one removes
        self.ledger = Ledger(stop_grace=options.stop_grace, jitter=random.random)
        self.books = self.ledger.books  # to read in: only the ledger writes
        self.outbox = Outbox()
        self.observers = Observers(options.observers)
        self._max_pending = options.max_pending
        self._gate = threading.Condition(threading.Lock())  # guards `posted`, `_closing` and the order of the inbox
        self._closing = False
        self.posted = 0  # jobs accepted, whether the ledger knows them yet or not
        self.broken: EngineBroken | None = None
        self._inbox: deque[Posted] = deque()
        self._events: deque[ev.Event] = deque()
        self._telling = False
        self._asleep = False
        self._relaunch_at: float | None = None
        self._stopping: Stopping | None = None
        self._joiners: list[threading.Event] = []
        self._collector = Collector(self.books.batches.get)
        self._intensity = RestartIntensity(3 * options.workers + 5, RESTART_PERIOD_S, RESTART_PATIENCE_S)
        spec = {
            "initializer": options.initializer, "initargs": options.initargs,
            "max_tasks": options.max_tasks_per_child, "threads": options.threads_per_worker,
        }  # fmt: skip
        self.supervisor = Supervisor(options.workers, options.context, self.outbox, spec, self.post, options.name)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll_fd = self._epoll.fileno()
        descriptors.own(self._wake_fd, self._epoll_fd)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._watched: dict[int, WorkerHandle] = {}
        if options.context.get_start_method() == "fork":
            self.supervisor.start_here(options.workers)  # as long as no thread of ours runs beside the fork
        else:
            self.supervisor.start(options.workers)
        self._thread = threading.Thread(target=self._run, name=f"{options.name}-dispatcher", daemon=True)
        self._thread.start()

    # ---- any thread ------------------------------------------------------------------------------------------------

    def post(self, item: Posted) -> None:
        """Leave something for the dispatcher thread and wake it. Never blocks."""
        if self.pid != os.getpid():
            return  # a forked copy: these descriptors are not its own
        self._inbox.append(item)
        if self._asleep:
            self._wake()

    def _wake(self) -> None:
        try:
            os.eventfd_write(self._wake_fd, 1)
        except (BlockingIOError, OSError):  # woken already; or it has ended, and nobody is left to wake
            return

    def accept(self, entries: list[Entry], calls: int, *, block: bool) -> None:
        """Take in jobs. `block`: wait for room below `max_pending`.

        Raises:
            EngineClosed: After the shutdown, or while waiting for room.
            EngineBroken: Workers cannot be kept alive.
        """
        with self._gate:
            if block and self._max_pending is not None and not self.is_own_thread():
                self._gate.wait_for(self._has_room)
            self.check_open()
            self.posted += calls
            self.post(ev.Accepted(entries))

    def check_open(self) -> None:
        """Raise EngineBroken or EngineClosed if no job can be accepted."""
        if self.broken is not None:
            raise EngineBroken(str(self.broken)) from self.broken.__cause__
        if self._closing:
            raise EngineClosed(f"cannot schedule new futures after shutdown of {self.name}; make a new Engine")

    def _has_room(self) -> bool:
        if self._closing or self.broken is not None:
            return True
        assert self._max_pending is not None
        open_jobs = self.posted - sum(self.books.counts.values())
        started = min(len(self.books.batches), len(self.ledger.workers))
        return open_jobs - started < self._max_pending

    def is_own_thread(self) -> bool:
        """Whether the caller is the dispatcher thread, inside a callback."""
        return threading.current_thread() is self._thread

    def close(self, request: ShutdownRequest) -> None:
        """Take no more jobs and start the shutdown. May be called any number of times."""
        with self._gate:
            self._closing = True
            self._gate.notify_all()
            self.post(request)

    def close_soon(self, request: ShutdownRequest) -> None:
        """As `close`, without taking a lock: for finalizers, which run in whatever thread collects garbage."""
        self._closing = True
        self.post(request)

    def interim_report(self) -> ShutdownReport:
        """What a shutdown has come to so far."""
        counts = self.books.counts
        ends = () if self._stopping is None else tuple(self._stopping.ends)
        return ShutdownReport(
            finished=counts[Status.SUCCEEDED] + counts[Status.FAILED] + counts[Status.EXPIRED],
            cancelled=counts[Status.CANCELLED], lost=counts[Status.LOST], workers=ends,
            complete=not self.supervisor.handles and not self.supervisor.starting,
        )  # fmt: skip

    def join(self, timeout: float | None) -> bool:
        """Wait until no accepted job is open."""
        drained = threading.Event()
        self.post(lambda: self._joiners.append(drained))
        return drained.wait(timeout)

    def context_cancelled(self, context: object, reason: str) -> None:
        """As a context's listener."""
        self.post(ev.ContextCancelled(context, reason))  # type: ignore[arg-type]

    def finish_function(self, fn: MappedFunction) -> None:
        """A map is over; its function's block can go when its last batch has gone."""
        self.post(lambda: self.outbox.finish(fn))

    # ---- the loop --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.observers.emit(EngineState("open", monotonic()))
            while self.report is None:
                self._turn()
        except BaseException as error:  # our bug: see rule 4
            self._fail(error)
        finally:
            self._end()

    def _turn(self) -> None:
        self._asleep = True
        timeout = 0.0 if self._inbox else self._time_to_sleep()
        try:
            ready = self._epoll.poll(timeout)
        finally:
            self._asleep = False
        dead = []
        for fd, _ in ready:
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                continue
            handle = self._watched.get(fd)
            if handle is None:
                continue
            if fd == handle.pidfd:
                dead.append(handle)
            else:
                self._bell(handle)
        for handle in dead:
            self._worker_died(handle)
        self._empty_inbox()
        now = monotonic()
        wakeup = self.ledger.next_wakeup()
        if wakeup is not None and wakeup <= now:
            self._observe()
            self._tell(ev.TimePassed())
        self._look_after_workers(now)
        self._climb()
        if self._joiners and not self.books.open and not self._inbox:
            for drained in self._joiners:
                drained.set()
            self._joiners.clear()
        if self._max_pending is not None:
            with self._gate:
                self._gate.notify_all()

    def _time_to_sleep(self) -> float:
        times = [self.ledger.next_wakeup(), self._relaunch_at]
        times += [h.deaf_since + DEAF_S for h in self._watched.values() if h.deaf_since and h.rung is Rung.DIED]
        times += [h.started_at + START_TIMEOUT_S for h in self._watched.values() if h.state is WorkerState.STARTING]
        if self._stopping is not None:
            times.append(self._stopping.ladder.wakeup())
        known = [time for time in times if time is not None]
        return min(_LONGEST_POLL_S, max(0.0, min(known) - monotonic())) if known else _POLL_FOREVER

    def _empty_inbox(self) -> None:
        for _ in range(len(self._inbox)):
            item = self._inbox.popleft()
            if isinstance(item, WorkerHandle):
                self._adopt(item)
            elif isinstance(item, WorkerStartError):
                self._start_failed(item)
            elif isinstance(item, ShutdownRequest):
                self._shutdown_requested(item)
            elif isinstance(item, ev.Accepted):
                self._accepted(item)
            elif callable(item):
                item()
            else:
                self._observe()  # rule 2
                self._tell(item)

    def _accepted(self, event: ev.Accepted) -> None:
        if self.observers:
            now = monotonic()
            for entry in event.entries:
                if isinstance(entry, Record):
                    self.observers.emit(JobAccepted(entry.job, now))
        self._tell(event)
        for entry in event.entries:
            # Its context may have been cancelled before we listened; whoever cancels it later than this, tells us.
            if isinstance(entry, Record) and entry.context is not None and entry.context.reason is not None:
                self._tell(ev.CancelRequested(entry, entry.context.reason, running=True))

    # ---- the ledger ------------------------------------------------------------------------------------------------

    def _tell(self, event: ev.Event) -> None:
        """Tell the ledger and do what it asks; what comes of that is told in turn."""
        self._events.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._events:
                actions = self.ledger.handle(self._events.popleft(), monotonic())
                for action in actions:  # workers first: a slow callback must not keep them idle
                    if not isinstance(action, do.Settle | do.Kill):
                        self._do(action)
                for action in actions:
                    if isinstance(action, do.Settle):
                        self._settle(action)
                    elif isinstance(action, do.Kill):
                        self._kill(action)
        finally:
            self._telling = False

    def _do(self, action: do.Action) -> None:
        if isinstance(action, do.PutBatch):
            self._put(action)
        elif isinstance(action, do.Forget):
            self.outbox.forget(action.batch)
        elif isinstance(action, do.Deliver):
            action.sink.deliver(action.position, action.count, action.blob)
        elif isinstance(action, do.DeliverError):
            action.sink.fail(action.position, action.error)
        elif isinstance(action, do.Retract):
            self._events.append(ev.Retracted(self.outbox.retract()))
        elif isinstance(action, do.Retried):
            if self.observers:
                self.observers.retried(action.record, action.error, action.delay, monotonic())
        elif isinstance(action, do.Revoke | do.Flush | do.Interrupt):
            self._ask_worker(action)

    def _kill(self, action: do.Kill) -> None:
        """Kill a worker for the item it is in: it is stopped first, so that it is killed for no other."""
        handle = self.supervisor.handles.get(action.worker)
        if handle is None:
            return
        stack = handle.request_stack(STACK_SIGNAL)
        handle.stop()
        self._collect(handle)
        if self._board(handle)[:2] == (action.batch, action.index):
            handle.stack = stack
            self.supervisor.kill(handle, action.reason)
        else:
            handle.go_on()

    def _ask_worker(self, action: do.Revoke | do.Flush | do.Interrupt) -> None:
        handle = self.supervisor.handles.get(action.worker)
        if handle is None:
            return
        words = handle.log.words
        if isinstance(action, do.Revoke):
            words[wire.REVOKED] = action.batch
            return
        if isinstance(action, do.Flush):
            words[wire.FLUSH] = action.batch
        else:
            words[wire.INTERRUPT] = wire.started_word(action.batch, action.index)
        try:
            signal.pidfd_send_signal(handle.pidfd, INTERRUPT_SIGNAL)
        except ProcessLookupError:
            return

    def _put(self, action: do.PutBatch) -> None:
        try:
            refused = self.outbox.put(action.batch)
        except queue.Full:
            self._events.append(ev.QueueFull(action.batch.seq))
        except (OSError, MemoryError) as error:
            error.add_note("the job could not be sent: no room for its arguments in shared memory")
            self._events.append(ev.PutFailed(action.batch.seq, error))
        else:
            for record in refused:
                self._events.append(ev.CancelRequested(record, "its future was cancelled", running=True))

    def _settle(self, action: do.Settle) -> None:
        record, outcome = action.record, action.outcome
        if outcome.attempts:
            self._intensity.succeeded()
        if self.observers:
            self.observers.finished(record, outcome, monotonic())
        if self.ids.get(record.job.id) is record:
            del self.ids[record.job.id]
        try:
            record.sink.settle(record, outcome)
        except Exception:
            logger.exception("delivering the outcome of job %r failed", record.job.id)

    # ---- workers -----------------------------------------------------------------------------------------------------

    def _adopt(self, handle: WorkerHandle) -> None:
        self.supervisor.adopt(handle)
        for fd in (handle.bell_fd, handle.pidfd):
            self._watched[fd] = handle
            self._epoll.register(fd, select.EPOLLIN)
        if self.observers:
            self.observers.emit(WorkerStarted(handle.pid, monotonic()))
        phase = self._stopping.ladder.phase if self._stopping is not None else "drain"
        if self.broken is not None or phase in ("terminate", "kill"):
            self.supervisor.kill(handle, "the engine ends")
        elif phase == "pill":
            handle.rung = Rung.PILL
            self.outbox.put_pill()

    def _bell(self, handle: WorkerHandle) -> None:
        try:
            told = os.read(handle.bell_fd, 4096)
        except BlockingIOError:
            return
        self._collect(handle)
        if not told:
            # It, or a job in it, has closed its end: by exec, by closing all it found, or, most often, by dying.
            self._unwatch(handle.bell_fd)
            handle.deaf_since = monotonic()

    def _collect(self, handle: WorkerHandle) -> None:
        events, about, problem = self._collector.collect(handle.id, handle.pid, handle.log)
        for record in about:
            if record.kind == wire.READY:
                self._worker_ready(handle)
            elif record.kind == wire.LEAVING:
                handle.leaving = True
                self._replenish()
            else:
                handle.start_error = unpack_error(record.blob, f"in the initializer of worker pid {handle.pid}")
        for event in events:
            if isinstance(event, ev.Reported):
                self._intensity.succeeded()
            self._tell(event)
        if problem and handle.rung is Rung.DIED:
            self.supervisor.kill(handle, problem)

    def _worker_ready(self, handle: WorkerHandle) -> None:
        handle.state = WorkerState.READY
        if self.observers:
            self.observers.emit(WorkerReady(handle.pid, monotonic()))
        if self.broken is None:
            self._tell(ev.WorkerReady(handle.id, handle.pid))

    def _observe(self) -> None:
        """Take in all that every worker has logged, and then what its board says."""
        for handle in list(self.supervisor.handles.values()):
            if handle.state is not WorkerState.READY:
                continue
            self._collect(handle)
            batch, index, since = self._board(handle)
            if batch:
                self._tell(ev.Observed(handle.id, batch, index, since or None))
                if self.observers:
                    self._tell_started(batch, index)

    def _board(self, handle: WorkerHandle) -> tuple[int, int, float]:
        """The batch it claimed, the item of that it started (-1: none), when."""
        claim = handle.log.claim()
        started, index, since = handle.log.started()
        if started != claim:
            return claim, -1, 0.0
        batch = self.books.batches.get(claim)
        return claim, index, since if batch is not None and batch.span is None else 0.0

    def job_of(self, handle: WorkerHandle) -> tuple[str | None, float | None]:
        """The job a worker runs now, by name, and since when; any thread, so it may be over already."""
        seq, index, since = self._board(handle)
        batch = self.books.batches.get(seq)
        if batch is None or not batch.done <= index < batch.size:
            return None, None
        if batch.span is not None:
            return f"call {batch.span.position + batch.span.first + index} of map(`{batch.span.name}`)", None
        return batch.records[index].job.id, since

    def _tell_started(self, seq: int, index: int) -> None:
        batch = self.books.batches.get(seq)
        if batch is not None and batch.records and batch.done <= index < batch.size:
            record = batch.records[index]
            self.observers.started(record, record.attempt + 1)

    def _worker_died(self, handle: WorkerHandle) -> None:
        ready = handle.state is WorkerState.READY
        self._collect(handle)
        batch, index, since = self._board(handle) if ready else (0, -1, 0.0)
        in_job = batch in self.books.batches and index >= self.books.batches[batch].done
        if in_job and self._stopping is not None:
            self._note_stuck(handle, batch, index)
        peak = handle.log.words[wire.PEAK_MEMORY]
        for fd in (handle.bell_fd, handle.pidfd):
            self._unwatch(fd)
        self.supervisor.bury(handle)
        self.outbox.pill_taken()
        now = monotonic()
        if self.observers:
            self.observers.emit(WorkerEnded(handle.pid, handle.exitcode, now))
        if self._stopping is not None:
            self._stopping.ended(handle)
        self._tell(
            ev.WorkerExited(
                handle.id,
                handle.pid,
                handle.exitcode,
                batch,
                index,
                since or None,
                peak,
                handle.stack,
                handle.killed_for,
            )
        )
        if handle.start_error is not None:
            self._break("its initializer raised", handle.start_error)
        elif not in_job and not handle.leaving and handle.rung is Rung.DIED and self._stopping is None:
            self._worker_failed(handle, ready, now)
        self._replenish()

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _worker_failed(self, handle: WorkerHandle, ready: bool, now: float) -> None:
        if self._intensity.failed(now, killed=handle.exitcode == -signal.SIGKILL):
            when = "while they ran nothing" if ready else "before they were ready"
            cause = WorkerStartError(
                f"more than {self._intensity.limit} workers in {RESTART_PERIOD_S:g} s died {when}; the last one, "
                f"pid {handle.pid}, with exit code {handle.exitcode}. {handle.stack}".strip()
            )
            self._break("workers die faster than they start", cause)

    def _start_failed(self, error: WorkerStartError) -> None:
        self.supervisor.starting -= 1
        if isinstance(error.__cause__, OSError):  # no process or descriptor to be had: there may be, later
            if self.supervisor.alive() or not self._intensity.failed(monotonic(), killed=False):
                self._relaunch_at = monotonic() + RELAUNCH_S
                return
        self._break("a worker could not be started", error)

    def _look_after_workers(self, now: float) -> None:
        if self._relaunch_at is not None and now >= self._relaunch_at:
            self._relaunch_at = None
            self._replenish()
        for handle in self.supervisor.alive():
            if handle.deaf_since is not None and now >= handle.deaf_since + DEAF_S and handle.rung is Rung.DIED:
                self.supervisor.kill(handle, "its descriptors were closed, by the job or by an exec")
            if handle.state is WorkerState.STARTING and now >= handle.started_at + START_TIMEOUT_S:
                if handle.rung is Rung.DIED:
                    stack = handle.request_stack(STACK_SIGNAL)
                    self.supervisor.kill(handle, "it did not become ready")
                    cause = WorkerStartError(
                        f"worker pid {handle.pid} was not ready after {START_TIMEOUT_S:g} s; look at what its "
                        f"initializer and its imports wait for.\n{stack}"
                    )
                    self._break("a worker hangs while it starts", cause)

    def _replenish(self) -> None:
        if self.broken is not None or self._relaunch_at is not None:
            return
        if self._stopping is not None and (self._stopping.ladder.phase != "drain" or not self.books.open):
            return
        missing = self.supervisor.missing()
        if missing > 0:
            self.supervisor.start(missing)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _break(self, what: str, cause: BaseException) -> None:
        """Give up aloud: everything open fails, every worker goes."""
        if self.broken is not None:
            return
        broken = EngineBroken(f"{self.name} is broken: {what}. Mend the cause and make a new Engine: {cause}")
        broken.__cause__ = cause
        with self._gate:
            self.broken = broken
            self._gate.notify_all()
        self._tell(ev.Broke(broken))
        for handle in self.supervisor.alive():
            self.supervisor.kill(handle, "the engine is broken")
        if self.observers:
            self.observers.emit(EngineState("broken", monotonic()))

    def _shutdown_requested(self, request: ShutdownRequest) -> None:
        if self._stopping is None:
            self._stopping = Stopping()
            if self.observers:
                self.observers.emit(EngineState("closing", monotonic()))
        if request.deadline is not None:
            self._stopping.ladder.hurry(request.deadline)
        if request.cancel_pending is not None:
            self._observe()
            self._tell(ev.PendingCancelled(request.cancel_pending))

    def _climb(self) -> None:
        """Go up the ladder of the shutdown as far as it is time to."""
        stopping = self._stopping
        while stopping is not None:
            drained = not self.books.open and not self._inbox
            alive = len(self.supervisor.handles) + self.supervisor.starting
            phase = stopping.ladder.next_phase(monotonic(), drained=drained, alive=alive)
            if phase is None:
                return
            if phase == "pill":
                for handle in self.supervisor.alive():
                    handle.rung = Rung.PILL
                    self.outbox.put_pill()
            elif phase == "terminate":
                self._observe()
                for handle in self.supervisor.alive():
                    self._note_stuck(handle, *self._board(handle)[:2])
                self._tell(ev.PendingCancelled("the engine was shut down"))
                for handle in self.supervisor.alive():
                    self.supervisor.terminate(handle, "the engine was shut down")
            elif phase == "kill":
                for handle in self.supervisor.alive():
                    self.supervisor.kill(handle, "the engine was shut down")
            else:
                self._finish(stopping)
                return

    def _note_stuck(self, handle: WorkerHandle, seq: int, index: int) -> None:
        """Remember which job a worker is in, for the report."""
        batch = self.books.batches.get(seq)
        assert self._stopping is not None
        if batch is None or not batch.done <= index < batch.size or handle.id in self._stopping.stuck:
            return
        name = self.job_of(handle)[0] or "unknown"
        handle.stack = handle.stack or handle.request_stack(STACK_SIGNAL)
        self._stopping.stuck[handle.id] = (name, handle.stack)

    def _finish(self, stopping: Stopping) -> None:
        for handle in self.supervisor.alive():  # stuck in the kernel: nothing more can be done from here
            stopping.ended(handle, Rung.UNKILLABLE)
        if self.books.open:
            self._tell(ev.Broke(EngineClosed("the engine was shut down while a worker could not be ended")))
        self.report = self.interim_report()

    def _fail(self, error: BaseException) -> None:
        bug = InternalError(f"the dispatcher failed; please report this. Story: {self.ledger.story()}")
        bug.__cause__ = error
        logger.critical("%s", bug, exc_info=error)
        self._telling = False
        self._events.clear()
        self._break("a bug of the engine", bug)
        for handle in self.supervisor.alive():
            self.supervisor.bury(handle)
        self.report = ShutdownReport(0, 0, 0, (), complete=True)

    def _end(self) -> None:
        """The thread's last act: wake everyone, close everything."""
        with self._gate:
            self._closing = True
            self._gate.notify_all()
        self.supervisor.close()
        self.outbox.close()
        self._epoll.close()
        descriptors.forget(self._epoll_fd)
        descriptors.close(self._wake_fd)
        for drained in self._joiners:
            drained.set()
        if self.observers:
            self.observers.emit(EngineState("closed", monotonic()))
        self.closed.set()
