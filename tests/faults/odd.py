"""Objects and exceptions that do not behave, apart from the tests: workers import this and no pytest."""

import os
import sys
from typing import Any


def boom(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("boom")


# ---- objects that can be sent, and nothing else ----------------------------------------------------------


class Uncomparable:
    __eq__ = boom
    __hash__ = object.__hash__


class Unhashable:
    __hash__ = boom


class Undecided:
    __bool__ = boom
    __len__ = boom


class Unprintable:
    __repr__ = boom
    __str__ = boom


class Unreadable:
    __getattr__ = boom


SENDABLE = (Uncomparable, Unhashable, Undecided, Unprintable, Unreadable)


# ---- objects that cannot be sent -------------------------------------------------------------------------


class Stateless:
    __getstate__ = boom


class Untouchable:
    __getattribute__ = boom


class Anonymous:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return boom()


class NotRebuilt:
    def __getstate__(self) -> Any:
        return {"x": 1}

    __setstate__ = boom


class LeavesWhenRebuilt:
    def __reduce__(self) -> Any:
        return sys.exit, ("rebuilt",)


class ForbidsNotes(Exception):
    __notes__ = ()  # type: ignore[assignment]  # no list: a note cannot be added


def rebuild_badly() -> None:
    raise ForbidsNotes("not rebuilt")


class RebuiltBadly:
    def __reduce__(self) -> Any:
        return rebuild_badly, ()


# ---- exceptions ------------------------------------------------------------------------------------------


class Base(BaseException):
    pass


class Silent(Exception):
    __str__ = boom
    __repr__ = boom


class Unlike(Exception):
    __eq__ = boom
    __hash__ = boom


class Undecidable(Exception):
    __bool__ = boom


class Empty(Exception):
    """As collections of errors are, at times: nothing in it, and so it is false."""

    def __len__(self) -> int:
        return 0


class Fixed(Exception):
    __setattr__ = boom


class Traceless(Exception):
    """Its class takes the places of what every exception has."""

    __traceback__ = property(boom)
    __cause__ = property(boom)
    __context__ = property(boom)
    with_traceback = boom
    add_note = boom


ARRIVE = (Base, Silent, Unlike, Undecidable, Empty, Fixed, Traceless, ForbidsNotes)


class Kept(Exception):
    """Cannot be pickled, and says so by what nobody expects."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class Leaving(Exception):
    """Ends whoever unpickles it, or tries to."""

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class Replaced(Exception):
    """Is something else when it arrives."""

    def __reduce__(self) -> Any:
        return str, ("no exception",)


REPLACED = (Kept, Leaving, Replaced)


def throw(kind: Any) -> None:
    raise kind


def leave_only_elsewhere(pid: int) -> "LeavesHere":
    if os.getpid() == pid:
        sys.exit("rebuilt")
    return LeavesHere(pid)


class LeavesHere:
    """Raises SystemExit where it is rebuilt in that process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return leave_only_elsewhere, (self.pid,)


def chain() -> None:
    """Raises an error with a cause, which has a cause."""
    try:
        try:
            _ = 1 // 0
        except ZeroDivisionError as error:
            raise KeyError("middle") from error
    except KeyError as error:
        outer = ValueError("outer")
        outer.add_note("of the job")
        raise outer from error
