"""What users hand in (`Job`) and what they get back (`Outcome`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from mpengine.core.naming import id_text
from mpengine.errors import InternalError

if TYPE_CHECKING:
    from mpengine.context import Context

RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
Backoff = float | Callable[[int], float]

new_number = itertools.count(1).__next__


class Status(StrEnum):
    """How a job ended. Compares equal to its plain name."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    LOST = "lost"


class Limits(NamedTuple):
    """What most jobs leave out. See `Job`."""

    context: Context | None = None
    timeout: float | None = None
    retries: int | None = None
    retry_on: RetryOn | None = None
    backoff: Backoff = 0.0
    priority: int = 0
    meta: Any = None


NO_LIMITS = Limits()
_NO_KWARGS: Mapping[str, Any] = MappingProxyType({})


class Job:
    """One unit of work: a callable with its arguments, an id, and the limits of its life. Immutable.

    Args:
        fn: Called as ``fn(*args, **kwargs)`` in a worker. Pickled once, when the job is accepted; functions and
            classes of a script or a notebook travel by value.
        args: Positional arguments.
        kwargs: Keyword arguments.
        id: Unique among the open jobs of an engine; made for you if not given.
        context: Its deadline and its cancellation hold for this job too.
        timeout: Seconds from the start of each attempt; None: the engine's default.
        retries: Further attempts after the first; None: the engine's default, which is 0.
        retry_on: Exception types, or a predicate of the error, that allow a retry. Unless given: everything that
            ends an attempt badly (the job's own exception, a lost worker, a timeout). A cancellation or a passed
            deadline is never retried.
        backoff: Seconds before the second attempt, doubled for each further one, with jitter; or a function of the
            attempt that just ended (1-based) that gives the seconds.
        priority: Higher runs first among the jobs that wait.
        meta: Anything of yours; it stays in this process and is there as ``outcome.job.meta``.

    Raises:
        TypeError: ``fn`` is not callable, or ``id`` is not a string.
        ValueError: ``timeout`` is not positive, or ``retries`` is negative.
    """

    # Not a dict each, nor a place for each limit: a program has hundreds of thousands of these, and the garbage
    # collector looks at all of them again and again.
    __slots__ = ("__weakref__", "args", "fn", "kwargs", "label", "limits")

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    label: int | str  # the number of an id that was made for it, or the id it was given
    limits: Limits

    def __init__(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        context: Context | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: RetryOn | None = None,
        backoff: Backoff = 0.0,
        priority: int = 0,
        meta: Any = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"Job: fn must be callable, got {type(fn).__name__}; pass the function, not its result")
        if id is not None and not isinstance(id, str):
            raise TypeError(f"Job: id must be a string, got {type(id).__name__}; use str(...)")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"{_subject(id)}: timeout must be greater than 0 seconds, got {timeout!r}")
        if retries is not None and retries < 0:
            raise ValueError(f"{_subject(id)}: retries must be 0 or more, got {retries!r}")
        limits = NO_LIMITS
        if (
            context is not None or timeout is not None or retries is not None or retry_on is not None or backoff != 0.0
            or priority != 0 or meta is not None
        ):  # fmt: skip
            limits = Limits(context, timeout, retries, retry_on, backoff, priority, meta)
        # Its id is put together when somebody wants to see it.
        _fill(
            self, fn, args if type(args) is tuple else tuple(args), kwargs, new_number() if id is None else id, limits
        )

    @classmethod
    def numbered(cls, fn: Callable[..., Any], args: tuple[Any, ...], number: int) -> Job:
        """A job without limits whose id was made before it."""
        job = cls.__new__(cls)
        _fill(job, fn, args, None, number, NO_LIMITS)
        return job

    @property
    def id(self) -> str:
        """Unique among the open jobs of an engine."""
        return id_text(self.label)

    @property
    def context(self) -> Context | None:
        """Its deadline and its cancellation hold for this job too."""
        return self.limits.context

    @property
    def timeout(self) -> float | None:
        """Seconds from the start of each attempt."""
        return self.limits.timeout

    @property
    def retries(self) -> int | None:
        """Further attempts after the first."""
        return self.limits.retries

    @property
    def retry_on(self) -> RetryOn | None:
        """What allows a retry; None: everything that ends an attempt badly."""
        return self.limits.retry_on

    @property
    def backoff(self) -> Backoff:
        """Seconds before the second attempt, or a function of the attempt that just ended."""
        return self.limits.backoff

    @property
    def priority(self) -> int:
        """Higher runs first among the jobs that wait."""
        return self.limits.priority

    @property
    def meta(self) -> Any:
        """What its owner noted."""
        return self.limits.meta

    def __setattr__(self, name: str, value: object = None) -> NoReturn:
        raise AttributeError(f"Job {self.id!r} is immutable: cannot set {name!r}; make a new Job")

    __delattr__ = __setattr__

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the context: that one belongs to the process that made it.
        return _rebuild_job, (self.fn, self.args, dict(self.kwargs), self.id, *self.limits[1:])

    def __repr__(self) -> str:
        return f"Job({self.name}, id={self.id!r})"

    @property
    def name(self) -> str:
        """The function's name, for people."""
        return function_name(self.fn)


_set_fn, _set_args, _set_kwargs, _set_label, _set_limits = (
    getattr(Job, name).__set__ for name in ("fn", "args", "kwargs", "label", "limits")
)


def _fill(
    job: Job, fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, label: int | str, limits: Limits
) -> None:  # fmt: skip
    """Past its `__setattr__`, which refuses."""
    _set_fn(job, fn)
    _set_args(job, args)
    _set_kwargs(job, _NO_KWARGS if kwargs is None else kwargs)
    _set_label(job, label)
    _set_limits(job, limits)


def _subject(id: str | None) -> str:
    return "Job" if id is None else f"Job {id!r}"


def _rebuild_job(fn: Any, args: Any, kwargs: Any, id: str, *limits: Any) -> Job:
    timeout, retries, retry_on, backoff, priority, meta = limits
    return Job(
        fn, args, kwargs, id=id, timeout=timeout, retries=retries, retry_on=retry_on, backoff=backoff,
        priority=priority, meta=meta,
    )  # fmt: skip


def function_name(fn: Any) -> str:
    """The name of a callable for people; a partial or a callable object goes by what it wraps or is."""
    inner = getattr(fn, "func", fn)  # functools.partial
    name = getattr(inner, "__qualname__", None)
    return name if isinstance(name, str) else type(inner).__qualname__


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of a job: exactly one per job.

    Attributes:
        job: The job.
        status: `Status`; a string such as "succeeded".
        value: What it returned, if it succeeded.
        error: Why it did not, else None.
        attempts: How many times it was started (0: it never was).
        errors: The error of each attempt that ended badly, in order.
        waited: Seconds from its acceptance to the start of its last attempt (to its end if it never started).
        duration: Seconds its last attempt ran, as its worker measured them where it could.
        worker_pid: The process that ran its last attempt; None if it never started.
        peak_memory: That process's peak resident size so far, in bytes; 0: unknown.
    """

    job: Job
    status: Status
    value: Any = None
    error: BaseException | None = None
    attempts: int = 0
    errors: tuple[BaseException, ...] = ()
    waited: float = 0.0
    duration: float = 0.0
    worker_pid: int | None = None
    peak_memory: int = 0

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return self.status is Status.SUCCEEDED

    def unwrap(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        if self.status is not Status.SUCCEEDED:
            raise InternalError(f"job {self.job.id!r} is {self.status} without an error; please report this")
        return self.value
