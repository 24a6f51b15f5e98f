"""The pools for one machine that are packages of their own."""

from collections.abc import Iterable, Iterator
from typing import Any

from bench.peers.base import ClosingPeer, Function
from bench.peers.standard import ExecutorPeer


class LokyPeer(ExecutorPeer):
    """loky's ProcessPoolExecutor, which joblib is built on."""

    name = "loky"

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        from loky import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(workers, context=start_method)
        self._chunk = chunk or 1
        self.start_method = start_method or "loky"


class JoblibPeer(ClosingPeer):
    """joblib.Parallel. Its batches tune themselves at its defaults; its workers stay between two calls."""

    start_method = "loky"

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        del start_method  # it always starts them in loky's way
        self._options: dict[str, Any] = {"n_jobs": workers}
        if chunk:
            # It dispatches no batch beyond what it may draw ahead: by default two *jobs* a worker.
            self._options |= {"batch_size": chunk, "pre_dispatch": 4 * chunk * workers}

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        from joblib import Parallel, delayed

        kinds = {"list", "generator", "generator_unordered"}
        if method not in kinds:
            raise LookupError(f"joblib returns {sorted(kinds)}, not {method!r}")
        job = delayed(fn)
        results: Iterable[Any] = Parallel(return_as=method, **self._options)(job(value) for value in values)
        return results

    def call(self, fn: Function, value: Any) -> Any:
        return next(iter(self.each("list", fn, [value])))


class MpirePeer(ClosingPeer):
    """mpire.WorkerPool. It keeps its workers between two calls, as its documentation advises for several maps."""

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        from mpire import WorkerPool

        self.start_method = start_method or "fork"
        self._pool = WorkerPool(workers, start_method=self.start_method, keep_alive=True)
        self._chunk = chunk

    def close(self) -> None:
        self._pool.stop_and_join()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        if method not in {"map", "imap", "imap_unordered"}:
            raise LookupError(f"mpire has no method {method!r} to measure")
        results: Iterable[Any] = getattr(self._pool, method)(fn, values, chunk_size=self._chunk)
        return results

    def call(self, fn: Function, value: Any) -> Any:
        # Not `apply`: workers that are kept alive confuse it with the map that comes after it.
        return self._pool.map(fn, [value])[0]


class PebblePeer(ClosingPeer):
    """pebble.ProcessPool."""

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        from multiprocessing import get_context

        from pebble import ProcessPool

        context = get_context(start_method)
        self._pool = ProcessPool(max_workers=workers, context=context)
        self._chunk = chunk or 1  # its default
        self.start_method = str(context.get_start_method())

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        match method:
            case "map":
                results: Iterator[Any] = self._pool.map(fn, values, chunksize=self._chunk).result()
                return results
            case "schedule":
                futures = [self._pool.schedule(fn, args=(value,)) for value in values]
                return (future.result() for future in futures)
        raise LookupError(f"pebble has no method {method!r} to measure")

    def call(self, fn: Function, value: Any) -> Any:
        return self._pool.schedule(fn, args=(value,)).result()
