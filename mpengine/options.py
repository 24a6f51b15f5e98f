"""What an engine can be told, checked where it is told."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

from mpengine.observing import JobOutput, Observer

START_METHODS = ("forkserver", "spawn", "fork")
DEFAULT_STOP_GRACE_S = 2.0


@dataclass(frozen=True)
class Options:
    """Checked options of an engine; see `Engine` for what they mean."""

    workers: int
    context: BaseContext
    initializer: Callable[..., Any] | None
    initargs: tuple[Any, ...]
    max_tasks_per_child: int | None
    max_pending: int | None
    timeout: float | None
    retries: int
    memory_limit: int | None
    threads_per_worker: int | None
    stop_grace: float
    observers: tuple[Observer, ...]
    output: Callable[[JobOutput], None] | None
    failed: Callable[[str, BaseException], None] | None
    name: str

    @classmethod
    def check(
        cls,
        max_workers: int | None,
        mp_context: BaseContext | str | None,
        initializer: Callable[..., Any] | None,
        initargs: Iterable[Any],
        *,
        max_tasks_per_child: int | None,
        max_pending: int | None,
        timeout: float | None,
        retries: int,
        memory_limit: int | str | None,
        threads_per_worker: int | None,
        stop_grace: float,
        observers: Iterable[Observer],
        output: Callable[[JobOutput], None] | None,
        failed: Callable[[str, BaseException], None] | None,
        name: str,
    ) -> Options:
        """Raise TypeError or ValueError for what makes no sense; fill in the defaults."""
        _whole("max_workers", max_workers, 1)
        _whole("max_tasks_per_child", max_tasks_per_child, 1)
        _whole("max_pending", max_pending, 1)
        memory_limit = size_bytes("memory_limit", memory_limit)
        _whole("memory_limit", memory_limit, 1)
        _whole("threads_per_worker", threads_per_worker, 1)
        _whole("retries", retries, 0)
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be greater than 0 seconds, got {timeout!r}")
        if not stop_grace >= 0:
            raise ValueError(f"stop_grace must be 0 seconds or more, got {stop_grace!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, got {type(initializer).__name__}")
        observers = tuple(observers)
        for observer in observers:
            if not callable(observer):
                raise TypeError(f"observers must be callables, got {type(observer).__name__}")
        if output is not None and not callable(output):
            raise TypeError(f"output must be a callable, got {type(output).__name__}")
        return cls(
            cpu_count() if max_workers is None else max_workers,
            _context(mp_context), initializer, tuple(initargs), max_tasks_per_child, max_pending, timeout, retries,
            memory_limit, threads_per_worker, stop_grace, observers, output, failed, name,
        )  # fmt: skip


def _whole(name: str, value: int | None, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        need = "greater than 0" if least == 1 else f"{least} or more"
        raise ValueError(f"{name} must be {need}, got {value}")


def size_bytes(name: str, value: int | str | None) -> int | None:
    """What an option named so has, in bytes."""
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except ValueError as error:
        raise ValueError(f"{name} must be bytes or a size such as '2GiB' or '500MB', got {value!r}") from error


def parse_size(text: str) -> int:
    """A size such as "2GiB", "500 MB" or "1.5G", in bytes. Units of 1024 have an i, or stand alone (G).

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?B)?|B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as '2GiB' or '500MB'")
    number, unit, suffix = match.groups()
    step = 1000 if (suffix or "").upper() == "B" else 1024
    return int(float(number) * step ** " KMGT".index((unit or " ").upper()))


def _context(chosen: BaseContext | str | None) -> BaseContext:
    """The context given, the start method named, or what the program chose, or forkserver."""
    if chosen is None:
        chosen = multiprocessing.get_start_method(allow_none=True) or "forkserver"
    if isinstance(chosen, str):
        if chosen not in START_METHODS:
            raise ValueError(f"mp_context must be one of {', '.join(START_METHODS)}, got {chosen!r}")
        chosen = multiprocessing.get_context(chosen)
    if not isinstance(chosen, BaseContext):
        raise TypeError(f"mp_context must be a context or the name of a start method, got {type(chosen).__name__}")
    return chosen


def cpu_count() -> int:
    """The CPUs this process may use: its affinity, cut by the quota of its control group. At least 1."""
    count = len(os.sched_getaffinity(0))
    quota = _cgroup_cpus()
    return max(1, count if quota is None else min(count, quota))


def _cgroup_cpus() -> int | None:
    """Whole CPUs of the tightest control group above this process, rounded up; None: no quota."""
    quotas = []
    try:
        with open("/proc/self/cgroup") as groups:
            lines = groups.read().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: limits of every level count
            parts = [part for part in path.split("/") if part]
            for depth in range(len(parts), -1, -1):
                quotas.append(_quota_v2("/".join(["/sys/fs/cgroup", *parts[:depth]])))
        elif "cpu" in controllers.split(","):
            for base in (f"/sys/fs/cgroup/cpu{path}", "/sys/fs/cgroup/cpu"):
                quotas.append(_quota_v1(base))
    known = [quota for quota in quotas if quota is not None]
    return min(known, default=None)


def _quota_v2(folder: str) -> int | None:
    try:
        with open(f"{folder}/cpu.max") as file:
            quota, period = file.read().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None


def _quota_v1(folder: str) -> int | None:
    try:
        with open(f"{folder}/cpu.cfs_quota_us") as file:
            quota = int(file.read())
        with open(f"{folder}/cpu.cfs_period_us") as file:
            period = int(file.read())
        return None if quota <= 0 else -(-quota // period)
    except (OSError, ValueError):
        return None
