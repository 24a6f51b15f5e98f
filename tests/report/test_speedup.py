"""Known curves give back what they were made of, and noise does not move what is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpengine.report.speedup import (
    LOOP,
    Spread,
    amdahl,
    best_of,
    curve,
    karp_flatt,
    schedule,
    serial_part,
    spread,
)

parts = st.floats(0, 1)
counts = st.sets(st.integers(2, 200), min_size=1, max_size=8)
times = st.floats(1e-3, 1e4)


def by_law(serial: float, workers: set[int], one: float = 1.0) -> dict[int, float]:
    """Seconds by workers, as Amdahl has them."""
    return {n: one / amdahl(serial, n) for n in {1, *workers}}


def flat(seconds: float) -> Spread:
    return Spread(seconds, seconds, seconds, seconds, seconds)


@given(parts, counts, times)
def test_a_curve_that_follows_the_law_gives_back_its_serial_part(serial: float, workers: set[int], one: float) -> None:
    found = curve([by_law(serial, workers, one)] * 3, jobs=10, cpus=200)
    assert found.serial is not None
    assert found.serial.median == pytest.approx(serial, abs=1e-9)
    assert found.misfit == pytest.approx(0, abs=1e-9)
    for row in found.rows:
        assert row.speedup.median == pytest.approx(amdahl(serial, row.workers))
        assert row.efficiency == pytest.approx(amdahl(serial, row.workers) / row.workers)
        assert row.rate == pytest.approx(10 / row.seconds.median)
        assert row.karp_flatt is None if row.workers == 1 else row.karp_flatt == pytest.approx(serial, abs=1e-9)


@given(parts, counts, st.lists(st.floats(0.1, 10), min_size=1, max_size=7))
def test_a_machine_that_changes_from_round_to_round_moves_no_ratio(
    serial: float, workers: set[int], paces: list[float]
) -> None:
    found = curve([by_law(serial, workers, pace) for pace in paces], jobs=1, cpus=200)
    assert found.serial is not None
    assert found.serial.median == pytest.approx(serial, abs=1e-9)
    for row in found.rows:
        assert row.speedup.lowest == pytest.approx(row.speedup.highest)


@given(st.dictionaries(st.integers(1, 99), st.floats(0.01, 1000), min_size=1))
def test_a_serial_part_is_a_part_whatever_was_measured(speedups: dict[int, float]) -> None:
    found = serial_part(speedups)
    assert found is None if set(speedups) == {1} else found is not None and 0 <= found <= 1


@given(parts, counts, st.data())
def test_no_other_serial_part_is_nearer_to_the_times(other: float, workers: set[int], data: st.DataObject) -> None:
    speedups = {n: data.draw(st.floats(0.2, 300)) for n in workers}

    def squares(serial: float) -> float:
        return sum((1 / amdahl(serial, n) - 1 / speedup) ** 2 for n, speedup in speedups.items())

    found = serial_part(speedups)
    assert found is not None
    assert squares(found) <= squares(other) * (1 + 1e-9) + 1e-12


def test_one_worker_alone_tells_no_serial_part() -> None:
    found = curve([{1: 2.0}], jobs=4, cpus=8)
    assert (found.serial, found.misfit, found.best) == (None, None, 1)
    assert found.row(1).rate == 2.0


def test_more_workers_than_cpus_are_no_sign_of_a_serial_part() -> None:
    found = curve([{1: 4.0, 2: 2.0, 4: 2.0, 8: 2.0}], jobs=1, cpus=2)
    assert found.serial is not None
    assert found.serial.median == 0
    only_more = curve([{1: 4.0, 4: 2.0}], jobs=1, cpus=2)
    assert only_more.serial is None


def test_faster_than_ideal_and_slower_than_one() -> None:
    super_linear = curve([{1: 4.0, 2: 1.5}], jobs=1, cpus=2)
    slower = curve([{1: 4.0, 2: 5.0}], jobs=1, cpus=2)
    assert super_linear.serial == flat(0.0)
    assert slower.serial == flat(1.0)
    assert super_linear.row(2).karp_flatt == pytest.approx(-0.25)
    assert slower.misfit == pytest.approx(0.2)
    assert (super_linear.best, slower.best) == (2, 1)


def test_the_loop_is_no_number_of_workers() -> None:
    found = curve([{LOOP: 2.0, 1: 4.0, 2: 2.0}, {LOOP: 1.0, 1: 3.0, 2: 2.0}], jobs=1, cpus=2)
    assert [row.workers for row in found.rows] == [1, 2]
    assert [row.rate for row in found.rows] == [1 / 3.5, 1 / 2]
    assert found.loop == spread([2.0, 1.0])
    assert found.loop_speedup == spread([2.0, 3.0])
    assert (found.best, found.over_loop) == (2, spread([1.0, 0.5]))
    without = curve([{1: 4.0, 2: 2.0}], jobs=1, cpus=2)
    assert (without.loop, without.loop_speedup, without.over_loop) == (None, None, None)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([3.0], (3.0, 3.0, 3.0, 3.0, 3.0)),
        ([4.0, 2.0], (3.0, 2.5, 3.5, 2.0, 4.0)),
        ([9.0, 1.0, 3.0, 2.0, 4.0], (3.0, 2.0, 4.0, 1.0, 9.0)),
    ],
)
def test_a_spread(values: list[float], found: tuple[float, ...]) -> None:
    assert spread(values) == Spread(*found)


def test_the_best_is_the_least_that_the_rounds_cannot_tell_from_the_fastest() -> None:
    def best(*fours: float, eights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)) -> int:
        paces = (1.0, 3.0, 1.2, 2.0, 1.5)  # of a machine that has other work as well
        rounds = [
            {1: 4.0 * pace, 2: 2.0 * pace, 4: four * pace, 8: eight * pace}
            for pace, four, eight in zip(paces, fours, eights, strict=True)
        ]
        return best_of(rounds, [8, 4, 2, 1])

    assert best(1.03, 0.99, 1.02, 0.98, 1.02) == 4
    assert best(1.01, 1.01, 1.01, 1.01, 1.01) == 8
    assert best(1.01, 1.01, 1.01, 1.01, 1.01, eights=(1.0, 1.0, 9.0, 1.0, 1.0)) == 8
    assert best(1.01, 0.5, 1.01, 1.01, 1.01) == 8
    assert best_of([{1: 1.0, 2: 1.0}], [1, 2]) == 1


def test_what_karp_and_flatt_say() -> None:
    assert karp_flatt(1.0, 1) is None
    assert karp_flatt(2.0, 2) == 0
    assert karp_flatt(1.0, 4) == 1
    assert karp_flatt(1.95, 2) == pytest.approx(0.0256, abs=1e-4)


@given(st.sets(st.integers(0, 99), min_size=1), st.integers(1, 9), st.integers())
def test_every_round_has_all_and_a_steady_drift_hits_all_alike(asked: set[int], rounds: int, seed: int) -> None:
    orders = schedule(asked, rounds, seed)
    assert len(orders) == rounds
    assert all(sorted(order) == sorted(asked) for order in orders)
    assert orders == schedule(asked, rounds, seed)
    for there, back in zip(orders[::2], orders[1::2], strict=False):
        assert {n: there.index(n) + back.index(n) for n in asked} == dict.fromkeys(asked, len(asked) - 1)


def test_rounds_begin_with_different_counts() -> None:
    assert len({order[0] for order in schedule(range(8), 10)}) > 2
