"""The parent's one thread that moves jobs: events to the ledger, its actions to queue, workers, futures, iterators.

    any thread ─ admission, inbox ─┐                     ┌─▶ outbox (job queue)
    bells, logs ─ workforce ───────┼─▶ ledger.handle ─▶ ─┼─▶ futures, iterators, observers
    pidfds, time ──────────────────┘                     └─▶ workforce, supervisor (interrupt, kill, start)

Rules:
1. Only this thread touches the ledger, the outbox and the supervisor's handles. Others post.
2. Before anything is decided about a worker's item, everything that worker has logged is taken in.
3. It holds no reference to the engine, and none to what it has delivered: a dropped engine is collected.
4. What has ended is delivered at the end of a turn: who waits for it needs the GIL, and would take it in the middle.
5. If it fails, by a bug of ours, everything that waits fails with it at once: nothing hangs.
"""

from __future__ import annotations

import logging
import queue
import random
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from mpengine.arrays.parcel import COPY, OWN
from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.job import Job
from mpengine.core.ledger import Ledger
from mpengine.core.naming import MAP
from mpengine.core.records import Call, Record
from mpengine.errors import EngineBroken, EngineClosed, EngineError, InternalError, WorkerStartError
from mpengine.functions import Functions
from mpengine.futures import JobFuture
from mpengine.observing import JobAccepted
from mpengine.options import Options
from mpengine.runtime import descriptors, stopping
from mpengine.runtime.admission import Admission
from mpengine.runtime.answers import Answers
from mpengine.runtime.any_dispatcher import CANCELLED, AnyDispatcher
from mpengine.runtime.clock import monotonic
from mpengine.runtime.express import Express, LoneSink
from mpengine.runtime.lane import Lane
from mpengine.runtime.launching import prepare_context
from mpengine.runtime.memory import Memory
from mpengine.runtime.outbox import MappedFunction, Outbox
from mpengine.runtime.output import OutputReader
from mpengine.runtime.stopping import ShutdownReport, ShutdownRequest, Stopping
from mpengine.runtime.supervisor import WORKER_DESCRIPTORS, Supervisor, WorkerHandle
from mpengine.runtime.workforce import Workforce
from mpengine.wire import codec
from mpengine.wire.remote_error import safe_text

logger = logging.getLogger("mpengine")

_DESCRIPTORS = 14  # of an engine and the resource tracker, workers aside
_SHORTEST_NAP_S = 0.001  # epoll counts in milliseconds, and rounds up
_POLL_FOREVER = -1
_LIGHT_SLEEP_S = 0.005
_NAP_S = 0.002  # while the workers have enough to do, their bells are answered no more often
_LONGEST_POLL_S = 3600.0  # epoll refuses weeks
_LAST_WORDS_S = 5.0  # for what jobs have printed to be taken, once all workers are gone: a terminal may stand still

Posted = ev.Event | WorkerHandle | WorkerStartError | ShutdownRequest | Callable[[], None]


class Dispatcher(AnyDispatcher):
    """See the module's text. Starts its first workers and its thread at once.

    Attributes:
        arena: For any thread: what goes to the workers in shared memory.
        lane: For any thread: how plain calls get in.
    """

    admission: Admission
    _ledger: Ledger

    def __init__(self, options: Options) -> None:
        prepare_context(options.context)
        descriptors.check_room(_DESCRIPTORS + WORKER_DESCRIPTORS, "an engine")
        super().__init__(options)
        self._ledger = Ledger(stop_grace=options.stop_grace, jitter=random.random)
        self.books = self._ledger.books
        self._outbox = Outbox()
        self.arena = self._outbox.arena
        self._express = Express(self._ledger, self._outbox, self._record_of)
        self.answers = Answers(self._inbox.wake)
        self._taken = 0  # of the answers, when this thread last looked
        self._called = False  # out of a light sleep, before its time
        self.functions = Functions(self, self.finish_function)
        self.lane = Lane(self.functions, self.ids, self._inbox, self._express)
        self.admission = Admission(
            options.name, self._inbox, self._express, self.lane, options.max_pending, self._waiting
        )  # fmt: skip
        self.lane.admit_call = self.admission.admit_call
        self._given_up: deque[tuple[Call, bool]] = deque()
        self._stopping: Stopping | None = None
        spec = {
            "initializer": options.initializer, "initargs": options.initargs,
            "max_tasks": options.max_tasks_per_child, "memory_limit": options.memory_limit,
            "threads": options.threads_per_worker,
        }  # fmt: skip
        self._output = None if options.output is None else OutputReader(options.output, options.name)
        self.supervisor = Supervisor(
            options.workers, options.context, self._outbox, self.answers.write_fd, spec, self.post, options.name,
            self._output,
        )  # fmt: skip
        with descriptors.no_fork:
            self._epoll = select.epoll()
            self._light_epoll = select.epoll()  # as the other, but deaf to bells
            self._epoll_fds = (self._epoll.fileno(), self._light_epoll.fileno())
            descriptors.own(*self._epoll_fds)
        for epoll in (self._epoll, self._light_epoll):
            epoll.register(self._inbox.wake_fd, select.EPOLLIN)
        self.arena.dropped = self._dropped
        self.memory = Memory(self.arena, self._outbox.arena_fd, self.supervisor, self._is_busy, self.post)
        self.workforce = Workforce(
            self.supervisor, self.books, self.observers, self._epoll, self._light_epoll, self._tell, self._express,
            self._book, self._break, options.memory_limit,
            self.memory.lent,
        )  # fmt: skip
        self.supervisor.job_now = self._job_now
        self._doers: dict[type, Callable[[Any], None]] = {
            do.PutBatch: self._put,
            do.Settle: self._settle,
            do.EndCalls: self._end_calls,
            do.Retried: self._tell_retried,
            do.Retract: self._retract,
            do.Forget: self._forget,
            do.Revoke: self.workforce.ask,
            do.Flush: self.workforce.ask,
            do.Interrupt: self.workforce.ask,
            do.Kill: self.workforce.kill,
            do.Examine: self.workforce.examine,
        }
        self._thread = threading.Thread(target=self._run, name=f"{options.name}-dispatcher", daemon=True)
        try:
            self._start(options)
        except BaseException:  # no room for another thread
            self._abandon()
            raise

    def _start(self, options: Options) -> None:
        if options.context.get_start_method() == "fork":
            # As long as no thread of ours runs beside the fork.
            self.supervisor.start_here(options.workers, first_alone=options.initializer is None)
        else:
            self.supervisor.start(options.workers if options.initializer else 1)  # see `Workforce.first_alone`
        if self._output is not None:
            self._output.start()
        self._thread.start()

    def _abandon(self) -> None:
        """The engine cannot be made after all: leave nothing behind. In the thread that makes it."""
        self.supervisor.close()
        self.supervisor.wait_for_starts()
        for item in self._inbox.take():
            if isinstance(item, WorkerHandle):
                self.supervisor.adopt(item)
        for handle in self.supervisor.alive():
            self.supervisor.kill(handle, "its engine could not be made")
            self.supervisor.bury(handle)
        self._end()

    # ---- any thread ------------------------------------------------------------------------------------------------

    def _waiting(self, admitted: int) -> int:
        """Of the jobs admitted, how many have not started, as far as is known here."""
        started = min(len(self.books.batches), len(self._ledger.workers))
        return admitted - self.books.ended() - started

    @property
    def slots(self) -> int:
        """How many jobs it can run at once: one a worker."""
        return self.supervisor.size

    def pack(self, job: Job, *, again: bool) -> bytes:
        """Pickle a call, its large parts into shared memory. `again`: it may run more than once."""
        return codec.pack_call(job.fn, job.args, job.kwargs, self.arena, COPY if again else OWN)

    def is_own_thread(self) -> bool:
        """Whether the caller is the dispatcher thread, inside a callback."""
        own = self._thread.ident, None if self._output is None else self._output.ident
        return threading.get_ident() in own

    def _job_now(self, handle: WorkerHandle) -> str | None:
        """The job that a worker runs, by name. Any thread."""
        try:
            return self.workforce.job_id_of(handle)
        except (ValueError, LookupError):  # it has just been buried, or its jobs have changed hands meanwhile
            return None

    def catch_up(self) -> None:
        """Wait until the books know what their owners know: a value that was taken directly is a job that has ended."""
        self._do(self.workforce.observe)

    def _workers_there(self) -> list[tuple[int, float, float | None]]:
        return [(handle.pid, handle.started_at, handle.ready_at) for handle in self.supervisor.alive()]

    def request_cancel_call(self, call: Call, running: bool) -> None:
        """For a future that has no record."""
        self._given_up.append((call, running))
        self.post(self._give_up_calls)

    def somebody_waits(self) -> None:
        """For the outcome of a job on the short way: this thread must not sleep lightly now."""
        self._inbox.wake()

    def finish_function(self, fn: MappedFunction) -> None:
        """A map is over; its function's block can go when its last batch has gone."""
        self.post(lambda: self._outbox.finish(fn))

    def _dropped(self, number: int) -> None:
        """Only workers may have this block still; a finalizer's last word."""
        self.post(lambda: self.memory.dropped(number))

    def interim_report(self) -> ShutdownReport:
        """What a shutdown has come to so far."""
        return stopping.report(self.books, self.supervisor, self._stopping)

    # ---- the loop --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        idle = self._may_sleep()  # before the look at who waits: who comes later, wakes
        light = self._may_sleep_lightly()
        if not idle or ((self._express or self.workforce.left) and not light):
            sleep_s = 0.0
        elif self._wake_at is None:
            sleep_s = _POLL_FOREVER
        else:
            sleep_s = min(_LONGEST_POLL_S, max(0.0, self._wake_at - monotonic()))
        if light and sleep_s:
            self._express.unhurried = True
            self._called = bool(self._light_epoll.poll(_LIGHT_SLEEP_S if sleep_s < 0 else min(sleep_s, _LIGHT_SLEEP_S)))
            self._express.unhurried = False
            sleep_s = 0.0
        elif sleep_s:
            sleep_s = self._nap(sleep_s)
        ready = [fd for fd, _ in self._epoll.poll(sleep_s)]
        self._inbox.awake()
        if self._inbox.wake_fd in ready:
            self._inbox.clear_wake()
        # While answers keep being taken, what is on its way now will be over before the next look.
        patient = light and self.answers.taken != self._taken
        self.workforce.answer(ready, patient=patient)  # first: what it finds over need not be booked
        if self._express and not patient:
            self._book()
        for item in self._inbox.take():
            self._take(item)
        self._take_lane()
        if self.workforce.first_alone and self.books.open > 1:
            self.workforce.replenish()
        due = self._next_wakeup()
        if self._stopping is not None or (due is not None and due <= monotonic()):
            self._time_has_come(monotonic())
        self._deliver()
        self._wake_at = self._next_wakeup()
        if not self.books.open and self._has_taken_all():
            self._tell_joiners()
        self.admission.jobs_moved_on()

    def _nap(self, sleep_s: float) -> float:
        """Do not answer the bells for a while, if the workers have enough to do; returns what is left of the time."""
        now = monotonic()
        nap_s = min(_NAP_S, self._ledger.slack(now))
        if nap_s < _SHORTEST_NAP_S:
            return sleep_s
        self._inbox.nap()
        if self._light_epoll.poll(nap_s if sleep_s < 0 else min(sleep_s, nap_s)) or not self._may_sleep():
            return 0.0
        return sleep_s if sleep_s < 0 else max(0.0, sleep_s - (monotonic() - now))

    def _may_sleep(self) -> bool:
        """Whether there is nothing to take. From now on, whoever brings something wakes this thread."""
        return self._inbox.may_sleep() and not self.lane.calls

    def _has_taken_all(self) -> bool:
        return not self._inbox and not self._express and not self.lane.calls

    def _may_sleep_lightly(self) -> bool:
        """Whether a thread is served by the workers' direct answers, and nobody else waits for anything.

        Then nothing is won by booking each job at once, and its caller would wait for the GIL meanwhile. Only after
        answers were taken: one light sleep follows another only while that goes on.
        """
        taken, self._taken = self._taken, self.answers.taken
        if taken == self._taken and not self._called:
            return False
        self._called = False
        if self.observers or self._stopping is not None or self.books.open > 1:
            return False
        if not self._express.is_quiet():
            return False
        batch = next(iter(self.books.batches.values()), None)
        if batch is None or not batch.lone:
            return not self.books.open
        return cast(LoneSink, batch.records[0].sink).is_quiet()

    def _time_has_come(self, now: float) -> None:
        """Of somebody: the ledger, the workforce, or the shutdown."""
        wakeup = self._ledger.next_wakeup()
        if wakeup is not None and wakeup <= now:
            self.workforce.observe()  # rule 2
            self._tell(ev.TimePassed())
        self.workforce.look_after(now)
        self.memory.look_after(now)
        if self._stopping is not None:
            drained = not self.books.open and self._has_taken_all()
            if self._stopping.climb(now, drained=drained):
                self._finish()

    def _next_wakeup(self) -> float | None:
        wakeup = self._ledger.next_wakeup()
        for other in (
            self.workforce.due(),
            self.memory.due(),
            None if self._stopping is None else self._stopping.ladder.wakeup(),
        ):
            if other is not None and (wakeup is None or other < wakeup):
                wakeup = other
        return wakeup

    def _take(self, item: Posted) -> None:
        if self._express:
            self._book()  # the item may be about a job that is there
        if isinstance(item, ev.Accepted):
            self._accepted(item)
        elif isinstance(item, WorkerHandle):
            self.workforce.adopt(item)
            if self._stopping is not None:
                self._stopping.send_off(item)
        elif isinstance(item, WorkerStartError):
            self.workforce.start_failed(item)
        elif isinstance(item, ShutdownRequest):
            self._shutdown_requested(item)
        elif callable(item):
            item()
        else:
            self.workforce.observe()  # rule 2
            self._tell(item)

    def _is_busy(self, handle: WorkerHandle) -> bool:
        return self.workforce.job_of(handle)[0] is not None

    def _take_lane(self) -> None:
        """Enter into the books what came through the lane."""
        if self.lane.calls:
            self._tell(ev.Accepted(self.admission.take_lane()))

    def _give_up_calls(self) -> None:
        """End plain calls whose futures were cancelled: all at once, for they are searched for."""
        self._take_lane()
        self._book()
        jobs: dict[bool, set[Call]] = {False: set(), True: set()}
        self.workforce.observe()  # rule 2
        for _ in range(len(self._given_up)):
            call, running = self._given_up.popleft()
            record = cast(JobFuture, call)._record
            if record is None:
                jobs[running].add(call)
            else:
                self._tell(ev.CancelRequested(record, CANCELLED, running))
        for running, calls in jobs.items():
            if calls:
                self._tell(ev.CallsCancelled(calls, CANCELLED, running))

    def _book(self) -> None:
        """Enter into the books what is on the short way."""
        for record, seq, at, written in self._express.take():
            if self.observers:
                self.observers.emit(JobAccepted(record.job, at))
            if written:
                self._outbox.was_put(seq, record)
                self._tell(ev.Sent(record, seq, at))
            else:
                self._tell(ev.Accepted([record]))

    def _record_of(self, sink: LoneSink) -> Record:
        """Of a plain call on the short way: it has none yet."""
        future = cast(JobFuture, sink)
        function = future._function
        assert function is not None
        payload = codec.dump_packed_call(function.mapped.blob, future.args)
        future._record = Record(future.job, future, payload=payload, key=function.key)
        self.ids.become_record(future, future._record)
        return future._record

    # ---- the ledger ------------------------------------------------------------------------------------------------

    def _forget(self, action: do.Forget) -> None:
        self._outbox.forget(action.batch)

    def _end_calls(self, action: do.EndCalls) -> None:
        jobs, error = action.part.jobs, action.part.error
        if jobs is not None:
            self.ids.release_calls(jobs)
        if self._failed is not None and error is not None:
            self._failed(f"{MAP}{action.part.position}" if jobs is None else jobs[0].id, error)
        if action.wanted:
            self._ended.append(action)

    def _retract(self, action: do.Retract) -> None:
        batches = self._outbox.retract()
        self._book()  # one of them may be news
        self._events.append(ev.Retracted(batches))

    def _put(self, action: do.PutBatch) -> None:
        span = action.batch.span
        if span is not None and span.jobs is not None:
            given_up = span.sink.start_calls(span)
            if given_up:
                self._events.append(ev.Refused(action.batch.seq, given_up, CANCELLED))
                return
        try:
            refused = self._outbox.put(action.batch)
        except queue.Full:
            self._events.append(ev.QueueFull(action.batch.seq))
        except MemoryError as error:
            error.add_note("the job could not be sent: no room for its arguments in shared memory")
            self._events.append(ev.PutFailed(action.batch.seq, error))
        else:
            for record in refused:
                self._events.append(ev.CancelRequested(record, CANCELLED, running=True))

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _break(self, what: str, cause: BaseException) -> None:
        """Give up aloud: everything open fails, every worker goes."""
        if self.admission.broken is not None or (self._stopping is not None and not self.books.open):
            return
        why = str(cause) if isinstance(cause, EngineError) else f"{type(cause).__name__}: {safe_text(cause)}"
        broken = EngineBroken(f"{self.name} is broken: {what}. Mend the cause and make a new Engine. {why}")
        broken.__cause__ = cause
        self.admission.break_with(broken)
        self.workforce.broken = True
        self._book()
        self.workforce.close_offers()
        self._tell(ev.Broke(broken))
        for handle in self.supervisor.alive():
            self.supervisor.kill(handle, "the engine is broken")
        self.observers.state("broken", monotonic())

    def _shutdown_requested(self, request: ShutdownRequest) -> None:
        self.supervisor.let_begin()
        if self._stopping is None:
            self._stopping = Stopping(self.books, self._outbox, self.supervisor, self.workforce, self._tell)
            self.workforce.mourner = self._stopping
            self.observers.state("closing", monotonic())
        self._stopping.asked(request)

    def _finish(self) -> None:
        if self.books.open:
            self.workforce.close_offers()
            self._tell(ev.Broke(EngineClosed("the engine was shut down while a worker could not be ended")))
        self.report = self.interim_report()

    def _fail(self, error: BaseException) -> None:
        bug = InternalError(f"the dispatcher failed; please report this. Story: {self._ledger.story()}")
        bug.__cause__ = error
        logger.critical("%s", bug, exc_info=error)
        self._telling = False
        self._events.clear()
        self._stopping = None
        self._break("a bug of the engine", bug)
        self._deliver()
        for handle in self.supervisor.alive():
            self.supervisor.bury(handle)
        self.report = self.interim_report()

    def _end(self) -> None:
        """The thread's last act: wake everyone, close everything."""
        self.admission.close()
        self.supervisor.close()
        self._outbox.close()
        self.answers.close()
        with descriptors.no_fork:
            for epoll, fd in zip((self._epoll, self._light_epoll), self._epoll_fds, strict=True):
                epoll.close()
                descriptors.forget(fd)
        self._inbox.close()
        if self._output is not None:
            self._output.close(_LAST_WORDS_S)
        self._say_closed()
