"""Every error the engine raises. Each names subject, cause, values and the next step, and survives pickling.

Fields are plain attributes in the instance's ``__dict__``; ``args`` holds the message alone, so that the
default ``BaseException.__reduce__`` rebuilds any of them.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mpengine.interrupt import JobInterrupt

__all__ = [
    "EngineBroken",
    "EngineClosed",
    "EngineError",
    "InternalError",
    "JobCancelled",
    "JobExpired",
    "JobInterrupt",
    "JobLost",
    "MemoryLimitExceeded",
    "RemoteError",
    "RemoteTraceback",
    "WorkerStartError",
]


class EngineError(Exception):
    """Root of all errors of the engine. Keyword arguments become attributes."""

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class EngineClosed(EngineError, RuntimeError):
    """The caller used an engine after its shutdown (you did it)."""


class EngineBroken(EngineError, BrokenProcessPool):
    """Workers cannot be kept alive (it happened to you); ``__cause__`` says why."""


class WorkerStartError(EngineError):
    """A worker could not start; the cause of an ``EngineBroken``."""


class JobExpired(EngineError, TimeoutError):
    """The job ran past its timeout, or its context's deadline passed.

    ``stack`` holds the Python lines the job was on, where the machine could tell, else "".
    """

    stack: str = ""


class JobLost(EngineError, BrokenProcessPool):
    """The job's worker died under it. The engine goes on.

    ``exitcode`` is as in ``multiprocessing.Process`` (-N: killed by signal N; None: unknown), ``worker_pid`` the
    dead process, ``peak_memory`` its peak resident size in bytes (0: unknown), ``stack`` the Python lines it was on.
    """

    stack: str = ""
    exitcode: int | None = None
    worker_pid: int = 0
    peak_memory: int = 0


class MemoryLimitExceeded(JobLost, MemoryError):
    """The job's worker grew past ``memory_limit`` and was killed."""


class JobCancelled(EngineError, CancelledError):
    """The job was cancelled, by its future, its context, its iterator or a shutdown; ``reason`` says which."""

    reason: str = ""


class InternalError(EngineError):
    """A bug of the engine's own, with the job's story. Please report it."""


class RemoteError(EngineError):
    """Stands in for an exception of a job that could not be pickled.

    ``type_name`` is the qualified name of its class, ``traceback`` the worker's traceback as text.
    """

    type_name: str = ""
    traceback: str = ""


class RemoteTraceback(Exception):
    """The worker's traceback, shown as the ``__cause__`` of a job's own exception."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
