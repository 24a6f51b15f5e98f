"""This engine. There is nothing to tune."""

from collections.abc import Iterable
from typing import Any, Self

from bench.peers.base import Function, Function2, PartialPeer


class EnginePeer(PartialPeer):
    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        from mpengine import Engine

        del chunk  # it would be accepted, and changes nothing
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

    def each_with(self, method: str, fn: Function2, shared: Any, values: Iterable[Any]) -> Iterable[Any]:
        if method == "share":
            return super().each_with("map", fn, self._engine.share(shared), values)
        return super().each_with(method, fn, shared, values)

    def call(self, fn: Function, value: Any) -> Any:
        return self._engine.submit(fn, value).result()
