"""CPython's own tests of ProcessPoolExecutor, with `Engine` in its place.

They come with the interpreter. Some releases are installed without them (3.11.5 and later, 3.12.0, 3.12.1): then
MPENGINE_CPYTHON_TESTS may name a folder that has `test_concurrent_futures` of the same version of Python, and
`support` if that is of another release than the interpreter's, as in CPython's `Lib/test`.
"""

import fnmatch
import importlib.util
import json
import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cpython.exceptions import EXEMPTIONS, Exemption
from tests.cpython.run import GROUPS
from tests.support import ROOT, run_python

NAME = "test_concurrent_futures"
BOUND_S = 120.0  # for each of their modules; alone they take up to 25

# Those that run at the same time: they mostly let time pass. Each is a group, or a part of one: the longest.
METHODS = ("Fork[!s]", "Forkserver", "Spawn")
ROUNDS = {
    "waiting": (("as_completed", "*"), *(("wait", f"ProcessPool{method}*") for method in METHODS)),
    "pools": (("init", "*"), ("process_pool", "*"), ("shutdown", "*"), ("deadlock", "*")),
}


def path_to_tests(tmp_path: Path) -> list[str]:
    """What has to come first on the path for `import test.test_concurrent_futures`."""
    folder = os.environ.get("MPENGINE_CPYTHON_TESTS")
    if folder is None:
        try:
            found = importlib.util.find_spec(f"test.{NAME}")
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(
                f"this Python came without CPython's tests (test.{NAME}); "
                "MPENGINE_CPYTHON_TESTS may name a folder that has them"
            )
        return []
    given = [path for path in Path(folder).iterdir() if path.stem in (NAME, "support")]
    assert any(path.stem == NAME for path in given), f"MPENGINE_CPYTHON_TESTS: there is no {NAME} in {folder}"
    package = tmp_path / "with_tests" / "test"  # a package is one folder: ours has links to both
    package.mkdir(parents=True)
    for path in (*given, *Path(sysconfig.get_path("stdlib"), "test").iterdir()):
        if not (package / path.name).exists() and (path in given or path.stem != NAME):
            (package / path.name).symlink_to(path)
    return [str(package.parent)]


def results_of(group: str, pattern: str, path: list[str], report: Path) -> list[dict[str, Any]]:
    """Run a group in a process of its own, and read what became of each test."""
    env = {"PYTHONPATH": os.pathsep.join([*path, str(ROOT)])}
    done = run_python("-m", "tests.cpython.run", group, str(report), pattern, timeout=BOUND_S, cwd=ROOT, env=env)
    assert done.returncode == 0, f"{group}: exit code {done.returncode}\n{done.stderr[-4000:]}"
    results = [json.loads(line) for line in report.read_text().splitlines()]
    assert results, f"{group}: no test ran\n{done.stderr[-4000:]}"
    return results


def exemption_of(test: str) -> Exemption | None:
    return next((one for one in EXEMPTIONS if fnmatch.fnmatchcase(test, one.pattern)), None)


@pytest.mark.slow
@pytest.mark.timeout(2 * BOUND_S)
@pytest.mark.parametrize("round_", ROUNDS)
def test_they_pass_except_those_with_a_reason(round_: str, tmp_path: Path) -> None:
    path = path_to_tests(tmp_path)
    with ThreadPoolExecutor(len(ROUNDS[round_])) as threads:
        running = [
            threads.submit(results_of, group, pattern, path, tmp_path / f"report-{number}")
            for number, (group, pattern) in enumerate(ROUNDS[round_])
        ]
    problems, exempt, passed = [], 0, 0
    for result in (one for future in running for one in future.result()):
        exemption = exemption_of(result["id"])
        passed += result["result"] == "passed"
        exempt += result["result"] == "failed" and exemption is not None
        if result["result"] == "failed" and exemption is None:
            problems.append(f"{result['id']} failed:\n{result['detail']}")
        elif result["result"] == "passed" and exemption is not None and not exemption.may_pass:
            problems.append(f"{result['id']} passes, and is in the list of exceptions: {exemption.reason}")
    print(f"{round_}: {passed} passed, {exempt} are exceptions")
    assert not problems, "\n\n".join(problems)
    assert passed > exempt


def test_all_groups_are_run() -> None:
    assert {group for parts in ROUNDS.values() for group, _ in parts} == set(GROUPS)
