"""What the fork server loads, once for all workers, and what it must learn. Nobody else imports this.

cloudpickle, whose import takes as long as all else in a worker's start, is not among it before a worker has needed it,
as in many programs none does. One that has loaded it says so when it leaves; the server loads it before the next fork.
"""

from __future__ import annotations

import errno
import importlib
import mmap
import os
import sys
from multiprocessing import reduction
from typing import Any  # next to every module that jobs live in has it, too

import mpengine.runtime.process
import mpengine.runtime.worker

_BY_VALUE = "mpengine.wire.by_value"

_server_pid = os.getpid()
_wanted = mmap.mmap(-1, 1)  # shared with all workers; 1: one of them has loaded cloudpickle
_hooks: list[dict[str, Any]] = []  # of what was imported in the middle of a fork


def _note_wanted() -> None:
    """In a worker that leaves."""
    if "cloudpickle" in sys.modules:
        _wanted[0] = 1


def _before_fork() -> None:
    if os.getpid() != _server_pid or not _wanted[0] or _BY_VALUE in sys.modules:
        return  # a job's own fork, in a worker; or there is nothing to load
    # Some of it hooks into forks (logging does). Of this one, whose first hooks are over, it must not see the end.
    register, os.register_at_fork = os.register_at_fork, lambda **hooks: _hooks.append(hooks)
    try:
        importlib.import_module(_BY_VALUE)
    except Exception:  # then workers load it, or say why they cannot
        _wanted[0] = 0
    finally:
        os.register_at_fork = register


def _after_fork() -> None:
    while _hooks:
        os.register_at_fork(**_hooks.pop(0))


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
mpengine.runtime.worker.before_leaving.append(_note_wanted)


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
