"""The process of a worker, as multiprocessing knows it: its name, authkey, parent_process(), what it may inherit.

A spawned child unpickles one of these before anything else, so nothing here imports what only the parent needs.
"""

from __future__ import annotations

from multiprocessing import process

from mpengine.runtime.ends import WorkerEnds

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any


class WorkerProcess(process.BaseProcess):
    """The process of one worker."""

    def __init__(self, start_method: str, name: str, ends: WorkerEnds) -> None:
        super().__init__(name=name, daemon=False)
        self.ends = ends
        self._start_method = start_method

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        from mpengine.runtime.launching import POPENS  # in the parent only: children do not pay for it

        return POPENS[process_obj._start_method](process_obj)

    def run(self) -> None:
        """The whole life of a worker; leaves by `os._exit`."""
        from mpengine.runtime.worker import main

        main(self.ends)

    def start(self) -> None:
        """As in Process; but it is ours alone to wait for, and a daemonic process may start it.

        multiprocessing polls all it knows of at every start and at `active_children()`, in whatever thread. Whoever
        comes second, of two that ask for an exit code, gets none; and a forked copy of this process would join, at its
        exit, children that are not its own. It forbids daemonic processes to have children, which would outlive them
        when they are terminated; workers do not (see `leash`).
        """
        self._popen = self._Popen(self)
        self._sentinel = self._popen.sentinel

    def exit_status(self) -> int | None:
        """The exit code of a process known to be dead; None if the system does not tell."""
        popen: Any = self._popen
        if popen.method == "forkserver":
            # The server reaps it and writes the code down the sentinel. A server that is dead itself leaves an EOF,
            # which multiprocessing reads as 255.
            code = popen.wait(timeout=1.0)
            return None if code == 255 and not _runs(popen.server_pid) else code
        code = popen.poll()
        return None if code is None else int(code)

    def release(self) -> None:
        """Close what the dead process's record still holds."""
        popen: Any = self._popen
        if popen is not None:
            popen.finalizer()


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False
