"""How long the parent need not listen to its workers: never so long that one of them runs out of work."""

import pytest

from mpengine.core.ledger import BRISK_S
from mpengine.core.patrol import PATROL_S
from mpengine.testing.fake_workers import End
from tests.core.makers import KEY, Scene, make_span

SECONDS = 1e-4  # a call


def test_half_of_what_each_worker_has_in_the_mean() -> None:
    scene = Scene(workers=2, seconds=SECONDS)
    scene.jobs(1000)
    sent = sum(batch.size for batch in scene.books.batches.values())
    assert scene.ledger.slack(scene.clock()) == pytest.approx(sent * SECONDS / 2 / 2)
    worker = scene.begin()
    worker.duration = SECONDS
    worker.step(End.VALUE)
    scene.fleet.collect(scene.workers[0])
    assert scene.ledger.slack(scene.clock()) == pytest.approx((sent - 1) * SECONDS / 2 / 2)


@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_none_if_a_worker_that_is_through_finds_nothing(jobs: int) -> None:
    scene = Scene(workers=2, seconds=10.0)  # each is a batch
    scene.jobs(jobs)
    assert scene.ledger.slack(scene.clock()) == 0.0
    scene.jobs(4)
    assert scene.ledger.slack(scene.clock()) > 0.0


def test_none_if_nothing_is_known() -> None:
    scene = Scene(workers=2, seconds=None)
    scene.jobs(10)
    assert len(scene.books.batches) > 2
    assert scene.ledger.slack(scene.clock()) == 0.0


def test_none_for_calls_that_cost_the_parent_as_much_as_a_worker() -> None:
    scene = Scene(workers=2, seconds=BRISK_S)
    scene.jobs(100_000)
    assert len(scene.books.batches) == 4
    assert scene.ledger.slack(scene.clock()) > 0.0
    scene = Scene(workers=2, seconds=BRISK_S / 2)
    scene.jobs(100_000)
    assert scene.ledger.slack(scene.clock()) == 0.0


def test_none_while_a_worker_was_asked_for_what_it_holds_back() -> None:
    scene = Scene(workers=1, seconds=SECONDS)
    scene.accept(make_span(500))
    scene.begin().step(End.VALUE)  # not logged
    scene.begin()
    scene.fleet.observe()
    scene.books.pace.observe(KEY, 1, SECONDS)
    assert scene.ledger.slack(scene.clock()) > 0.0
    scene.clock.advance(PATROL_S)
    assert scene.ledger.slack(scene.clock()) == 0.0
