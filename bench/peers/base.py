"""What every contender can be asked."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, Self

Function = Callable[[Any], Any]
Function2 = Callable[[Any, Any], Any]


class Peer(Protocol):
    """A pool of workers, open between enter and exit."""

    start_method: str

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None: ...

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        """The results of `fn` for all values, through one of the peer's methods, in whatever order."""

    def each_with(self, method: str, fn: Function2, shared: Any, values: Iterable[Any]) -> Iterable[Any]:
        """As `each`, of a function whose first argument is the same each time."""

    def call(self, fn: Function, value: Any) -> Any:
        """One result: there, and back."""


class PartialPeer:
    """A peer for which an argument that is always the same is part of the function."""

    def each_with(self, method: str, fn: Function2, shared: Any, values: Iterable[Any]) -> Iterable[Any]:
        return self.each(method, partial(fn, shared), values)

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        """See `Peer`."""
        raise NotImplementedError


class ClosingPeer(PartialPeer):
    """A peer that is closed in one way, however the block in which it was open has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Lets the work end, and the workers with it."""
        raise NotImplementedError


def batches(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """What a program cuts by hand where the peer has no chunk size."""
    source = iter(values)
    while batch := list(islice(source, size)):
        yield batch
