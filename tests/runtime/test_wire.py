"""How users' objects and exceptions cross: by value or by name, and always as bytes that can be read."""

import pickle
import sys
import tracemalloc
import types
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from mpengine import Job, RemoteError, RemoteTraceback
from mpengine.wire import codec
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import pack_error, unpack_error
from tests.runtime import jobs
from tests.support import run_python


@pytest.fixture
def user_module() -> Iterator[types.ModuleType]:
    """A module that exists in this process only."""
    module = types.ModuleType("only_here")
    exec("def shift(x): return helper(x) + 1\ndef helper(x): return 10 * x\nclass Thing: pass", module.__dict__)
    sys.modules["only_here"] = module
    yield module
    del sys.modules["only_here"]


def load_elsewhere(data: bytes, use: str) -> str:
    """What another Python makes of a pickle: `value` is what it loads."""
    code = f"import pickle; value = pickle.loads(bytes.fromhex({data.hex()!r})); print({use})"
    done = run_python("-c", code)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_of_a_large_object_there_is_one_pickle_at_a_time() -> None:
    blob = bytes(20 << 20)
    for obj in ([blob], ["__main__", blob]):
        tracemalloc.start()
        try:
            assert len(codec.dumps(obj)) > len(blob)
            assert tracemalloc.get_traced_memory()[1] < 1.7 * len(blob)  # its buffer grows by half
        finally:
            tracemalloc.stop()


def test_what_can_be_imported_travels_by_name() -> None:
    data = codec.dumps(jobs.double)
    assert data == pickle.dumps(jobs.double, 5)
    assert len(data) < 100
    assert codec.loads(data) is jobs.double


def test_lambdas_and_local_classes_travel_by_value() -> None:
    offset = 3
    assert load_elsewhere(codec.dumps(lambda x: x + offset), "value(4)") == "7"

    class Local:
        y = 5

    assert load_elsewhere(codec.dumps(Local), "value.y") == "5"


def test_what_lives_in_main_travels_by_value() -> None:
    code = (
        "import sys\nfrom mpengine.wire import codec\n"
        "class Thing:\n    def __init__(self, x): self.x = x\n"
        "def use(thing): return thing.x + 1\n"
        "sys.stdout.write(codec.pack_call(use, (Thing(4),), {}).hex())\n"
    )
    data = bytes.fromhex(run_python("-c", code).stdout)
    assert load_elsewhere(data, "value[0](*value[1])") == "5"


def test_a_string_that_only_looks_like_main_costs_nothing_but_time() -> None:
    for value in ("__main__", ["a", "__main__", b"__main__"], {"__main__": 1}):
        assert codec.loads(codec.dumps(value)) == value


def test_a_registered_module_travels_by_value(user_module: types.ModuleType) -> None:
    by_name = codec.dumps(user_module.shift)
    assert "No module named 'only_here'" in load_elsewhere(by_name, "value(2)")
    cloudpickle.register_pickle_by_value(user_module)
    try:
        assert load_elsewhere(codec.dumps(user_module.shift), "value(2)") == "21"
        assert load_elsewhere(codec.dumps([user_module.Thing()]), "type(value[0]).__name__") == "Thing"
    finally:
        cloudpickle.unregister_pickle_by_value(user_module)
    assert codec.dumps(user_module.shift) == by_name


def test_what_cannot_be_pickled_raises_the_picklers_error() -> None:
    for value in (jobs.Unpicklable(), [jobs.Unpicklable()], (n for n in ())):  # type: ignore[var-annotated]
        with pytest.raises(TypeError):
            codec.dumps(value)
        assert not codec.can_dump(value)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        ((jobs.Unpicklable(), (), {}), "the function"),
        ((len, (1, jobs.Unpicklable()), {}), "argument 2"),
        ((len, (1,), {"x": jobs.Unpicklable()}), "keyword argument 'x'"),
    ],
)
def test_a_call_names_the_part_that_cannot_be_pickled(call: Any, part: str) -> None:
    with pytest.raises(TypeError, match="stays at home") as caught:
        codec.pack_call(*call)
    assert part in caught.value.__notes__[0]


def test_a_part_that_raises_anything_is_named_too() -> None:
    class Nasty:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt("from a pickle")

    with pytest.raises(KeyboardInterrupt) as caught:
        codec.pack_call(len, (Nasty(),), {})
    assert "argument 1" in caught.value.__notes__[0]


@pytest.mark.parametrize("values", [[], [1, "x", None, b"y", 2.5, True, 3j]])
def test_values_without_flags(values: list[Any]) -> None:
    assert codec.load_values(codec.dump_values(values, None, b"times")) == (values, None, b"times")


def test_values_with_flags() -> None:
    blob = codec.dump_values([1, codec.dumps([2]), 3], bytearray(b"\0\1\0"))
    values, flags, _ = codec.load_values(blob)
    assert flags == b"\0\1\0"
    assert [codec.loads(v) if f else v for v, f in zip(values, flags, strict=True)] == [1, [2], 3]


def test_a_body_is_split_as_it_was_made() -> None:
    header = [("job 1", 1, None, 2.5, 3), ("job 2", 2, 1.0, None, 0)]
    body = memoryview(b"".join(wire.body_parts(header, [b"abc", b""])))
    assert wire.split_body(body) == (header, memoryview(b"abc"))


def test_a_started_word_holds_batch_and_item() -> None:
    for batch, index in ((0, -1), (1, 0), (1 << 39, wire.INDEX_MASK - 1)):
        assert wire.split_started(wire.started_word(batch, index)) == (batch, index)
        assert wire.started_word(batch, index) < 1 << 64


# ---- exceptions ------------------------------------------------------------------------------------------


def caught_from(fn: Any, *args: Any) -> BaseException:
    try:
        fn(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def roundtrip(error: BaseException) -> BaseException:
    return unpack_error(pack_error(error, error.__traceback__), "where it was")


def test_an_exception_comes_as_itself_with_its_traceback_as_cause() -> None:
    error = roundtrip(caught_from(jobs.fail_on_odd, 3))
    assert type(error) is ValueError
    assert error.args == ("3 is odd",)
    assert error.__notes__ == ["where it was"]
    assert isinstance(error.__cause__, RemoteTraceback)
    assert 'raise ValueError(f"{n} is odd")' in str(error.__cause__)
    assert error.__traceback__ is None


class UnpicklableError(Exception):
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt("no")


class NeedsTwoError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class LoadsAsSomethingElseError(Exception):
    def __reduce__(self) -> Any:
        return int, ("5",)


class MuteError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise ValueError("no pickle")


class NoNotesError(Exception):
    """Forbids what we want to add to it."""

    def add_note(self, note: str) -> None:
        raise RuntimeError("no notes")


class SlotsError(Exception):
    __slots__ = ("code",)


@pytest.mark.parametrize(
    "error", [UnpicklableError("text"), NeedsTwoError(1, 2), LoadsAsSomethingElseError("text"), MuteError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_cannot_cross_comes_as_the_nearest_thing(error: BaseException) -> None:
    back = roundtrip(error)
    assert type(back) is RemoteError
    assert back.type_name == f"{__name__}.{type(error).__name__}"
    assert type(error).__name__ in str(back)
    assert back.traceback
    assert any("where it was" in note for note in back.__notes__)
    assert type(pickle.loads(pickle.dumps(back))) is RemoteError


@pytest.mark.parametrize("kind", [NoNotesError, SlotsError])
def test_an_exception_that_forbids_notes_still_comes_as_itself(kind: type[Exception]) -> None:
    assert type(roundtrip(kind("text"))) is kind


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration])
def test_special_exceptions_cross_as_any_other(kind: type[BaseException]) -> None:
    error = roundtrip(kind("x"))
    assert type(error) is kind
    assert error.args == ("x",)


def test_an_exception_with_a_traceback_kept_in_itself() -> None:
    error = caught_from(jobs.fail_on_odd, 1)
    error.also = error.__traceback__  # type: ignore[attr-defined]
    assert type(roundtrip(error)) is RemoteError  # a traceback cannot be pickled


def test_the_worker_imports_none_of_the_parents_side() -> None:
    code = "import sys, mpengine.runtime.worker; print(*sorted(m for m in sys.modules if m.startswith('mpengine')))"
    loaded = run_python("-c", code).stdout.split()
    for name in ("engine", "futures", "streams", "runtime.dispatcher", "runtime.supervisor", "core.ledger"):
        assert f"mpengine.{name}" not in loaded


def test_a_call_of_a_job_needs_no_more_than_plain_pickle() -> None:
    """cloudpickle, which takes what pickle refuses, costs several times as much."""
    job = Job(max, (1, 2))
    assert codec.pack_call(job.fn, job.args, job.kwargs) == pickle.dumps((max, (1, 2), {}), codec.PROTOCOL)
