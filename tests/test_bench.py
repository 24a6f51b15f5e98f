"""The bench still runs, and its tables say what was measured; how fast anything is, no test asserts."""

import json
import re
from typing import Any

import pytest

from bench import peers, run, sweep, table, targets
from bench.__main__ import main
from bench.case import TUNED
from bench.cases import CASES
from bench.kinds import IMPORTS, KINDS
from bench.peers import PEERS
from bench.rounds import SELDOM, Options, is_asked, left_out, tuned_chunks
from tests.support import ROOT, run_python

FACTS = {"cpu": "A CPU", "cpus": 2, "system": "Linux", "python": "CPython", "load": 0.0, "versions": {}}
OPTIONS = {"rounds": 2, "scale": 1.0, "workers": 2, "start_method": None, "nice": 0}


def results_of(**cases: list[dict[str, dict[str, object]]]) -> dict[str, Any]:
    named = {name.replace("_", "-"): rounds for name, rounds in cases.items()}
    return {"begun": "2026-01-01 12:00", "facts": FACTS, "options": OPTIONS, "cases": named}


def tables_of(name: str, *rounds: dict[str, dict[str, object]]) -> list[list[str]]:
    """The cells of a case's rows, the heading first."""
    text = table.render(results_of(**{name: list(rounds)}))
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def wall(seconds: float) -> dict[str, object]:
    return {"n": 1000, "metrics": {"wall per job": seconds}, "start_method": "fork"}


def test_figures_are_medians_and_ratios_are_formed_within_a_round() -> None:
    # The second round had half the machine: figures differ twofold, ratios do not.
    rounds = [
        {"bare.serial": wall(2.0 * load), "bare.forks": wall(1.0 * load), "engine.map": wall(1.25 * load)}
        for load in (1, 2)
    ]
    heading, _, _, engine = tables_of("cpu-1ms", *rounds)
    assert heading[2:-1] == ["start method", "wall per job, µs", "spread", "wall / bare.forks", "of the ideal"]
    assert engine[:-1] == ["`engine.map`", "1,000", "fork", "1.88", "1.25 … 2.50", "1.25 x", "80.0%"]


def test_who_fails_in_a_round_has_a_reason_and_no_figure() -> None:
    failed = {"n": 1000, "error": "OSError: no | more"}
    _, serial, engine = tables_of(
        "cpu-1ms",
        {"bare.serial": wall(1.0), "engine.map": wall(1.0)},
        {"bare.serial": wall(1.0), "engine.map": failed},
    )
    assert engine[2] == "failed: OSError: no \\| more"
    assert "1.00" not in engine
    assert serial[-1] == ""  # no ratio to one that failed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (0.27, "0.270"),
        (9.999, "10.0"),
        (99.96, "100"),
        (123.6, "124"),
        (5_441_107, "5,440,000"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert table.number(value) == text


def test_who_is_measured_seldom_has_the_figures_of_its_own_rounds() -> None:
    both = {"engine.map": wall(1.0), "bare.forks": wall(1.0), "pool.map": wall(2.0)}
    without = {"engine.map": wall(3.0), "bare.forks": wall(1.0)}
    *_, engine, _, pool = tables_of("cpu-1ms", both, without)
    assert engine[3] == "2.00"
    assert pool[3:5] == ["2.00", "2.00 … 2.00"]
    assert pool[-1] == "2.00 x"  # over the engine of the round that both were in


def test_a_metric_that_a_short_run_has_not_come_to_is_empty() -> None:
    cost = {"n": 10, "metrics": {"1,000": 2.0}, "start_method": "fork"}
    _, engine = tables_of("cost", {"engine.map": cost})
    assert engine[3:7] == ["", "", "2.00", "2.00 … 2.00"]


def test_the_chunk_size_of_a_tuned_contender_is_shown() -> None:
    _, pool = tables_of("cpu-1ms", {"pool.imap/tuned": wall(1.0) | {"chunk": 4_096}})
    assert pool[0] == "`pool.imap/tuned`, chunks of 4,096"


def test_every_case_can_be_measured() -> None:
    chunks = tuned_chunks()
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.kind in KINDS
        assert {contender.partition(".")[0] for contender in case.contenders} <= {*PEERS}
        assert {column.against for column in case.columns} <= {*case.contenders}
        assert {column.metric for column in case.columns} <= {"", *case.metrics}
        assert case.seldom <= {*case.contenders}
        assert {*case.tuned} <= {*chunks.get(case.name, ())}, "`python -m bench sweep` finds their chunk sizes"
    assert {*IMPORTS} == {contender for case in CASES if case.name == "import" for contender in case.contenders}


def test_every_peer_is_measured_tuned_and_at_its_defaults() -> None:
    tiny = next(case for case in CASES if case.name == "tiny")
    default = {one.partition(".")[0] for one in tiny.contenders if not one.endswith(TUNED)}
    tuned = {one.partition(".")[0] for one in tiny.tuned}
    assert default == {*PEERS}
    assert tuned == {*PEERS} - {"engine", "bare"}


def test_the_slow_are_asked_in_some_rounds_and_nobody_who_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = next(case for case in CASES if case.name == "tiny")
    rounds = range(2 * SELDOM)
    assert all(is_asked(tiny, "engine.map", number) for number in rounds)
    monkeypatch.setattr(peers, "find_spec", lambda name: True)
    assert [number for number in rounds if is_asked(tiny, "ray.remote", number)] == [0, SELDOM]
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert not any(is_asked(tiny, "ray.remote", number) for number in rounds)
    assert left_out([tiny]) == [*peers.PACKAGES]


def test_the_sweep_tries_sizes_that_leave_work_for_everybody() -> None:
    options = Options(1, 1.0, 2, None, 0)
    cases = {case.name: case for case in CASES}
    assert sweep.sizes(cases["cpu-100ms"], "pool.imap/tuned", options) == [1]
    assert max(sweep.sizes(cases["tiny"], "pool.map/tuned", options)) == sweep.LARGEST
    assert sweep.best(cases["tiny"], {"64": 5.0, "256": 7.0}) == 256
    assert sweep.best(cases["cpu-1ms"], {"1": 5.0, "4": 7.0}) == 1


# ---- targets -------------------------------------------------------------------------------------------------


def rate(*rates: float) -> list[dict[str, object]]:
    return [{"n": 1000, "metrics": {"rate": one}, "start_method": "fork"} for one in rates]


def rows_of(rounds: list[dict[str, dict[str, object]]]) -> dict[str, list[str]]:
    text = targets.render(results_of(tiny=rounds), main_only=True)
    rows = [line[2:-2].split(" | ") for line in text.splitlines()[2:]]
    return {row[0].partition(",")[0]: row[1:] for row in rows}


def test_a_target_names_the_best_peers_and_forms_its_ratio_within_the_rounds() -> None:
    contenders = {
        "engine.map": rate(4.0, 8.0),
        "pool.map": rate(2.0, 4.0),
        "joblib.list": rate(1.0, 1.0),
        "pool.imap/tuned": rate(5.0, 10.0),
        "bare.batches": rate(9.0, 9.0),
    }
    rows = rows_of([{one: answers[number] for one, answers in contenders.items()} for number in (0, 1)])
    assert rows["`map`"] == [
        *("6.00 (4.00 … 8.00)", "3.00 `pool.map`", "7.50 `pool.imap`", "9.00", "≥ 1 x the best peer"),
        "**no**: 0.800 x (0.800 … 0.800)",
    ]


def test_a_figure_of_its_own_is_a_target_too() -> None:
    assert rows_of([{"engine.run": rate(600_000.0)[0]}])["`run`"][-1] == "yes: 600,000 (600,000 … 600,000)"


def test_who_failed_reaches_nothing_and_is_nobodys_best_peer() -> None:
    failed = {"n": 1000, "error": "OSError: no more"}
    rows = rows_of([{"engine.map": rate(1.0)[0], "engine.run": failed, "pool.map": failed}])
    assert rows["`run`"][0] == "failed"
    assert rows["`run`"][-1] == "not measured"
    assert rows["`map`"][1] == ""


def test_every_target_is_about_a_case() -> None:
    cases = {case.name: case for case in CASES}
    for target in targets.TARGETS:
        case = cases[target.case]
        assert target.metric in case.metrics
        assert {target.mine, target.limit or target.mine} <= {*case.contenders}
        assert target.against in {"", targets.BEST, *case.contenders}
        assert {*(target.peers or ())} <= {*case.contenders}


def test_what_failed_or_was_broken_off_is_in_the_exit_code() -> None:
    good, failed = results_of(tiny=[{"engine.map": rate(1.0)[0]}]), results_of(tiny=[{"engine.map": {"error": "no"}}])
    assert [run.exit_code(good, False), run.exit_code(failed, False), run.exit_code(good, True)] == [0, 1, 130]


def test_the_tables_are_printed_and_the_progress_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = next(case for case in CASES if case.name == "tiny")
    monkeypatch.setattr(run, "run_cases", lambda cases, options: iter([(tiny, {"engine.map": rate(1.0)[0]})]))
    assert main(["--case", "tiny", "--rounds", "1"]) == 0
    out, err = capsys.readouterr()
    assert "### Tiny jobs" in out
    assert "round 1 of 1: tiny" in err


def test_the_readme_names_every_case() -> None:
    readme = (ROOT / "bench/README.md").read_text()
    assert {case.name for case in CASES} <= {*re.findall(r"`([a-z0-9-]+)`", readme)}


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "import"], ids=lambda case: case.name)
def test_the_engine_is_measured_in_a_fresh_process(case) -> None:
    contender = next(one for one in case.contenders if one.startswith("engine."))
    done = run_python(
        "-m", "bench.measure", case.name, contender, "100", "--workers", "2", "--seconds", "1e-5", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    metrics = {*json.loads(done.stdout)["metrics"]}
    assert metrics == {*case.metrics} or (case.name == "cost" and metrics == {"1,000"})
    assert done.stderr == ""
