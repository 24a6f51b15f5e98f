"""A worker's start. Imports nothing that a file beside the target could be taken for, see `prepare_worker`."""

from __future__ import annotations

import importlib
import os
import sys


def prepare_worker(nice: int | None, module: str, attribute: str, file: str, folder: str) -> None:
    """A worker's initializer: imports the target, so that no job's time is spent on it.

    The target's folder comes first on the path, as in the parent. What we need ourselves is imported without it: the
    target may well be called json.py.
    """
    if nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    _prepare(("mpengine.batch.outcome_lines", "mpengine.batch.work"), module, attribute, file, folder)


def prepare_loop(module: str, attribute: str, file: str, folder: str) -> None:
    """As `prepare_worker`, for a worker that reads the input itself, see `mpengine.cli.loop`."""
    _prepare(("mpengine.cli.loop",), module, attribute, file, folder)


def _prepare(ours: tuple[str, ...], module: str, attribute: str, file: str, folder: str) -> None:
    before = sys.path[:]
    sys.path[:] = [path for path in before if path != folder]
    try:
        for name in ours:
            importlib.import_module(name)
        from mpengine.cli.targets import find
    finally:
        sys.path[:] = before
    find(module, attribute, file, folder)
