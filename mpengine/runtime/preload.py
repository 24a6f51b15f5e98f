"""What the fork server loads, once for all workers, and what it must learn. Nobody else imports this.

cloudpickle is not among what the first worker waits for: it may not need it, and then its first result is there sooner.
The server loads it before the second fork, so that all others have it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging  # noqa: F401  # of what cloudpickle imports, the one that hooks into forks: not in the middle of one
import os
from multiprocessing import reduction
from typing import Any

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


# A program that has no descriptor left, or whose resource tracker has just been killed, connects and asks for nothing.
# The server would end over that, with a traceback; of a connection that was aborted it thinks nothing.

_recvfds: Any = reduction.recvfds


def _receive(sock: Any, size: int) -> list[int]:
    try:
        received: list[int] = _recvfds(sock, size)
    except EOFError as error:
        if os.getpid() != _server_pid:
            raise
        raise OSError(errno.ECONNABORTED, "nobody there any more") from error
    return received


reduction.recvfds = _receive
