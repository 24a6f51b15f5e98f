"""What the programs of all cases share: opening a contender, jobs that take notes, taking results, the end."""

import functools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.faults import misdeeds
from bench.faults.cases import END, Case
from bench.faults.contenders import Contender, Take

WORKERS = 2
IDLE_S = 0.5  # for a worker that has given back a result to be idle, whatever it does in between


class Run:
    """One run: the contender, and the notes."""

    def __init__(self, case: Case, contender: type[Contender], folder: Path) -> None:
        self.case = case
        self.notes = str(folder / "notes")
        self._contender = contender
        self._folder = folder

    def report(self, **entry: object) -> None:
        misdeeds.note(str(self._folder / "report"), json.dumps(entry))

    def stage(self, name: str) -> None:
        """What comes next; and what this process has in /dev/shm, where other programs have theirs as well."""
        self.report(stage=name, shared=mapped_shared_memory())

    def misdeed(self) -> Callable[..., Any]:
        body: Callable[..., Any] = getattr(misdeeds, self.case.misdeed)
        return body

    def open(self) -> tuple[Contender, list[int]]:
        """The contender with all its workers up, and their pids."""
        self.stage("starting")
        pool = self._contender(WORKERS)
        pids = self.meet(pool)
        self.stage("submitting")
        return pool, pids

    def meet(self, pool: Contender) -> list[int]:
        """Waits until all workers are up and idle again, and returns their pids."""
        place = tempfile.mkdtemp(prefix="meeting-", dir=self._folder)
        takes = [pool.submit(misdeeds.meet, place, WORKERS) for _ in range(WORKERS)]
        pids = sorted({take() for take in takes})
        if len(pids) != WORKERS:
            raise AssertionError(f"of {WORKERS} workers, {len(pids)} came")
        time.sleep(IDLE_S)
        return pids

    def open_with(self, initializer: Callable[[], object]) -> Contender:
        return self._contender(WORKERS, initializer)

    def submit(
        self, pool: Contender, job: str, body: Callable[..., Any], *arguments: Any, timeout: float | None = None
    ) -> Take:
        """A job that takes notes. What `submit` raises is as good as what the result would have raised."""
        try:
            return pool.submit(misdeeds.noted, self.notes, job, body, *arguments, timeout=timeout)
        except Exception as error:
            return functools.partial(throw, error)

    def others(self, pool: Contender, kind: str, numbers: range) -> dict[str, Take]:
        jobs = [f"{kind}-{number}" for number in numbers]
        return {job: self.submit(pool, job, misdeeds.short, job) for job in jobs}

    def take(self, takes: dict[str, Take]) -> None:
        """Waits for these results, and reports each."""
        for job, take in takes.items():
            self.stage(f"waiting for the result of {job}")
            try:
                value = take()
            except BaseException as error:  # SystemExit and KeyboardInterrupt are outcomes as well
                self.report(job=job, kind="error", text=f"{type(error).__name__}: {error}")
            else:
                due = value == job or job.startswith("culprit")
                self.report(job=job, kind="value" if due else "other value", text=type(value).__name__)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Looks at what is on disk, again and again; the case's bound is the bound."""
        while not condition():
            time.sleep(0.01)

    def culprits(self) -> list[int]:
        """The pids of workers in which a culprit has begun."""
        if not os.path.exists(self.notes):
            return []
        lines = [line.split() for line in Path(self.notes).read_text().splitlines()]
        return [int(pid) for what, job, pid in lines if what == "began" and job.startswith("culprit")]

    def finish(self, pool: Contender) -> None:
        """What every program does in the end: uses the pool once more, and shuts it down."""
        self.take(self.others(pool, "after", range(4)))
        self.shut_down(pool.close)

    def shut_down(self, end: Callable[[], object]) -> None:
        self.stage("shutting down")
        end()
        self.stage(END)


def mapped_shared_memory() -> list[str]:
    """The entries of /dev/shm that this process maps.

    By their inodes: the C library makes a semaphore under another name than that which it then gives it.
    """
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = {int(words[4]) for words in lines if words[5:] and words[5].startswith("/dev/shm/")}
    return sorted(entry.path for entry in os.scandir("/dev/shm") if entry.inode() in mapped)


def throw(error: BaseException) -> Any:
    raise error
