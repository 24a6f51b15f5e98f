"""`dispatch` and `run`: one outcome per job, lazy, never raising; ids, retries, priorities."""

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpengine import Engine, EngineClosed, Job, JobExpired, JobLost
from tests.api import jobs
from tests.api.support import keep
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for


def occupy(engine: Engine, gate: Gate) -> list[Any]:
    """A held job on each worker, so that whatever comes next waits."""
    held = [engine.submit(jobs.enter, gate.door) for _ in range(engine._max_workers)]
    gate.arrivals(len(held))
    return held


def test_one_outcome_per_job_whatever_becomes_of_it(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine()
    given = [
        Job(jobs.square, (3,), id="good"),
        Job(jobs.fail, id="bad"),
        Job(jobs.leave, (3,), id="gone"),
        Job(jobs.enter, (gate.door,), id="late", timeout=0.2),
        Job(jobs.throw, (SystemExit(1),), id="exit"),
        Job(jobs.echo, (lambda: 1,), {"value": threading.Lock()}, id="wrong call"),
    ]
    outcomes = {outcome.job.id: outcome for outcome in engine.run(given)}
    assert {id: outcome.status for id, outcome in outcomes.items()} == {
        "good": "succeeded", "bad": "failed", "gone": "lost", "late": "expired", "exit": "failed",
        "wrong call": "failed",
    }  # fmt: skip
    assert outcomes["good"].value == 9
    assert outcomes["good"].unwrap() == 9
    assert outcomes["good"].worker_pid in {row.pid for row in engine.workers()} | {outcomes["gone"].worker_pid}
    for job in given:
        outcome = outcomes[job.id]
        assert outcome.job is job
        assert outcome.ok == (job.id == "good")
        assert outcome.attempts == (0 if job.id == "wrong call" else 1)
        assert outcome.waited >= 0
        if not outcome.ok:
            with pytest.raises(type(outcome.error)):  # type: ignore[type-var]
                outcome.unwrap()
    assert isinstance(outcomes["gone"].error, JobLost)
    assert isinstance(outcomes["late"].error, JobExpired)
    assert 0.2 <= outcomes["late"].duration < WAIT_S
    assert outcomes["good"].peak_memory > 1 << 20


def test_outcomes_in_order_or_as_they_come(engine: Engine, gate: Gate) -> None:
    def given() -> Iterator[Job]:
        return (Job(jobs.enter if n == 0 else jobs.echo, (gate.door,), meta=n) for n in range(20))

    unordered = engine.run(given())
    assert sorted(next(unordered).job.meta for _ in range(19)) == list(range(1, 20))
    gate.release()
    assert next(unordered).job.meta == 0
    assert next(unordered, None) is None
    gate.arrival()
    ordered = engine.run(given(), ordered=True)
    gate.arrival()
    gate.open()
    assert [outcome.job.meta for outcome in ordered] == list(range(20))


def test_run_reads_its_input_lazily_and_a_bounded_window_ahead(engine: Engine) -> None:
    drawn = itertools.count()
    last = 0

    def given() -> Iterator[Job]:
        nonlocal last
        for last in drawn:
            yield Job(jobs.square, (last,))

    outcomes = engine.run(given())
    for taken in range(1, 5000):
        assert next(outcomes).ok
        assert last - taken < 1 << 17
    outcomes.close()
    assert engine.join(WAIT_S)
    before = last
    assert next(drawn) == before + 1  # and nobody draws any more


def test_an_input_that_raises_or_yields_no_job_is_heard_after_the_outcomes(engine: Engine) -> None:
    def broken() -> Iterator[Any]:
        yield from (Job(jobs.square, (n,)) for n in range(7))
        raise LookupError("the input")

    def wrong() -> Iterator[Any]:
        yield from (Job(jobs.square, (n,)) for n in range(7))
        yield 3

    for given, error in ((broken, LookupError), (wrong, TypeError)):
        for ordered in (True, False):
            got: list[int] = []
            with pytest.raises(error):
                keep(got, (outcome.value for outcome in engine.run(given(), ordered=ordered)))
            assert (got if ordered else sorted(got)) == [n * n for n in range(7)]


def test_closing_run_ends_its_jobs(engine: Engine, gate: Gate) -> None:
    outcomes = engine.run(Job(jobs.enter, (gate.door, n)) for n in itertools.count())
    gate.arrivals(2)
    outcomes.close()
    assert engine.join(WAIT_S)
    assert gate.arrival_or_none(0.0) is None


def test_an_endless_run_that_is_dropped_is_over(engine: Engine, gate: Gate) -> None:
    outcomes = engine.run(Job(jobs.enter, (gate.door, n)) for n in itertools.count())
    gate.arrivals(2)
    del outcomes
    assert engine.join(WAIT_S)


# ---- ids ----------------------------------------


def test_two_open_jobs_with_one_id_are_refused_and_the_first_goes_on(engine: Engine, gate: Gate) -> None:
    first = engine.dispatch(Job(jobs.enter, (gate.door, "", "first"), id="same"))
    gate.arrival()
    with pytest.raises(ValueError, match="'same'"):
        engine.dispatch(Job(jobs.echo, ("second",), id="same"))
    outcomes = list(engine.run([Job(jobs.echo, ("third",), id="same"), Job(jobs.echo, ("other",), id="other")]))
    assert {o.job.id: o.status for o in outcomes} == {"same": "failed", "other": "succeeded"}
    assert not first.done()
    gate.open()
    assert first.result(WAIT_S) == "first"
    assert engine.dispatch(Job(jobs.echo, ("free again",), id="same")).result(WAIT_S) == "free again"


def test_ids_of_many_plain_jobs(engine: Engine) -> None:
    """They have no record each, and all the same one id is one job at a time."""
    again = Job(jobs.square, (3,), id="again")
    given = [Job(jobs.square, (n,), id=f"n{n}") for n in range(100)]
    outcomes = list(engine.run([*given, again, again, Job(jobs.square, (1,), id="n5")], ordered=True))
    assert [outcome.job.id for outcome in outcomes] == [*(f"n{n}" for n in range(100)), "again", "again", "n5"]
    assert [outcome.value for outcome in outcomes[:101]] == [*(n * n for n in range(100)), 9]
    late = [outcome for outcome in outcomes[101:] if not outcome.ok]
    assert all(isinstance(outcome.error, ValueError) for outcome in late)
    assert not engine._dispatcher.ids
    assert [outcome.value for outcome in engine.run(given)] != []


def test_what_an_outcome_of_a_plain_job_says(engine: Engine) -> None:
    engine.submit(jobs.square, 1).result(WAIT_S)
    for outcome in engine.run(Job(jobs.square, (n,)) for n in range(1000)):
        assert outcome.ok
        assert outcome.value == outcome.job.args[0] ** 2
        assert (outcome.attempts, outcome.errors) == (1, ())
        assert 0 <= outcome.waited < WAIT_S
        assert 0 <= outcome.duration < WAIT_S
        assert outcome.worker_pid in [row.pid for row in engine.workers()]
        assert outcome.peak_memory > 1 << 20


def test_plain_jobs_that_end_badly(engine: Engine) -> None:
    wrong = [3, 50, 51, 99]
    outcomes = list(
        engine.run((Job(jobs.fail_at, (n if n in wrong else -1, n), id=f"w{n}") for n in range(100)), ordered=True)
    )
    assert [n for n, outcome in enumerate(outcomes) if not outcome.ok] == wrong
    for n in wrong:
        outcome = outcomes[n]
        assert (outcome.status, outcome.attempts, outcome.errors) == ("failed", 1, (outcome.error,))
        assert f"'w{n}'" in outcome.error.__notes__[0]  # type: ignore[union-attr]
        assert outcome.worker_pid


def test_jobs_of_many_functions_in_their_order(engine: Engine) -> None:
    calls: list[tuple[Any, tuple[Any, ...]]] = [(jobs.square, (3,)), (jobs.pid, ()), (abs, (-4,)), (len, ("xyz",))]
    given = [Job(*calls[n // 7 % 4]) for n in range(300)]
    outcomes = list(engine.run(iter(given), ordered=True))
    assert [outcome.job for outcome in outcomes] == given
    assert all(outcome.ok for outcome in outcomes)
    assert {outcome.job.name: outcome.value for outcome in outcomes if outcome.job.name != "pid"} == {
        "square": 9, "abs": 4, "len": 3,
    }  # fmt: skip


def test_a_function_that_refers_to_what_changes_goes_with_each_job(engine: Engine) -> None:
    state = {"now": 0}

    def body(n: int) -> tuple[int, int]:
        return n, state["now"]

    def given() -> Iterator[Job]:
        for n in range(20):
            state["now"] = 10 * n
            yield Job(body, (n,))

    assert [outcome.value for outcome in engine.run(given(), ordered=True)] == [(n, 10 * n) for n in range(20)]


def test_plain_jobs_are_cancelled_by_a_shutdown(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1)
    holder = engine.submit(jobs.enter, gate.door, "held", "done")
    gate.arrival()
    outcomes = engine.run([Job(jobs.square, (n,), id=f"c{n}") for n in range(4)], ordered=True)
    engine.shutdown(wait=False, cancel_futures=True)
    wait_for(lambda: engine.stats().cancelled == 4)
    gate.open()
    ended = list(outcomes)
    assert [outcome.status for outcome in ended] == ["cancelled"] * 4
    assert [f"'c{n}'" in str(ended[n].error) for n in range(4)] == [True] * 4
    assert [outcome.attempts for outcome in ended] == [0] * 4
    assert holder.result(WAIT_S) == "done"


def test_an_id_is_free_when_its_future_is_resolved(engine: Engine) -> None:
    for n in range(200):
        assert engine.dispatch(Job(jobs.echo, (n,), id="again and again")).result(WAIT_S) == n


# ---- retries ----------------------------------------


def test_a_job_runs_once_unless_its_owner_allows_more(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "count"
    outcome = engine.dispatch(Job(jobs.fail_until, (str(path), 5))).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts, path.stat().st_size) == ("failed", 1, 1)


@pytest.mark.parametrize(
    ("retries", "status", "attempts"), [(1, "failed", 2), (2, "succeeded", 3), (9, "succeeded", 3)]
)
def test_retries_are_further_attempts(engine: Engine, tmp_path: Path, retries: int, status: str, attempts: int) -> None:
    path = tmp_path / "count"
    outcome = engine.dispatch(Job(jobs.fail_until, (str(path), 2), retries=retries)).outcome(WAIT_S)
    assert (outcome.status, outcome.attempts, path.stat().st_size) == (status, attempts, attempts)
    assert [str(error) for error in outcome.errors] == [f"('attempt {n}', {n})" for n in range(1, 3)]
    if status == "succeeded":
        assert outcome.value == "3 3"
        assert outcome.error is None


@pytest.mark.parametrize(
    ("retry_on", "attempts"),
    [
        (None, 3),
        (jobs.CustomError, 3),
        ((KeyError, jobs.CustomError), 3),
        (KeyError, 1),
        (lambda error: error.code == 1, 2),
        (lambda error: error.no_such_attribute, 1),
    ],
    ids=["everything", "its class", "one of several", "another", "predicate", "a predicate that raises"],
)
def test_retry_on_says_after_what(engine: Engine, tmp_path: Path, retry_on: Any, attempts: int) -> None:
    job = Job(jobs.fail_until, (str(tmp_path / "count"), 9), retries=2, retry_on=retry_on)
    assert engine.dispatch(job).outcome(WAIT_S).attempts == attempts


def test_lost_and_expired_attempts_are_retried_too(make_engine: MakeEngine, tmp_path: Path, gate: Gate) -> None:
    def body(path: str, door: Any) -> int:
        attempt = jobs.count_up(path)
        if attempt == 1:
            os._exit(9)
        if attempt == 2:
            door.enter()
        return attempt

    outcome = make_engine().dispatch(
        Job(body, (str(tmp_path / "count"), gate.door), retries=3, timeout=0.3)
    ).outcome(WAIT_S)  # fmt: skip
    assert (outcome.status, outcome.value, outcome.attempts) == ("succeeded", 3, 3)
    assert [type(error) for error in outcome.errors] == [JobLost, JobExpired]


def test_a_cancelled_job_is_not_retried(engine: Engine, gate: Gate) -> None:
    future = engine.dispatch(Job(jobs.enter, (gate.door,), retries=5))
    gate.arrival()
    future.cancel(running=True)
    assert future.outcome(WAIT_S).status == "cancelled"
    assert engine.join(WAIT_S)
    assert gate.arrival_or_none(0.0) is None


def test_backoff_is_waited_for_without_a_worker(engine: Engine, tmp_path: Path) -> None:
    asked: list[int] = []

    def backoff(attempt: int) -> float:
        asked.append(attempt)
        return 0.1

    job = Job(jobs.fail_until, (str(tmp_path / "count"), 2), retries=2, backoff=backoff)
    future = engine.dispatch(job)
    assert engine.submit(jobs.square, 5).result(WAIT_S) == 25
    outcome = future.outcome(WAIT_S)
    assert (outcome.status, outcome.attempts, asked) == ("succeeded", 3, [1, 2])
    assert outcome.waited >= 0.2


def test_a_job_that_waits_for_its_next_attempt_can_be_cancelled(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "count"
    before = engine.stats().retried
    future = engine.dispatch(Job(jobs.fail_until, (str(path), 9), retries=9, backoff=lambda n: 600.0))
    wait_for(lambda: engine.stats().retried > before, about="the first attempt to be over")
    future.cancel(running=True)
    assert future.outcome(WAIT_S).status == "cancelled"
    assert engine.join(WAIT_S)
    assert path.stat().st_size == 1


# ---- priority ----------------------------------------


def test_higher_priorities_run_first_and_equal_ones_in_order(make_engine: MakeEngine, make_gate: Any) -> None:
    engine = make_engine(1)
    gate, order = make_gate(), make_gate()
    occupy(engine, gate)
    low = [engine.dispatch(Job(jobs.announce, (order.door, f"low {n}"))) for n in range(12)]
    high = [engine.dispatch(Job(jobs.announce, (order.door, f"high {n}"), priority=5)) for n in range(4)]
    top = engine.dispatch(Job(jobs.announce, (order.door, "top"), priority=9))
    wait_for(lambda: engine._dispatcher.books.accepted == 18, about="all of them to be in the books")
    gate.open()
    came = [order.arrival().token for _ in range(17)]
    for future in (*low, *high, top):
        future.result(WAIT_S)
    # What had travelled to the worker before stays where it is: at most one further batch.
    ahead = [token for token in came[: came.index("top")] if token.startswith("low")]
    assert len(ahead) <= 1
    rest = [token for token in came if token not in ahead]
    later = [f"low {n}" for n in range(12) if f"low {n}" not in ahead]
    assert rest == ["top", *(f"high {n}" for n in range(4)), *later]


# ---- the end of an engine ----------------------------------------


def test_dispatch_after_shutdown_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.shutdown()
    for use in (lambda: engine.submit(jobs.echo), lambda: engine.dispatch(Job(jobs.echo, id="mine"))):
        with pytest.raises(EngineClosed, match="cannot schedule new futures"):
            use()
    assert not engine._dispatcher.ids  # what was refused holds no id


# ---- max_pending ----------------------------------------


def blocked_submitter(engine: Engine, count: int, taken: list[Any]) -> threading.Thread:
    def work() -> None:
        try:
            for n in range(count):
                taken.append(engine.submit(jobs.echo, n))
        except BaseException as error:
            taken.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_submit_blocks_above_max_pending_until_there_is_room(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(max_pending=5)
    occupy(engine, gate)
    taken: list[Any] = []
    thread = blocked_submitter(engine, 50, taken)
    wait_for(lambda: len(taken) >= 5)
    thread.join(0.1)
    assert thread.is_alive()
    assert len(taken) == 5
    gate.open()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert [f.result(WAIT_S) for f in taken] == list(range(50))


def test_blocked_submitters_hear_of_a_shutdown(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(max_pending=2)
    occupy(engine, gate)
    seen: list[list[Any]] = [[], [], []]
    threads = [blocked_submitter(engine, 50, taken) for taken in seen]
    wait_for(lambda: sum(map(len, seen)) >= 2)
    engine.shutdown(wait=False)
    for thread in threads:  # at once, though the workers are busy
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert all(isinstance(taken[-1], EngineClosed) for taken in seen)
    gate.open()
    engine.shutdown()
    futures = [future for taken in seen for future in taken[:-1]]
    assert len(futures) == 2
    assert all(future.done() and not future.cancelled() for future in futures)


def test_a_callback_may_submit_to_a_full_engine(make_engine: MakeEngine, gate: Gate) -> None:
    engine = make_engine(1, max_pending=1)
    occupy(engine, gate)
    taken: list[Any] = []
    first = engine.submit(jobs.echo, 1)
    first.add_done_callback(lambda _: taken.extend(engine.submit(jobs.echo, n) for n in range(5)))
    gate.open()
    assert first.result(WAIT_S) == 1
    wait_for(lambda: len(taken) == 5)
    assert [f.result(WAIT_S) for f in taken] == list(range(5))


def test_map_and_run_are_bounded_by_themselves(make_engine: MakeEngine) -> None:
    engine = make_engine(max_pending=1)
    assert list(engine.map(jobs.square, range(500))) == [n * n for n in range(500)]
    assert len(list(engine.run(Job(jobs.square, (n,)) for n in range(100)))) == 100
