"""One outcome -> one line of OUT. Docs of the format: `mpengine.cli.writer`."""

from __future__ import annotations

import json
from typing import Any

from mpengine import Outcome
from mpengine.report.failures import Failure

_REPR_CHARACTERS = 10_000

_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def to_line(outcome: Outcome, failure: Failure | None) -> bytes:
    """The outcome as one line of JSON, in UTF-8, with its ending. Never raises for what a job has returned."""
    before = {"id": outcome.job.id, "status": str(outcome.status)}
    after = {
        "attempts": outcome.attempts,
        "duration": round(outcome.duration, 6),
        "waited": round(outcome.waited, 6),
        "worker_pid": outcome.worker_pid or None,
    }
    if failure is not None:
        error = {"type": failure.type, "message": failure.message, "traceback": failure.traceback or None}
        return _encode(_strict({**before, "error": error, **after}))
    try:
        return _encode(_strict({**before, "value": outcome.value, **after}))
    except Exception as refusal:  # also the user's own: a dict's subclass may raise anything
        return _encode(_strict({**before, **_second_best(outcome.value, refusal), **after}))


def _second_best(value: Any, refusal: Exception) -> dict[str, Any]:
    """The fields that stand for a value that is not JSON."""
    try:
        lenient = json.loads(json.dumps(value, default=_plain), parse_constant=lambda name: None)
        _strict(lenient)
        if "Out of range float" in str(refusal):
            note = "NaN and infinite numbers are null here: JSON has none"
        else:
            note = "numpy values are plain numbers and lists here"
        return {"value": lenient, "note": note}
    except Exception as error:
        refusal = error
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    if len(text) > _REPR_CHARACTERS:
        text = text[:_REPR_CHARACTERS] + "..."
    return {"value": None, "value_repr": text, "note": f"the value is not JSON: {_reason(refusal)}"}


def _plain(value: Any) -> Any:
    """numpy's scalars and arrays as Python's own, without importing numpy."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _reason(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8: JSON has an escape for it
        return json.dumps(json.loads(text)).encode("ascii") + b"\n"
