"""When what has ended reaches its owner."""

import threading
from collections.abc import Callable

from mpengine import Engine, Job
from mpengine.core.job import Status
from mpengine.wire import messages as wire
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for


def hold(engine: Engine) -> Callable[[], None]:
    """Keep the dispatcher thread from all it does; returns what lets it go on."""
    held, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        held.set()
        go_on.wait(WAIT_S)

    engine._dispatcher.post(wait)
    wait_for(held)
    return go_on.set


def test_all_that_ended_is_in_the_books_before_the_first_of_it_is_delivered(
    make_engine: MakeEngine, gate: Gate
) -> None:
    engine = make_engine(2)
    wait_ready(engine)
    seen: list[int] = []
    counts = engine._dispatcher.books.counts
    futures = [engine.dispatch(Job(jobs.enter, (gate.door,), retries=1)) for _ in range(2)]
    for future in futures:
        future.add_done_callback(lambda _: seen.append(counts[Status.SUCCEEDED]))
    gate.arrival()
    gate.arrival()
    logs = [handle.log for handle in engine._dispatcher.supervisor.handles.values()]
    before = [log._read for log in logs]
    go_on = hold(engine)
    gate.open()
    wait_for(
        lambda: all(log.words[wire.COMMITTED] > read for log, read in zip(logs, before, strict=True)), about="two ends"
    )
    go_on()
    wait_for(lambda: len(seen) == 2, about="both callbacks")
    assert seen == [2, 2]
