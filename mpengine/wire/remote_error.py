"""A job's exception, from its worker to the parent: as itself where it can, as the nearest thing where it cannot."""

from __future__ import annotations

import pickle
import traceback
from types import TracebackType

from mpengine.wire import codec

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


def safe_text(error: BaseException) -> str:
    """`str(error)`, whatever its `__str__` does."""
    try:
        return str(error)
    except BaseException as problem:
        return f"<its __str__ raised {type(problem).__name__}>"


def format_traceback(error: BaseException, tb: TracebackType | None) -> str:
    """The traceback from `tb` on, as Python shows it; never raises."""
    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except BaseException:
        frames = "".join(traceback.format_tb(tb)) if tb is not None else ""
        return f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}: {safe_text(error)}\n"


def traceback_of(error: BaseException) -> TracebackType | None:
    """Its traceback, whatever its class makes of the attribute."""
    tb: TracebackType | None = _TRACEBACK.__get__(error)
    return tb


def pack_error(error: BaseException, tb: TracebackType | None) -> bytes:
    """The exception as bytes that can always be read. `tb`: its traceback from the user's frame on."""
    text = format_traceback(error, tb)
    pickled: bytes | None
    try:
        pickled = codec.dumps(BaseException.with_traceback(error, None))
    except BaseException:
        pickled = None
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return pickle.dumps((pickled, name, safe_text(error), text), codec.PROTOCOL)


def unpack_error(blob: Any, note: str) -> BaseException:
    """The exception again, with the worker's traceback as its cause, and a note saying where it happened."""
    from mpengine.errors import RemoteError, RemoteTraceback  # in the parent only: workers do not pay for it

    pickled, name, text, tb_text = pickle.loads(blob)
    error: BaseException
    error = RemoteError(
        f"{name}: {text} (the exception itself could not be pickled; this is its text)",
        type_name=name, traceback=tb_text,
    )  # fmt: skip
    if pickled is not None:
        try:
            loaded = codec.loads(pickled)
        except BaseException as problem:
            error.add_note(f"unpickling the exception failed: {type(problem).__name__}: {safe_text(problem)}")
        else:
            if isinstance(loaded, BaseException):
                error = loaded
    try:
        error.__cause__ = RemoteTraceback(tb_text)
    except BaseException:  # as in `annotate`
        return error
    codec.annotate(error, note)
    return error
