"""Pace: how long calls take, and how many make a batch."""

import pytest

from mpengine.core.pace import MAX_ITEMS, MAX_KEYS, TARGET_S, Pace


def test_of_a_function_nothing_is_known_about_one_call_is_sent() -> None:
    assert Pace().seconds(1) is None
    assert Pace().calls(1) == 1


def test_as_many_calls_as_take_the_target_time() -> None:
    pace = Pace()
    pace.observe(1, 10, 10 * TARGET_S / 50)
    assert pace.seconds(1) == pytest.approx(TARGET_S / 50)
    assert pace.calls(1) in (49, 50)


def test_a_slow_call_travels_alone() -> None:
    pace = Pace()
    pace.observe(1, 1, 3600.0)
    assert pace.calls(1) == 1


@pytest.mark.parametrize("seconds", [0.0, 1e-12])
def test_free_calls_are_bounded(seconds: float) -> None:
    pace = Pace()
    pace.observe(1, 1000, seconds)
    assert pace.calls(1) == MAX_ITEMS
    assert pace.calls(1, at_most=12) == 12


@pytest.mark.parametrize("new", [1e-2, 1e-8])
def test_a_change_is_known_after_a_few_measurements_and_an_outlier_forgotten(new: float) -> None:
    pace = Pace()
    pace.observe(1, 1, 1e-5)
    pace.observe(1, 1, new)
    for _ in range(3):
        pace.observe(1, 1, 1e-5)
    assert pace.seconds(1) == pytest.approx(1e-5, rel=1.0)
    for _ in range(5):
        pace.observe(1, 1, new)
    assert pace.seconds(1) == pytest.approx(new, rel=0.25)


def test_functions_do_not_disturb_each_other() -> None:
    pace = Pace()
    pace.observe(1, 1, 1.0)
    pace.observe(2, 1, 1e-5)
    assert pace.seconds(1) == 1.0
    assert pace.calls(2) > 100


def test_its_memory_is_bounded_and_what_is_measured_now_is_known() -> None:
    pace = Pace()
    for key in range(3 * MAX_KEYS):
        pace.observe(key, 1, 1e-3)
        assert pace.seconds(key) == 1e-3
    assert sum(pace.seconds(key) is not None for key in range(3 * MAX_KEYS)) <= MAX_KEYS
