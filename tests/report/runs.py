"""A run in which something of everything happens, and what is to be told of it."""

from __future__ import annotations

from typing import Any

from mpengine import Job
from tests.report import jobs
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, wait_for

# As hostile as a user's text gets: it must arrive as text.
NASTY = "<script>alert(1)</script><img src=http://127.0.0.1:9/x.png>&\"'\x00\ud800\n]}</pre></details>"
EXPECTED = {
    "accepted": 44, "succeeded": 35, "failed": 5, "expired": 1, "lost": 1, "cancelled": 2, "retried-attempts": 4
}  # fmt: skip


def mixed_run(make_engine: MakeEngine, gate: Gate, *observers: Any) -> None:
    """`EXPECTED` says what it comes to."""
    engine = make_engine(2)
    for observer in observers:
        engine.observe(observer)
    given = [Job(jobs.work, (n,)) for n in range(30)]
    given += [Job(jobs.fail, (NASTY,), id=f"bad {n} {NASTY}") for n in range(5)]
    given += [Job(jobs.fail_first, ("once",), id=f"second try {n}", retries=1) for n in range(4)]
    given += [Job(jobs.take, (30.0,), id="late", timeout=0.2), Job(jobs.leave, (3,), id="gone")]
    for job in given:
        engine.dispatch(job)
    assert engine.join(WAIT_S)
    engine.dispatch(Job(jobs.enter, (gate.door,), id="straggler"))
    running = engine.dispatch(Job(jobs.enter, (gate.door,), id="cancelled while it ran"))
    gate.arrivals(2)
    engine.dispatch(Job(jobs.work, (1,), id="cancelled before")).cancel(running=True)
    running.cancel(running=True)
    wait_for(lambda: engine.stats().cancelled == 2, about="two cancelled jobs")
    gate.open()
    assert engine.join(WAIT_S)
    engine.shutdown()
