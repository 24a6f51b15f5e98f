"""The arithmetic of `python -m bench arrays`, and that it still runs; how fast anything is, no test asserts."""

import json
import os
import re
from typing import Any

import numpy as np
import pytest

from bench import array_kinds, array_work, arrays, report, rounds, run, thresholds
from bench.__main__ import main as bench
from bench.peers import PACKAGES, PEERS
from bench.rounds import Options
from bench.targets import verdict
from mpengine import Engine
from mpengine.arrays import parcel
from mpengine.runtime import running
from tests.support import ROOT, run_python

FACTS = {"cpu": "A CPU", "cpus": 2, "system": "Linux", "python": "CPython", "load": 0.0, "versions": {}}
OPTIONS = {"rounds": 2, "scale": 1.0, "workers": 2, "start_method": None, "nice": 0}
CASES = {case.name: case for case in arrays.CASES}


def results_of(name: str, *rounds: dict[str, dict[str, Any]], left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"begun": "now", "facts": FACTS, "options": OPTIONS, "left_out": [*left_out], "cases": {name: [*rounds]}}


def answer(**metrics: float) -> dict[str, Any]:
    return {"n": 5, "metrics": metrics, "start_method": "fork"}


def cells_of(text: str, first: str) -> list[str]:
    """Of the row that begins so, in the last table that has it."""
    return [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith(f"| {first} |")][-1]


def trips(**ratios: float) -> dict[str, float]:
    """Figures of a round in which blocks take so many times as long as in band, and get so many times less through."""
    figures: dict[str, float] = {}
    for size, ratio in ratios.items():
        for question, blocks in (("trip", ratio), ("rate", 1 / ratio)):
            figures |= {f"in band {question} {size[1:]}": 1.0, f"blocks {question} {size[1:]}": blocks}
    return figures


def test_the_first_transfer_stands_for_itself_and_the_others_are_the_warm_ones() -> None:
    found = array_kinds.speeds([10.0, 4.0, 1.0, 2.0], 4 * 10**9)
    assert found == {"warm": 2.0, "best": 4.0, "first": 0.4}
    assert array_kinds.times([10.0, 4.0, 1.0, 2.0]) == {"warm": 2e3, "best": 1e3, "first": 1e4}


def test_a_speed_is_held_against_a_copy_of_the_same_round() -> None:
    # The second round had half the machine.
    found = [
        {
            "engine.submit": answer(warm=4.0 / load, best=4.0, first=1.0),
            "bare.memcpy": answer(warm=16.0 / load, best=16.0, first=1.0),
            "executor.submit": answer(warm=0.5 / load, best=0.5, first=0.5),
            "by-hand.keep": answer(warm=8.0 / load, best=8.0, first=1.0),
        }
        for load in (1, 2)
    ]
    text = arrays.render(results_of("array-in", *found))
    assert cells_of(text, "`engine.submit`")[3:5] == ["3.00", "2.00 … 4.00"]
    assert cells_of(text, "`engine.submit`")[-2:] == ["25.0%", "1.00 x"]
    assert cells_of(text, "`executor.submit`")[-2:] == ["3.1%", "8.00 x"]
    assert cells_of(text, "64 MiB into a job, GB/s")[2] == "0.375 `executor.submit`"  # by hand is no peer


def test_the_targets_come_first_and_a_time_is_to_be_below_its_own() -> None:
    found = {"engine.map": answer(warm=5.0, best=4.0, first=120.0), "engine.share": answer(warm=5, best=4, first=30)}
    text = arrays.render(results_of("array-shared", found))
    assert cells_of(text, "64 MiB for 100 jobs, argument, ms")[-2:] == ["≤ 100", "yes: 5.00 (5.00 … 5.00)"]
    assert cells_of(text, "64 MiB for 100 jobs, argument, first, ms")[-1] == "**no**: 120 (120 … 120)"
    assert text.index("to reach") < text.index("### 64 MiB for 100 jobs")


def test_every_target_is_about_a_case_and_every_case_can_be_measured() -> None:
    for target in arrays.TARGETS:
        assert target.metric in CASES[target.case].metrics
        assert {target.mine, target.limit, *(target.peers or ())} <= {*CASES[target.case].contenders}
        assert verdict(target, CASES[target.case], []) == "not measured"
    for case in arrays.CASES:
        assert case.kind in array_kinds.KINDS
        assert {one.partition(".")[0] for one in case.contenders} <= {*PEERS, "by-hand"}
        assert case.seldom <= {*case.contenders}
        assert {column.against for column in case.columns} <= {*case.contenders}
    assert {*CASES["array-sizes"].metrics} == {array_kinds.size_text(size) for size in array_kinds.RATE_SIZES}


def test_who_is_not_installed_has_a_row_that_says_so() -> None:
    text = arrays.render(results_of("array-in", {"engine.submit": answer(warm=1, best=1, first=1)}, left_out=("ray",)))
    assert cells_of(text, "`ray.put`")[2] == f"failed: {PACKAGES['ray']} is not installed"


@pytest.mark.parametrize(
    ("ratios", "best"),
    [
        ({"_1": 2.0, "_2": 0.9, "_4": 0.5}, 2),
        ({"_1": 0.9, "_2": 1.1, "_4": 0.5}, 4),  # blocks that win below a size at which they lose are chance
        ({"_1": 0.5, "_2": 0.5, "_4": 0.5}, 1),
        ({"_1": 0.5, "_2": 0.5, "_4": 1.5}, None),
    ],
)
def test_the_best_threshold_is_where_blocks_are_never_the_slower_from_there_on(
    ratios: dict[str, float], best: int | None
) -> None:
    assert [arrays.best_threshold([trips(**ratios)], question, [1, 2, 4]) for question in ("trip", "rate")] == [
        best
    ] * 2


def test_blocks_are_held_against_the_same_round() -> None:
    figures = [{"in band trip 1": 1.0 * load, "blocks trip 1": 0.5 * load} for load in (1, 7)]
    assert arrays.block_ratio(figures, "trip", 1) == 0.5


def test_the_thresholds_table_has_a_row_a_size() -> None:
    text = arrays.threshold_table([{"engine.both": {"metrics": trips(_1024=2.0, _2048=0.5)}}])
    assert cells_of(text, "1")[1:6] == ["1.00", "1.00 … 1.00", "2.00", "2.00 … 2.00", "2.00 x"]
    assert "Best threshold by round trip: 2 KiB." in text
    assert "failed: no" in arrays.threshold_table([{"engine.both": {"error": "no"}}])


def test_the_memory_table_has_the_largest_of_the_rounds() -> None:
    held = {f"{one} {when}": 1.0 for one in array_kinds.SUBJECTS for when in ("before", "first", "last", "at rest")}
    found = [
        {
            "engine.submit": answer(
                warm=1, best=1, first=1, **held, **{f"{one} peak": peak for one in array_kinds.SUBJECTS}
            )
        }
        for peak in (2.0, 3.0)
    ]
    text = arrays.memory_table([*found, {}])
    assert cells_of(text, "resident, parent")[1:] == ["1.00", "1.00", "1.00", "3.00", "1.00"]
    assert "failed: no" in arrays.memory_table([{"engine.submit": {"error": "no"}}])


def test_a_quick_run_sends_less_and_no_fewer_than_five_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Options] = []

    def look(options: Options, names: Any, among: Any) -> tuple[dict[str, Any], bool]:
        asked.append(options)
        return results_of("array-in", {"engine.submit": answer(warm=1, best=1, first=1)}), False

    monkeypatch.setattr(run, "measure_all", look)
    assert bench(["arrays", "--quick"]) == 0
    assert bench(["arrays", "--rounds", "3"]) == 0
    assert [(one.rounds, one.scale) for one in asked] == [(2, 0.05), (3, 1.0)]
    assert max(CASES["array-memory"].fewest, round(CASES["array-memory"].contenders["engine.submit"] * 0.05)) == 5


def thresholds_here() -> set[int]:
    modules = (parcel, running)
    return {*(vars(module)["LARGE"] for module in modules), *vars(parcel.pack_in)["__init__"].__defaults__}


def test_the_threshold_is_changed_for_the_measurement_and_put_back() -> None:
    before = thresholds_here()
    assert len(before) == 1
    with thresholds.threshold(1 << 40):
        assert thresholds_here() == {1 << 40}
    assert thresholds_here() == before


@pytest.mark.parametrize(("size", "blocks"), [(thresholds.KIB, True), (1 << 40, False)])
def test_the_threshold_holds_in_parent_and_worker(size: int, blocks: bool) -> None:
    with Engine(1, initializer=thresholds.set_threshold, initargs=(size,)) as engine, thresholds.threshold(size):
        assert engine.submit(lies_in_a_block, np.ones(4_000)).result() is blocks
        assert lies_in_a_block(engine.submit(array_work.held, 4_000).result()) is blocks


def lies_in_a_block(array: Any) -> bool:
    """Whether the memory of an array is mapped; otherwise it is that of a bytearray out of a pickle."""
    while isinstance(array, np.ndarray):
        array = array.base
    return not isinstance(array.obj if isinstance(array, memoryview) else array, bytearray)


def test_the_readme_names_every_case() -> None:
    readme = (ROOT / "bench/README.md").read_text()
    assert {*CASES} <= {*re.findall(r"`([a-z0-9-]+)`", readme)}


@pytest.mark.parametrize(
    ("name", "contender", "n"),
    [
        ("array-in", "by-hand.attach", 3),
        ("array-out", "by-hand.keep", 3),
        ("array-both", "engine.submit", 3),
        ("array-changed", "engine.submit", 3),
        ("array-out", "bare.memcpy", 3),
        ("array-shared", "engine.share", 3),
        ("array-shared", "by-hand.keep", 3),
        ("array-sizes", "engine.map", 4),
    ],
)
def test_each_is_measured_in_a_fresh_process(name: str, contender: str, n: int) -> None:
    if contender.startswith("by-hand.") and dev_shm_bytes() < 256 << 20:
        pytest.skip("segments of multiprocessing's own shared memory do not fit in this /dev/shm")
    workers = str(CASES[name].workers)
    done = run_python("-m", "bench.measure", name, contender, str(n), "--workers", workers, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {*CASES[name].metrics} <= {*json.loads(done.stdout)["metrics"]}
    assert done.stderr == ""


def dev_shm_bytes() -> int:
    """That can be written there."""
    if not os.access("/dev/shm", os.W_OK):
        return 0
    found = os.statvfs("/dev/shm")
    return found.f_bavail * found.f_frsize


def test_a_round_in_which_nobody_of_a_case_is_asked_has_no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "measure", lambda case, contender, options, chunk: answer(warm=1.0))
    monkeypatch.setattr(rounds, "adopt_orphans", lambda: None)
    asked = [*rounds.run_cases([CASES["array-memory"]], Options(2, 1.0, 2, None, 0))]
    assert [[*answers] for _, answers in asked] == [["engine.submit"]]


def test_the_readme_has_the_table_of_the_run_that_was_saved() -> None:
    block = report.README.read_text().partition("<!-- arrays -->\n")[2].partition("<!-- /arrays -->")[0]
    assert block == arrays.summary(json.loads((report.RESULTS / "arrays.json").read_text()))
