"""`python -m bench report`: everything it writes is made from one run."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import report, run
from bench.cases import CASES
from tests.support import ROOT, run_python

LATEST = json.loads((ROOT / "bench/results/latest.json").read_text())

BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"


def test_the_readme_has_the_summary_of_the_run_that_was_saved() -> None:
    block = (ROOT / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    assert block == report.summary(LATEST)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for results and a README, and no plots: matplotlib may not be there."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    monkeypatch.setattr(report, "find_spec", lambda name: True)
    monkeypatch.setattr(report, "draw", lambda results, folder: ["tiny"])
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}old\n{END}\nafter\n")
    return tmp_path


def test_a_run_that_was_kept_is_rendered_without_measuring(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_cases", None)
    kept = elsewhere / "kept.json"
    kept.write_text(json.dumps(LATEST))
    report.main(["--from", str(kept)])
    assert json.loads((elsewhere / "latest.json").read_text()) == LATEST
    assert "![tiny](tiny.svg)" in (elsewhere / "latest.md").read_text()
    whole = (elsewhere / "README.md").read_text()
    assert whole == f"before\n{BEGIN}{report.summary(LATEST)}{END}\nafter\n"


def test_what_is_not_a_run_is_refused(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "other.json").write_text("{}")
    assert report.main(["--from", str(elsewhere / "other.json")]) == 2
    assert "is not the JSON of a run" in capsys.readouterr().err
    assert not (elsewhere / "latest.json").exists()


def test_a_run_that_was_broken_off_is_kept_and_changes_no_report(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[0]

    def broken_off(cases: Any, options: Any) -> Any:
        yield case, {"engine.map": {"n": 1, "metrics": {"rate": 1.0}, "start_method": "fork"}}
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_cases", broken_off)
    assert report.main(["--rounds", "2"]) == 130
    kept = json.loads((elsewhere / "unfinished.json").read_text())
    assert [*kept["cases"]] == [case.name]
    assert "report --from" in capsys.readouterr().err
    assert "old" in (elsewhere / "README.md").read_text()
    assert not (elsewhere / "latest.json").exists()


def test_without_matplotlib_nothing_is_measured_first(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    monkeypatch.setattr(run, "run_cases", None)
    assert report.main([]) == 2
    assert "pip install -e '.[bench]'" in capsys.readouterr().err


@pytest.mark.slow
def test_every_plot_of_a_run_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import json, sys; from pathlib import Path; from bench import report; "
        "print(*report.draw(json.loads(Path('bench/results/latest.json').read_text()), Path(sys.argv[1])))"
    )
    done = run_python("-c", code, str(tmp_path), cwd=ROOT)  # matplotlib keeps its fonts open
    assert done.returncode == 0, done.stderr
    drawn = done.stdout.split()
    assert {*report.SHOWN} <= {*drawn}
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
