"""How each job ended, one JSON object per job: the format `outcomes`.

    id, status            the record or path the job was made from; succeeded, failed, expired, cancelled or lost
    value                 of a succeeded job. Where JSON has no such value, ``note`` says so: NaN and infinities are
                          null, numpy's values are plain; anything else is null as a whole, its text in ``value_repr``
    error                 of any other: type, message, traceback (null if there is none)
    attempts, duration, waited, worker_pid      times in seconds; no pid if no worker ever had the job

The value's fields are made in the worker, the rest in the parent.
"""

from __future__ import annotations

from typing import Any

from mpengine import Outcome
from mpengine.batch.plain_json import dump, lenient
from mpengine.report.failures import Failure

_REPR_CHARACTERS = 10_000


def value_fields(value: Any) -> bytes:
    """The fields that tell of a value, without the braces. Never raises for what a job has returned."""
    try:
        return dump({"value": value})[1:-1]
    except Exception as refusal:  # also the user's own: a dict's subclass may raise anything
        return dump(_second_best(value, refusal))[1:-1]


def line(outcome: Outcome, failure: Failure | None) -> bytes:
    """The outcome of a job that returned `value_fields`, with its line's ending."""
    if failure is None:
        told: bytes = outcome.value
    else:
        error = {"type": failure.type, "message": failure.message, "traceback": failure.traceback or None}
        told = dump({"error": error})[1:-1]
    before = dump({"id": outcome.job.id, "status": str(outcome.status)})
    after = dump(
        {
            "attempts": outcome.attempts,
            "duration": round(outcome.duration, 6),
            "waited": round(outcome.waited, 6),
            "worker_pid": outcome.worker_pid or None,
        }
    )
    return b"".join((before[:-1], b", ", told, b", ", after[1:], b"\n"))


def _second_best(value: Any, refusal: Exception) -> dict[str, Any]:
    """The fields that stand for a value that is not JSON."""
    try:
        plain = lenient(value)
        dump(plain)
        if "Out of range float" in str(refusal):
            note = "NaN and infinite numbers are null here: JSON has none"
        else:
            note = "numpy values are plain numbers and lists here"
        return {"value": plain, "note": note}
    except Exception as error:
        refusal = error
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    if len(text) > _REPR_CHARACTERS:
        text = text[:_REPR_CHARACTERS] + "..."
    return {"value": None, "value_repr": text, "note": f"the value is not JSON: {_reason(refusal)}"}


def _reason(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
