"""Rules of thumb: retries, backoff, when to give up on starting workers, how to stop them."""

import math

import pytest

from mpengine.core.job import Backoff, RetryOn
from mpengine.core.policy import (
    KILL_GRACE_S,
    MAX_BACKOFF_S,
    PILL_GRACE_S,
    TERMINATE_GRACE_S,
    RestartIntensity,
    StopLadder,
    backoff_delay,
    may_retry,
)
from mpengine.errors import JobExpired, JobLost

# ---- retries ---------------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> RetryOn:
    def predicate(_: BaseException) -> bool:
        raise error

    return predicate


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), JobLost(), JobExpired()])
def test_unless_told_otherwise_every_bad_end_may_be_retried(error: BaseException) -> None:
    assert may_retry(None, error)


@pytest.mark.parametrize(
    ("retry_on", "error", "allowed"),
    [
        (ValueError, ValueError(), True),
        (ValueError, UnicodeError(), True),  # a subclass
        (ValueError, KeyError(), False),
        ((OSError, JobLost), JobLost(), True),
        ((OSError, JobLost), ValueError(), False),
        ((), ValueError(), False),
        (lambda error: error.args == (1,), ValueError(1), True),
        (lambda error: error.args == (1,), ValueError(2), False),
        (lambda error: "yes", ValueError(), True),
        (lambda error: None, ValueError(), False),
    ],
)
def test_the_owner_says_what_is_retried(retry_on: RetryOn, error: BaseException, allowed: bool) -> None:
    assert may_retry(retry_on, error) is allowed


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(), KeyboardInterrupt(), GeneratorExit()])
def test_a_predicate_that_raises_allows_nothing(error: BaseException) -> None:
    assert may_retry(raising(error), ValueError()) is False


# ---- backoff ---------------------------------------------------------------------------------------------------------


def delay(backoff: Backoff, attempt: int, jitter: float = 0.0) -> float:
    return backoff_delay(backoff, attempt, lambda: jitter)


@pytest.mark.parametrize("backoff", [0, 0.0, -1.0])
def test_without_a_backoff_there_is_no_delay(backoff: float) -> None:
    assert delay(backoff, 1, 0.9) == 0.0


def test_the_delay_doubles_with_each_attempt() -> None:
    assert [delay(1.0, attempt, 1.0) for attempt in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]


def test_half_of_the_delay_is_random() -> None:
    assert [delay(4.0, 1, jitter) for jitter in (0.0, 0.5, 1.0)] == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(("backoff", "attempt"), [(1.0, 60), (1.0, 10**6), (1e300, 1), (math.inf, 3)])
def test_the_delay_stops_growing(backoff: float, attempt: int) -> None:
    assert delay(backoff, attempt, 1.0) == MAX_BACKOFF_S


def test_a_function_says_how_long_and_nothing_is_added() -> None:
    assert [delay(lambda attempt: attempt * 1.5, attempt, 0.9) for attempt in (1, 2)] == [1.5, 3.0]


def returning(value: object) -> Backoff:
    return lambda attempt: value  # type: ignore[return-value]


@pytest.mark.parametrize("value", [-3, "no number", None, math.nan])
def test_a_function_that_returns_nonsense_means_no_delay(value: object) -> None:
    assert delay(returning(value), 1) == 0.0


@pytest.mark.parametrize("value", [math.inf, 1e300])
def test_a_function_cannot_ask_for_ever(value: float) -> None:
    assert delay(returning(value), 1) == MAX_BACKOFF_S


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_a_function_that_raises_means_no_delay(error: type[BaseException]) -> None:
    def backoff(attempt: int) -> float:
        raise error

    assert delay(backoff, 1) == 0.0


# ---- restart intensity -----------------------------------------------------------------------------------------------


def failures(intensity: RestartIntensity, *times: float, killed: bool = False) -> list[bool]:
    return [intensity.failed(now, killed=killed) for now in times]


def test_more_failures_than_the_limit_within_the_period_are_too_many() -> None:
    intensity = RestartIntensity(limit=3, period=10.0, patience=30.0)
    assert failures(intensity, 0.0, 1.0, 2.0, 3.0) == [False, False, False, True]


def test_slow_failures_never_are() -> None:
    intensity = RestartIntensity(limit=3, period=10.0, patience=1e9)
    assert not any(failures(intensity, *(4.0 * number for number in range(100)), killed=True))


def test_a_finished_job_starts_the_count_anew() -> None:
    intensity = RestartIntensity(limit=2, period=10.0, patience=30.0)
    assert failures(intensity, 0.0, 0.1) == [False, False]
    intensity.succeeded()
    assert failures(intensity, 0.2, 0.3, 0.4) == [False, False, True]


def test_a_limit_of_zero_allows_none() -> None:
    assert failures(RestartIntensity(limit=0, period=10.0, patience=0.0), 5.0) == [True]


def test_workers_killed_from_outside_are_reason_only_after_a_while() -> None:
    intensity = RestartIntensity(limit=2, period=10.0, patience=30.0)
    assert not any(failures(intensity, *(0.01 * number for number in range(200)), killed=True))
    assert failures(intensity, 29.0, 29.1, 29.2, 30.0, killed=True)[-1] is True


def test_of_mixed_failures_the_workers_own_ones_count() -> None:
    intensity = RestartIntensity(limit=2, period=10.0, patience=30.0)
    failures(intensity, *(0.01 * number for number in range(50)), killed=True)
    assert failures(intensity, 0.6, 0.7, 0.8) == [False, False, True]


# ---- the way out -----------------------------------------------------------------------------------------------------


def timeline(ladder: StopLadder, *, start: float = 0.0, drained_at: float, gone_at: float) -> list[tuple[str, float]]:
    """The phases and when they are entered, if somebody asks whenever the ladder says so, or something happens."""
    now, found = start, []
    for _ in range(20):
        while True:
            phase = ladder.next_phase(now, drained=now >= drained_at, alive=0 if now >= gone_at else 2)
            if phase is None:
                break
            found.append((phase, now))
        if ladder.phase == "gone":
            return found
        ahead = [time for time in (drained_at, gone_at, ladder.wakeup()) if time is not None and time > now]
        now = min(ahead)
    raise AssertionError(f"it never ends: {found}")


NEVER = 1e9


def test_the_usual_way_out() -> None:
    assert timeline(StopLadder(), drained_at=30.0, gone_at=30.1) == [("pill", 30.0), ("gone", 30.1)]


def test_without_a_deadline_the_drain_has_no_bound() -> None:
    ladder = StopLadder()
    assert ladder.wakeup() is None
    assert ladder.next_phase(1e6, drained=False, alive=2) is None


def test_workers_that_heed_nothing_get_every_rung_with_its_grace() -> None:
    pill, terminate = 10.0 + PILL_GRACE_S, 10.0 + PILL_GRACE_S + TERMINATE_GRACE_S
    assert timeline(StopLadder(), drained_at=10.0, gone_at=NEVER) == [
        ("pill", 10.0),
        ("terminate", pill),
        ("kill", terminate),
        ("gone", terminate + KILL_GRACE_S),
    ]


def test_workers_that_go_when_terminated_are_not_killed() -> None:
    found = timeline(StopLadder(), drained_at=0.0, gone_at=PILL_GRACE_S + 0.1)
    assert [phase for phase, _ in found] == ["pill", "terminate", "gone"]


def test_a_late_drain_gets_no_pill() -> None:
    ladder = StopLadder()
    ladder.hurry(5.0)
    found = timeline(ladder, drained_at=NEVER, gone_at=NEVER)
    assert found[0] == ("terminate", 5.0)
    assert [phase for phase, _ in found] == ["terminate", "kill", "gone"]
    assert found[-1][1] <= 5.0 + TERMINATE_GRACE_S + KILL_GRACE_S


def test_a_deadline_cuts_the_pills_time() -> None:
    ladder = StopLadder()
    ladder.hurry(5.0)
    found = timeline(ladder, drained_at=4.0, gone_at=NEVER)
    assert found[:2] == [("pill", 4.0), ("terminate", 5.0)]
    assert found[-1][1] <= 5.0 + TERMINATE_GRACE_S + KILL_GRACE_S


def test_a_deadline_of_now_terminates_at_once() -> None:
    ladder = StopLadder()
    ladder.hurry(0.0)
    found = timeline(ladder, drained_at=NEVER, gone_at=NEVER)
    assert found[0] == ("terminate", 0.0)
    assert found[-1][0] == "gone"


def test_a_deadline_of_now_lets_a_drained_engine_go_by_pill_first() -> None:
    ladder = StopLadder()
    ladder.hurry(0.0)
    assert timeline(ladder, drained_at=0.0, gone_at=NEVER)[:2] == [("pill", 0.0), ("terminate", 0.0)]


def test_a_later_caller_may_hurry_it_but_not_slow_it_down() -> None:
    ladder = StopLadder()
    assert ladder.next_phase(0.0, drained=True, alive=1) == "pill"
    ladder.hurry(1.0)
    ladder.hurry(3.0)
    assert ladder.deadline == 1.0
    assert ladder.wakeup() == 1.0
    assert ladder.next_phase(0.9, drained=True, alive=1) is None
    assert ladder.next_phase(1.0, drained=True, alive=1) == "terminate"


def test_nobody_can_cut_the_grace_after_the_kill() -> None:
    ladder = StopLadder()
    for now in (0.0, PILL_GRACE_S, PILL_GRACE_S + TERMINATE_GRACE_S):
        ladder.next_phase(now, drained=True, alive=1)
    assert ladder.phase == "kill"
    ladder.hurry(0.0)
    assert ladder.next_phase(PILL_GRACE_S + TERMINATE_GRACE_S, drained=True, alive=1) is None


def test_without_workers_a_drain_goes_on_until_replacements_have_done_the_rest() -> None:
    ladder = StopLadder()
    assert ladder.next_phase(0.0, drained=False, alive=0) is None
    assert ladder.next_phase(1.0, drained=True, alive=0) == "gone"


def test_gone_is_told_once() -> None:
    ladder = StopLadder()
    assert ladder.next_phase(0.0, drained=True, alive=0) == "gone"
    assert ladder.next_phase(1.0, drained=True, alive=0) is None
    assert ladder.wakeup() is None
