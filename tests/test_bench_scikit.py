"""`python -m bench scikit` still runs, and differing results end it; how fast anything is, no test asserts."""

import pytest

pytest.importorskip("joblib")
pytest.importorskip("sklearn")

from bench import scikit
from bench.scikit import Measured


def test_a_case_runs_on_both() -> None:
    (found,) = scikit.rounds_of("tiny-tasks", 1, 2)
    assert {one.result for one in found.values()} == {str(sum(range(100_000)))}


def test_results_that_differ_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scikit, "measure", lambda case, backend, n_jobs: Measured(1, 1, backend))
    with pytest.raises(AssertionError, match="nested: the results differ"):
        scikit.rounds_of("nested", 1, 2)


def test_a_ratio_is_that_of_a_round() -> None:
    found = [
        {"loky": Measured(2, 1, ""), "mpengine": Measured(1, 1, "")},
        {"loky": Measured(4, 1, ""), "mpengine": Measured(4, 2, "")},
    ]
    assert "| 3.00 | 2.50 | 0.750 (0.500 … 1.00) | 1.00 | 1.50 | 1.50 (1.00 … 2.00) |" in scikit.row("nested", found)
