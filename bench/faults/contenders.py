"""The contenders behind one face: one job, many lazily, an orderly end, an end in spite of a job that has none.

Each is used at the best that its documentation offers for the purpose, at its own start method, with
two workers. What a user would have to build around it is not there: no watching thread, no pool made
anew by hand. A peer is imported when it is opened.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self

Initializer = Callable[[], object]
Take = Callable[[], Any]  # waits for a job's result, and returns or raises it


class Contender(Protocol):
    """A pool of workers. As a context manager, what its own `with` does."""

    package: str  # where it comes from
    has_timeout: bool  # whether it can end a job that runs too long

    def __init__(self, workers: int, initializer: Initializer | None = None) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: Any) -> Any: ...

    def submit(self, fn: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Take:
        """One job; `timeout` only where the contender has it."""

    def each(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        """The results for all values, read as lazily as the contender can."""

    def close(self) -> None:
        """Lets what was accepted finish, ends the workers, and waits for that."""

    def abandon(self) -> None:
        """Ends the workers within seconds, whatever they do."""


class EngineContender:
    """This engine."""

    package = "mpengine"
    has_timeout = True

    def __init__(self, workers: int, initializer: Initializer | None = None) -> None:
        from mpengine import Engine

        self._pool = Engine(workers, initializer=initializer)

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._pool.__exit__(*error)

    def submit(self, fn: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Take:
        from mpengine import Job

        return self._pool.dispatch(Job(fn, arguments, timeout=timeout)).result

    def each(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        return self._pool.map(fn, values)

    def close(self) -> None:
        self._pool.shutdown()

    def abandon(self) -> None:
        self._pool.shutdown(timeout=1.0)


class ExecutorContender:
    """concurrent.futures.ProcessPoolExecutor."""

    package = "concurrent.futures"
    has_timeout = False

    def __init__(self, workers: int, initializer: Initializer | None = None) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._pool: Any = ProcessPoolExecutor(workers, initializer=initializer)

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._pool.__exit__(*error)

    def submit(self, fn: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Take:
        take: Take = self._pool.submit(fn, *arguments).result
        return take

    def each(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        # From 3.14 on it can be told to read a bounded window only.
        lazily = {"buffersize": 16} if sys.version_info >= (3, 14) else {}
        results: Iterator[Any] = self._pool.map(fn, values, **lazily)
        return results

    def close(self) -> None:
        self._pool.shutdown()

    def abandon(self) -> None:
        if hasattr(self._pool, "kill_workers"):  # from 3.14 on
            self._pool.kill_workers()
        self._pool.shutdown(wait=False, cancel_futures=True)


class PoolContender:
    """multiprocessing.Pool."""

    package = "multiprocessing"
    has_timeout = False  # `get(timeout)` stops waiting; the job goes on

    def __init__(self, workers: int, initializer: Initializer | None = None) -> None:
        from multiprocessing import Pool

        self._pool = Pool(workers, initializer)

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._pool.__exit__(*error)

    def submit(self, fn: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Take:
        return self._pool.apply_async(fn, arguments).get

    def each(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        return self._pool.imap(fn, values)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def abandon(self) -> None:
        self._pool.terminate()
        self._pool.join()


class LokyContender:
    """loky's reusable executor, asked for anew before each use, so that loky may replace a broken one."""

    package = "loky"
    has_timeout = False  # its `timeout` is that of idle workers

    def __init__(self, workers: int, initializer: Initializer | None = None) -> None:
        self._workers = workers
        self._initializer = initializer
        self._entered: Any = None

    @property
    def _pool(self) -> Any:
        from loky import get_reusable_executor

        return get_reusable_executor(self._workers, initializer=self._initializer)

    def __enter__(self) -> Self:
        self._entered = self._pool.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._entered.__exit__(*error)

    def submit(self, fn: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Take:
        take: Take = self._pool.submit(fn, *arguments).result
        return take

    def each(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._pool.map(fn, values)
        return results

    def close(self) -> None:
        self._pool.shutdown()

    def abandon(self) -> None:
        self._pool.shutdown(kill_workers=True)


class PebbleContender:
    """pebble.ProcessPool."""

    package = "pebble"
    has_timeout = True

    def __init__(self, workers: int, initializer: Initializer | None = None) -> None:
        from pebble import ProcessPool

        self._pool: Any = ProcessPool(workers, initializer=initializer)

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._pool.__exit__(*error)

    def submit(self, fn: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Take:
        take: Take = self._pool.schedule(fn, arguments, timeout=timeout).result
        return take

    def each(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        future = self._pool.map(fn, values)
        return iter(future.result())

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def abandon(self) -> None:
        self._pool.stop()
        self._pool.join()


class MpireContender:
    """mpire.WorkerPool."""

    package = "mpire"
    has_timeout = True

    def __init__(self, workers: int, initializer: Initializer | None = None) -> None:
        from mpire import WorkerPool

        self._pool: Any = WorkerPool(workers, keep_alive=True)
        self._initializer = initializer

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._pool.__exit__(*error)

    def submit(self, fn: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Take:
        job = self._pool.apply_async(fn, arguments, worker_init=self._initializer, task_timeout=timeout)
        take: Take = job.get
        return take

    def each(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        results: Iterator[Any] = self._pool.imap(fn, values, chunk_size=1)
        return results

    def close(self) -> None:
        try:
            self._pool.stop_and_join()
        except Exception:  # what ended the pool, raised once more; the owners of the jobs have been told
            pass
        self._pool.terminate()  # as its `with` does in the end

    def abandon(self) -> None:
        self._pool.terminate()


CONTENDERS: dict[str, type[Contender]] = {
    "mpengine": EngineContender,
    "ProcessPoolExecutor": ExecutorContender,
    "multiprocessing.Pool": PoolContender,
    "loky": LokyContender,
    "pebble": PebbleContender,
    "mpire": MpireContender,
}
