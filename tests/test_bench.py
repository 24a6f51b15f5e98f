"""The bench still runs, and its tables say what was measured; how fast anything is, no test asserts."""

import json
import re

import pytest

from bench import table
from bench.cases import CASES
from bench.kinds import IMPORTS, KINDS
from bench.peers import PEERS
from tests.support import ROOT, run_python

FACTS = {"cpu": "A CPU", "cpus": 2, "system": "Linux", "python": "CPython", "load": 0.0, "versions": {}}
OPTIONS = {"rounds": 2, "scale": 1.0, "workers": 2, "start_method": None, "nice": 0}


def tables_of(name: str, *rounds: dict[str, dict[str, object]]) -> list[list[str]]:
    """The cells of a case's rows, the heading first."""
    text = table.render({"facts": FACTS, "options": OPTIONS, "cases": {name: list(rounds)}})
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def wall(seconds: float) -> dict[str, object]:
    return {"n": 1000, "metrics": {"wall": seconds}, "start_method": "fork"}


def test_figures_are_medians_and_ratios_are_formed_within_a_round() -> None:
    # The second round had half the machine: figures differ twofold, ratios do not.
    rounds = [
        {"bare.serial": wall(2.0 * load), "bare.forks": wall(1.0 * load), "engine.map": wall(1.25 * load)}
        for load in (1, 2)
    ]
    heading, _, _, engine = tables_of("cpu-1ms", *rounds)
    assert heading[2:] == ["start method", "wall, s", "spread", "of the ideal", *heading[-2:]]
    assert engine[:-1] == ["`engine.map`", "1,000", "fork", "1.88", "1.25 … 2.50", "80.0%", "1.25 x"]


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


def test_every_case_can_be_measured() -> None:
    for case in CASES:
        assert case.kind in KINDS
        assert {contender.partition(".")[0] for contender in case.contenders} <= {*PEERS}
        assert {column.against for column in case.columns} <= {*case.contenders}
    assert {*IMPORTS} == {contender for case in CASES if case.name == "import" for contender in case.contenders}


def test_the_readme_names_every_case() -> None:
    readme = (ROOT / "bench/README.md").read_text()
    assert {case.name for case in CASES} <= {*re.findall(r"`([a-z0-9-]+)`", readme)}


@pytest.mark.parametrize("case", [case for case in CASES if case.name != "import"], ids=lambda case: case.name)
def test_the_engine_is_measured_in_a_fresh_process(case) -> None:
    contender = next(one for one in case.contenders if one.startswith("engine."))
    done = run_python("-m", "bench.measure", case.name, contender, "100", "--workers", "2", "--turns", "10", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"].keys() == case.metrics.keys()
    assert done.stderr == ""
