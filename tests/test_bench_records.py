"""`python -m bench records` still runs, and all who are there write the same; how fast anything is, no test asserts."""

from pathlib import Path

from bench import records
from bench.records import Measured


def test_all_write_the_same(tmp_path: Path) -> None:
    found, failed = records.measure(tmp_path, 1_500, 1, 2, [*records.CONTENDERS])
    assert {why for why in failed.values() if "is not installed" not in why} == set()
    assert {*found, *failed} == {*records.CONTENDERS}


def test_who_writes_something_else_has_failed(tmp_path: Path, monkeypatch) -> None:
    contender = records.CONTENDERS["one process"]._replace(command="echo '{{}}' > {out}")
    monkeypatch.setitem(records.CONTENDERS, "one process", contender)
    _, failed = records.measure(tmp_path, 1, 1, 2, ["one process"])
    assert failed == {"one process": "it wrote something else than the others"}


def test_a_ratio_is_that_of_a_round() -> None:
    found = {"mpengine": [Measured(2, 1, 3), Measured(8, 2, 2)], "other": [Measured(4, 1, 1), Measured(4, 1, 1)]}
    text = records.render(found, {"xargs -P": "no"}, 10, 2)
    assert "| other | 4.00 | 4.00 … 4.00 | 250,000 | 1.25 x | 1.00 | 1.00 |" in text
    assert "| xargs -P | failed: no | | | | | |" in text
