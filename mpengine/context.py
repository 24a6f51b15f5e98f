"""`Context`: a deadline and a cancellation for any number of jobs, as in Go."""

from __future__ import annotations

import threading
import weakref
from types import TracebackType
from typing import Any, NoReturn, Protocol

from mpengine.runtime.clock import monotonic


class Listener(Protocol):
    """Who wants to know of a cancellation: an engine with open jobs."""

    def context_cancelled(self, context: Context, reason: str) -> None:
        """Called once per context, in the cancelling thread; must not block."""


class Context:
    """A deadline and a cancellation that hold for all jobs given it, and for all contexts below it.

    Thread-safe. Stays in this process: a job learns of it through `current_job()`.

    Args:
        timeout: Seconds from now until its deadline.
        deadline: An instant on the monotonic clock (`time.monotonic()`). Of several the earliest counts, that of the
            parent included.
        parent: Whose end ends this one, too.

    Example:
        >>> with Context(timeout=60) as night:
        ...     urgent = night.child(timeout=5)
        ...     urgent.remaining() <= 5
        True
        >>> urgent.cancelled     # leaving the block cancels what is below it
        True
    """

    def __init__(
        self, timeout: float | None = None, *, deadline: float | None = None, parent: Context | None = None
    ) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"Context: timeout must be 0 seconds or more, got {timeout!r}")
        ends = [] if deadline is None else [float(deadline)]
        if timeout is not None:
            ends.append(monotonic() + timeout)
        if parent is not None and parent.deadline is not None:
            ends.append(parent.deadline)
        self._deadline = min(ends, default=None)
        self._parent = parent
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._children: weakref.WeakSet[Context] = weakref.WeakSet()
        self._listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        if parent is not None:
            parent._adopt(self)

    @property
    def deadline(self) -> float | None:
        """When it ends, in monotonic seconds, or None if never by itself."""
        return self._deadline

    @property
    def cancelled(self) -> bool:
        """Whether it, or one above it, was cancelled. A passed deadline is not a cancellation."""
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """Why it was cancelled, or None if it was not."""
        return self._reason

    def remaining(self) -> float | None:
        """Seconds until its deadline, never below 0; None: it has none."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def child(self, timeout: float | None = None, *, deadline: float | None = None) -> Context:
        """A context below this one: it ends with it, or earlier."""
        return Context(timeout, deadline=deadline, parent=self)

    def cancel(self, reason: str = "its context was cancelled") -> None:
        """End every job below it, waiting or running. Returns at once; only the first call counts."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason  # before anybody is told: who looks later than that need not be told
            children, listeners = list(self._children), list(self._listeners)
        for child in children:
            child.cancel(reason)
        for listener in listeners:
            listener.context_cancelled(self, reason)

    def _adopt(self, child: Context) -> None:
        with self._lock:
            reason = self._reason
            self._children.add(child)
        if reason is not None:
            child.cancel(reason)

    def _listen(self, listener: Listener) -> None:
        """Tell this one, too. A listener that is added after the cancellation must look for itself."""
        with self._lock:
            self._listeners.add(listener)

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:  # fmt: skip
        self.cancel("its context was left")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Context cannot be sent to a worker: give it to the Job, and use current_job() inside")
