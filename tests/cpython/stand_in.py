"""`Engine` in ProcessPoolExecutor's place, in this process: `import tests.cpython.stand_in` before CPython's tests.

The tests start programs that import the class by its name; so what stands there has that name. In everything else it is
`Engine`. The real pool cannot be made any more: no test can pass on it by accident.
"""

import concurrent.futures
import concurrent.futures.process
import importlib
import os
import sys
from typing import Any

from mpengine import Engine


class ProcessPoolExecutor(Engine):
    """The engine, for those who look for a pool."""


def _refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("a test has found the real ProcessPoolExecutor")


def take_its_place() -> None:
    """In this process, and in the programs that CPython's tests start from it."""
    real: Any = concurrent.futures.process.ProcessPoolExecutor
    if real is ProcessPoolExecutor:
        return
    real.__init__ = _refuse
    for name in ("concurrent.futures", "concurrent.futures.process"):
        setattr(sys.modules[name], "ProcessPoolExecutor", ProcessPoolExecutor)  # noqa: B010


def take_its_place_in_programs() -> None:
    """Before `python -c` of CPython's tests does anything. They ignore the environment, so this comes with the code."""
    script_helper: Any = importlib.import_module("test.support.script_helper")

    before = f"import sys; sys.path[:0] = {os.environ['PYTHONPATH'].split(os.pathsep)!r}; import {__name__}\n"
    real = script_helper.assert_python_ok

    def assert_python_ok(*args: str, **env_vars: Any) -> Any:
        assert args[0] == "-c", args
        return real("-c", before + args[1], *args[2:], **env_vars)

    script_helper.assert_python_ok = assert_python_ok


take_its_place()
