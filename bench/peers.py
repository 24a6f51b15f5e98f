"""The contenders behind one face: open, put values through a function, make one call, close.

Each is used as its documentation shows it, and with nothing tuned but the number of workers, which
is the same for all. A peer is imported when it is opened: a measuring process loads only its own.
"""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

from bench.limits import BatchLoop, bare_forks

Function = Callable[[Any], Any]


class Peer(Protocol):
    """A pool of workers, open between enter and exit."""

    start_method: str

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None: ...

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        """The results of `fn` for all values, through one of the peer's methods, in whatever order."""

    def call(self, fn: Function, value: Any) -> Any:
        """One result: there, and back."""


class EnginePeer:
    """This engine."""

    def __init__(self, workers: int, start_method: str | None) -> None:
        from mpengine import Engine

        self._engine = Engine(workers, start_method)
        self.start_method = start_method or "forkserver"

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._engine.__exit__(*error)

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        engine = self._engine
        match method:
            case "map":
                return engine.map(fn, values)
            case "map_unordered":
                return engine.map_unordered(fn, values)
            case "run":
                from mpengine import Job

                return (outcome.unwrap() for outcome in engine.run(Job(fn, (value,)) for value in values))
            case "submit":
                futures = [engine.submit(fn, value) for value in values]
                return (future.result() for future in futures)
        raise LookupError(f"the engine has no method {method!r} to measure")

    def call(self, fn: Function, value: Any) -> Any:
        return self._engine.submit(fn, value).result()


class ExecutorPeer:
    """concurrent.futures.ProcessPoolExecutor."""

    def __init__(self, workers: int, start_method: str | None) -> None:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        context = get_context(start_method)
        self._executor = ProcessPoolExecutor(workers, context)
        self.start_method = str(context.get_start_method())

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._executor.__exit__(*error)

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        match method:
            case "map":
                return self._executor.map(fn, values)
            case "submit":
                futures = [self._executor.submit(fn, value) for value in values]
                return (future.result() for future in futures)
        raise LookupError(f"ProcessPoolExecutor has no method {method!r} to measure")

    def call(self, fn: Function, value: Any) -> Any:
        return self._executor.submit(fn, value).result()


class PoolPeer:
    """multiprocessing.Pool."""

    def __init__(self, workers: int, start_method: str | None) -> None:
        from multiprocessing import get_context

        context = get_context(start_method)
        self._pool = context.Pool(workers)
        self.start_method = str(context.get_start_method())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        # Its own `with` terminates; the other contenders' lets the work end, which is what is compared.
        self._pool.close()
        self._pool.join()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        match method:
            case "map":
                return self._pool.map(fn, values)
            case "imap":
                return self._pool.imap(fn, values)
            case "imap_unordered":
                return self._pool.imap_unordered(fn, values)
            case "apply_async":
                results = [self._pool.apply_async(fn, (value,)) for value in values]
                return (result.get() for result in results)
        raise LookupError(f"multiprocessing.Pool has no method {method!r} to measure")

    def call(self, fn: Function, value: Any) -> Any:
        return self._pool.apply(fn, (value,))


class LokyPeer(ExecutorPeer):
    """loky's ProcessPoolExecutor, which joblib is built on."""

    def __init__(self, workers: int, start_method: str | None) -> None:
        from loky import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(workers, context=start_method)
        self.start_method = start_method or "loky"


class BarePeer:
    """What the machine allows; see limits.py."""

    start_method = "fork"

    def __init__(self, workers: int, start_method: str | None) -> None:
        del start_method  # always fork: it costs least
        self._workers = workers
        self._loop: BatchLoop | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._loop is not None:
            self._loop.close()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        match method:
            case "serial":
                return map(fn, values)
            case "forks":
                bare_forks(fn, list(values), self._workers)
                return ()
            case "batches":
                # Its processes know one function, the first they are given, and no other.
                self._loop = self._loop or BatchLoop(fn, self._workers)
                return self._loop.map_unordered(values)
        raise LookupError(f"there is no bare {method!r} to measure")

    def call(self, fn: Function, value: Any) -> Any:
        return fn(value)


PEERS: dict[str, Callable[[int, str | None], Peer]] = {
    "engine": EnginePeer,
    "executor": ExecutorPeer,
    "pool": PoolPeer,
    "loky": LokyPeer,
    "bare": BarePeer,
}
