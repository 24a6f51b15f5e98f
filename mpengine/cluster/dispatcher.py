"""The one thread that moves the jobs of a cluster's engine: events to the ledger, its actions to nodes and futures.

As `runtime.dispatcher`, whose rules hold here, too; but the workers are far away, and there are no short ways.
"""

from __future__ import annotations

import logging
import random
import select
import threading
from typing import Any

from mpengine.cluster import ledger as cl
from mpengine.cluster.agent import ENGINE_ERROR, ERROR, Broken, Ending, Printed
from mpengine.cluster.driver import Driver
from mpengine.cluster.nodes import NodeLink, Nodes
from mpengine.cluster.payloads import pack_job
from mpengine.core import actions as do
from mpengine.core import events as ev
from mpengine.core.job import Job, Status
from mpengine.core.policy import StopLadder
from mpengine.core.records import Report
from mpengine.core.verdicts import describe
from mpengine.errors import EngineBroken, EngineClosed, EngineError, InternalError, WorkerStartError
from mpengine.options import Options
from mpengine.runtime.admission import Gate, Tally
from mpengine.runtime.any_dispatcher import CANCELLED, AnyDispatcher
from mpengine.runtime.clock import monotonic
from mpengine.runtime.stopping import ShutdownReport, ShutdownRequest, WorkerEnd
from mpengine.wire import codec
from mpengine.wire.remote_error import safe_text, unpack_error

logger = logging.getLogger("mpengine")

_LONGEST_POLL_S = 3600.0
_MOST_START_FAILURES = 3  # one after another, while no node is ready
_LONELY_S = 10.0  # for which jobs have waited without a node, before that is said
_START_PATIENCE_S = 2.0  # for nodes that are about to start when the engine closes
_REASON = "the engine was shut down"


class _Count:
    admitted = 0


class _NoFunctions:
    """All functions go with their jobs, but for those of a `map`."""

    def get(self, fn: Any) -> None:
        """As `functions.Functions`."""


class ClusterDispatcher(AnyDispatcher):
    """See `runtime.any_dispatcher`. Starts its thread, and its nodes, at once. No future here is answered directly."""

    _ledger: cl.ClusterLedger

    def __init__(self, options: Options, driver: Driver, spec: bytes, most: int | None) -> None:
        super().__init__(options)
        self.functions = _NoFunctions()
        self._tally: Tally = _Count()
        self._ledger = cl.ClusterLedger(jitter=random.random)
        self.books = self._ledger.books
        self.admission = Gate(options.name, self._inbox, self._tally, options.max_pending, self._waiting)
        self.nodes = Nodes(driver, spec, most, self, options.name)
        self._driver = driver
        self._output = options.output
        self._ladder: StopLadder | None = None
        self._starts_until = 0.0
        self._ends: list[WorkerEnd] = []
        self._start_failures = 0
        self._lonely_since: float | None = None
        self._doers = {
            cl.Send: self._send,
            cl.Withdraw: self._withdraw,
            cl.Recall: self._recall,
            do.Settle: self._settle,
            do.Retried: self._tell_retried,
            do.Forget: lambda _: None,  # of a batch nothing is kept but what is in the books
        }
        self._poll = select.poll()
        self._poll.register(self._inbox.wake_fd, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name=f"{options.name}-dispatcher", daemon=True)
        self._thread.start()
        self.nodes.begin()

    # ---- any thread ------------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Of all nodes that are ready; 1 while there is none, so that something is drawn."""
        return max(1, self.nodes.slots)

    @property
    def admitted(self) -> int:
        """Jobs that were let in, ever."""
        return self._tally.admitted

    def pack(self, job: Job, *, again: bool) -> bytes:
        """Pickle a call."""
        return pack_job(job.fn, job.args, job.kwargs, self)

    def _waiting(self, admitted: int) -> int:
        return admitted - self.books.ended() - len(self.books.batches)

    def catch_up(self) -> None:
        """The books know all there is to know."""

    def _workers_there(self) -> list[tuple[int, float, float | None]]:
        return []  # they are the nodes'

    def request_cancel_call(self, call: Any, running: bool) -> None:
        """For a future that has no record: there are none."""

    def somebody_waits(self) -> None:
        """This thread never sleeps lightly."""

    def forget_shared(self, number: int) -> None:
        """A function or a shared object is not needed any more. Also from finalizers."""
        self.post(lambda: self._forget(number))

    def _forget(self, number: int) -> None:
        for link in self.nodes.links.values():
            link.forget(number)

    def interim_report(self) -> ShutdownReport:
        """What a shutdown has come to so far."""
        counts = self.books.counts
        return ShutdownReport(
            finished=counts[Status.SUCCEEDED] + counts[Status.FAILED] + counts[Status.EXPIRED],
            cancelled=counts[Status.CANCELLED],
            lost=counts[Status.LOST],
            workers=tuple(self._ends),
            complete=self._ladder is not None and not self.nodes.links,
        )

    # ---- the loop --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if self._inbox.may_sleep():
            sleep_s = _LONGEST_POLL_S if self._wake_at is None else max(0.0, self._wake_at - monotonic())
            self._poll.poll(min(sleep_s, _LONGEST_POLL_S) * 1000.0)
        self._inbox.awake()
        self._inbox.clear_wake()
        for item in self._inbox.take():
            self._take(item)
        now = monotonic()
        due = self._ledger.next_wakeup()
        if due is not None and due <= now:
            self._tell(ev.TimePassed())
        self.nodes.look_after(now)
        if self._ladder is not None:
            self._climb(self._ladder, now)
        self._look_lonely(now)
        self.nodes.flush()  # first: a slow callback must not keep the nodes idle
        self._deliver()
        self.nodes.listen()
        self._wake_at = self._next_wakeup()
        if not self.books.open and not self._inbox:
            self._tell_joiners()
        self.admission.jobs_moved_on()

    def _next_wakeup(self) -> float | None:
        wakeups = [*self.nodes.due()]
        for other in (
            self._ledger.next_wakeup(),
            None if self._ladder is None else self._ladder.wakeup(),
            self._starts_until if monotonic() < self._starts_until else None,
            None if self._lonely_since is None else self._lonely_since + _LONELY_S,
        ):
            if other is not None:
                wakeups.append(other)
        return min(wakeups, default=None)

    def _take(self, item: Any) -> None:
        if isinstance(item, ev.Accepted):
            self._accepted(item)
        elif isinstance(item, ShutdownRequest):
            self._shutdown_requested(item)
        elif callable(item):
            item()
        else:
            self._tell(item)

    # ---- the ledger ------------------------------------------------------------------------------------------------

    def _send(self, action: cl.Send) -> None:
        record = action.batch.records[0]
        if not record.sink.start(record):  # first: once it was sent, it may run
            self._events.append(cl.Refused(action.node, action.batch.seq, CANCELLED))
            return
        link = self.nodes.links.get(action.node)
        if link is not None:  # or else the ledger is about to be told
            link.run(action.batch.seq, record, monotonic())

    def _withdraw(self, action: cl.Withdraw) -> None:
        link = self.nodes.links.get(action.node)
        if link is not None:
            link.cancel(action.batch)

    def _recall(self, action: cl.Recall) -> None:
        link = self.nodes.links.get(action.node)
        if link is not None:
            link.recall(action.batch)

    # ---- as the keeper of the nodes ----------------------------------------------------------------------------------

    def node_ready(self, node: NodeLink) -> None:
        """It takes jobs from now on."""
        self._start_failures = 0
        self._tell(cl.NodeReady(node.id, node.slots))

    def node_lost(self, node: NodeLink, reason: str) -> None:
        """It takes no more."""
        if self._ladder is not None:
            self._ends.append(WorkerEnd(node.about.pid, node.rung, None))
        elif self.admission.broken is None:
            logger.warning("%s is gone: %s", node.name, reason)
        self._tell(cl.NodeLost(node.id, node.name, reason, node.unsent()))

    def node_failed(self, name: str, error: BaseException) -> None:
        """It could not start."""
        if self._ladder is not None:
            return  # the engine is about to leave, and perhaps the cluster is
        logger.warning("node %s could not start: %s", name, _text(error))
        self._start_failures = 0 if self.nodes.links else self._start_failures + 1
        if self._start_failures >= _MOST_START_FAILURES:
            cause = WorkerStartError(f"node {name} could not start: {_text(error)}")
            cause.__cause__ = error
            self._break("its nodes cannot be started", cause)

    def cluster_gone(self, error: BaseException) -> None:
        """Nobody can tell who is there."""
        self._break(f"{self._driver.what} does not answer", error)

    def node_told(self, node: NodeLink, message: Any) -> None:
        """Something came from there."""
        match message:
            case Ending():
                self._attempt_ended(node, message)
            case Printed(output):
                if self._output is not None:
                    try:
                        self._output(output)
                    except Exception:
                        logger.exception("the engine's `output` raised and is dropped")
                        self._output = None
            case Broken(blob, cause):
                broken: BaseException = codec.loads(blob)
                if cause is not None:
                    broken = unpack_error(cause, f"mpengine: on {node.name}")
                if not self.books.ended():  # else it is this node that has gone bad
                    self._break(f"{node.name} is broken", broken)
                else:
                    logger.warning("%s is broken: %s", node.name, broken)
                    self.nodes.rest(node.key)
                    node.lost("its engine is broken")

    def _attempt_ended(self, node: NodeLink, ending: Ending) -> None:
        batch = self.books.batches.get(ending.number)
        if batch is None:
            return
        record = batch.records[0]
        status, value, error = Status(ending.status), None, None
        if ending.kind == ERROR:
            where = node.name if ending.worker_pid is None else f"worker pid {ending.worker_pid} on {node.name}"
            note = f"mpengine: {describe(record, record.attempt + 1)}, in {where}: raised"
            error = unpack_error(ending.blob, note)
        elif ending.kind == ENGINE_ERROR:
            error = codec.loads(ending.blob or b"")
            codec.annotate(error, f"mpengine: on {node.name}")
        else:
            try:
                value = codec.loads(ending.blob or b"")
            except BaseException as problem:  # a user's object may raise anything while it is rebuilt
                codec.annotate(problem, f"mpengine: the result of job {record.job.id!r} cannot be unpickled here")
                status, error = Status.FAILED, problem
        report = Report(
            0, value, error=error, duration=ending.duration, peak_memory=ending.peak_memory,
            stack=getattr(error, "stack", "") if ending.kind == ENGINE_ERROR else "",
        )  # fmt: skip
        self._tell(cl.AttemptEnded(node.id, ending.number, status, report, ending.started, ending.worker_pid))

    def _look_lonely(self, now: float) -> None:
        """Say it, once, when jobs wait and there is nobody to run them."""
        if self.nodes.links or not self.books.open:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = now
        elif now >= self._lonely_since + _LONELY_S:
            self._lonely_since = float("inf")
            logger.warning(
                "%d jobs wait, and %s has no node for them; they start when there is one",
                self.books.open, self._driver.what,
            )  # fmt: skip

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _break(self, what: str, cause: BaseException) -> None:
        """Give up aloud: everything open fails, every node goes."""
        if self.admission.broken is not None or (self._ladder is not None and not self.books.open):
            return
        broken = EngineBroken(f"{self.name} is broken: {what}. Mend the cause and make a new engine. {_text(cause)}")
        broken.__cause__ = cause
        self.admission.break_with(broken)
        self.nodes.stop()
        self._tell(ev.Broke(broken))
        for link in list(self.nodes.links.values()):
            link.kill()
        self.observers.state("broken", monotonic())

    def _shutdown_requested(self, request: ShutdownRequest) -> None:
        if self._ladder is None:
            self._ladder = StopLadder()
            self._starts_until = monotonic() + _START_PATIENCE_S
            self.observers.state("closing", monotonic())
        if request.deadline is not None:
            self._ladder.hurry(request.deadline)
        if request.cancel_pending is not None:
            self._tell(ev.PendingCancelled(request.cancel_pending))

    def _climb(self, ladder: StopLadder, now: float) -> None:
        """Go up the ladder as far as it is time to."""
        while True:
            drained = not self.books.open and not self._inbox
            starting = (
                len(self.nodes.starting) if now < self._starts_until else 0
            )  # they are ended when they have started
            phase = ladder.next_phase(now, drained=drained, alive=len(self.nodes.links) + starting)
            if phase is None:
                return
            self.nodes.stop()
            links = list(self.nodes.links.values())
            if phase == "gone":
                break
            if phase == "terminate":
                self._tell(ev.PendingCancelled(_REASON))
            for link in links:
                if phase == "kill":
                    link.kill()
                else:
                    link.close(None if phase == "pill" else 0.0)
        if self.books.open:
            self._tell(ev.Broke(EngineClosed("the engine was shut down before a node could run it")))
        self.report = self.interim_report()

    def _fail(self, error: BaseException) -> None:
        bug = InternalError("the dispatcher failed; please report this")
        bug.__cause__ = error
        logger.critical("%s", bug, exc_info=error)
        self._telling = False
        self._events.clear()
        self._break("a bug of the engine", bug)
        for item in self._inbox.take():
            if isinstance(item, ev.Accepted):  # let in before it was broken: they fail with it
                self._tell(item)
        self._deliver()
        self.report = self.interim_report()

    def _end(self) -> None:
        """The thread's last act: wake everyone, close everything."""
        self.admission.close()
        self._deliver()
        try:
            self.nodes.close()
        except Exception:
            logger.exception("%s: letting go of %s failed", self.name, self._driver.what)
        self._inbox.close()
        self._say_closed()


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {safe_text(error)}"
