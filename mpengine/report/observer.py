"""`Report`: one page on a run, for people who want to know what happened and what limited it."""

from __future__ import annotations

import contextlib
import datetime
import os
import threading

from mpengine.observing import EngineState, PublicEvent
from mpengine.report.record import RunRecord


class Report:
    """An observer that writes one HTML page: what became of the jobs, when, where, and what limited the run.

        engine.observe(Report("run.html"))

    The page stands alone: no script, and nothing is loaded from anywhere. It has the counts, the parallel efficiency
    and what limited it, a timeline per worker, throughput, durations, memory, failures by cause with tracebacks, and
    the slowest jobs. It is written when the engine has closed, or by `write` at any time.

    Memory is bounded, however many jobs there are; what is left out for that, the page says.

    Args:
        path: Written over if it is there, at once and as a whole.
        title: The page's.

    Raises:
        OSError: There is no such folder, or `path` is one. If the page cannot be written later, that is logged.
    """

    def __init__(self, path: str | os.PathLike[str], title: str = "mpengine report") -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.title = title
        self._lock = threading.Lock()
        self._record = RunRecord()
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"Report: there is no folder {folder!r}; make it first")
        if os.path.isdir(self.path):
            raise IsADirectoryError(f"Report: {self.path!r} is a folder; name a file in it")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"Report: the folder {folder!r} cannot be written to")

    def __call__(self, event: PublicEvent) -> None:
        with self._lock:
            self._record.add(event)
        if isinstance(event, EngineState) and event.state == "closed":
            self.write()

    def write(self) -> None:
        """Write the page as things stand. From any thread; events wait meanwhile, for some tens of milliseconds.

        Raises:
            OSError: It cannot be written; what was there before is still there.
        """
        from mpengine.report.page import page

        written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        with self._lock:
            text = page(self._record, self.title, written)
        part = f"{self.path}.{os.getpid()}-{threading.get_ident()}.part"
        try:
            with open(part, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            os.replace(part, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
