"""mpengine: a multiprocessing compute engine. One outcome for every job, whatever happens to it.

    from mpengine import Engine, Job

    with Engine() as engine:
        for outcome in engine.run(Job(analyse, (path,), id=path, timeout=10) for path in paths):
            ...

The names below are imported when they are first used, so that a worker pays only for what it needs.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mpengine.arrays.shared import Shared as Shared
    from mpengine.cluster.connecting import connect as connect
    from mpengine.context import Context as Context
    from mpengine.core.job import Job as Job
    from mpengine.core.job import Outcome as Outcome
    from mpengine.core.job import Status as Status
    from mpengine.current import CurrentJob as CurrentJob
    from mpengine.current import current_job as current_job
    from mpengine.engine import AnyEngine as AnyEngine
    from mpengine.engine import Engine as Engine
    from mpengine.errors import EngineBroken as EngineBroken
    from mpengine.errors import EngineClosed as EngineClosed
    from mpengine.errors import EngineError as EngineError
    from mpengine.errors import InternalError as InternalError
    from mpengine.errors import JobCancelled as JobCancelled
    from mpengine.errors import JobExpired as JobExpired
    from mpengine.errors import JobLost as JobLost
    from mpengine.errors import MemoryLimitExceeded as MemoryLimitExceeded
    from mpengine.errors import RemoteError as RemoteError
    from mpengine.errors import RemoteTraceback as RemoteTraceback
    from mpengine.errors import WorkerStartError as WorkerStartError
    from mpengine.futures import JobFuture as JobFuture
    from mpengine.interrupt import JobInterrupt as JobInterrupt
    from mpengine.observing import JobOutput as JobOutput
    from mpengine.options import cpu_count as cpu_count
    from mpengine.options import parse_size as parse_size
    from mpengine.report.metrics import Metrics as Metrics
    from mpengine.report.observer import Report as Report
    from mpengine.report.trace import Trace as Trace
    from mpengine.runtime.stopping import ShutdownReport as ShutdownReport
    from mpengine.runtime.stopping import WorkerEnd as WorkerEnd
    from mpengine.snapshot import EngineStats as EngineStats
    from mpengine.snapshot import MemoryStats as MemoryStats
    from mpengine.snapshot import WorkerRow as WorkerRow

_HOMES = {
    "AnyEngine": "engine",
    "Context": "context",
    "CurrentJob": "current",
    "Engine": "engine",
    "EngineBroken": "errors",
    "EngineClosed": "errors",
    "EngineError": "errors",
    "EngineStats": "snapshot",
    "InternalError": "errors",
    "Job": "core.job",
    "JobCancelled": "errors",
    "JobExpired": "errors",
    "JobFuture": "futures",
    "JobInterrupt": "interrupt",
    "JobLost": "errors",
    "JobOutput": "observing",
    "MemoryLimitExceeded": "errors",
    "MemoryStats": "snapshot",
    "Metrics": "report.metrics",
    "Outcome": "core.job",
    "RemoteError": "errors",
    "RemoteTraceback": "errors",
    "Report": "report.observer",
    "Shared": "arrays.shared",
    "ShutdownReport": "runtime.stopping",
    "Status": "core.job",
    "Trace": "report.trace",
    "WorkerEnd": "runtime.stopping",
    "WorkerRow": "snapshot",
    "WorkerStartError": "errors",
    "connect": "cluster.connecting",
    "cpu_count": "options",
    "current_job": "current",
    "parse_size": "options",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 (they are strings)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
