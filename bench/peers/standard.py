"""The pools of the standard library."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Self

from bench.peers.base import ClosingPeer, Function, Function2, PartialPeer


class ExecutorPeer(PartialPeer):
    """concurrent.futures.ProcessPoolExecutor."""

    name = "ProcessPoolExecutor"

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        context = get_context(start_method)
        self._executor = ProcessPoolExecutor(workers, context)
        self._chunk = chunk or 1  # its default
        self.start_method = str(context.get_start_method())

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._executor.__exit__(*error)

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        match method:
            case "map":
                return self._executor.map(fn, values, chunksize=self._chunk)
            case "submit":
                futures = [self._executor.submit(fn, value) for value in values]
                return (future.result() for future in futures)
        raise LookupError(f"{self.name} has no method {method!r} to measure")

    def each_with(self, method: str, fn: Function2, shared: Any, values: Iterable[Any]) -> Iterable[Any]:
        if method == "halves":  # what is shared goes along with each chunk
            jobs = list(values)
            return self._executor.map(partial(fn, shared), jobs, chunksize=-(-len(jobs) // 2))
        return super().each_with(method, fn, shared, values)

    def call(self, fn: Function, value: Any) -> Any:
        return self._executor.submit(fn, value).result()


class PoolPeer(ClosingPeer):
    """multiprocessing.Pool."""

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        from multiprocessing import get_context

        context = get_context(start_method)
        self._pool = context.Pool(workers)
        self._chunk = chunk
        self.start_method = str(context.get_start_method())

    def close(self) -> None:
        # Its own `with` terminates; the other contenders' lets the work end, which is what is compared.
        self._pool.close()
        self._pool.join()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        match method:
            case "map":
                return self._pool.map(fn, values, self._chunk)
            case "imap":
                return self._pool.imap(fn, values, self._chunk or 1)
            case "imap_unordered":
                return self._pool.imap_unordered(fn, values, self._chunk or 1)
            case "apply_async":
                results = [self._pool.apply_async(fn, (value,)) for value in values]
                return (result.get() for result in results)
        raise LookupError(f"multiprocessing.Pool has no method {method!r} to measure")

    def call(self, fn: Function, value: Any) -> Any:
        return self._pool.apply(fn, (value,))
