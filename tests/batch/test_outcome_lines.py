"""What a job returned, as a line of JSON that any reader of JSON takes, whatever the value is."""

import json
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy
import pytest

from mpengine import Job, Outcome
from mpengine.batch.outcome_lines import line, value_fields
from mpengine.report.failures import Failure


class Colour(IntEnum):
    RED = 1


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def line_of(value: Any, **fields: Any) -> dict[str, Any]:
    outcome = Outcome(job=Job(print, id="f.txt:1"), status="succeeded", value=value_fields(value), **fields)  # type: ignore[arg-type]
    text = line(outcome, None)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    record: dict[str, Any] = json.loads(text.decode("utf-8"), parse_constant=no_constant)
    return record


def test_the_fields_of_a_success() -> None:
    record = line_of("v", attempts=2, duration=0.12345678, waited=1.5, worker_pid=77)
    assert record == {
        "id": "f.txt:1",
        "status": "succeeded",
        "value": "v",
        "attempts": 2,
        "duration": 0.123457,
        "waited": 1.5,
        "worker_pid": 77,
    }


def test_the_fields_of_a_failure() -> None:
    failure = Failure(type="ValueError", message="no", traceback="Traceback ...", where="f.py:1")
    outcome = Outcome(job=Job(print, id="x"), status="failed", error=ValueError("no"))  # type: ignore[arg-type]
    record = json.loads(line(outcome, failure))
    assert record["error"] == {"type": "ValueError", "message": "no", "traceback": "Traceback ..."}
    assert "value" not in record
    assert record["worker_pid"] is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        ({"a": [1, 2.5, "ü\n\u2028", None]}, {"a": [1, 2.5, "ü\n\u2028", None]}),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        (OrderedDict(a=1), {"a": 1}),
        (Colour.RED, 1),
        (10**300, 10**300),
        ("\ud800", "\ud800"),
        ("\x1b[2J", "\x1b[2J"),
    ],
)
def test_json_values(value: object, shown: object) -> None:
    record = line_of(value)
    assert record["value"] == shown
    assert "note" not in record


def test_text_is_readable_in_the_file() -> None:
    outcome = Outcome(job=Job(print, id="ä"), status="succeeded", value=value_fields("Müller €"))  # type: ignore[arg-type]
    assert "Müller €" in line(outcome, None).decode("utf-8")


def test_nan_is_null_and_said_to_be() -> None:
    record = line_of({"mean": float("nan"), "peak": [float("inf"), 1.5]})
    assert record["value"] == {"mean": None, "peak": [None, 1.5]}
    assert "NaN" in record["note"]


def test_numpy_values_are_plain() -> None:
    record = line_of({"n": numpy.int64(3), "a": numpy.arange(4).reshape(2, 2), "f": numpy.float32(0.5)})
    assert record["value"] == {"n": 3, "a": [[0, 1], [2, 3]], "f": 0.5}
    assert "numpy" in record["note"]
    assert line_of(numpy.array([1.0, numpy.nan]))["value"] == [1.0, None]


circle: list[object] = []
circle.append(circle)
deep: list[object] = []
for _ in range(100_000):
    deep = [deep]


@pytest.mark.parametrize(
    ("value", "shown", "reason"),
    [
        ({1, 2}, "{1, 2}", "set is not JSON serializable"),
        (Path("/a"), "PosixPath('/a')", "PosixPath is not JSON serializable"),
        ({(1, 2): 3}, "{(1, 2): 3}", "keys must be"),
        (circle, "[[...]]", "Circular"),
        (deep, "<list, whose repr raised RecursionError>", "RecursionError"),
        (10**5_000, "<int, whose repr raised ValueError>", "ValueError"),
        ([Unprintable()], "<list, whose repr raised RuntimeError>", "Unprintable is not JSON serializable"),
        (b"x" * 20_000, "b'" + "x" * 9_998 + "...", "bytes"),
    ],
    ids=["set", "path", "keys", "circle", "deep", "long", "unprintable", "big"],
)
def test_other_values_are_told_as_text(value: object, shown: str, reason: str) -> None:
    record = line_of(value)
    assert record["value"] is None
    assert record["value_repr"] == shown
    assert reason in record["note"]
    assert record["attempts"] == 0
