"""What users see of an exception, whatever it is and wherever it was raised."""

import os
import pickle
import traceback
from typing import Any

import pytest

import mpengine
from mpengine import (
    Engine,
    EngineBroken,
    EngineClosed,
    EngineError,
    InternalError,
    Job,
    JobCancelled,
    JobExpired,
    JobLost,
    MemoryLimitExceeded,
    RemoteError,
    RemoteTraceback,
    WorkerStartError,
)
from tests.api import jobs
from tests.api.support import keep
from tests.support import WAIT_S


def error_of(engine: Engine, job: Job) -> BaseException:
    error = engine.dispatch(job).outcome(WAIT_S).error
    assert error is not None
    return error


def test_a_jobs_own_exception_is_raised_as_itself(engine: Engine) -> None:
    future = engine.dispatch(Job(jobs.fail, ("oh no", 42), id="unlucky", retries=1))
    with pytest.raises(jobs.CustomError) as caught:
        future.result(WAIT_S)
    error = caught.value
    assert type(error) is jobs.CustomError
    assert (error.args, error.code) == (("oh no", 42), 42)
    assert isinstance(error.__cause__, RemoteTraceback)
    text = str(error.__cause__)
    assert "raise CustomError(message, code)" in text
    assert "running.py" not in text  # from the user's frame on
    assert "Traceback (most recent call last)" in text
    (note,) = error.__notes__
    for part in ("'unlucky'", "`fail`", "attempt 2 of 2", f"pid {future.outcome().worker_pid}"):
        assert part in note
    shown = "".join(traceback.format_exception(error))
    assert text.strip() in shown
    assert note in shown


@pytest.mark.parametrize("by_submit", [True, False])
def test_the_note_names_a_job_that_is_alone(engine: Engine, by_submit: bool) -> None:
    """One at a time they take the short way, on which the books come to know them late."""
    for number in range(30):
        engine.submit(abs, number).result(WAIT_S)
        id_ = f"alone {number}"
        future = engine.submit(int, "x") if by_submit else engine.dispatch(Job(int, ("x",), id=id_, retries=1))
        error = future.exception(WAIT_S)
        assert error is not None
        attempt = "attempt 1 of 1" if by_submit else "attempt 2 of 2"
        assert f"job {future.job.id!r} (`int`, {attempt})" in error.__notes__[0]


def test_an_exception_of_a_mapped_call_says_which_call(engine: Engine) -> None:
    def body(n: int) -> int:
        return 10 // (n - 25)

    values = engine.map(body, range(50))
    got: list[Any] = []
    with pytest.raises(ZeroDivisionError) as caught:
        keep(got, values)
    assert got == [10 // (n - 25) for n in range(25)]
    (note,) = caught.value.__notes__
    assert "call 25 of map" in note
    assert "10 // (n - 25)" in str(caught.value.__cause__)


def test_an_exception_keeps_its_own_cause_as_text(engine: Engine) -> None:
    def body() -> None:
        try:
            {}["missing"]  # type: ignore[index]
        except KeyError as error:
            raise ValueError("outer") from error

    text = str(error_of(engine, Job(body)).__cause__)
    assert "KeyError: 'missing'" in text
    assert "ValueError: outer" in text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, BaseException])
def test_whatever_a_job_raises_fails_that_job_and_the_worker_stays(engine: Engine, kind: type[BaseException]) -> None:
    pids = {row.pid for row in engine.workers()}
    future = engine.submit(jobs.throw, kind("mine"))
    outcome = future.outcome(WAIT_S)
    assert outcome.status == "failed"
    assert type(outcome.error) is kind
    assert outcome.error.args == ("mine",)
    with pytest.raises(kind):
        future.result()
    if kind is not StopIteration:
        with pytest.raises(kind):
            list(engine.map(jobs.throw, [kind("mine")]))
    assert sorted(engine.map(jobs.square, range(10))) == [n * n for n in range(10)]
    assert {row.pid for row in engine.workers()} == pids


def test_an_exception_group_arrives_as_one(engine: Engine) -> None:
    error = error_of(engine, Job(jobs.throw, (ExceptionGroup("several", [ValueError(1), KeyError(2)]),)))
    assert isinstance(error, ExceptionGroup)
    assert [type(part) for part in error.exceptions] == [ValueError, KeyError]


def test_notes_of_the_job_are_kept(engine: Engine) -> None:
    def body() -> None:
        error = ValueError("x")
        error.add_note("mine")
        raise error

    assert error_of(engine, Job(body)).__notes__[0] == "mine"


@pytest.mark.parametrize(
    ("body", "name", "text"),
    [
        (jobs.throw_unpicklable, "UnpicklableError", "the text survives"),
        (jobs.throw_two_args, "TwoArgsError", "alice has 3"),
    ],
)
def test_an_exception_that_cannot_be_sent_comes_as_the_nearest_thing(
    engine: Engine, body: Any, name: str, text: str
) -> None:
    error = error_of(engine, Job(body))
    assert type(error) is RemoteError
    assert error.type_name == f"tests.api.jobs.{name}"
    assert name in str(error)
    assert text in str(error)
    assert "raise" in error.traceback
    assert isinstance(error.__cause__, RemoteTraceback)
    with pytest.raises(RemoteError, match=text):
        list(engine.map(lambda _: body(), [0]))


def test_an_exception_whose_text_cannot_be_had(engine: Engine) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

        def __reduce__(self) -> Any:
            raise RuntimeError("no pickle")

    def body() -> None:
        raise Mute

    error = error_of(engine, Job(body))
    assert type(error) is RemoteError
    assert "Mute" in error.type_name
    assert engine.submit(jobs.square, 2).result(WAIT_S) == 4


# ---- what cannot be pickled ----------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "part"),
    [
        ((1, jobs.Unpicklable()), {}, "argument 2 (a Unpicklable)"),
        ((1,), {"y": jobs.Unpicklable()}, "keyword argument 'y' (a Unpicklable)"),
        (([[jobs.Unpicklable()]],), {}, "argument 1 (a list)"),
    ],
    ids=["positional", "keyword", "deep"],
)
def test_an_argument_that_cannot_be_pickled_fails_its_future(engine: Engine, args: Any, kwargs: Any, part: str) -> None:
    future = engine.submit(jobs.call_of, *args, **kwargs)  # and not submit
    with pytest.raises(TypeError, match="this one stays at home") as caught:
        future.result(WAIT_S)
    assert any(part in note for note in caught.value.__notes__)
    outcome = future.outcome()
    assert (outcome.status, outcome.attempts) == ("failed", 0)
    (other,) = engine.run([Job(jobs.call_of, args, kwargs)])
    assert type(other.error) is TypeError


def test_a_function_that_cannot_be_pickled_fails_its_future(engine: Engine) -> None:
    unpicklable = jobs.Unpicklable()
    future = engine.submit(lambda: unpicklable)
    with pytest.raises(TypeError, match="stays at home") as caught:
        future.result(WAIT_S)
    assert any("the function" in note for note in caught.value.__notes__)
    values = engine.map(lambda x: unpicklable, [1, 2])
    with pytest.raises(TypeError, match="stays at home") as caught:
        next(values)
    assert any("lambda" in note for note in caught.value.__notes__)


def test_mapped_arguments_that_cannot_be_pickled_come_after_the_good_ones(engine: Engine) -> None:
    got: list[Any] = []
    with pytest.raises(TypeError, match="stays at home"):
        keep(got, engine.map(jobs.echo, [1, [2], jobs.Unpicklable(), 4]))
    assert got == [1, [2]]


def test_arguments_that_cannot_be_unpickled_fail_their_job(engine: Engine) -> None:
    pids = {row.pid for row in engine.workers()}
    outcome = engine.submit(jobs.echo, jobs.Unloadable()).outcome(WAIT_S)
    assert outcome.status == "failed"
    assert type(outcome.error) is RuntimeError
    got: list[Any] = []
    with pytest.raises(RuntimeError, match="cannot be rebuilt"):
        keep(got, engine.map(jobs.echo, [[1], [2], jobs.Unloadable(), [4]]))
    assert got == [[1], [2]]
    assert {row.pid for row in engine.workers()} == pids


def test_a_result_that_cannot_be_pickled_fails_its_job_and_names_the_part(engine: Engine) -> None:
    pids = {row.pid for row in engine.workers()}
    error = error_of(engine, Job(jobs.return_unpicklable))
    assert type(error) is TypeError
    assert "stays at home" in str(error)
    assert any("result" in note for note in error.__notes__)
    with pytest.raises(TypeError, match="stays at home"):
        list(engine.map(lambda _: jobs.return_unpicklable(), [1]))
    assert {row.pid for row in engine.workers()} == pids


def test_a_result_that_cannot_be_unpickled_fails_its_job(engine: Engine) -> None:
    error = error_of(engine, Job(jobs.UnloadableHere, (os.getpid(),)))
    assert type(error) is RuntimeError
    assert "cannot be rebuilt here" in str(error)
    assert any("result" in note for note in error.__notes__)
    got: list[Any] = []
    with pytest.raises(RuntimeError, match="cannot be rebuilt here"):
        keep(got, (value.pid for value in engine.map(jobs.UnloadableHere, [0, 1, os.getpid(), 3])))
    assert got == [0, 1]


def test_neighbours_of_a_bad_result_keep_theirs(engine: Engine) -> None:
    futures = [engine.submit(jobs.UnloadableHere, os.getpid() if n % 5 == 0 else 0) for n in range(30)]
    assert [f.exception(WAIT_S) is None for f in futures] == [n % 5 != 0 for n in range(30)]


def test_a_deeply_nested_object_fails_its_job_only(engine: Engine) -> None:
    def nest(depth: int) -> Any:
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        return value

    pids = {row.pid for row in engine.workers()}
    assert type(error_of(engine, Job(nest, (100_000,)))) in (RecursionError, pickle.PicklingError)
    assert type(error_of(engine, Job(jobs.echo, (nest(100_000),)))) in (RecursionError, pickle.PicklingError)
    assert {row.pid for row in engine.workers()} == pids


# ---- the errors themselves ----------------------------------------

OURS = (
    EngineError, EngineBroken, EngineClosed, InternalError, JobCancelled, JobExpired, JobLost, MemoryLimitExceeded,
    RemoteError, WorkerStartError,
)  # fmt: skip


@pytest.mark.parametrize("kind", OURS)
def test_our_errors_survive_pickling_with_their_fields(engine: Engine, kind: type[EngineError]) -> None:
    error = kind("what happened", stack="line 3", exitcode=-9, anything=[1])
    error.add_note("a note")
    for again in (pickle.loads(pickle.dumps(error)), engine.submit(jobs.echo, error).result(WAIT_S)):
        assert type(again) is kind
        assert str(again) == "what happened"
        assert (again.stack, again.exitcode, again.anything) == ("line 3", -9, [1])  # type: ignore[attr-defined]
        assert again.__notes__ == ["a note"]
    assert issubclass(kind, EngineError)


def test_every_exported_error_is_tested_here() -> None:
    exported = {getattr(mpengine, name) for name in mpengine.__all__}
    errors = {thing for thing in exported if isinstance(thing, type) and issubclass(thing, EngineError)}
    assert errors == set(OURS)
