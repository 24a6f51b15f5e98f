"""What the fork server loads, once for all workers. Nobody else imports this.

cloudpickle is not among what the first worker waits for: it may not need it, and then its first result is there sooner.
The server loads it before the second fork, so that all others have it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging  # noqa: F401  # of what cloudpickle imports, the one that hooks into forks: not in the middle of one
import os

import mpengine.runtime.process
import mpengine.runtime.worker  # noqa: F401

_server_pid = os.getpid()
_forks = 0


def _before_fork() -> None:
    global _forks
    if os.getpid() != _server_pid:
        return  # a job's own fork, in a worker
    _forks += 1
    if _forks == 2:
        with contextlib.suppress(Exception):  # then workers load it, or say why they cannot
            importlib.import_module("mpengine.wire.by_value")


os.register_at_fork(before=_before_fork)
