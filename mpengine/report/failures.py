"""An error as people and result files need it: its type, its message, its traceback, the user's own line."""

from __future__ import annotations

import os
import re
import sysconfig
from dataclasses import dataclass

_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+),? in ', re.MULTILINE)
_HEADER = "Traceback (most recent call last):"
_INNERMOST_FIRST = "(most recent call first)"  # faulthandler
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(
    sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)  # site-packages lies below the standard library on most systems, not on all


@dataclass(frozen=True, slots=True)
class Failure:
    """``where`` is ``file:line`` of the user's innermost frame, "" if unknown; ``traceback`` "" if there is none."""

    type: str
    message: str
    traceback: str
    where: str


def describe(error: BaseException) -> Failure:
    """What `error`, as an outcome carries it, has to tell. Never raises, whatever the error's class does."""
    text = from_users_frame(_traceback_text(error))
    return Failure(type_name(error), message(error), text, users_line(text))


def in_a_line(failure: Failure) -> str:
    """What went wrong, and where."""
    where = f" ({failure.where})" if failure.where else ""
    return f"{failure.type}: {failure.message}".removesuffix(": ") + where


def type_name(error: BaseException) -> str:
    """The class as the user knows it: with its module, unless that is a builtin's or a script's."""
    kind = type(error)
    module = kind.__module__
    recorded = getattr(error, "type_name", None)  # of a RemoteError, which stands in for one that could not travel
    if module == "mpengine.errors" and isinstance(recorded, str) and recorded:
        return recorded
    if module in ("builtins", "__main__", "__mp_main__") or module.startswith(("_", "mpengine.")):
        return kind.__qualname__
    return f"{module}.{kind.__qualname__}"


def message(error: BaseException) -> str:
    """``str(error)``, also when the class of the error cannot even do that."""
    try:
        return str(error)
    except Exception as broken:  # user's __str__
        return f"<no message: __str__ raised {type(broken).__name__}>"


def users_line(text: str) -> str:
    """``file:line`` of the innermost frame outside the standard library and the installed packages.

    If all frames are inside, the outermost, which is the target's; "" without any frame. Takes a traceback, or the
    stack of a hang or a crash, which names its innermost frame first.
    """
    frames = [(found["file"], found["line"]) for found in _FRAME.finditer(text)]
    if _INNERMOST_FIRST in text:
        frames.reverse()
    own = [frame for frame in frames if not frame[0].startswith((*_LIBRARIES, _OURS, "<frozen"))]
    if own:
        return ":".join(own[-1])
    return ":".join(frames[0]) if frames else ""


def from_users_frame(text: str) -> str:
    """A traceback without the frames of ours that it begins with; "" if it has no other."""
    kept: list[str] = []
    leading = False
    for line in text.splitlines():
        if line == _HEADER:
            leading = True
        elif line.startswith('  File "'):
            leading = leading and line.startswith(f'  File "{_OURS}')
        elif not line.startswith("    "):
            leading = False
        if not leading or line == _HEADER:
            kept.append(line)
    text = "\n".join(kept)
    return text if _FRAME.search(text) else ""


def _traceback_text(error: BaseException) -> str:
    """The worker's traceback as Python prints it, or the stack of a hang or a crash; "" if there is neither."""
    cause = error.__cause__
    if cause is not None and cause.__traceback__ is None:  # nobody raised it: it only carries text
        text = message(cause).strip("\n").removeprefix('"""').removesuffix('"""').strip("\n")
        if _FRAME.search(text):
            return text
    stack = getattr(error, "stack", "")
    return stack.strip("\n") if isinstance(stack, str) else ""
