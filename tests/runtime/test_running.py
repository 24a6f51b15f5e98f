"""A worker's Runner in-process: what it logs for batches of jobs and for spans, in every ending."""

import itertools
import pickle
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpengine import JobInterrupt
from mpengine.arrays import reader
from mpengine.runtime import running
from mpengine.runtime.channel import LogReader, LogRecord, LogWriter
from mpengine.runtime.clock import monotonic
from mpengine.runtime.running import Runner
from mpengine.wire import codec
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import unpack_error
from tests.runtime import jobs

BATCH = 5


class Bench:
    """A runner with both ends of its channel."""

    def __init__(self, max_tasks: int | None = None) -> None:
        self.reader = LogReader()
        self.rung = 0
        self.writer = LogWriter(self.reader.fd, self.ring, lambda: pytest.fail("the log is full"))
        self.blocks: dict[tuple[int, int], bytes] = {}
        self.runner = Runner(self.writer, self.ring, self.fetch, max_tasks)

    def ring(self) -> None:
        self.rung += 1

    def fetch(self, offset: int, length: int) -> memoryview:
        return memoryview(self.blocks[offset, length])

    def close(self) -> None:
        self.writer.row.release()
        self.writer.unmap()
        self.reader.close()

    def records(self) -> list[LogRecord]:
        return list(self.reader.records())

    def run_jobs(self, *calls: tuple[Any, ...], batch: int = BATCH) -> list[LogRecord]:
        """Each call is (fn, *args); an empty one stands for a job whose future was cancelled."""
        payloads = [codec.pack_call(call[0], call[1:], {}) if call else b"" for call in calls]
        header = [(f"job {n}", 1, None, None, len(payload)) for n, payload in enumerate(payloads)]
        self.runner.run_jobs(batch, memoryview(b"".join(wire.body_parts(header, payloads))))
        return self.records()

    def run_span(
        self,
        fn: Callable[..., Any],
        items: list[Any],
        first: int = 0,
        stop: int | None = None,
        *,
        star: bool = False,
        names: list[str] | None = None,
    ) -> list[LogRecord]:
        packed = codec.dumps(fn)
        self.blocks[0, len(packed)] = packed
        flags = bytearray(names is None and type(item) not in codec.ATOMS for item in items)
        values = [codec.dumps(item) if flag else item for item, flag in zip(items, flags, strict=True)]
        payload = codec.dump_values(values, flags if any(flags) else None)
        stop = len(items) if stop is None else stop
        header = (id(fn), 0, len(packed), first, stop, 100, star, names)
        self.runner.run_span(BATCH, memoryview(b"".join(wire.body_parts(header, [payload]))))
        return self.records()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def summary(records: list[LogRecord]) -> list[Any]:
    """What was logged, readably; the values of spans one by one, by their index."""
    found: list[Any] = []
    for record in records:
        if record.kind == wire.VALUE:
            found.append((record.index, codec.loads(record.blob)))
        elif record.kind == wire.VALUES:
            values, flags, _ = codec.load_values(record.blob)
            assert record.count == len(values)
            for at, value in enumerate(values):
                found.append((record.index + at, codec.loads(value) if flags and flags[at] else value))
        elif record.kind == wire.ERROR:
            error = unpack_error(record.blob, "note")
            found.append((record.index, f"{type(error).__name__}: {error}"))
        else:
            names = {wire.SKIPPED: "skipped", wire.GAVE_BACK: "gave back", wire.INTERRUPTED: "interrupted"}
            found.append((record.index, names[record.kind]))
        assert record.batch == BATCH
    return found


# ---- jobs ------------------------------------------------------------------------------------------------


def test_each_job_is_logged_by_itself_in_order(bench: Bench) -> None:
    records = bench.run_jobs((jobs.echo, 1), (jobs.double, "ab"), (jobs.echo, None))
    assert summary(records) == [(0, 1), (1, "abab"), (2, None)]
    assert all(record.started_at <= monotonic() and record.duration >= 0 for record in records)
    assert records[0].peak_memory > 1 << 20
    assert bench.rung >= 1


def test_a_job_is_logged_before_the_next_one_starts(bench: Bench) -> None:
    seen: list[Any] = []
    jobs.hooks["now"] = lambda n: seen.append((n, summary(bench.records()), bench.reader.started()[:2]))
    bench.run_jobs(*((jobs.call_hook, n) for n in range(3)))
    assert seen == [(0, [], (BATCH, 0)), (1, [(0, 0)], (BATCH, 1)), (2, [(1, 1)], (BATCH, 2))]


def test_errors_are_logged_and_the_next_job_runs(bench: Bench) -> None:
    records = bench.run_jobs((jobs.fail_on_odd, 1), (jobs.exit_on_three, 3), (jobs.echo, "next"))
    assert summary(records) == [(0, "ValueError: 1 is odd"), (1, "SystemExit: 3"), (2, "next")]


def test_what_cannot_be_pickled_either_way_is_that_jobs_error(bench: Bench) -> None:
    records = bench.run_jobs((jobs.unpicklable_on_two, 2), (jobs.echo, 1))
    assert summary(records) == [(0, "TypeError: stays at home"), (1, 1)]
    header = [("broken", 1, None, None, 7)]
    bench.runner.run_jobs(BATCH, memoryview(b"".join(wire.body_parts(header, [b"rubbish"]))))
    (found,) = summary(bench.records())
    assert "Unpickling" in found[1]


def test_an_empty_payload_is_skipped(bench: Bench) -> None:
    assert summary(bench.run_jobs((jobs.echo, 1), (), (jobs.echo, 3))) == [(0, 1), (1, "skipped"), (2, 3)]


def test_a_revoked_batch_is_given_back_from_the_first_job_not_started(bench: Bench) -> None:
    def revoke(n: int) -> None:
        if n == 1:
            bench.reader.words[wire.REVOKED] = BATCH

    jobs.hooks["now"] = revoke
    records = bench.run_jobs(*((jobs.call_hook, n) for n in range(5)))
    assert summary(records) == [(0, 0), (1, 1), (2, "gave back")]


def test_a_revocation_of_another_batch_means_nothing(bench: Bench) -> None:
    bench.reader.words[wire.REVOKED] = BATCH + 1
    assert summary(bench.run_jobs((jobs.echo, 1))) == [(0, 1)]


def test_a_limit_of_tasks_gives_the_rest_back() -> None:
    bench = Bench(max_tasks=3)
    try:
        assert summary(bench.run_jobs((jobs.echo, 1), (jobs.echo, 2))) == [(0, 1), (1, 2)]
        assert not bench.runner.leaving
        records = bench.run_jobs((jobs.echo, 3), (jobs.echo, 4))
        assert summary(records) == [(0, 3), (1, "gave back")]
        assert bench.runner.leaving
    finally:
        bench.close()


def test_current_job_is_there_in_a_job_only(bench: Bench) -> None:
    seen: list[Any] = []
    jobs.hooks["now"] = lambda n: seen.append(bench.runner.describe())
    bench.run_jobs((jobs.call_hook, 0))
    assert (seen[0].id, seen[0].attempt, seen[0].remaining(), seen[0].cancelled) == ("job 0", 1, None, False)
    assert bench.runner.describe() is None


# ---- interrupts ------------------------------------------------------------------------------------------


def interrupt(bench: Bench, batch: int = BATCH, index: int | None = None) -> Callable[[int], None]:
    """A hook that asks for an interrupt of the item that runs, or another one, as the parent does."""

    def now(n: int) -> None:
        bench.reader.words[wire.INTERRUPT] = wire.started_word(batch, n if index is None else index)
        bench.runner.on_signal(0, None)

    return now


def test_an_interrupt_ends_the_job_that_runs_and_says_where(bench: Bench) -> None:
    jobs.hooks["now"] = interrupt(bench)
    records = bench.run_jobs((jobs.call_hook, 0), (jobs.echo, 1))
    assert summary(records) == [(0, "interrupted"), (1, 1)]
    assert b"call_hook" in bytes(records[0].blob)


@pytest.mark.parametrize(("batch", "index"), [(BATCH, 1), (BATCH - 1, 0), (BATCH + 1, 0)])
def test_an_interrupt_that_is_meant_for_another_item_means_nothing(bench: Bench, batch: int, index: int) -> None:
    jobs.hooks["now"] = interrupt(bench, batch, index)
    assert summary(bench.run_jobs((jobs.call_hook, 0))) == [(0, 0)]


def test_a_signal_outside_a_job_means_nothing(bench: Bench) -> None:
    bench.run_jobs((jobs.echo, 0))
    bench.reader.words[wire.INTERRUPT] = wire.started_word(BATCH, 0)
    bench.runner.on_signal(0, None)


def test_one_request_interrupts_once(bench: Bench) -> None:
    caught = []

    def now(n: int) -> None:
        try:
            interrupt(bench)(n)
        except JobInterrupt as error:
            caught.append(error)
        bench.runner.on_signal(0, None)

    jobs.hooks["now"] = now
    assert summary(bench.run_jobs((jobs.call_hook, 0))) == [(0, 0)]
    assert len(caught) == 1


def test_an_interrupt_that_the_job_raises_itself_is_its_own_error(bench: Bench) -> None:
    (found,) = summary(bench.run_jobs((jobs.raise_interrupt,)))
    assert found[1].startswith("JobInterrupt: the job raises this by itself")


# ---- spans -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 100, 5000])
def test_all_values_of_a_span_in_order(bench: Bench, count: int) -> None:
    assert summary(bench.run_span(jobs.double, list(range(count)))) == [(n, 2 * n) for n in range(count)]


def test_a_part_of_a_payload_counts_from_its_own_start(bench: Bench) -> None:
    assert summary(bench.run_span(jobs.double, list(range(10)), 3, 7)) == [(n, 2 * (n + 3)) for n in range(4)]


def test_arguments_and_values_that_are_no_atoms(bench: Bench) -> None:
    items: list[Any] = [1, [2], "x", {"a": 1}, None, (1, 2), b"y", ValueError]
    assert summary(bench.run_span(jobs.echo, items)) == list(enumerate(items))


def test_several_arguments(bench: Bench) -> None:
    assert summary(bench.run_span(jobs.echo, [(1,), ("a",), ([2],)], star=True)) == [(0, 1), (1, "a"), (2, [2])]


def test_values_are_what_they_were_when_they_were_returned(bench: Bench) -> None:
    found = summary(bench.run_span(jobs.grow, list(range(50))))
    assert found == [(n, list(range(n + 1))) for n in range(50)]


@pytest.mark.parametrize("count", [2, 3, 50, 1001])
def test_errors_keep_their_places_and_so_do_the_values_behind_them(bench: Bench, count: int) -> None:
    expected = [(n, f"ValueError: {n} is odd" if n % 2 else n) for n in range(count)]
    assert summary(bench.run_span(jobs.fail_on_odd, list(range(count)))) == expected


def test_a_value_that_cannot_be_pickled_is_that_calls_error(bench: Bench) -> None:
    found = summary(bench.run_span(jobs.unpicklable_on_two, list(range(5))))
    assert found == [(0, [0]), (1, [1]), (2, "TypeError: stays at home"), (3, [3]), (4, [4])]


def test_a_function_that_cannot_be_unpickled_fails_each_call(bench: Bench) -> None:
    bench.blocks[0, 7] = b"rubbish"
    header = (12345, 0, 7, 0, 3, 100, False, None)
    payload = codec.dump_values([1, 2, 3], None)
    bench.runner.run_span(BATCH, memoryview(b"".join(wire.body_parts(header, [payload]))))
    found = summary(bench.records())
    assert [index for index, _ in found] == [0, 1, 2]
    assert all("Unpickling" in text for _, text in found)


@pytest.mark.parametrize("at", [0, 1, 7, 49])
def test_a_revoked_span_is_given_back_from_the_first_call_not_started(bench: Bench, at: int) -> None:
    def revoke(n: int) -> None:
        if n == at:
            bench.reader.words[wire.REVOKED] = BATCH

    jobs.hooks["now"] = revoke
    found = summary(bench.run_span(jobs.call_hook, list(range(50))))
    expected: list[Any] = [(n, n) for n in range(at + 1)]
    assert found == ([*expected, (at + 1, "gave back")] if at < 49 else expected)


def test_a_span_stops_at_the_limit_of_tasks() -> None:
    bench = Bench(max_tasks=13)
    try:
        found = summary(bench.run_span(jobs.double, list(range(50))))
        assert found == [*((n, 2 * n) for n in range(13)), (13, "gave back")]
        assert bench.runner.leaving
    finally:
        bench.close()


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("at", [0, 1, 5, 30])
def test_a_flush_logs_what_is_held_and_loses_nothing(bench: Bench, at: int, boxed: bool) -> None:
    seen: list[Any] = []

    def flush(n: int) -> None:
        if n == at:
            bench.reader.words[wire.FLUSH] = BATCH
            bench.runner.on_signal(0, None)
            seen.extend(summary(bench.records()))

    jobs.hooks["now"] = flush
    body = jobs.call_hook_and_box if boxed else jobs.call_hook
    later = summary(bench.run_span(body, list(range(50))))
    assert seen == [(n, [n] if boxed else n) for n in range(at)]
    assert seen + later == [(n, [n] if boxed else n) for n in range(50)]


@pytest.mark.parametrize("boxed", [False, True])
def test_a_group_that_is_too_slow_ends_with_the_call_that_runs(
    bench: Bench, boxed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its values were asked for: from then on each is logged when it is there, until the calls are fast again."""
    clock = itertools.count()
    monkeypatch.setattr(running, "monotonic", lambda: 0.0)
    seen: list[Any] = []

    def hear(n: int) -> None:
        seen.append(len(summary(bench.records())))
        if n == 2000:
            monkeypatch.setattr(running, "monotonic", lambda: float(next(clock)))
            bench.reader.words[wire.FLUSH] = BATCH
            bench.runner.on_signal(0, None)

    jobs.hooks["now"] = hear
    bench.run_span(jobs.call_hook_and_box if boxed else jobs.call_hook, list(range(2100)))
    assert 0 in seen[1990:2000]  # held back
    assert seen[2003:] == [1] * len(seen[2003:])


def test_carries_the_size_of_a_group_to_the_next_span(bench: Bench) -> None:
    bench.run_span(jobs.double, list(range(3000)))
    records = bench.run_span(jobs.double, list(range(500)))
    assert len([record for record in records if record.kind == wire.VALUES]) < 5


@pytest.mark.parametrize("count", [255, 256, 257, 700])
def test_marks_every_call_that_starts(bench: Bench, count: int) -> None:
    seen: list[int] = []
    jobs.hooks["now"] = lambda n: seen.append(wire.split_started(bench.reader.words[wire.STARTED])[1] - n)
    bench.run_span(jobs.call_hook, list(range(count)))
    assert seen == [0] * count


@pytest.mark.parametrize("at", [0, 3, 254, 255, 256, 511])
def test_a_revocation_stops_at_the_next_call(bench: Bench, at: int) -> None:
    def revoke(n: int) -> None:
        if n == at:
            bench.reader.words[wire.REVOKED] = BATCH

    jobs.hooks["now"] = revoke
    found = summary(bench.run_span(jobs.call_hook, list(range(600))))
    assert found == [*((n, n) for n in range(at + 1)), (at + 1, "gave back")]


def test_a_revocation_of_an_older_batch_is_nothing(bench: Bench) -> None:
    bench.reader.words[wire.REVOKED] = BATCH + 256  # its low byte is the same
    assert summary(bench.run_span(jobs.double, list(range(300)))) == [(n, 2 * n) for n in range(300)]


# ---- jobs of a span ------------------------------------------------------------------------------------------


def safe(bench: Bench, told: list[Any]) -> list[Any]:
    """The values that the parent would have after a death now; `told` is what it has taken from the log before."""
    told += summary(bench.records())
    batch, first, segments = bench.reader.unlogged()
    assert batch == BATCH or not segments
    values: list[Any] = []
    for count, blob in segments:
        some, flags, _ = codec.load_values(blob) if count else ([blob], b"\1", None)
        assert len(some) == max(1, count)
        values += [codec.loads(value) if flags and flags[at] else value for at, value in enumerate(some)]
    return told + list(enumerate(values, first))


@pytest.mark.parametrize("size", [1, 1000, 3000, 5000])
@pytest.mark.parametrize("boxed", [False, True])
def test_the_value_of_a_job_is_safe_before_the_next_starts(bench: Bench, size: int, boxed: bool) -> None:
    """Also when the pending area is full, or is too small for it."""
    told: list[Any] = []
    wrong: list[Any] = []

    def look(text: str) -> None:
        n = int(text[:3])
        values = [f"{at:03}" + "x" * size for at in range(n)]
        expected = [(at, [value] if boxed else value) for at, value in enumerate(values)]
        if safe(bench, told) != expected:
            wrong.append((n, safe(bench, told)[-1:]))

    jobs.hooks["now"] = look
    items = [(f"{n:03}" + "x" * size,) for n in range(40)]
    body = jobs.call_hook_and_box if boxed else jobs.call_hook
    told += summary(bench.run_span(body, items, star=True, names=[f"job {n}" for n in range(40)]))
    assert wrong == []
    assert [index for index, _ in told] == list(range(40))
    assert bench.reader.unlogged()[2] == []


def test_a_flush_and_an_error_among_jobs(bench: Bench) -> None:
    told: list[Any] = []

    def flush(n: int) -> None:
        if n == 3:
            bench.reader.words[wire.FLUSH] = BATCH
            bench.runner.on_signal(0, None)
            told.extend(summary(bench.records()))
        if n == 5:
            raise ValueError("no")

    jobs.hooks["now"] = flush
    later = bench.run_span(jobs.call_hook, [(n,) for n in range(8)], star=True, names=list("abcdefgh"))
    assert told == [(0, 0), (1, 1), (2, 2)]
    assert summary(later) == [(3, 3), (4, 4), (5, "ValueError: no"), (6, 6), (7, 7)]
    for record in later:
        assert record.started_at > 0
        assert record.duration >= 0


def test_times_of_jobs(bench: Bench) -> None:
    before = monotonic()
    (record,) = bench.run_span(jobs.double, [(n,) for n in range(1)], star=True, names=["a"])
    _, _, times = codec.load_values(record.blob)
    started, ended = array("d", times or b"")
    assert before <= started <= ended <= monotonic()


def test_a_job_of_a_span_knows_its_id(bench: Bench) -> None:
    seen: list[Any] = []
    jobs.hooks["now"] = lambda n: seen.append(bench.runner.describe().id)  # type: ignore[union-attr]
    bench.run_span(jobs.call_hook, [(n,) for n in range(6)], 2, 5, star=True, names=["c", "d", "e"])
    assert seen == ["c", "d", "e"]


@pytest.mark.parametrize("body", [jobs.double, jobs.grow, jobs.fail_on_odd])
def test_a_flush_at_any_line_of_the_runner_loses_nothing(body: Callable[[int], Any]) -> None:
    """The signal may come between any two steps: here it comes at every line, of one span each."""

    count, line = 6, 0
    expected = None
    while True:
        bench = Bench()
        reached = FlushAtLine(bench, line)
        bench.reader.words[wire.FLUSH] = BATCH
        sys.settrace(reached.trace)
        try:
            records = bench.run_span(body, list(range(count)))
        finally:
            sys.settrace(None)
        found = summary(records)
        bench.close()
        expected = expected or [
            (n, (f"ValueError: {n} is odd" if n % 2 else n) if body is jobs.fail_on_odd else
             list(range(n + 1)) if body is jobs.grow else 2 * n)
            for n in range(count)
        ]  # fmt: skip
        assert found == expected, f"a flush at line {reached.where}"
        if not reached.done:
            assert line > 50, "the trace saw nothing"
            return
        line += 1


class FlushAtLine:
    def __init__(self, bench: Bench, line: int) -> None:
        self.left = line
        self.done = False
        self.where = ""
        self.bench = bench

    def trace(self, frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.endswith("mpengine/runtime/running.py"):
            return None
        if frame.f_code.co_name in ("on_signal", "log", "_ring"):
            return None
        if event == "line" and not self.done:
            if not self.left:
                self.done = True
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                self.bench.runner.on_signal(0, None)
            self.left -= 1
        return self.trace


@pytest.mark.parametrize("at", [0, 3, 20])
def test_an_interrupted_call_of_a_span_is_logged_after_those_before_it(bench: Bench, at: int) -> None:
    hook = interrupt(bench)
    jobs.hooks["now"] = lambda n: hook(n) if n == at else None
    found = summary(bench.run_span(jobs.call_hook, list(range(30))))
    assert found == [(n, "interrupted" if n == at else n) for n in range(30)]


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize(("seconds", "logged"), [(0.0002, False), (1.5 * running.RING_S, True)])
def test_the_value_of_a_call_of_some_length_is_safe_before_the_next_starts(
    bench: Bench, seconds: float, logged: bool, boxed: bool
) -> None:
    """And in the log, if it is as long as results may wait for that."""
    told: list[Any] = []
    seen: list[int] = []

    def slow(n: int) -> None:
        until = monotonic() + seconds
        while monotonic() < until:
            pass
        assert safe(bench, told)[:n] == [(at, [at] if boxed else at) for at in range(n)]
        seen.append(n - len(told))

    jobs.hooks["now"] = slow
    bench.run_span(jobs.call_hook_and_box if boxed else jobs.call_hook, list(range(20)))
    assert (max(seen[5:]) == 0) == logged


@pytest.mark.parametrize("boxed", [False, True])
def test_values_of_short_calls_are_safe_group_by_group(
    bench: Bench, boxed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "RING_S", 60.0)  # nothing is logged, unless there is no room for it
    monkeypatch.setattr(running, "SHORT_S", 60.0)
    monkeypatch.setattr(running, "MAX_GROUP", 16)
    told: list[Any] = []
    unsafe: list[int] = []

    def look(n: int) -> None:
        values = safe(bench, told)
        assert values == [(at, [at] if boxed else at) for at in range(len(values))]
        unsafe.append(n - len(values))

    jobs.hooks["now"] = look
    told += summary(bench.run_span(jobs.call_hook_and_box if boxed else jobs.call_hook, list(range(400))))
    assert max(unsafe) < 16
    assert [index for index, _ in told] == list(range(400))


def test_an_error_record_can_always_be_read(bench: Bench) -> None:
    record = bench.run_jobs((jobs.fail_on_odd, 3))[0]
    pickled, name, text, shown = pickle.loads(record.blob)
    assert type(pickle.loads(pickled)) is ValueError
    assert (name, text) == ("builtins.ValueError", "3 is odd")
    assert "running.py" not in shown


# ---- what the parent wants between two batches -------------------------------------------------------------


def test_a_wish_to_give_memory_back_waits_for_the_end_of_the_one_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come by a signal, whose handler may run between any two steps: also of itself."""
    depth = deepest = rounds = 0

    def cool() -> bool:
        nonlocal depth, deepest, rounds
        depth += 1
        deepest = max(deepest, depth)
        if rounds < 3:
            rounds += 1
            bench.writer.words[wire.LEAN] += 1
            bench.runner.on_signal(0, None)
        depth -= 1
        return False

    monkeypatch.setattr(bench.writer.segment, "cool", cool)
    bench.runner.rest()
    assert (bench.runner.idle, rounds) == (True, 0)
    bench.writer.words[wire.LEAN] += 1
    bench.runner.on_signal(0, None)
    assert (bench.runner.idle, rounds, deepest) == (True, 3, 1)


def test_a_wish_that_came_while_a_job_ran_is_heard_after_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    cooled: list[bool] = []
    monkeypatch.setattr(bench.writer.segment, "cool", lambda: cooled.append(bench.runner.idle))
    bench.writer.words[wire.LEAN] += 1
    bench.runner.on_signal(0, None)
    assert not cooled
    bench.runner.rest()
    assert cooled == [False]


def as_if_to_fork() -> str:
    reader.before_fork()
    return "forked"


def test_no_interrupt_is_raised_in_what_a_fork_waits_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would swallow it there, and fork with memory that both write to."""

    class Forking:
        done = False

        def make_private(self) -> None:
            bench.writer.words[wire.INTERRUPT] = bench.writer.words[wire.STARTED]
            bench.runner.on_signal(0, sys._getframe())
            self.done = True

    forking = Forking()

    monkeypatch.setattr(reader, "_readers", [forking])
    assert summary(bench.run_jobs((as_if_to_fork,))) == [(0, "forked")]
    reader._no_fork.release()
    assert forking.done


def test_what_a_fork_waits_for_is_done_whatever_comes_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    class Disturbed:
        def __init__(self, number: int, error: type[BaseException]) -> None:
            self.number = number
            self.error = error
            self.came = False

        def make_private(self) -> None:
            if not self.came:
                self.came = True
                raise self.error
            done.append(self.number)

    monkeypatch.setattr(
        reader, "_readers", [Disturbed(1, OSError), Disturbed(2, KeyboardInterrupt), Disturbed(3, OSError)]
    )
    with pytest.raises(OSError):
        reader.before_fork()
    reader._no_fork.release()
    assert done == [2]
