"""The guard against getting slower: what it calls a loss, and what it takes for noise. Nothing is measured here."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import counting, guard
from bench.machine import cpu_model

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BASELINE = {"run: CPU time": 2.0, "submit: calls": 100.0, "submit: system calls": 0.1}


def runs(*figures: dict[str, float]) -> Callable[[], guard.Figures]:
    """A measurement that gives one after the other; asked once more, it fails."""
    following = iter(figures)
    return lambda: BASELINE | next(following)


def test_a_loss_is_one_line_with_the_figure_the_limit_and_what_to_do() -> None:
    (line,) = guard.losses(BASELINE, BASELINE | {"run: CPU time": 3.0})
    assert line == (
        "guard: run: CPU time: 3 times a bare loop's CPU time, 50% more than the 2 that was accepted (limit: 2.6). "
        "Find what the path of each job has gained; if it is worth it, `python -m bench guard --accept`."
    )


@pytest.mark.parametrize("figure", [2.59, 2.0, 0.5])
def test_below_the_limit_nothing_is_lost(figure: float) -> None:
    assert guard.losses(BASELINE, {"run: CPU time": figure}) == []


def test_a_few_system_calls_more_are_chance() -> None:
    assert guard.losses(BASELINE, {"submit: system calls": 2.0}) == []
    assert guard.losses(BASELINE, {"submit: system calls": 2.2})


def test_what_was_never_accepted_is_held_against_nothing() -> None:
    assert guard.losses(BASELINE, {"map: CPU time": 9.0}) == []


def test_noise_is_measured_again_and_goes_away() -> None:
    found = guard.judge(BASELINE, runs({"run: CPU time": 9.0}, {"submit: calls": 900.0}))
    assert found == BASELINE


def test_what_is_lost_each_time_is_lost() -> None:
    slow = [{"run: CPU time": figure} for figure in (3.2, 3.0, 3.1)]
    assert guard.judge(BASELINE, runs(*slow))["run: CPU time"] == 3.0


def test_a_good_run_is_not_repeated() -> None:
    assert guard.judge(BASELINE, runs({})) == BASELINE


def test_a_great_gain_is_worth_keeping() -> None:
    (line,) = guard.gains(BASELINE, BASELINE | {"run: CPU time": 1.0})
    assert "run: CPU time: 1 where 2 was accepted" in line


def test_the_least_is_accepted() -> None:
    assert guard.accepted([{"a": 2.3456}, {"a": 1.2345}]) == {"a": 1.23}


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "baseline.json"
    monkeypatch.setattr(guard, "BASELINE", file)
    return file


def test_accepting_is_one_command_and_leaves_other_pythons_alone(
    baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline.write_text('{"2.7": {"run: CPU time": 1.0}}')
    monkeypatch.setattr(guard, "measure", lambda: BASELINE)
    assert guard.main(["--accept"]) == 0
    kept = json.loads(baseline.read_text())
    assert kept.pop("2.7") == {"run: CPU time": 1.0}
    assert [*kept.values()] == [BASELINE]
    assert guard.main([]) == 0
    monkeypatch.setattr(guard, "measure", lambda: BASELINE | {"submit: calls": 150.0})
    assert guard.main([]) == 1
    assert "submit: calls: 150 function calls a job, 50% more" in capsys.readouterr().out


def test_a_python_of_which_nothing_was_accepted_is_not_judged(
    baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guard.main([]) == 0
    assert "guard: nothing was accepted on Python" in capsys.readouterr().out


def test_on_another_cpu_nothing_is_held_against_its_time(
    baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline.write_text(json.dumps({guard.key_of(VERSION, "another"): BASELINE}))
    monkeypatch.setattr(guard, "measure", lambda: BASELINE | {"run: CPU time": 9.0})
    assert guard.main([]) == 0
    assert "guard: nothing was accepted on this CPU (" in capsys.readouterr().out
    monkeypatch.setattr(guard, "measure", lambda: BASELINE | {"submit: calls": 150.0})
    assert guard.main([]) == 1
    own = {guard.key_of(VERSION, cpu_model()): BASELINE}
    baseline.write_text(json.dumps({guard.key_of(VERSION, "another"): {}} | own))
    monkeypatch.setattr(guard, "measure", lambda: BASELINE | {"run: CPU time": 9.0})
    assert guard.main([]) == 1


def test_a_program_that_fails_is_not_a_verdict(baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline.write_text(json.dumps({guard.key_of(VERSION, cpu_model()): BASELINE}))

    def fail() -> guard.Figures:
        raise subprocess.CalledProcessError(1, "counting")

    monkeypatch.setattr(guard, "measure", fail)
    assert guard.main([]) == 2


def test_every_figure_that_was_accepted_has_a_unit() -> None:
    kept = json.loads((Path(guard.__file__).parent / "baseline.json").read_text())
    assert {guard.kind_of(name) for figures in kept.values() for name in figures} <= {*guard.UNITS}


def test_calls_are_those_of_the_whole_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        counting, "loads_of", lambda engine: {"run": (lambda n: [engine.submit(abs, 1).result() for _ in range(n)], 10)}
    )
    assert counting.calls_per_job()["run: calls"] > 10
