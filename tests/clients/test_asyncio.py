"""asyncio as a client: `arun`, `wrap_future`, and a loop that is never blocked."""

import asyncio
import contextlib
import gc
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import tqdm.asyncio

from mpengine import Engine, EngineBroken, EngineClosed, Job, Outcome, async_streams
from mpengine.drawing import LEAST_AHEAD
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """In a loop of its own, within a bound."""
    return asyncio.run(asyncio.wait_for(main, WAIT_S))


async def later(items: Any) -> AsyncIterator[Any]:
    """An asynchronous input, where others have their turn between two items."""
    for item in items:
        await asyncio.sleep(0)
        yield item


def at_once(items: Any) -> AsyncIterator[Any]:
    """One that never lets others have theirs."""

    async def give() -> AsyncIterator[Any]:
        for item in items:
            yield item

    return give()


def as_it_is(items: Any) -> Any:
    return items


def lazily(items: Any) -> Iterator[Any]:
    return iter(items)


FORMS = [as_it_is, lazily, later, at_once]


async def outcomes_of(outcomes: AsyncIterator[Outcome]) -> list[Outcome]:
    return [outcome async for outcome in outcomes]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [0, 1, 3000])
def test_one_outcome_per_job(engine: Engine, form: Callable[[Any], Any], count: int) -> None:
    given = [Job(jobs.square, (n,)) for n in range(count)]
    outcomes = run(outcomes_of(engine.arun(form(given))))
    assert sorted(outcome.value for outcome in outcomes) == [n * n for n in range(count)]


@pytest.mark.parametrize("form", FORMS)
def test_in_order_whatever_becomes_of_them(engine: Engine, form: Callable[[Any], Any]) -> None:
    given = [Job(jobs.fail_at, (7, n), id=f"n{n}") for n in range(50)]
    outcomes = run(outcomes_of(engine.arun(form(given), ordered=True)))
    assert [outcome.job.id for outcome in outcomes] == [f"n{n}" for n in range(50)]
    assert [outcome.status for outcome in outcomes if not outcome.ok] == ["failed"]
    assert outcomes[7].status == "failed"


def test_an_early_one_waits_for_its_turn(engine: Engine, gate: Gate) -> None:
    async def main() -> list[Any]:
        given = [Job(jobs.enter, (gate.door,), {"value": "first"}), *(Job(jobs.echo, (n,)) for n in range(20))]
        outcomes = engine.arun(given, ordered=True)
        already = engine.stats().succeeded
        first = asyncio.ensure_future(anext(outcomes))
        await asyncio.to_thread(gate.arrival)
        await asyncio.to_thread(wait_for, lambda: engine.stats().succeeded - already == 20)
        assert not first.done()
        gate.open()
        return [(await first).value, *[outcome.value async for outcome in outcomes]]

    assert run(main()) == ["first", *range(20)]


def test_the_loop_goes_on_while_jobs_run(engine: Engine, gate: Gate) -> None:
    async def main() -> Any:
        waiting = asyncio.ensure_future(outcomes_of(engine.arun([Job(jobs.enter, (gate.door,), {"value": 1})])))
        await asyncio.to_thread(gate.arrival)
        gate.open()  # by this loop, which is what the job waits for
        return await waiting

    assert [outcome.value for outcome in run(main())] == [1]


def test_the_loop_goes_on_while_an_input_blocks(engine: Engine) -> None:
    told = threading.Event()

    def blocking() -> Iterator[Job]:
        yield Job(jobs.echo, (1,))
        assert told.wait(WAIT_S)
        yield Job(jobs.echo, (2,))

    async def main() -> list[Any]:
        outcomes = engine.arun(blocking())
        first = (await anext(outcomes)).value  # it is there though the input blocks
        rest = asyncio.ensure_future(outcomes_of(outcomes))
        await asyncio.sleep(0)
        told.set()
        return [first, *(outcome.value for outcome in await rest)]

    assert run(main()) == [1, 2]


def test_a_consumer_that_always_finds_something_lets_others_have_their_turn(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_streams, "monotonic", itertools.count().__next__)  # between two looks, a second
    count = 2 * LEAST_AHEAD  # so many are drawn ahead, for two workers, at any pace
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main() -> int:
        counting = asyncio.ensure_future(count_turns())
        already = engine.stats().succeeded
        outcomes = engine.arun(Job(abs, (n,)) for n in range(count))
        await anext(outcomes)
        wait_for(lambda: engine.stats().succeeded - already == count)  # the loop stands still
        before = turns
        assert len(await outcomes_of(outcomes)) == count - 1
        counting.cancel()
        return turns - before

    assert run(main()) >= count - 1


@pytest.mark.parametrize("form", [lazily, at_once, later])
def test_an_endless_input_is_drawn_a_bounded_window_ahead(
    make_engine: MakeEngine, gate: Gate, form: Callable[[Any], Any]
) -> None:
    drawn = 0

    def endless() -> Iterator[Job]:
        nonlocal drawn
        for drawn in itertools.count(1):  # noqa: B007
            yield Job(jobs.enter, (gate.door,))

    async def main() -> None:
        engine = make_engine(2)
        outcomes = engine.arun(form(endless()))
        first = asyncio.ensure_future(anext(outcomes))
        await asyncio.to_thread(gate.arrivals, 2)
        for _ in range(2000):
            await asyncio.sleep(0)
        assert drawn < 200
        gate.open()
        assert (await first).ok
        for _ in range(300):
            await anext(outcomes)
        assert drawn > 300
        await outcomes.aclose()
        assert await asyncio.to_thread(engine.join, WAIT_S)

    run(main())


@pytest.mark.parametrize("form", [lazily, later])
@pytest.mark.parametrize("how", ["task cancelled", "aclose", "break", "timeout"])
def test_who_leaves_ends_the_jobs_also_the_running(
    engine: Engine, gate: Gate, make_gate: Callable[[], Gate], form: Callable[[Any], Any], how: str
) -> None:
    ends = make_gate()
    closed = []

    async def given() -> AsyncIterator[Job]:
        try:
            yield Job(jobs.echo, (0,))
            while True:
                await asyncio.sleep(0)
                yield Job(jobs.enter_finally, (gate.door, ends.door))
        finally:
            closed.append(True)

    async def consume(outcomes: Any, is_there: asyncio.Event) -> None:
        async for _ in outcomes:
            await asyncio.to_thread(gate.arrivals, 2)
            is_there.set()
            if how == "break":
                break
            if how == "aclose":
                await outcomes.aclose()

    async def main() -> None:
        many = itertools.repeat(Job(jobs.enter_finally, (gate.door, ends.door)))
        input_: Any = given() if form is later else itertools.chain([Job(jobs.echo, (0,))], many)
        if form is lazily:
            input_ = (Job(job.fn, job.args) for job in input_)
        is_there = asyncio.Event()
        task = asyncio.ensure_future(consume(engine.arun(input_), is_there))
        del input_
        await is_there.wait()
        if how == "task cancelled":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.01)
        else:
            await task
        assert [(await asyncio.to_thread(ends.arrival)).token for _ in range(2)] == ["finally"] * 2
        assert await asyncio.to_thread(engine.join, WAIT_S)
        assert gate.arrival_or_none(0.0) is None  # those that waited did not start

    run(main())
    assert closed == [True] * (form is later)


def test_one_that_was_never_begun_costs_nothing(engine: Engine) -> None:
    async def main() -> None:
        outcomes = engine.arun(later([Job(jobs.echo, (1,))]))
        del outcomes
        gc.collect()

    run(main())
    assert engine.join(WAIT_S)


@pytest.mark.parametrize("form", [lazily, later, at_once])
@pytest.mark.parametrize("good", [0, 1, 200])
def test_an_input_that_raises_is_heard_after_the_outcomes(
    engine: Engine, form: Callable[[Any], Any], good: int
) -> None:
    def given() -> Iterator[Job]:
        for n in range(good):
            yield Job(jobs.echo, (n,))
        raise LookupError("no more")

    got = []

    async def main() -> None:
        async for outcome in engine.arun(form(given())):
            got.append(outcome.value)

    with pytest.raises(LookupError, match="no more"):
        run(main())
    assert sorted(got) == list(range(good))


def test_an_input_that_yields_no_job_is_refused(engine: Engine) -> None:
    with pytest.raises(TypeError, match="must yield Jobs"):
        run(outcomes_of(engine.arun(later([1]))))


def test_a_closed_or_broken_engine_says_so(make_engine: MakeEngine) -> None:
    closed = make_engine(1)
    closed.shutdown()
    with pytest.raises(EngineClosed):
        closed.arun([])
    broken = make_engine(1, initializer=jobs.throw, initargs=(LookupError("no licence"),))
    outcomes = broken.arun([Job(jobs.echo, (1,))])
    with pytest.raises(EngineBroken, match="no licence"):
        run(outcomes_of(outcomes))


def test_several_at_once_share_the_workers(engine: Engine) -> None:
    async def main() -> list[list[Outcome]]:
        streams = (engine.arun(later([Job(jobs.echo, (n,)) for n in range(100 * k, 100 * k + 100)])) for k in range(5))
        return await asyncio.gather(*map(outcomes_of, streams))

    for k, outcomes in enumerate(run(main())):
        assert sorted(outcome.value for outcome in outcomes) == list(range(100 * k, 100 * k + 100))


def test_a_consumer_may_leave_its_loop_in_the_middle(engine: Engine, gate: Gate) -> None:
    """`asyncio.run` ends with the jobs under way: the loop is closed, and the dispatcher must not care."""
    kept = []

    async def main() -> None:
        kept.append(engine.arun([Job(jobs.echo, (1,)), Job(jobs.enter, (gate.door,))]))
        await anext(kept[0])

    run(main())
    gate.open()
    assert engine.join(WAIT_S)
    assert engine.submit(jobs.echo, 2).result(WAIT_S) == 2


def test_cancelling_passes_through_wrap_future(engine: Engine, gate: Gate) -> None:
    async def main() -> None:
        held = [asyncio.wrap_future(engine.submit(jobs.enter, gate.door)) for _ in range(2)]
        await asyncio.to_thread(gate.arrivals, 2)
        futures = [engine.submit(jobs.enter, gate.door) for _ in range(50)]
        wrapped = [asyncio.wrap_future(future) for future in futures]
        last = wrapped[-1]
        last.cancel()
        with pytest.raises(asyncio.CancelledError):
            await last
        await asyncio.to_thread(wait_for, futures[-1].cancelled)
        gate.open()
        await asyncio.gather(*held, *wrapped[:-1])

    run(main())
    assert len(gate.arrivals(49)) == 49
    assert gate.arrival_or_none(0.0) is None


def test_a_future_that_its_owner_cancels_is_cancelled_in_the_loop(engine: Engine, gate: Gate) -> None:
    async def main() -> None:
        future = engine.submit(jobs.enter, gate.door)
        wrapped = asyncio.wrap_future(future)
        await asyncio.to_thread(gate.arrival)
        assert future.cancel(running=True)
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    run(main())


def test_a_task_group_that_fails_gives_up_the_waiting_calls(engine: Engine, gate: Gate) -> None:
    async def call(*args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(engine, *args)

    async def main() -> None:
        with contextlib.suppress(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(call(jobs.enter, gate.door))
                await asyncio.to_thread(gate.arrivals, 2)
                for _ in range(50):
                    group.create_task(call(jobs.enter, gate.door))
                await asyncio.sleep(0)
                raise ValueError("over")

    run(main())
    gate.open()
    assert engine.join(WAIT_S)
    late = 0
    while gate.arrival_or_none(0.0) is not None:
        late += 1
    assert late < 50  # those that had been handed to a worker ahead of its turn


def test_tqdm_shows_how_it_goes(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> list[Any]:
        given = (Job(jobs.square, (n,)) for n in range(200))
        shown = tqdm.asyncio.tqdm(engine.arun(given, ordered=True), total=200, mininterval=0.0)
        return [outcome.value async for outcome in shown]

    assert run(main()) == [n * n for n in range(200)]
    assert "200/200" in capfd.readouterr().err
