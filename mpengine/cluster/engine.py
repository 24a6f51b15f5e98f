"""`ClusterEngine`: what `connect` returns for a cluster."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mpengine.cluster.dispatcher import ClusterDispatcher
from mpengine.cluster.driver import Driver
from mpengine.cluster.payloads import CarriedFunction, SharedAbroad
from mpengine.core.job import Job, Status, function_name
from mpengine.engine import AnyEngine
from mpengine.observing import JobOutput, Observer
from mpengine.options import DEFAULT_STOP_GRACE_S, Options
from mpengine.runtime.clock import monotonic
from mpengine.snapshot import EngineStats, MemoryStats, WorkerRow
from mpengine.wire import codec

T = TypeVar("T")

_numbers = itertools.count(1)


class ClusterEngine(AnyEngine):
    """An engine whose workers are on the nodes of a cluster: jobs, outcomes and limits mean what they mean in `Engine`.

    Each node has an engine of its own, with a worker for each thread of a Dask worker, or for each CPU of a Ray node.
    Python and mpengine must be the same there as here, and what jobs import must be there.

    A job that was sent to a node which is lost is `lost`, too, unless it may be retried: then it runs elsewhere.

    Args:
        driver: The way to the nodes.
        others: As of `Engine`; `max_workers`: of all nodes together, None: as many as there are. `mp_context`: the name
            of a start method, for the nodes. `output` is called in the engine's dispatcher thread.
    """

    _dispatcher: ClusterDispatcher

    def __init__(
        self,
        driver: Driver,
        max_workers: int | None = None,
        mp_context: str | None = None,
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
        name: str | None = None,
    ) -> None:
        if mp_context is not None and not isinstance(mp_context, str):
            raise TypeError(
                f"mp_context: a cluster's engine takes the name of a start method, got {type(mp_context).__name__}; "
                "a context belongs to this machine"
            )
        self._options = options = Options.check(
            max_workers, mp_context, initializer, initargs, max_tasks_per_child=max_tasks_per_child,
            max_pending=max_pending, timeout=timeout, retries=retries, memory_limit=memory_limit,
            threads_per_worker=threads_per_worker, stop_grace=stop_grace, observers=observers, output=output,
            failed=None, name=name or f"mpengine-cluster-{next(_numbers)}",
        )  # fmt: skip
        on_nodes = {
            "mp_context": mp_context, "max_tasks_per_child": max_tasks_per_child, "memory_limit": options.memory_limit,
            "threads_per_worker": threads_per_worker, "stop_grace": stop_grace, "name": options.name,
        }  # fmt: skip
        packed = None if initializer is None else codec.pack_call(initializer, options.initargs, {})
        spec = pickle.dumps((on_nodes, output is not None, packed))
        self._use(ClusterDispatcher(options, driver, spec, max_workers))

    @property
    def _max_workers(self) -> int:  # type: ignore[override]  # nodes come and go
        return self._dispatcher.slots

    def _calls(self, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]]) -> Iterator[Job]:
        """The calls of a `map`: what is bound to its function crosses once for each node."""
        return _carried_calls(fn, items, self._dispatcher)

    def share(self, obj: T) -> SharedAbroad[T]:
        """Put one read-only copy of an object into the shared memory of each node, for any number of jobs.

        As `Engine.share`. Its pickle is kept here; a node gets it with the first job that uses it.

        Raises:
            EngineClosed, EngineBroken: As `submit`.
            Exception: The pickler's own, with a note on the part that cannot be pickled.
        """
        self._check_open()
        return SharedAbroad(obj, self._dispatcher, self._dispatcher.forget_shared)

    def stats(self) -> EngineStats:
        """Counts by state, and throughput; see `EngineStats`. `running`: sent to the nodes; `memory` is not known."""
        self._check_process()
        dispatcher = self._dispatcher
        counts, queued = dict(dispatcher.books.counts), len(dispatcher.books.batches)
        ended = sum(counts.values())
        uptime = monotonic() - dispatcher.started_at
        return EngineStats(
            pending=max(0, dispatcher.admitted - ended - queued),
            queued=queued,
            running=min(queued, dispatcher.nodes.slots),
            succeeded=counts[Status.SUCCEEDED],
            failed=counts[Status.FAILED],
            expired=counts[Status.EXPIRED],
            cancelled=counts[Status.CANCELLED],
            lost=counts[Status.LOST],
            retried=dispatcher.books.retried,
            throughput=ended / uptime if uptime > 0 else 0.0,
            uptime=uptime,
            memory=MemoryStats(0, 0, 0),
        )

    def workers(self) -> list[WorkerRow]:
        """One row per worker of each node, as it told about a second ago: pid, state, job, age, memory."""
        self._check_process()
        return [row for link in list(self._dispatcher.nodes.links.values()) for row in link.rows]


def _carried_calls(
    fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], dispatcher: ClusterDispatcher
) -> Iterator[Job]:  # fmt: skip
    """Without the engine: a thread that draws from this must not keep it."""
    try:
        function = CarriedFunction(fn, dispatcher, dispatcher.forget_shared)
    except Exception as error:  # the user's function, whose parts may raise anything
        codec.annotate(error, f"mpengine: the mapped function `{function_name(fn)}` cannot be pickled")
        raise  # where the first value would be: the input is drawn for the consumer
    for args in items:
        yield Job(function, args)
