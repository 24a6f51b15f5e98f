"""On what was measured: the facts that stand over every table."""

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


PACKAGES = ("mpengine", "loky", "joblib", "mpire", "pebble", "ray", "distributed")


def facts(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Machine, Python and versions; the load is what others were doing when the run began."""
    return {
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: found for name in packages if (found := installed(name))},
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(name: str) -> str | None:
    """The version of a package, "source" if it is importable without having been installed; None for Python's own."""
    try:
        return version(name)
    except PackageNotFoundError:
        part_of_python = name.partition(".")[0] in sys.stdlib_module_names
        return "source" if find_spec(name) and not part_of_python else None
