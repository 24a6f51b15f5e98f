"""Which functions cross once, and how long their pickle holds."""

import functools
import os
import subprocess
import sys
import threading
from types import FunctionType, ModuleType
from typing import Any, cast

import pytest

from mpengine.functions import Functions, KnownFunction
from mpengine.runtime.outbox import MappedFunction
from mpengine.wire import codec
from mpengine.wire.references import references

LIMIT = 3
NAMES: list[str] = []


@pytest.fixture
def finished() -> list[MappedFunction]:
    return []


@pytest.fixture
def functions(finished: list[MappedFunction]) -> Functions:
    return Functions(cast(Any, None), finished.append)


def by_value(fn: Any, names: dict[str, Any] | None = None) -> FunctionType:
    """As a function of a script is: not found by its name."""
    again = FunctionType(
        fn.__code__, globals() if names is None else names, "of_a_script", fn.__defaults__, fn.__closure__
    )
    again.__qualname__ = "of_a_script"
    return again


def plain(x: int) -> int:
    return x + 1


def limited(x: int) -> int:
    return min(x, LIMIT)


def with_modules(x: int) -> str:
    return os.path.join(str(x), sys.platform)


def with_a_list(x: int) -> None:
    NAMES.append(str(x))


def counting(x: int) -> None:
    global LIMIT
    LIMIT += x


def with_a_default(x: int, base: int = 10) -> int:
    return x + base


def with_a_mutable_default(x: int, base: Any = []) -> None:  # noqa: B006
    base.append(x)


def other(x: int) -> int:
    """Another, in the names that a test gives."""
    return x


def calling_another(x: int) -> Any:
    return other(x)


def calling_itself(x: int) -> Any:
    return other(x - 1) if x else 0


def with_inner_functions(x: int) -> Any:
    return [(lambda y: y + LIMIT)(x) for _ in range(2)]


def with_a_class(x: int) -> Any:
    return subprocess.Popen, MappedFunction, x


def test_a_function_with_a_name_is_known_for_good(functions: Functions) -> None:
    known = functions.get(plain)
    assert known is not None
    assert known.holds is None
    assert functions.get(plain) is known
    assert functions.get(len) is not None
    assert functions.get(int) is not None


@pytest.mark.parametrize("fn", [plain, limited, with_modules, with_a_default, with_inner_functions, with_a_class])
def test_one_that_refers_to_what_stays_crosses_once(functions: Functions, fn: Any) -> None:
    known = functions.get(by_value(fn))
    assert known is not None
    assert known.holds is not None
    assert known.holds()


@pytest.mark.parametrize("fn", [with_a_list, counting, with_a_mutable_default])
def test_one_that_refers_to_what_can_change_goes_with_each_job(functions: Functions, fn: Any) -> None:
    fn = by_value(fn)
    assert functions.get(fn) is None
    assert functions.get(fn) is None


@pytest.mark.parametrize("fn", [functools.partial(plain, 1), "".join, NAMES.append, object()])
def test_what_is_bound_to_something_goes_with_each_job(functions: Functions, fn: Any) -> None:
    assert functions.get(fn) is None


def test_closures(functions: Functions) -> None:
    def make(value: Any) -> Any:
        return lambda x: (x, value)

    def make_counter() -> Any:
        count = 0

        def counter(x: int) -> int:
            nonlocal count
            count += x
            return count

        return counter

    assert references(make(3)) is not None
    assert references(make([])) is None
    assert references(make(plain)) is not None
    assert references(make_counter()) is None


def test_other_functions_count_too() -> None:
    names: dict[str, Any] = {"other": by_value(limited)}
    found = references(by_value(calling_another, names))
    assert found is not None
    assert found.hold()
    names["other"] = by_value(with_a_list)
    assert not found.hold()
    assert references(by_value(calling_another, names)) is None
    names["other"] = by_value(calling_itself, names)
    assert references(names["other"]) is not None


def test_a_module_that_is_made_by_the_program_itself_can_change() -> None:
    names: dict[str, Any] = {"os": ModuleType("os"), "str": str, "sys": sys}
    assert references(by_value(with_modules, names)) is None


@pytest.mark.parametrize("change", ["global", "code", "defaults", "attribute", "builtin"])
def test_whatever_is_replaced_is_noticed(functions: Functions, change: str) -> None:
    names: dict[str, Any] = {"LIMIT": 3}
    fn = by_value(limited, names)
    known = functions.get(fn)
    assert known is not None
    if change == "global":
        names["LIMIT"] = 4
    elif change == "code":
        fn.__code__ = plain.__code__
    elif change == "defaults":
        fn.__defaults__ = (4,)
    elif change == "attribute":
        fn.limit = 4  # type: ignore[attr-defined]
    else:
        names["min"] = max
    assert known.holds is not None
    assert not known.holds()
    again = functions.get(fn)
    assert again is not known
    assert (again is None) == (change == "attribute")


def test_a_cell_that_is_filled_anew_is_noticed() -> None:
    value = 1
    fn = lambda x: x + value  # noqa: E731
    found = references(cast(FunctionType, fn))
    assert found is not None
    assert found.hold()
    value = 2
    assert not found.hold()


def test_one_whose_references_keep_changing_goes_with_each_job(functions: Functions) -> None:
    names: dict[str, Any] = {"LIMIT": 0}
    fn = by_value(limited, names)
    for limit in range(100):
        names["LIMIT"] = limit
        functions.get(fn)
    assert functions.get(fn) is None


def test_one_that_is_made_anew_for_each_job_goes_with_it(functions: Functions) -> None:
    """As a lambda in a loop: to look at what each refers to costs more than it saves."""
    made = [functions.get(by_value(plain)) for _ in range(40)]
    assert made[0] is not None
    assert made[-20:] == [None] * 20


def test_two_threads_may_learn_one_at_once(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    dump, others = codec.dump_by_name, []

    def dump_while_another_learns(fn: Any) -> bytes | None:
        monkeypatch.undo()
        others.append(functions.get(fn))
        return dump(fn)

    monkeypatch.setattr(codec, "dump_by_name", dump_while_another_learns)
    assert functions.get(plain) is others[0]


def test_only_so_many_are_known(functions: Functions, finished: list[MappedFunction]) -> None:
    some = [
        abs,
        all,
        any,
        ascii,
        bin,
        callable,
        chr,
        dir,
        divmod,
        format,
        hash,
        hex,
        id,
        isinstance,
        iter,
        len,
        max,
        min,
    ]
    known = [cast(KnownFunction, functions.get(fn)) for fn in some]
    assert finished == [one.mapped for one in known[:2]]


def test_two_threads_may_forget_one_at_once(functions: Functions, finished: list[MappedFunction]) -> None:
    known = cast(KnownFunction, functions.get(plain))
    threads = [threading.Thread(target=functions._forget, args=(id(plain),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert finished == [known.mapped]
