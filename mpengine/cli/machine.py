"""What a measurement was made on, and whether anybody else was at work there."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

import mpengine
from mpengine.cli.signals import Stop

_LOOK_S = 0.3  # long enough to tell a tenth of a CPU
_BUSY_PART = 0.1  # of the machine


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts.

    Attributes:
        cpus: That this process may use.
        all_cpus, cores: Of the whole machine; threads of one core are CPUs of their own. 0: unknown.
        memory: Bytes.
        load: The load average of the last minute, when the measurement began.
        busy_cpus: CPUs of the machine that others kept busy then.
    """

    cpu: str
    cpus: int
    all_cpus: int
    cores: int
    memory: int
    system: str
    python: str
    mpengine: str
    load: float
    busy_cpus: float

    @property
    def line(self) -> str:
        """For people."""
        cpus = "1 CPU" if self.cpus == 1 else f"{self.cpus:,} CPUs"
        if 0 < self.cores < self.all_cpus == self.cpus:
            cpus += f" on {self.cores:,} core{'' if self.cores == 1 else 's'}"
        return f"{self.cpu}, {cpus}, {self.system}, {self.python}, mpengine {self.mpengine}"

    def is_much(self, busy_cpus: float) -> bool:
        """Whether so many CPUs that others keep busy spoil a measurement."""
        return busy_cpus > _BUSY_PART * self.all_cpus


def look(stop: Stop) -> Machine:
    """Watches the machine for a moment, while this process does nothing."""
    before, began = CpuTime.now(), time.monotonic()
    stop.wait_for_wish(_LOOK_S)
    return Machine(
        cpu=_cpu_model(),
        cpus=mpengine.cpu_count(),
        all_cpus=psutil.cpu_count() or 1,
        cores=psutil.cpu_count(logical=False) or 0,
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        mpengine=mpengine.__version__,
        load=round(os.getloadavg()[0], 2),
        busy_cpus=round(CpuTime.now().of_others_since(before) / (time.monotonic() - began), 2),
    )


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU seconds so far, as the kernel counts them: in steps of 0.01 s.

    Attributes:
        all: Of the whole machine; what another guest of its host had in its place (steal) counts as well.
        own: Of this process and some others, with those of their children that have ended.
    """

    all: float
    own: float

    @classmethod
    def now(cls, pids: Iterable[int] = ()) -> CpuTime:
        spent = psutil.cpu_times()._asdict()
        idle = ("idle", "iowait", "guest", "guest_nice")  # guests of this machine are in user and nice as well
        return cls(
            sum(seconds for name, seconds in spent.items() if name not in idle), sum(map(_spent, (os.getpid(), *pids)))
        )

    def of_others_since(self, before: CpuTime) -> float:
        return max(0.0, self.all - before.all - (self.own - before.own))


def _spent(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
