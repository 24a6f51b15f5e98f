"""Large data: it crosses in shared memory, and nobody can tell, but for the time it takes."""

from __future__ import annotations

import gc

import numpy as np

from mpengine import Engine
from tests.api import array_jobs as jobs
from tests.runtime.fixtures import MakeEngine, wait_ready
from tests.support import WAIT_S, wait_for

MIB = 1 << 20


def nothing_in_use(engine: Engine) -> None:
    """Waits until no byte of shared memory is in use."""
    gc.collect()
    wait_for(lambda: engine.stats().memory.in_use == 0, about="nothing to be in use")


# ---- shared, and dropped ---------------------------------------------------------------------------------------------


def test_what_a_worker_has_opened_again_is_not_given_to_others(make_engine: MakeEngine) -> None:
    """Workers keep few shared objects rebuilt: one that was told of is let go, and opened again, by one job."""
    engine = make_engine(1)
    wait_ready(engine)
    first = engine.share(np.full(MIB, 1, np.uint8))
    engine.submit(jobs.size_of, first).result(WAIT_S)
    others = [engine.share(np.full(200_000, 2, np.uint8)) for _ in range(16)]
    engine.submit(jobs.keep, *others, first).result(WAIT_S)
    del first
    for value in range(10, 16):
        engine.submit(jobs.size_of, np.full(MIB, value, np.uint8)).result(WAIT_S)
        engine.submit(jobs.size_of, engine.share(np.full(MIB, value, np.uint8))).result(WAIT_S)
    assert engine.submit(jobs.ends_of_kept).result(WAIT_S) == [(1, 1)]
    others.clear()
    engine.submit(jobs.drop_kept).result(WAIT_S)
    nothing_in_use(engine)


def test_many_shared_objects_dropped_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    pids = wait_ready(engine)
    for _ in range(30):
        shared = [engine.share(np.ones(20_000)) for _ in range(16)]
        assert engine.submit(jobs.keep, *shared).result(WAIT_S)
        engine.submit(jobs.drop_kept).result(WAIT_S)
        shared.clear()
        nothing_in_use(engine)
    assert wait_ready(engine) == pids
