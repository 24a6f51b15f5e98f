"""The parent's side of a start: processes through multiprocessing, but without the import of the user's `__main__`.

multiprocessing lets a spawned child import the parent's main module, which is why scripts need a guard. Workers get all
they need by value, so the three Popen classes here send preparation data without it; otherwise they are the ones of
multiprocessing, and so is the Process (see `process`).
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import sys
from collections import ChainMap
from multiprocessing import (
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    process,
    reduction,
    resource_tracker,
    spawn,
    util,
)  # fmt: skip
from multiprocessing.context import BaseContext, set_spawning_popen
from typing import Any, ClassVar

from mpengine.runtime import descriptors
from mpengine.wire import by_value

_WORKER = "mpengine.runtime.worker"
_PRELOAD = "mpengine.runtime.preload"


class _Pickler(by_value.Pickler):
    """For initializers: by value what must be, and multiprocessing's own objects as a child inherits them."""

    dispatch_table: ClassVar[Any] = ChainMap(
        reduction.ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
        by_value.Pickler.dispatch_table,
    )


def dump_for_child(obj: Any) -> bytes:
    """Pickle while a child is being spawned, as `multiprocessing` does for a Process's arguments."""
    buffer = io.BytesIO()
    _Pickler(buffer, 5).dump(obj)
    return buffer.getvalue()


def _preparation(name: str, start_method: str) -> dict[str, Any]:
    """As multiprocessing.spawn.get_preparation_data, without the main module."""
    data: dict[str, Any] = {
        "log_to_stderr": util._log_to_stderr,  # type: ignore[attr-defined]
        "authkey": process.current_process().authkey,
        "name": name,
        "sys_path": [path or process.ORIGINAL_DIR for path in sys.path],  # type: ignore[attr-defined]
        "sys_argv": sys.argv,
        "start_method": start_method,
    }
    if util._logger is not None:  # type: ignore[attr-defined]
        data["log_level"] = util._logger.getEffectiveLevel()  # type: ignore[attr-defined]
    try:
        data["dir"] = os.getcwd()
    except FileNotFoundError:
        pass  # deleted under us: the worker starts where its starter is
    return data


def _packed(popen: Any, process_obj: Any, start_method: str) -> memoryview:
    buffer = io.BytesIO()
    set_spawning_popen(popen)
    try:
        reduction.dump(_preparation(process_obj.name, start_method), buffer)
        reduction.dump(process_obj, buffer)
    finally:
        set_spawning_popen(None)
    return buffer.getbuffer()


# What multiprocessing's own Popen classes and utilities offer each other, and the type stubs leave out.
_close_fds: Any = util.close_fds  # type: ignore[attr-defined]


class _ForkServerPopen(popen_forkserver.Popen):
    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        packed = _packed(self, process_obj, "forkserver")
        _ensure_server()
        self.sentinel, write_fd = forkserver.connect_to_new_process(self._fds)
        self.server_pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        keep_fd = os.dup(write_fd)  # closed with the process: parent_process().join() in the child waits for that
        self.finalizer = util.Finalize(self, _close_fds, (keep_fd, self.sentinel))
        with open(write_fd, "wb", closefd=True) as pipe:
            pipe.write(packed)
        try:
            self.pid = forkserver.read_signed(self.sentinel)
        except EOFError:
            raise ConnectionResetError("the fork server has ended") from None  # the next start makes a new one


def _ensure_server() -> None:
    """Have the fork server run, and leave the program's own start method open, if nobody has chosen one.

    multiprocessing asks for that method when it starts the server, and whoever asks decides it: it would be "fork" up
    to Python 3.13, for the next engine as well, and the program could choose no other any more.
    """
    default: Any = multiprocessing.context._default_context
    was_open = default._actual_context is None
    try:
        forkserver.ensure_running()
    finally:
        if was_open and default._actual_context is default._default_context:
            default._actual_context = None


class _SpawnPopen(popen_spawn_posix.Popen):
    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        tracker_fd = resource_tracker.getfd()
        assert tracker_fd is not None
        self._fds.append(tracker_fd)
        packed = _packed(self, process_obj, "spawn")
        parent_r, child_w = os.pipe()
        child_r, parent_w = os.pipe()
        try:
            command = spawn.get_command_line(tracker_fd=tracker_fd, pipe_handle=child_r)
            self._fds.extend([child_r, child_w])
            self.pid = util.spawnv_passfds(spawn.get_executable(), command, self._fds)  # type: ignore[arg-type]
            self.sentinel = parent_r
        finally:
            self.finalizer = util.Finalize(self, _close_fds, (parent_r, parent_w))
            os.close(child_r)
            os.close(child_w)
        with open(parent_w, "wb", closefd=False) as pipe:
            pipe.write(packed)


class _ForkPopen(popen_fork.Popen):
    def _launch(self, process_obj: Any) -> None:
        descriptors.keep_in_fork(*process_obj.ends.fds())
        try:
            super()._launch(process_obj)  # type: ignore[misc]
        finally:
            descriptors.keep_in_fork()


POPENS: dict[str, Any] = {"forkserver": _ForkServerPopen, "spawn": _SpawnPopen, "fork": _ForkPopen}


_home_pid = os.getpid()  # of the process that multiprocessing's records in this module's reach are about


def prepare_context(context: BaseContext) -> None:
    """Let the fork server import the worker once for all, and nothing of the user's main module.

    Its default is to import `__main__`, which would run an unguarded script again. A server that runs already is left
    as it is: its workers import what they need themselves.
    """
    if os.getpid() != _home_pid:
        _settle_in()
    if context.get_start_method() == "fork":
        importlib.import_module(_WORKER)  # here, once, or every child would
    if context.get_start_method() != "forkserver":
        return
    server = forkserver._forkserver
    modules = list(server._preload_modules)  # type: ignore[attr-defined]
    try:
        os.getcwd()
    except FileNotFoundError:
        context.set_forkserver_preload([])  # deleted under us: only with modules to load does the server ask for it
        return
    if _PRELOAD not in modules:
        context.set_forkserver_preload([*(name for name in modules if name != "__main__"), _PRELOAD])


def _settle_in() -> None:
    """This is a forked copy of the process that loaded us: its fork server is not ours to use."""
    global _home_pid
    _home_pid = os.getpid()
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
