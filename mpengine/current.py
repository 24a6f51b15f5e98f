"""`current_job()`: what a job can know of itself, in its worker."""

from __future__ import annotations

from collections.abc import Callable

from mpengine.interrupt import JobInterrupt
from mpengine.runtime.clock import monotonic


class CurrentJob:
    """The job that runs here. Read-only."""

    # No dataclass: workers would pay for its module.
    __slots__ = ("_attempt", "_ends_at", "_id", "_is_cancelled", "_show")

    def __init__(
        self,
        id: str,
        attempt: int,
        ends_at: float | None,
        is_cancelled: Callable[[], bool],
        show: Callable[[float, float], None],
    ) -> None:
        self._id = id
        self._attempt = attempt
        self._ends_at = ends_at
        self._is_cancelled = is_cancelled
        self._show = show

    def __repr__(self) -> str:
        return f"CurrentJob(id={self.id!r}, attempt={self.attempt!r})"

    @property
    def id(self) -> str:
        """Its id."""
        return self._id

    @property
    def attempt(self) -> int:
        """1 for the first, 2 for the first retry, and so on."""
        return self._attempt

    def remaining(self) -> float | None:
        """Seconds until its timeout or deadline, never below 0; None: it has neither."""
        return None if self._ends_at is None else max(0.0, self._ends_at - monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to end, because it was cancelled or its time is over."""
        return self._is_cancelled() or (self._ends_at is not None and monotonic() >= self._ends_at)

    def check(self) -> None:
        """Raise `JobInterrupt` if it was asked to end. For threads of a job, and callbacks of native code."""
        if self.cancelled:
            raise JobInterrupt(f"job {self.id!r} was asked to end")

    def progress(self, done: float, total: float = 0.0) -> None:
        """Tell how far it is, for whoever watches; `total` 0: unknown. Costs well under a microsecond."""
        self._show(done, total)


_provider: Callable[[], CurrentJob | None] | None = None


def provide(provider: Callable[[], CurrentJob | None]) -> None:
    """For the worker: where to ask."""
    global _provider
    _provider = provider


def current_job() -> CurrentJob | None:
    """The job that runs in this process; None outside a job."""
    return None if _provider is None else _provider()
