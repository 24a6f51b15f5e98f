"""`Engine`: what users hold. A `concurrent.futures.Executor` over worker processes."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
import sys
import threading
import weakref
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from mpengine.arrays.parcel import COPY, leases_of
from mpengine.arrays.shared import Shared
from mpengine.core.job import Job, Outcome, function_name
from mpengine.core.pace import pace_key
from mpengine.core.records import Record, Sink
from mpengine.drawing import CallSource, never_blocks
from mpengine.drawing_jobs import JobSource
from mpengine.errors import EngineBroken, EngineClosed
from mpengine.futures import JobFuture
from mpengine.observing import JobOutput, Observation, Observer
from mpengine.options import DEFAULT_STOP_GRACE_S, Options
from mpengine.runtime.any_dispatcher import AnyDispatcher
from mpengine.runtime.clock import monotonic
from mpengine.runtime.dispatcher import Dispatcher
from mpengine.runtime.outbox import MappedFunction
from mpengine.runtime.stopping import ShutdownReport, ShutdownRequest
from mpengine.snapshot import EngineStats, WorkerRow, engine_stats, worker_rows
from mpengine.streams import (
    ClosableIterator,
    MapStream,
    RunStream,
    Values,
    failing,
    iterate_outcomes,
    iterate_values,
    map_by_submit,
)
from mpengine.wire import codec

if TYPE_CHECKING:
    from mpengine.progress import EngineProgress

_numbers = itertools.count(1)

T = TypeVar("T")


class AnyEngine(concurrent.futures.Executor):
    """What all engines have in common, wherever their workers are: `Engine`, and what `connect` returns.

    All methods may be called from any thread, also from done-callbacks. Use it as a context manager: leaving the block
    finishes what was accepted; leaving it through an exception cancels what has not started, through KeyboardInterrupt
    also what runs.
    """

    _dispatcher: AnyDispatcher
    _options: Options
    _max_workers: int
    _plain = False  # calls without limits are not a case of their own each
    _progress: EngineProgress | None = None

    def _use(self, dispatcher: AnyDispatcher) -> None:
        """Have one. At the end of the program, and when this engine is dropped, it finishes what it has."""
        self._dispatcher = dispatcher
        self._observers = dispatcher.observers
        _open.add(dispatcher)
        # The dispatcher is there as long as its thread runs. It must not be held longer: an error that it has may hold
        # this engine, by its traceback.
        weakref.finalize(self, _dropped, weakref.ref(dispatcher)).atexit = False

    # ---- one job ---------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> JobFuture:
        """Run ``fn(*args, **kwargs)`` in a worker. As in Executor.

        The call is pickled here and now; what cannot be pickled is the future's error, not raised. Blocks only above
        `max_pending`.

        Raises:
            EngineClosed: After shutdown.
            EngineBroken: Workers cannot be kept alive.
        """
        return self.dispatch(Job(fn, args, kwargs))

    def dispatch(self, job: Job) -> JobFuture:
        """Run one `Job`. As `submit`; and a ValueError if a job of the same id is open."""
        self._check_process()
        future = JobFuture(job)
        self._admit(future, _record(self._dispatcher, self._options, job, future))
        return future

    def _admit(self, future: JobFuture, record: Record) -> None:
        """Let this record in, which `future` is the sink of."""
        dispatcher = self._dispatcher
        _take_id(dispatcher, record)
        future._desk = dispatcher
        future._record = record
        try:
            future._batch = dispatcher.admission.admit_one(record, block=not dispatcher.is_own_thread())
        except BaseException:
            dispatcher.ids.release_id(record.job.id)
            raise

    # ---- many jobs -------------------------------------------------------------------------------------------------

    def run(self, jobs: Iterable[Job], *, ordered: bool = False) -> Generator[Outcome, None, None]:
        """The batch call: yield one `Outcome` per job, as they come, or in the order of the input.

        Draws from `jobs` lazily, a bounded window ahead, from now on; endless input is fine, and so is one that blocks:
        unless it is a list or the like, a thread of its own asks it for the next job (see `mpengine.drawing`). A job's
        failure is its outcome, never an exception of the iterator. Closing or dropping the iterator cancels what
        was drawn and has not ended.

        Raises:
            EngineClosed, EngineBroken: When the next outcome is asked for. An exception of `jobs` itself is raised
                after the outcomes of what it gave before.
        """
        self._check_open()
        sure = never_blocks(jobs)
        length = self._length((jobs,))
        return _handed_over(
            iterate_outcomes, self._run_stream(iter(jobs), sure=sure, ordered=ordered, length=length), self
        )

    def arun(self, jobs: Iterable[Job] | AsyncIterable[Job], *, ordered: bool = False) -> AsyncGenerator[Outcome, None]:
        """`run` for asyncio: ``async for outcome in engine.arun(jobs)``. Never blocks the event loop.

        `jobs` may be asynchronous, too. It is drawn as by `run`, once the first outcome is asked for: one that is not
        asynchronous by a thread of its own, so that it may block. Closing the iterator (`aclose`), or cancelling its
        task, cancels what was drawn and has not ended; so does leaving it by `break`, when the loop gets its next turn.

        Raises:
            EngineClosed, EngineBroken: As `run`. An exception of `jobs` itself is raised after the outcomes of what it
                gave before.
        """
        self._check_open()
        from mpengine.async_streams import iterate  # here: it brings asyncio

        make_stream = functools.partial(self._run_stream, sure=False, ordered=ordered, length=self._length((jobs,)))
        return iterate(jobs, make_stream, self)

    def _run_stream(
        self,
        jobs: Iterator[Job],
        *,
        sure: bool,
        ordered: bool,
        deadline: float | None = None,
        buffersize: int | None = None,
        length: int | None = None,
    ) -> RunStream:
        source = JobSource(
            self._dispatcher, jobs, self._admitter(), sure=sure, buffersize=buffersize, in_spans=self._plain
        )  # fmt: skip
        if self._progress is not None:
            self._progress.expect(source, length)
        try:
            return RunStream(
                self._dispatcher, source, ordered=ordered, deadline=deadline, counts_each=buffersize is not None
            )  # fmt: skip
        except BaseException:  # Ctrl-C at the call: its traceback keeps all this, and nobody else has it
            source.close()
            raise

    def _length(self, iterables: Iterable[Any]) -> int | None:
        """Of an input, for those who look on; None: they do not, or nobody knows."""
        if self._progress is None:
            return None
        try:
            return min(map(len, iterables), default=0)
        except Exception:  # it has no length, or its class raises
            return None

    def _admitter(self) -> Callable[..., Record]:
        """Makes records for `run`; without a reference to the engine, for a thread may keep it."""
        return functools.partial(_admit, self._dispatcher, self._options)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> ClosableIterator:
        """Yield ``fn(*args)`` for the zipped arguments, in order. As in Executor, but lazy.

        Draws its input a bounded window ahead, the first window now; endless input is fine, and so is one that blocks:
        unless it is a list or the like, a thread of its own asks it for the next item (see `mpengine.drawing`). The
        first call that fails raises its error here and ends the iterator, which cancels the rest; so does closing it.

        Args:
            timeout: Seconds from now; a value that is asked for and not there by then raises TimeoutError.
            chunksize: Accepted for those who come from elsewhere; never needed.
            buffersize: Calls drawn and not yet handed out, at most; None: the engine's own measure.
        """
        return self._map(fn, iterables, timeout, chunksize, buffersize, ordered=True)

    def map_unordered(self, fn: Callable[..., Any], *iterables: Iterable[Any], chunksize: int = 1) -> ClosableIterator:
        """As `map`, with the values as they come."""
        return self._map(fn, iterables, None, chunksize, None, ordered=False)

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int,
        buffersize: int | None,
        *,
        ordered: bool,
    ) -> ClosableIterator:
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        self._check_open()
        deadline = None if timeout is None else monotonic() + timeout
        items = zip(*iterables, strict=False)
        sure = all(map(never_blocks, iterables))
        own = (AnyEngine.submit, Engine.submit)
        if type(self).submit not in own or "submit" in self.__dict__:
            return map_by_submit(self.submit, fn, items, deadline, buffersize or 4 * self._max_workers)
        return self._map_items(
            fn, iterables, items, sure=sure, ordered=ordered, buffersize=buffersize, deadline=deadline
        )

    def _map_items(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], items: Iterator[tuple[Any, ...]], *,
        sure: bool, ordered: bool, buffersize: int | None, deadline: float | None,
    ) -> ClosableIterator:  # fmt: skip
        """Each call is a job, with limits of its own and with events for those who look."""
        stream = self._run_stream(
            self._calls(fn, items), sure=sure, ordered=ordered, deadline=deadline, buffersize=buffersize,
            length=self._length(iterables),
        )  # fmt: skip
        return _handed_over(iterate_values, stream, self)

    def _calls(self, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]]) -> Iterator[Job]:
        """The calls of a `map` as jobs."""
        return (Job(fn, args) for args in items)

    # ---- data for many jobs ----------------------------------------------------------------------------------------

    @abstractmethod
    def share(self, obj: Any) -> Any:
        """Put one read-only copy of an object where all jobs can see it. See `Shared`."""

    # ---- looking -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def stats(self) -> EngineStats:
        """Counts by state, and throughput. Cheap; a snapshot that other threads may be changing."""

    @abstractmethod
    def workers(self) -> list[WorkerRow]:
        """One row per worker: pid, state, job, age, memory."""

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every accepted job has its outcome; the engine stays open. False after `timeout` seconds.

        From a done-callback it cannot wait, and raises RuntimeError.
        """
        self._check_process()
        if self._dispatcher.is_own_thread():
            raise RuntimeError("join() inside a done-callback would wait for itself; call it from another thread")
        return self._dispatcher.join(timeout)

    def observe(self, observer: Observer) -> Observation:
        """Tell a callable what happens from now on, one event at a time; see `mpengine.observing` for the events.

        The observer is called by the engine's dispatcher thread, which moves all jobs: it must be quick and must not
        wait for the engine. If it raises, that is logged, and it is dropped. `Report`, `Trace` and `Metrics` are
        observers. While anybody looks, each job is a case of its own, which takes tens of microseconds of this process
        for each; when nobody does, this costs nothing.

        First it is told how things stand: the engine's state, the workers that are there, and the jobs that wait or
        run. What was accepted earlier can be untold where the engine does not keep it job by job: plain calls of
        `submit` and `run`, and those of a `map` that was begun before, also the ones it has not drawn yet. What is
        accepted later is told in full.

        Waits until the dispatcher thread has taken the observer in. From any thread; from a callback it does not wait,
        and the observer is called when that callback has returned.

        Returns:
            What ends it, by ``observation.end()`` or by leaving ``with engine.observe(observer):``. Need not be kept.

        Raises:
            TypeError: `observer` is not callable.
            EngineClosed: There is nothing left to observe.
        """
        self._check_process()
        if not callable(observer):
            raise TypeError(f"observe: an observer must be callable, got {type(observer).__name__}")
        return self._dispatcher.observe(observer)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def shutdown(  # type: ignore[override]
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> ShutdownReport:  # fmt: skip
        """Take no more jobs, finish the accepted ones, end the workers. May be called again, and from anywhere.

        Args:
            wait: Return when every worker is gone; else at once, and the rest happens in the background.
            cancel_futures: Cancel what has not started.
            timeout: Seconds for all of it; then what waits is cancelled, what runs is killed and lost. None: as long
                as the jobs take. Bounds the shutdown also with ``wait=False``.

        Returns:
            What it came to. Incomplete with ``wait=False``, and when called inside a done-callback, which cannot wait.
        """
        dispatcher = self._dispatcher
        if dispatcher.pid != os.getpid():
            return dispatcher.interim_report()  # a forked copy: nothing here is its own
        deadline = None if timeout is None else monotonic() + timeout
        dispatcher.admission.close(
            ShutdownRequest(deadline, "shutdown(cancel_futures=True)" if cancel_futures else None)
        )
        if wait and not dispatcher.is_own_thread():
            dispatcher.closed.wait()
            if self._progress is not None:
                self._progress.close()
        return dispatcher.report or dispatcher.interim_report()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:  # fmt: skip
        if kind is None:
            self.shutdown()
        elif issubclass(kind, Exception):
            self.shutdown(cancel_futures=True)
        else:  # KeyboardInterrupt and the like: now
            self.shutdown(cancel_futures=True, timeout=0.0)

    @property
    def _broken(self) -> EngineBroken | bool:
        """As in ProcessPoolExecutor: false, or why it is broken."""
        return self._dispatcher.admission.broken or False

    def _check_process(self) -> None:
        if self._dispatcher.pid != os.getpid():
            raise EngineClosed(
                f"{self._options.name} belongs to process {self._dispatcher.pid}, and this is a forked copy of it "
                f"(pid {os.getpid()}); make a new Engine here"
            )

    def _check_open(self) -> None:
        self._check_process()
        self._dispatcher.admission.check_open()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Engine cannot be sent to a worker; make one there, or return jobs to be submitted here")

    def __repr__(self) -> str:
        state = "closed" if self._dispatcher.closed.is_set() else "broken" if self._broken else "open"
        return f"<{type(self).__name__} {self._options.name!r} {state}, {self._max_workers} workers>"


class Engine(AnyEngine):
    """Runs jobs in worker processes: one outcome for each, whatever happens to it.

    All methods may be called from any thread, also from done-callbacks. Use it as a context manager: leaving the block
    finishes what was accepted; leaving it through an exception cancels what has not started, through KeyboardInterrupt
    also what runs.

    Args:
        max_workers: Worker processes; None: `cpu_count()`, the CPUs this process may use.
        mp_context: A multiprocessing context, or "forkserver", "spawn" or "fork"; None: what the program chose with
            `multiprocessing.set_start_method`, else "forkserver".
        initializer: Called as ``initializer(*initargs)`` in each worker before its first job. If it raises, the
            engine is broken.
        initargs: May hold locks and queues of the same context.
        max_tasks_per_child: A worker is replaced after this many jobs; None: never.
        max_pending: Accepted jobs not yet started, above which `submit` and `dispatch` block; None: no bound.
        timeout: Seconds an attempt of a job may run, unless the job says otherwise; None: for ever.
        retries: Further attempts of a job after its first, unless the job says otherwise.
        memory_limit: Bytes, or a size such as "2GiB", that a worker and the processes below it may hold; shared pages
            count once, and those a forked worker has from this program not at all. Past it, it is killed, and the job
            it runs ends with MemoryLimitExceeded; a worker that keeps more between jobs than three quarters of what it
            was left at its start is replaced. None: no limit.
        threads_per_worker: Threads of BLAS and OpenMP in each worker, unless the environment says otherwise; None:
            theirs to choose.
        stop_grace: Seconds a job has, once interrupted, before its worker is killed.
        observers: Callables that are told what happens from the start, see `mpengine.observing` and `observe`.
        output: Called with what jobs print, as `JobOutput`, in a thread of its own; records that they log go to the
            loggers of this program, with the job's id before the message and as `job_id`. A job that prints waits while
            this is slow. None: jobs print where this program does, as in Executor.
        progress: Show on stderr how the jobs stand while there are any: how many of how many, how fast, how long yet;
            a row for each worker, with its job, that job's `CurrentJob.progress`, age and memory; the last failures;
            and above that, what jobs print. Lines where stderr is no terminal, HTML in a notebook. No job waits for it.
        name: For threads, processes and messages.

    Raises:
        ValueError, TypeError: An option makes no sense.
    """

    _dispatcher: Dispatcher

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        max_pending: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        memory_limit: int | str | None = None,
        threads_per_worker: int | None = 1,
        stop_grace: float = DEFAULT_STOP_GRACE_S,
        observers: Iterable[Observer] = (),
        output: Callable[[JobOutput], None] | None = None,
        progress: bool = False,
        name: str | None = None,
    ) -> None:
        if progress:
            from mpengine.progress import EngineProgress  # here: it brings rich

            self._progress = EngineProgress()
        self._options = Options.check(
            max_workers, mp_context, initializer, initargs, max_tasks_per_child=max_tasks_per_child,
            max_pending=max_pending, timeout=timeout, retries=retries, memory_limit=memory_limit,
            threads_per_worker=threads_per_worker, stop_grace=stop_grace, observers=observers,
            output=output if output is not None or self._progress is None else self._progress.output,
            failed=None if self._progress is None else self._progress.failed,
            name=name or f"mpengine-{next(_numbers)}",
        )  # fmt: skip
        dispatcher = Dispatcher(self._options)
        self._use(dispatcher)
        self._max_workers = self._options.workers  # ProcessPoolExecutor's users read it
        if self._progress is not None:
            self._progress.begin(dispatcher)
        self._lane = dispatcher.lane
        options = self._options
        # Nothing makes each call a case of its own: no limits; nor, as long as nobody looks, events; nor, for
        # `submit`, a place to wait for.
        self._plain = options.timeout is None and not options.retries
        self._has_lane = self._plain and options.max_pending is None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> JobFuture:
        """Run ``fn(*args, **kwargs)`` in a worker. As in Executor.

        The call is pickled here and now; what cannot be pickled is the future's error, not raised. Blocks only above
        `max_pending`.

        Raises:
            EngineClosed: After shutdown.
            EngineBroken: Workers cannot be kept alive.
        """
        if self._has_lane and not kwargs and not self._observers.looking:
            future = self._lane.submit(fn, args)
            if future is not None:
                return future
        return super().submit(fn, *args, **kwargs)

    def _map_items(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], items: Iterator[tuple[Any, ...]], *,
        sure: bool, ordered: bool, buffersize: int | None, deadline: float | None,
    ) -> ClosableIterator:  # fmt: skip
        """Without limits, and while nobody looks: calls travel together, and have no jobs of their own."""
        if not self._plain or self._observers.looking:
            return super()._map_items(
                fn, iterables, items, sure=sure, ordered=ordered, buffersize=buffersize, deadline=deadline
            )
        length = self._length(iterables)
        try:
            packed = codec.pack(fn, self._dispatcher.arena, COPY)
        except Exception as error:  # the user's function, whose parts may raise anything
            codec.annotate(error, f"mpengine: the mapped function `{function_name(fn)}` cannot be pickled")
            return failing(error)
        for lease in leases_of(packed):
            self._dispatcher.arena.let_stay(lease)
        star = len(iterables) != 1
        source = CallSource(
            self._dispatcher, MappedFunction(function_name(fn), packed, star), pace_key(fn),
            items if star else iter(iterables[0]), sure=sure, buffersize=buffersize,
        )  # fmt: skip
        if self._progress is not None:
            self._progress.expect(source, length)
        try:
            values = MapStream(source, ordered=ordered, deadline=deadline, counts_each=buffersize is not None)
            return Values(values, self)
        except BaseException:  # as in `_run_stream`
            source.close()
            raise

    # ---- data for many jobs ----------------------------------------------------------------------------------------

    def share(self, obj: T) -> Shared[T]:
        """Put one read-only copy of an object into shared memory, for any number of jobs. See `Shared`.

        Blocks for as long as it takes to pickle and copy it.

        Raises:
            EngineClosed, EngineBroken: As `submit`.
            MemoryError: There is no room for it.
            Exception: The pickler's own, with a note on the part that cannot be pickled.
        """
        self._check_open()
        arena = self._dispatcher.arena
        data, buffers, leases = codec.dump_shared(obj, arena)
        return Shared(data, buffers, leases, arena)

    def stats(self) -> EngineStats:
        """Counts by state, and throughput. Cheap; a snapshot that other threads may be changing."""
        self._check_process()
        return engine_stats(self._dispatcher)

    def workers(self) -> list[WorkerRow]:
        """One row per worker: pid, state, job, age, memory."""
        self._check_process()
        return worker_rows(self._dispatcher)


def _handed_over(
    iterate: Callable[[RunStream, object], Generator[Any, None, None]], stream: RunStream, engine: AnyEngine
) -> Generator[Any, None, None]:
    try:
        return iterate(stream, engine)
    except BaseException:  # as in `_run_stream`
        stream.close()
        raise


def _record(dispatcher: AnyDispatcher, options: Options, job: Job, sink: Sink) -> Record:
    """Pickle a job, and fill in what it leaves to the engine."""
    retries = options.retries if job.retries is None else job.retries
    payload: bytes | None = None
    problem: BaseException | None = None
    try:
        payload = dispatcher.pack(job, again=bool(retries))
    except Exception as error:  # the user's objects, which may raise anything
        problem = error
    context = job.context
    if context is not None:
        context._listen(dispatcher)
    return Record(
        job, sink, payload=payload, problem=problem, key=pace_key(job.fn),
        timeout=options.timeout if job.timeout is None else job.timeout,
        retries=retries,
        deadline=None if context is None else context.deadline,
    )  # fmt: skip


def _admit(dispatcher: AnyDispatcher, options: Options, job: Any, sink: Sink, has_id: bool = False) -> Record:
    """A record for `run`, where a taken id is that job's own failure. `has_id`: this job holds its id already."""
    if not isinstance(job, Job):
        raise TypeError(f"run: its input must yield Jobs, got {type(job).__name__}; wrap it: Job(fn, (argument,))")
    record = _record(dispatcher, options, job, sink)
    record.stream = sink
    try:
        if has_id:
            dispatcher.ids.become_record(job, record)
        else:
            _take_id(dispatcher, record)
    except ValueError as error:
        record.problem = error
    return record


def _take_id(dispatcher: AnyDispatcher, record: Record) -> None:
    holder = dispatcher.ids.take(record)
    if holder is record:  # a plain call has it; which may be over, and the books do not know yet
        dispatcher.catch_up()
        holder = dispatcher.ids.take(record)
    if holder is None:
        return
    if (
        isinstance(holder, Record) and isinstance(holder.sink, JobFuture) and holder.sink.was_taken()
    ):  # over, and the books do not know yet
        dispatcher.ids.replace(record)
        return
    raise ValueError(
        f"job id {record.job.id!r} is taken by an open job; ids must be unique: choose another or leave it out"
    )


# ---- engines at the end of the program ---------------------------------------------------------------------------

_open: weakref.WeakSet[AnyDispatcher] = weakref.WeakSet()


def _dropped(there: weakref.ref[AnyDispatcher]) -> None:
    """An engine was collected: what it accepted is finished, then its workers go."""
    dispatcher = there()
    if dispatcher is not None and dispatcher.pid == os.getpid() and not dispatcher.closed.is_set():
        dispatcher.admission.close_soon(ShutdownRequest(None, None))


def _finish_all() -> None:
    """At a plain exit of the interpreter accepted jobs are finished, as in Executor; after Ctrl-C they are not."""
    interrupted = getattr(sys, "last_type", None) in (KeyboardInterrupt, SystemExit)
    engines = [d for d in list(_open) if d.pid == os.getpid()]
    for dispatcher in engines:
        request = ShutdownRequest(monotonic(), "the program was interrupted") if interrupted else None
        dispatcher.admission.close(request or ShutdownRequest(None, None))
    for dispatcher in engines:
        try:
            dispatcher.closed.wait()
        except KeyboardInterrupt:
            dispatcher.admission.close(ShutdownRequest(monotonic(), "the program was interrupted"))
            dispatcher.closed.wait()


threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
