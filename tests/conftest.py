"""Fixtures for all tests: nothing is left behind, start methods, Hypothesis profiles."""

import gc
import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest

from tests.leaks import Footprint, adopt_orphans, left_behind
from tests.support import START_METHODS

# No deadline for an example: the machines that run these tests have other work as well.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
# The same examples every time: a red CI is about the change, not about luck.
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("default"), derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))

call_failed = pytest.StashKey[bool]()


def pytest_configure() -> None:
    adopt_orphans()


def pytest_collection_finish() -> None:
    # Every test ends with a full collection. What the tools and the test modules have built by now
    # lives on anyway: it need not be looked through a thousand times.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.when != "teardown" and report.failed:
        item.stash[call_failed] = True
    return report  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves processes, zombies, descriptors, /dev/shm entries or threads behind.

    After a failed test it cleans up and only reports: a failure's traceback keeps engines alive.
    """
    before = Footprint.take()
    yield
    found = left_behind(before)
    if not found:
        return
    message = "left behind:\n  " + "\n  ".join(found)
    if request.node.stash.get(call_failed, False):
        print(message, file=sys.stderr)
    else:
        pytest.fail(message, pytrace=False)


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """Each of multiprocessing's ways to start a process."""
    return str(request.param)
