"""What the machine allows; see limits.py."""

from collections.abc import Iterable
from typing import Any

from bench.limits import BatchLoop, bare_forks, greedy_forks
from bench.peers.base import ClosingPeer, Function


class BarePeer(ClosingPeer):
    start_method = "fork"

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        del start_method, chunk  # always fork: it costs least
        self._workers = workers
        self._loop: BatchLoop | None = None

    def close(self) -> None:
        if self._loop is not None:
            self._loop.close()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        match method:
            case "serial":
                return map(fn, values)
            case "forks":
                bare_forks(fn, list(values), self._workers)
                return ()
            case "greedy":
                greedy_forks(fn, list(values), self._workers)
                return ()
            case "batches":
                # Its processes know one function, the first they are given, and no other.
                self._loop = self._loop or BatchLoop(fn, self._workers)
                return self._loop.map_unordered(values)
        raise LookupError(f"there is no bare {method!r} to measure")

    def call(self, fn: Function, value: Any) -> Any:
        return fn(value)
