"""Bodies of jobs that run in-process under test."""

from typing import Any

from mpengine import JobInterrupt


def echo(value: Any) -> Any:
    return value


def double(value: Any) -> Any:
    return value * 2


def fail_on_odd(n: int) -> int:
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n


def exit_on_three(n: int) -> int:
    if n == 3:
        raise SystemExit(n)
    return n


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("stays at home")


def unpicklable_on_two(n: int) -> Any:
    return Unpicklable() if n == 2 else [n]


_one: list[int] = []


def grow(n: int) -> list[int]:
    """The same list each time."""
    if n == 0:
        _one.clear()
    _one.append(n)
    return _one


hooks: dict[str, Any] = {}


def call_hook(n: int) -> int:
    """Lets the test do something in the middle of a job."""
    hooks["now"](n)
    return n


def call_hook_and_box(n: int) -> list[int]:
    hooks["now"](n)
    return [n]


def raise_interrupt() -> None:
    raise JobInterrupt("the job raises this by itself")
