"""`python -m bench faults`: verdicts from what was seen, the table, and that hangs and leftovers are seen and ended."""

import dataclasses
import json
import mmap
import os
import sys
import uuid
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from bench.faults import command, misdeeds, runner, table
from bench.faults.cases import CASES, END, Case
from bench.faults.contenders import CONTENDERS
from bench.faults.program import SCENARIOS
from bench.faults.run import Run
from bench.faults.verdicts import NO_SUCH_FEATURE, Observed, Outcome, Verdict, judge
from tests.marks import needs_dev_shm
from tests.support import ROOT, run_python, wait_gone

BY_NAME = {case.name: case for case in CASES}
CRASH = BY_NAME["exit-1"]
GOOD = Outcome("value", "str")
ERROR = Outcome("error", "RuntimeError: no")

OTHERS = [f"other-{n}" for n in range(4)]
LATER = ["after-0", "after-1"]
ALL_GOOD = Observed(
    stage=END,
    exit_code=0,
    outcomes={**dict.fromkeys(OTHERS, GOOD), "culprit-1": ERROR, **dict.fromkeys(LATER, GOOD)},
    began=dict.fromkeys([*OTHERS, "culprit-1", *LATER], 1),
    ended=dict.fromkeys([*OTHERS, *LATER], 1),
)


def changed(**changes: Any) -> Observed:
    """The good run, but for this; a mapping is laid over the good one's."""
    for name, value in changes.items():
        if isinstance(value, dict):
            changes[name] = {**getattr(ALL_GOOD, name), **value}
    return dataclasses.replace(ALL_GOOD, **changes)


# ---- verdicts ------------------------------------------------------------------------------------------------


def test_a_run_in_which_nothing_fails_but_the_culprit_passes() -> None:
    assert judge(CRASH, ALL_GOOD) == Verdict("pass")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outcomes": {"other-1": ERROR}}, "1 of 4 other jobs failed"),
        ({"outcomes": dict.fromkeys(OTHERS, ERROR)}, "all 4 other jobs failed"),
        ({"outcomes": {"other-1": Outcome("other value", "int")}}, "1 other jobs have a wrong value"),
        ({"outcomes": {"culprit-1": GOOD}}, "no error for the culprit 1"),
        ({"outcomes": dict.fromkeys(LATER, ERROR)}, "unusable afterwards"),
        ({"outcomes": {"after-1": ERROR}}, "1 of 2 later jobs failed"),
        ({"began": {"other-2": 2}}, "1 other jobs ran twice"),
        ({"ended": {"other-2": 2}}, "1 other jobs have a value, but did not end exactly once"),
        ({"ended": {"other-2": 0}}, "1 other jobs have a value, but did not end exactly once"),
        ({"began": {"culprit-1": 2}}, "the culprit ran twice"),
        ({"began": {f"batch-{n}": 1 for n in range(101)}}, "ran 101 jobs that nobody waited for any more"),
        ({"began": {"batch-1": 2}}, "1 jobs of the map ran twice"),
        ({"counts": {"drawn when idle": 9}}, "went on reading while nobody took results"),
        ({"left": ("pid 12: python",)}, "left 1 process behind"),
        ({"left": ("pid 12: python", "pid 13: sleep")}, "left 2 processes behind"),
        ({"left": ("/dev/shm/a",)}, "left 1 entry in /dev/shm"),
        ({"exit_code": 1, "said": "Boom: 3"}, f"the program ended with exit code 1, {END}: Boom: 3"),
        ({"stage": "shutting down"}, "the program ended with exit code 0, shutting down"),
        ({"exit_code": 1, "stage": "taking", "counts": {"drawn past": 100_000}},
         "read more than 100,000 items of an endless input"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_named(changes: dict[str, Any], reason: str) -> None:
    assert judge(CRASH, changed(**changes)) == Verdict("wrong", reason)


def test_all_that_is_wrong_is_named() -> None:
    seen = changed(outcomes={"other-1": ERROR, **dict.fromkeys(LATER, ERROR)}, left=("pid 12: python",))
    assert judge(CRASH, seen).reason == "1 of 4 other jobs failed; unusable afterwards; left 1 process behind"


def test_a_hang_says_where_and_what_was_wrong_before() -> None:
    seen = changed(exit_code=None, stage="shutting down", outcomes={"other-1": ERROR})
    assert judge(CRASH, seen) == Verdict("hang", "shutting down; 1 of 4 other jobs failed")


@pytest.mark.parametrize(
    ("fate", "outcome", "word"),
    [("either", ERROR, "pass"), ("either", GOOD, "pass"), ("succeeds", GOOD, "pass"), ("succeeds", ERROR, "wrong")],
)
def test_some_culprits_may_succeed_and_some_must(fate: Any, outcome: Outcome, word: str) -> None:
    case = dataclasses.replace(CRASH, culprit=fate)
    assert judge(case, changed(outcomes={"culprit-1": outcome})).word == word


def test_a_program_that_was_to_be_killed_passes_if_it_was_killed_then() -> None:
    case = BY_NAME["parent-killed"]
    assert judge(case, Observed(case.last, -9)).word == "pass"
    assert judge(case, Observed(case.last, 0)).word == "wrong"
    assert judge(case, Observed("starting", -9)).word == "wrong"
    assert judge(BY_NAME["ctrl-c"], Observed(BY_NAME["ctrl-c"].last, -2)).word == "pass"


def test_who_cannot_end_a_job_is_not_asked_to() -> None:
    asked = BY_NAME["timeout-asleep"]
    assert runner.try_case(asked, "multiprocessing.Pool", CONTENDERS["multiprocessing.Pool"]) == NO_SUCH_FEATURE


def test_every_case_can_be_played() -> None:
    assert len(BY_NAME) == len(CASES)
    for case in CASES:
        assert case.scenario in SCENARIOS
        assert not case.misdeed or callable(getattr(misdeeds, case.misdeed))
        assert not case.argument or callable(getattr(misdeeds, case.argument))


# ---- the table -----------------------------------------------------------------------------------------------

FACTS = {"python": "CPython 3", "system": "Linux", "cpus": 2, "versions": {"loky": "3"}}
RESULTS = {
    "facts": FACTS,
    "contenders": ["mpengine", "loky"],
    "cases": {
        "exit-1": {"mpengine": {"word": "pass", "reason": ""}, "loky": {"word": "wrong", "reason": "9 failed"}},
        "timeout-gil": {"mpengine": {"word": "pass", "reason": ""}, "loky": {"word": "-", "reason": "cannot"}},
    },
}


def test_the_table_has_a_row_for_each_case_and_a_reason_for_each_that_did_not_pass() -> None:
    assert table.render(RESULTS).splitlines() == [
        "CPython 3, loky 3; Linux, 2 CPUs.",
        "",
        "|  | `mpengine` | `loky` |",
        "| --- | --- | --- |",
        "| a job calls `os._exit(1)` | pass | wrong |",
        "| a job past its timeout holds the GIL in C | pass | - |",
        "| passed, of those it can be asked | 2 of 2 | 0 of 1 |",
        "",
        "### A job calls `os._exit(1)` (`exit-1`)",
        "",
        "- `loky`: wrong, 9 failed",
    ]


def test_the_readme_has_the_table_that_was_saved() -> None:
    saved = json.loads((ROOT / "bench/results/faults.json").read_text())
    block = (ROOT / "README.md").read_text().partition("<!-- faults -->\n")[2].partition("<!-- /faults -->")[0]
    assert block == table.summary(saved)
    assert (ROOT / "bench/results/faults.md").read_text() == table.render(saved)


# ---- the command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failing", "exit_code"), [("mpengine", 1), ("ProcessPoolExecutor", 0)])
def test_the_exit_code_is_about_this_engine(
    failing: str, exit_code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def try_case(case: Case, name: str, contender: object) -> Verdict:
        return Verdict("hang", "starting") if name == failing else Verdict("pass")

    monkeypatch.setattr(command, "try_case", try_case)
    arguments = ["--case", "exit-1", "--contender", "mpengine", "--contender", "ProcessPoolExecutor"]
    assert command.main(arguments) == exit_code
    out, err = capsys.readouterr()
    assert f"- `{failing}`: hang, starting" in out
    assert f"exit-1: {failing}: hang starting" in err


def test_who_is_not_installed_is_left_out_and_one_line_says_how_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["--case", "exit-1", "--contender", "pebble"]) == 0
    out, err = capsys.readouterr()
    assert "`pebble`" not in out
    assert err == "pebble is left out: pebble is not installed; pip install -e '.[bench]' does\n"


def test_it_is_a_word_of_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.__main__ import main

    monkeypatch.setattr(command, "CASES", ())
    assert main(["faults", "--contender", "mpengine"]) == 0


# ---- real runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exit-1", "consumer-stops", "parent-killed"])
def test_this_engine_passes(name: str) -> None:
    assert runner.try_case(BY_NAME[name], "mpengine", CONTENDERS["mpengine"]) == Verdict("pass")


@needs_dev_shm
def test_one_crash_fails_what_waits_in_process_pool_executor() -> None:
    verdict = runner.try_case(CRASH, "ProcessPoolExecutor", CONTENDERS["ProcessPoolExecutor"])
    assert verdict.word == "wrong"
    assert "other jobs failed; unusable afterwards" in verdict.reason


@needs_dev_shm
def test_a_program_notes_what_it_has_in_shared_memory(tmp_path: Path) -> None:
    run = Run(CRASH, CONTENDERS["mpengine"], tmp_path)
    with NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(1)
        with mmap.mmap(file.fileno(), 1):
            link = f"{file.name}-renamed"  # as the C library does with semaphores
            os.link(file.name, link)
            os.unlink(file.name)
            run.stage("mapping")
        run.stage("later")
        os.rename(link, file.name)
    first, second = (json.loads(line) for line in (tmp_path / "report").read_text().splitlines())
    assert first["stage"] == "mapping"
    assert link in first["shared"]
    assert link not in second["shared"]


# A program that notes what it is about, and has a child that has left its session and ignores SIGTERM.
LEAVES_A_CHILD = """
import os, signal, sys, time
folder = sys.argv[1]
open(folder + "/report", "w").write('{"stage": "waiting"}\\n')
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(folder + "/child", "w").write(str(os.getpid()))
    os.rename(folder + "/child", folder + "/notes-child")
    time.sleep(600)
while not os.path.exists(folder + "/notes-child"): time.sleep(0.01)
"""


def child_of(folder: Path) -> int:
    return int((folder / "notes-child").read_text())


def test_a_contender_that_hangs_is_ended_with_all_that_is_below_it(tmp_path: Path) -> None:
    hangs = [sys.executable, "-c", LEAVES_A_CHILD + "time.sleep(600)", str(tmp_path)]
    seen = runner.observe(hangs, tmp_path, bound=2.0)
    assert judge(CRASH, seen) == Verdict("hang", "waiting")
    wait_gone(child_of(tmp_path), timeout=0.0)


@needs_dev_shm
def test_what_outlives_its_program_is_counted_and_ended(tmp_path: Path) -> None:
    name = f"bench-faults-{uuid.uuid4()}"
    leaves = LEAVES_A_CHILD + (
        f"open('/dev/shm/{name}', 'w').write('x')\n"
        f"""noted = '{{"stage": "left", "shared": ["/dev/shm/{name}", "/dev/shm/gone"]}}'\n"""
        "open(folder + '/report', 'a').write(noted)\n"
    )
    # In a process of its own, which nobody has made the parent of orphans but the runner.
    code = (
        "import sys\nfrom pathlib import Path\nfrom bench.faults import runner\nrunner.SETTLE_S = 0.2\n"
        f"seen = runner.observe([sys.executable, '-c', {leaves!r}, {str(tmp_path)!r}], Path({str(tmp_path)!r}), 15.0)\n"
        "print(seen.exit_code, *seen.left, sep='\\n')\n"
    )
    try:
        done = run_python("-c", code)
    finally:
        Path(f"/dev/shm/{name}").unlink(missing_ok=True)
    assert done.stderr == ""
    exit_code, process, *_, file = done.stdout.splitlines()
    assert exit_code == "0"
    assert process.startswith(f"pid {child_of(tmp_path)}: ")
    assert file == f"/dev/shm/{name}"
    wait_gone(child_of(tmp_path), timeout=0.0)
