"""What cannot be pickled is named down to the part that a user can do something about."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

from mpengine.wire import codec
from mpengine.wire.culprit import find_culprit

LOCK = threading.Lock()
KIND = type(LOCK).__qualname__


class Config:
    """Holds whatever it is given."""

    def __init__(self, **about: Any) -> None:
        self.__dict__.update(about)

    def method(self) -> None:
        """To be bound."""


class Slotted:
    """Without a __dict__."""

    __slots__ = ("inner", "other")

    def __init__(self, inner: Any) -> None:
        self.other = 1
        self.inner = inner


class Picky:
    """Leaves its lock at home."""

    def __init__(self, extra: Any) -> None:
        self.lock = LOCK
        self.extra = extra

    def __getstate__(self) -> dict[str, Any]:
        return {"extra": self.extra}


class Stubborn:
    """Cannot be pickled, whatever it holds."""

    def __reduce__(self) -> Any:
        raise ValueError("not me")


class Angry:
    """Cannot even be looked at."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("go away")

    def __getstate__(self) -> Any:
        raise ValueError("go away")

    def __repr__(self) -> str:
        raise ValueError("go away")


def with_closure() -> Any:
    held = [1, LOCK]
    return lambda: held


def with_global() -> Any:
    return LOCK


def with_default(lock: Any = LOCK) -> Any:
    return lock


@pytest.mark.parametrize(
    ("obj", "way"),
    [
        (LOCK, ""),
        ([1, [2, LOCK]], "[1][1]"),
        ({"a": 1, "b": (LOCK,)}, "['b'][0]"),
        ({LOCK: 1}, None),
        ({1, LOCK}, " element"),
        (Config(pool=Config(lock=LOCK), size=3), ".pool.lock"),
        (Slotted([LOCK]), ".inner[0]"),
        (Picky([LOCK]), ".extra[0]"),
        (functools.partial(print, LOCK), ".args[0]"),
        (functools.partial(print, file=LOCK), ".keywords['file']"),
        (Config(lock=LOCK).method, ".__self__.lock"),
        (with_closure(), " variable 'held'[1]"),
        ([Stubborn()], "[0]"),
        (Config(who=Angry()), ".who"),
    ],
)
def test_the_way_to_it(obj: Any, way: str | None) -> None:
    found, part = find_culprit(obj, codec.can_dump)
    if way is not None:
        assert found == way
    assert not codec.can_dump(part)


@pytest.mark.parametrize(("function", "way"), [(with_global, " global 'LOCK'"), (with_default, " defaults[0]")])
def test_of_a_function_that_travels_by_value(function: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "__module__", "__main__")
    assert find_culprit(function, codec.can_dump)[0] == way


def test_an_object_that_holds_itself_ends_the_search() -> None:
    knot: list[Any] = [LOCK]
    knot.insert(0, knot)
    assert find_culprit(knot, codec.can_dump) == ("[1]", LOCK)


def test_the_note_names_argument_and_part() -> None:
    with pytest.raises(TypeError) as caught:
        codec.pack_call(print, (1, Config(pool={"main": LOCK})), {})
    assert caught.value.__notes__ == [
        f"argument 2 (a Config) cannot be pickled, because of its part `.pool['main']` (a {KIND}); "
        "pass something that can, or make it in the job"
    ]


def test_the_note_on_a_result() -> None:
    with pytest.raises(TypeError) as caught:
        codec.pack_result([0, LOCK])
    assert f"the job's result (a list) cannot be pickled, because of its part `[1]` (a {KIND})" in str(
        caught.value.__notes__
    )


def test_what_is_far_too_deep_is_called_so() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError) as caught:
        codec.pack_call(print, (deep,), {})
    assert "argument 1 (a list) is nested too deeply to be pickled" in str(caught.value.__notes__)
    while deep:  # taken apart here: its own deallocation would recurse
        deep = deep[0]
