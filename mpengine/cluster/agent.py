"""On a node: a local engine, and the mail between it and the dispatcher far away.

Mail comes in numbered bundles by `give`, and goes out by `take`, which the dispatcher calls again and again. Both may
be called twice with the same thing, when the line was interrupted: a bundle that was taken in is passed over, and what
was not confirmed is told again.

    run        a job: number, id, name of its function, attempts it has had, attempts it may have, timeout, seconds to
               its deadline, key of its pace, number of its function, numbers of its shared objects, payload
    cancel     a job, by its number, also if it runs
    recall     a job, by its number, unless it has been started
    function   one that many jobs have: number, pickle
    share      an object: number, pickle and buffers
    forget     a function or shared object, by its number

What goes out: `Ending`, `Printed`, `Broken`.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from mpengine import __version__
from mpengine.arrays.parcel import OWN
from mpengine.arrays.shared import Shared
from mpengine.cluster.call import Kept, run_call
from mpengine.core.job import Job, Outcome, Status
from mpengine.core.records import Record
from mpengine.engine import Engine
from mpengine.errors import EngineBroken, EngineError
from mpengine.futures import JobFuture
from mpengine.observing import JobOutput
from mpengine.runtime.clock import monotonic
from mpengine.snapshot import WorkerRow
from mpengine.wire import codec
from mpengine.wire.remote_error import pack_error

logger = logging.getLogger("mpengine")

LEASE_S = 30.0  # without a word from the dispatcher, who says one a second
# For which ends are gathered while the workers have more to do: a message costs the processes on its way a millisecond
# or two. Less than `ledger.AHEAD_S`, so that the node has work until it gets more.
GATHER_S = 0.020
ROWS_S = 1.0  # how often it is told how the workers stand

ERROR, VALUE, ENGINE_ERROR = 0, 1, 2  # what the blob of an `Ending` is


@dataclass(frozen=True, slots=True)
class Ending:
    """An attempt is over. `kind`: what `blob` is; None: there is none."""

    number: int
    status: str
    kind: int
    blob: bytes | None
    started: bool
    duration: float
    worker_pid: int | None
    peak_memory: int


@dataclass(frozen=True, slots=True)
class Printed:
    """Lines of a job, for the engine's `output`."""

    output: JobOutput


@dataclass(frozen=True, slots=True)
class Broken:
    """The node's engine is broken: a pickled EngineBroken, and its cause as `pack_error` makes it, if it has one."""

    blob: bytes
    cause: bytes | None


@dataclass(frozen=True, slots=True)
class About:
    """Who the agent is.

    Attributes:
        python: Its version: functions that travel by value are made for that.
        version: Of mpengine.
    """

    pid: int
    host: str
    python: str = "{}.{}".format(*sys.version_info)
    version: str = __version__


class NoSuchAgent(Exception):
    """It was in a process that is gone, or it has ended: nobody has kept its jobs."""


class Agent:
    """See the module's text. Any thread.

    Args:
        spec: Pickled: the options of the engine, and the initializer as `codec.pack_call` makes it; None: none.
        slots: Workers of the engine.
    """

    def __init__(self, spec: bytes, slots: int) -> None:
        options, with_output, initializer = pickle.loads(spec)
        if initializer is not None:
            options["initializer"], options["initargs"], _ = codec.loads(initializer)
        if with_output:
            options["output"] = self._printed
        self._slots = slots
        self._changed = threading.Condition()
        self._giving = threading.Lock()
        self._out: deque[tuple[int, Any]] = deque()  # not confirmed
        self._last = 0  # number of the last that went out
        self._told = 0  # up to which number
        self._last_bundle = 0
        self._lingers = 0  # calls of `give` that wait for what comes of them
        self._futures: dict[int, JobFuture] = {}
        self._functions: dict[int, tuple[tuple[str, int], Shared[bytes]]] = {}
        self._shared: dict[int, Shared[Any]] = {}
        self._problems: dict[str, Exception] = {}  # of those that should be there, by what a KeyError says
        self._rows_at = 0.0
        self._called_at = monotonic()
        self._told_broken = False
        self._ended = threading.Event()
        self._id = f"{os.getpid()}-{id(self)}"
        self._engine = Engine(slots, **options)
        threading.Thread(target=self._watch_lease, name="mpengine-lease", daemon=True).start()

    def about(self) -> About:
        """Who it is."""
        return About(os.getpid(), socket.gethostname())

    # ---- in ----------------------------------------------------------------------------------------------------------

    def give(self, number: int, bundle: bytes, confirmed: int, wait: float, again: bool) -> list[tuple[int, Any]]:
        """Take in a bundle of messages. What comes of it within `wait` seconds goes out at once, as by `take`."""
        self._check()
        with self._changed:
            self._lingers += 1
        try:
            with self._giving:  # whole: the next may come while this one is worked on, if its answer was given up
                if number > self._last_bundle:
                    self._last_bundle = number
                    for message in pickle.loads(bundle):
                        self._take(*message)
        finally:
            with self._changed:
                out = self._tell(confirmed, wait, again)
                self._lingers -= 1
                self._changed.notify_all()
        return out

    def _take(self, kind: str, number: int, *rest: Any) -> None:
        """One message. What goes wrong with it is that job's own failure, or that of the jobs that need the object."""
        try:
            getattr(self, f"_take_{kind}")(number, *rest)
        except Exception as error:  # no room in shared memory, say
            if kind == "run":
                self._futures.pop(number, None)
                self._put(self._ending_of_error(number, Status.FAILED, self._problems.get(str(error), error)))
            else:
                self._problems[str(number)] = error

    def _take_run(
        self, number: int, id: str, name: str, attempts: int, retries: int, timeout: float | None,
        remaining: float | None, key: int, function: int | None, shared: tuple[int, ...], payload: bytes,
    ) -> None:  # fmt: skip
        objects = [Kept(one, self._shared[one]) for one in shared]  # those of its function among them
        known = None if function is None else self._functions[function]
        job = Job(_Named(name), id=id, timeout=timeout, retries=retries, retry_on=())  # it is retried from afar
        future = JobFuture(job)
        problem, packed = None, None
        try:
            packed = codec.pack_call(run_call, (payload, known, objects), {}, self._engine._dispatcher.arena, OWN)
        except Exception as error:  # no room for it in shared memory
            problem = error
        record = Record(
            job, future, payload=packed, problem=problem, key=key, timeout=timeout, retries=retries,
            deadline=None if remaining is None else monotonic() + remaining,
        )  # fmt: skip
        record.attempt = attempts
        self._futures[number] = future
        future.add_done_callback(lambda done: self._job_ended(number, attempts, done))
        try:
            self._engine._admit(future, record)
        except (EngineError, ValueError) as error:
            self._futures.pop(number, None)
            self._put(self._ending_of_error(number, Status.LOST, error))

    def _take_cancel(self, number: int) -> None:
        future = self._futures.get(number)
        if future is not None:
            future.cancel(running=True)

    def _take_recall(self, number: int) -> None:
        future = self._futures.get(number)
        if future is not None:
            future.cancel()

    def _take_function(self, number: int, blob: bytes) -> None:
        self._functions[number] = ((self._id, number), self._engine.share(blob))

    def _take_share(self, number: int, parts: list[bytes]) -> None:
        data, *buffers = parts
        self._shared[number] = Shared(data, [memoryview(part) for part in buffers], (), self._engine._dispatcher.arena)

    def _take_forget(self, number: int) -> None:
        self._shared.pop(number, None)
        self._functions.pop(number, None)

    # ---- out ---------------------------------------------------------------------------------------------------------

    def take(
        self, confirmed: int, wait: float, again: bool
    ) -> tuple[list[tuple[int, Any]], list[WorkerRow] | None]:  # fmt: skip
        """What goes out next; waits up to `wait` seconds until there is something. Now and then how the workers stand.

        Args:
            confirmed: The number up to which all has arrived.
            again: An answer may have been lost: tell again all that is not confirmed.
        """
        self._check()
        with self._changed:
            out = self._tell(confirmed, wait, again, patient=True)
        self._tell_if_broken()
        rows = None
        now = self._called_at = monotonic()
        if now - self._rows_at > ROWS_S:
            self._rows_at = now
            rows = self._engine.workers()
        return out, rows

    def _tell(self, confirmed: int, wait: float, again: bool, *, patient: bool = False) -> list[tuple[int, Any]]:
        """What nobody was told yet. With the lock, which is let go while there is nothing.

        Args:
            patient: What a `give` waits for is its own to tell.
        """
        while self._out and self._out[0][0] <= confirmed:
            self._out.popleft()
        if again:
            self._told = min(self._told, confirmed)

        def has_news() -> bool:
            return self._ended.is_set() or (self._last > self._told and not (patient and self._lingers))

        if self._changed.wait_for(has_news, wait):
            self._changed.wait_for(lambda: self._ended.is_set() or len(self._futures) <= self._slots, GATHER_S)
        out = [(number, message) for number, message in self._out if number > self._told]
        self._told = self._last
        return out

    def _put(self, message: Any) -> None:
        with self._changed:
            self._last += 1
            self._out.append((self._last, message))
            self._changed.notify_all()

    def _printed(self, output: JobOutput) -> None:
        self._put(Printed(output))

    def _job_ended(self, number: int, attempts: int, future: Any) -> None:
        self._futures.pop(number, None)
        try:
            ending = self._ending_of(number, attempts, future.outcome(0))
        except Exception as error:  # an error of the job's that cannot be told, no memory
            ending = self._ending_of_error(number, Status.FAILED, error)
        self._put(ending)

    def _ending_of(self, number: int, attempts: int, outcome: Outcome) -> Ending:
        if outcome.error is None:
            succeeded, blob = outcome.value
            kind, status = (VALUE, outcome.status) if succeeded else (ERROR, Status.FAILED)
            return self._ending(number, status, kind, blob, outcome, attempts)
        if isinstance(outcome.error, EngineBroken):
            self._tell_if_broken()
            return self._ending(number, Status.LOST, ENGINE_ERROR, codec.dumps(outcome.error), outcome, attempts)
        if isinstance(outcome.error, EngineError):  # told in words that are true far away, too
            return self._ending(number, outcome.status, ENGINE_ERROR, codec.dumps(outcome.error), outcome, attempts)
        return self._ending(number, outcome.status, ERROR, pack_error(outcome.error, None), outcome, attempts)

    @staticmethod
    def _ending(number: int, status: Status, kind: int, blob: bytes, outcome: Outcome, attempts: int) -> Ending:
        return Ending(
            number, str(status), kind, bytes(blob), outcome.attempts > attempts, outcome.duration, outcome.worker_pid,
            outcome.peak_memory,
        )  # fmt: skip

    def _ending_of_error(self, number: int, status: Status, error: BaseException) -> Ending:
        return Ending(number, str(status), ERROR, pack_error(error, None), False, 0.0, None, 0)

    def _tell_if_broken(self) -> None:
        broken = self._engine._broken
        if isinstance(broken, EngineBroken) and not self._told_broken:
            self._told_broken = True
            cause = broken.__cause__
            self._put(Broken(codec.dumps(broken), None if cause is None else pack_error(cause, None)))

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None) -> list[tuple[int, Any]]:
        """End its engine: at once what has not started, and within `timeout` seconds the rest. May be called again.

        Returns:
            All that is not confirmed: its last words.
        """
        self._engine.shutdown(cancel_futures=True, timeout=timeout)
        with self._changed:
            self._ended.set()
            self._changed.notify_all()
            return list(self._out)

    def _check(self) -> None:
        self._called_at = monotonic()
        if self._ended.is_set():
            raise NoSuchAgent("it has ended")

    def _watch_lease(self) -> None:
        while not self._ended.wait(LEASE_S / 10):
            if monotonic() - self._called_at > LEASE_S:
                logger.warning("nobody has asked this node's engine for %d s: its jobs are ended", LEASE_S)
                self.close(0.0)


class _Named:
    """Stands for the function of a job: for messages. The call itself is in the payload."""

    def __init__(self, name: str) -> None:
        self.__qualname__ = name

    def __call__(self) -> None:
        raise AssertionError("only its name is used")
