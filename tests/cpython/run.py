"""Runs CPython's own tests of process pools on `Engine`: `python -m tests.cpython.run GROUP REPORT [PATTERN]`.

They are those of the package `test` that is found first; nothing of them is in this repository. REPORT is a file that
gets a line of JSON per test: its id, its result, and what went wrong.
"""

import fnmatch
import gc
import importlib
import json
import sys
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tests.cpython.stand_in as stand_in

# A class belongs to the first whose word is in its name. 3.11 has had all of them in one file.
GROUPS = {
    "as_completed": "AsCompleted",
    "deadlock": "Deadlock",
    "init": "Initializer",
    "shutdown": "Shutdown",
    "wait": "Wait",
    "process_pool": "",
}


class Report(unittest.TestResult):
    """Writes down what becomes of each test, and what one that fails leaves is ended."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = open(path, "a", encoding="utf-8")
        self._told: set[str] = set()

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        print(short_id(test), file=sys.stderr, flush=True)

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._tell(test, "passed", "")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._tell(test, "skipped", reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self.addError(test, err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self._tell(test, "failed", "".join(traceback.format_exception(*err)))
        executor = getattr(test, "executor", None)
        if executor is not None:  # jobs of it may wait for what the test was going to do
            executor.shutdown(wait=False, timeout=0.0)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        gc.collect()  # engines that a failed test has made, and what they hold

    def _tell(self, test: unittest.TestCase, result: str, detail: str) -> None:
        if short_id(test) in self._told:
            return  # its cleaning up failed, too
        self._told.add(short_id(test))
        self._file.write(json.dumps({"id": short_id(test), "result": result, "detail": detail}) + "\n")
        self._file.flush()


def short_id(test: unittest.TestCase) -> str:
    """Class and method: the same wherever a version of CPython keeps it."""
    return ".".join(test.id().split(".")[-2:])


def tests_of(group: str, pattern: str) -> unittest.TestSuite:
    """Those of a group whose short id matches, each module with what it sets up."""
    suite = unittest.TestSuite()
    for module in modules():
        for case in flat(unittest.defaultTestLoader.loadTestsFromModule(module)):
            if is_about_pools(case) and group_of(case) == group and fnmatch.fnmatchcase(short_id(case), pattern):
                suite.addTest(case)
    return suite


def modules() -> Iterator[Any]:
    """With tests of process pools."""
    found = importlib.import_module("test.test_concurrent_futures")
    if not hasattr(found, "__path__"):
        yield found
        return
    for path in sorted(Path(found.__path__[0]).glob("test_*.py")):
        if path.stem.removeprefix("test_") in GROUPS:
            yield importlib.import_module(f"{found.__name__}.{path.stem}")


def flat(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def is_about_pools(case: unittest.TestCase) -> bool:
    name = type(case).__name__
    return getattr(case, "executor_type", None) is stand_in.ProcessPoolExecutor or "Resources" in name


def group_of(case: unittest.TestCase) -> str:
    return next(group for group, word in GROUPS.items() if word in type(case).__name__)


def main(group: str, report: str, pattern: str = "*") -> None:
    stand_in.take_its_place_in_programs()
    tests_of(group, pattern).run(Report(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
