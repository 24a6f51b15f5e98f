"""joblib, and so scikit-learn's ``n_jobs``, on an engine.

    import joblib
    import mpengine.adapters.joblib  # registers the backend

    with joblib.parallel_config("mpengine", n_jobs=4):
        search.fit(X, y)

The import is the way in: joblib has no entry that other packages could use to make a backend known without it. It needs
``pip install 'mpengine[joblib]'``.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import logging
import multiprocessing
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

try:
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        ThreadingBackend,
        register_parallel_backend,
    )
except ModuleNotFoundError as error:
    if error.name != "joblib":
        raise  # joblib is there, and says what it misses
    raise ModuleNotFoundError(
        "mpengine.adapters.joblib needs joblib: pip install 'mpengine[joblib]'", name="joblib"
    ) from None

from mpengine import Context, Engine, Job, cpu_count, current_job
from mpengine.adapters import thread_limits
from mpengine.adapters.joblib_batch import joblib_batch
from mpengine.adapters.kept_engine import KeptEngine
from mpengine.adapters.large_arrays import LargeArrays

__all__ = ["MpengineBackend"]

logger = logging.getLogger("mpengine")

_ENGINE_OPTIONS = (
    "mp_context", "initializer", "initargs", "max_tasks_per_child", "max_pending", "timeout", "retries",
    "memory_limit", "stop_grace", "observers", "output", "progress", "name",
)  # fmt: skip
_SAID_OTHERWISE = {"max_workers": "n_jobs", "threads_per_worker": "inner_max_num_threads"}
# What `Parallel` hands to every backend. `context` is what multiprocessing has by default, whoever chose it.
_OF_JOBLIB = ("max_nbytes", "temp_folder", "mmap_mode", "prefer", "require", "verbose", "context")

_engines = KeptEngine()
_job_numbers = itertools.count(1)


class MpengineBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """joblib's backend ``"mpengine"``: each batch of tasks is a job of an `Engine`.

    The engine is there for the next call, too, if that has the same ``n_jobs``, ``inner_max_num_threads`` and options;
    calls in several threads use it together. A batch that kills its worker fails with `JobLost`, and the workers stay;
    so they do when a call is given up, after an error, a timeout, Ctrl-C or by dropping its generator: that cancels
    the call's own jobs, also those that run.

    Arrays of more than ``max_nbytes`` (joblib's own, 1 MB) that are arguments of tasks cross once per call, as they
    were the first time, and are read-only in the tasks, as joblib's memmapping has it; with ``max_nbytes=None``, or an
    ``mmap_mode`` other than ``"r"``, each task has its own, writable. An array that is mapped from a file
    (`numpy.memmap`) is mapped in the task, too, which can write to it.

    A `Parallel` inside a task runs on threads there, and one inside of that sequentially, as with joblib's own
    backends, whether or not it asks for this backend by name.

    Args:
        nesting_level: joblib's own.
        inner_max_num_threads: Threads of BLAS and OpenMP in each worker; None: the CPUs over the workers, unless the
            environment says otherwise.
        **options: Of the `Engine`, by the same names; for them a job is a batch. So ``timeout`` is the seconds that a
            batch may run before it is ended with `JobExpired`, while that of ``Parallel`` is how long the caller waits.
            ``max_workers`` is ``n_jobs`` here, and ``threads_per_worker`` is ``inner_max_num_threads``. ``mp_context``
            is "forkserver", unless the program has chosen "spawn".

    Raises:
        TypeError: An option has a name that the engine does not know.

    Example:
        >>> import joblib
        >>> with joblib.parallel_config("mpengine", n_jobs=2, memory_limit="2GiB"):
        ...     joblib.Parallel()(joblib.delayed(abs)(n) for n in (1, -2))
        [1, 2]
    """

    supports_retrieve_callback = True
    supports_return_generator = True
    supports_timeout = True
    supports_inner_max_num_threads = True

    def __init__(self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any):
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        _check_names(options)
        self.parallel: Any = None
        self._options = options
        self._engine_options: dict[str, Any] = {}
        self._smallest_shared: int | None = None
        self._call: _Call | None = None

    # ---- what joblib asks --------------------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers that means: of a negative number, -1 are all CPUs this process may use, -2 all but one."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or os.environ.get("JOBLIB_MULTIPROCESSING") == "0":  # the user's switch for "no processes"
            return 1
        return n_jobs if n_jobs > 0 else max(cpu_count() + 1 + n_jobs, 1)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Get ready for the calls of one `Parallel`; returns the number of workers.

        Raises:
            FallbackToBackend: To another backend, for one worker or inside a job; or to one of this class that is this
                `Parallel`'s own. That of a `parallel_config` serves many, also at the same time, and what is told to
                a backend does not say whose call it is about.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if current_job() is not None:  # of any engine: a pool for each of its workers would be too much
            level = self.nesting_level or 0
            raise FallbackToBackend((ThreadingBackend if level <= 1 else SequentialBackend)(nesting_level=level))
        if self.parallel is not parallel:
            raise FallbackToBackend(self._for(parallel))
        own = {name: value for name, value in options.items() if name not in _OF_JOBLIB}
        _check_names(own)
        self._engine_options = self._complete({**self._options, **own}, n_jobs)
        self._smallest_shared = options.get("max_nbytes") if options.get("mmap_mode") == "r" else None
        return n_jobs

    def start_call(self) -> None:
        """A call begins."""
        self._call = _Call(_engines.get(self._engine_options), self._smallest_shared, self.parallel.return_generator)

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> concurrent.futures.Future[Any]:
        """Run a batch; the callback is called with the future when it has ended, in a thread of this call's own."""
        assert self._call is not None
        return self._call.submit(func, callback)

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """What the batch returned; or its error is raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what this call has begun. The workers stay, but for one that does not let go of its job."""
        if self._call is not None:
            self._call.abort("joblib gave up the call that it belongs to")

    def stop_call(self) -> None:
        """A call is over."""
        if self._call is not None:
            self._call.end()
            self._call = None

    def terminate(self) -> None:
        """The last call is over. The engine is kept for others."""
        self.stop_call()
        self.reset_batch_stats()

    @staticmethod
    def end_workers() -> None:
        """End the workers that wait for the next call. Not needed before an exit, which ends them as well."""
        _engines.drop()

    # ---- how ---------------------------------------------------------------------------------------------------------

    def _for(self, parallel: Any) -> MpengineBackend:
        """The same, for one `Parallel` alone."""
        own = type(self)(self.nesting_level, self.inner_max_num_threads, **self._options)
        own.parallel = parallel
        return own

    def _complete(self, options: dict[str, Any], n_jobs: int) -> dict[str, Any]:
        """All that makes an engine."""
        threads = self.inner_max_num_threads
        if threads is not None:  # then the environment does not count, as with loky
            users_own = options.get("initializer"), tuple(options.get("initargs", ()))
            options["initargs"] = (tuple(self.MAX_NUM_THREADS_VARS), threads, *users_own)
            options["initializer"] = thread_limits.start
        if options.get("mp_context") is None:
            # Not what the program would get by default: asking for that makes "fork" look as if somebody had chosen it,
            # and joblib asks. A fork of a program whose OpenMP has run hangs in its first parallel loop.
            chosen = multiprocessing.get_start_method(allow_none=True)
            options["mp_context"] = "forkserver" if chosen in (None, "fork") else chosen
        return {**options, "max_workers": n_jobs, "threads_per_worker": threads or max(cpu_count() // n_jobs, 1)}


def _check_names(options: Iterable[str]) -> None:
    for name in options:
        if name in _SAID_OTHERWISE:
            raise TypeError(
                f"the joblib backend 'mpengine' has no option {name!r}; use joblib's {_SAID_OTHERWISE[name]}"
            )
        if name not in _ENGINE_OPTIONS:
            raise TypeError(
                f"the joblib backend 'mpengine' has no option {name!r}; beside joblib's own, it has "
                f"{', '.join(_ENGINE_OPTIONS)}"
            )


class _Call:
    """One call of a `Parallel`: its jobs, and the thread that tells joblib how they ended.

    That is no thread of the engine's, for joblib draws the next tasks from the user's input where it is told of an end,
    and waits for its lock while another thread does. The input may be slow, or need the engine itself.

    Args:
        smallest: Bytes of an array that is shared; None: none is.
        is_lazy: Its results may not be wanted any more.
    """

    def __init__(self, engine: Engine, smallest: int | None, is_lazy: bool) -> None:
        self.is_lazy = is_lazy
        self._engine = engine
        self._arrays = LargeArrays(engine, smallest)
        self._context = Context()
        self._ended: _Ends = queue.SimpleQueue()
        threading.Thread(target=_tell, args=(self._ended,), name="mpengine-joblib", daemon=True).start()
        # Also if joblib was interrupted before it could say that the call is over.
        self._end = weakref.finalize(self, self._ended.put, None)
        self._end.atexit = False
        _open_calls.add(self)

    def submit(self, batch: Any, callback: Callable[[Any], None] | None) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any]
        try:
            batch.items = self._arrays.replace_in(batch.items)
            job = Job(joblib_batch, (batch,), id=f"{_name(batch)}-{next(_job_numbers)}", context=self._context)
            future = self._engine.dispatch(job)
        except Exception as error:  # where it would be raised nobody may hear, and joblib would wait for the batch
            future = concurrent.futures.Future()
            future.set_exception(error)
        if callback is not None:
            future.add_done_callback(functools.partial(_note, self._ended, callback))
        return future

    def abort(self, reason: str) -> None:
        """Cancel its jobs, also those that are still to come. Returns at once."""
        self._context.cancel(reason)

    def end(self) -> None:
        """Nobody wants to be told any more."""
        self._end()
        self._arrays.clear()


def _name(batch: Any) -> str:
    """Of its first task, so that people see in messages what it was about."""
    function = batch.items[0][0]
    function = getattr(function, "func", function)  # functools.partial
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


_Ends = queue.SimpleQueue[tuple[Callable[[Any], None], Any] | None]


def _note(ends: _Ends, callback: Callable[[Any], None], future: Any) -> None:
    ends.put((callback, future))


def _tell(ends: _Ends) -> None:
    """The thread of a call."""
    while (end := ends.get()) is not None:
        callback, future = end
        try:
            callback(future)
        except BaseException:  # as a Future does with those of its callbacks
            logger.exception("exception calling callback for %r", future)
        del end, callback, future  # while it waits, it keeps nothing alive


_open_calls: weakref.WeakSet[_Call] = weakref.WeakSet()


def _give_up() -> None:
    """At the end of the program, before its engines finish what they have: generators that were left unread."""
    for call in list(_open_calls):
        if call.is_lazy:
            call.abort("the program ends")


threading._register_atexit(_give_up)  # type: ignore[attr-defined]  # the engine's own was registered, so runs later
register_parallel_backend("mpengine", MpengineBackend)
