"""From the backlog to batches: how many jobs travel together."""

from typing import Any

import pytest

from mpengine.core.backlog import Backlog
from mpengine.core.forming import LEAST_S, MAX_BYTES, SHORT_S, form_batch
from mpengine.core.pace import MAX_ITEMS, TARGET_S, Pace
from mpengine.core.records import Batch, Record, Span
from tests.core.makers import KEY, make_record, make_span

OTHER = KEY + 1


def backlog_of(*entries: Record | Span) -> Backlog:
    backlog = Backlog()
    for entry in entries:
        backlog.push(entry)
    return backlog


def many(count: int, **about: Any) -> list[Record]:
    return [make_record(**about) for _ in range(count)]


def pace_of(seconds: float | None, key: int = KEY) -> Pace:
    pace = Pace()
    if seconds is not None:
        pace.observe(key, 1, seconds)
    return pace


def formed(backlog: Backlog, pace: Pace, *, workers: int = 1, ahead: bool = False) -> Batch | None:
    return form_batch(backlog, pace, 1, workers, 0.0, ahead=ahead)


def sizes(backlog: Backlog, pace: Pace, *, workers: int = 1) -> list[int]:
    """The sizes of all batches that the backlog makes."""
    found = []
    while (batch := formed(backlog, pace, workers=workers)) is not None:
        found.append(batch.size)
    return found


def test_nothing_waits_nothing_is_sent() -> None:
    assert formed(Backlog(), Pace()) is None


def test_jobs_of_an_unknown_function_travel_alone() -> None:
    assert sizes(backlog_of(*many(4)), pace_of(None)) == [1, 1, 1, 1]


def test_no_batch_holds_more_than_the_target_time() -> None:
    batch = formed(backlog_of(*many(1000)), pace_of(TARGET_S / 10))
    assert batch is not None
    assert batch.size in (9, 10)


def test_long_jobs_travel_alone() -> None:
    assert sizes(backlog_of(*many(3)), pace_of(1.0)) == [1, 1, 1]


def test_a_batch_is_at_most_half_of_a_fair_share() -> None:
    batch = formed(backlog_of(*many(16)), pace_of(SHORT_S), workers=4)
    assert batch is not None
    assert batch.size == 2  # of 4 for each worker


def test_of_tiny_jobs_nobody_goes_short() -> None:
    """Half a millisecond of work is not worth sharing."""
    backlog = backlog_of(*many(100))
    assert sizes(backlog, pace_of(LEAST_S / 1000), workers=8) == [100]


def test_a_batch_of_free_jobs_is_bounded() -> None:
    batch = formed(backlog_of(*many(2 * MAX_ITEMS)), pace_of(1e-9))
    assert batch is not None
    assert batch.size == MAX_ITEMS


def test_a_large_payload_travels_alone() -> None:
    small, large = make_record(), make_record(size=MAX_BYTES + 1)
    backlog = backlog_of(small, large, make_record(), make_record())
    assert sizes(backlog, pace_of(1e-6)) == [1, 1, 2]


def test_payloads_of_one_batch_have_a_bounded_size() -> None:
    assert sizes(backlog_of(*many(6, size=MAX_BYTES // 3)), pace_of(1e-6)) == [3, 3]


@pytest.mark.parametrize("unknown_first", [True, False])
def test_known_jobs_do_not_wait_for_one_of_an_unknown_function(unknown_first: bool) -> None:
    known, unknown = make_record(), make_record(key=OTHER)
    entries = [unknown, known] if unknown_first else [known, unknown]
    assert sizes(backlog_of(*entries), pace_of(1e-6)) == [1, 1]


def test_different_known_functions_travel_together() -> None:
    pace = pace_of(1e-6)
    pace.observe(OTHER, 1, 1e-6)
    assert sizes(backlog_of(make_record(), make_record(key=OTHER)), pace) == [2]


def test_priorities_do_not_mix() -> None:
    backlog = backlog_of(*many(3), *many(2, priority=4))
    assert sizes(backlog, pace_of(1e-6)) == [2, 3]


def test_a_span_is_one_batch_and_ends_one_of_jobs() -> None:
    span = make_span(70)
    backlog = backlog_of(make_record(), span, make_record())
    batches = [formed(backlog, pace_of(1e-6)) for _ in range(3)]
    assert [batch.span if batch else None for batch in batches] == [None, span, None]
    assert [batch.size if batch else 0 for batch in batches] == [1, 70, 1]


def test_a_span_that_is_more_than_a_share_is_cut_into_parts_of_one_length() -> None:
    pace = pace_of(LEAST_S / 10)
    span = make_span(100)
    backlog = backlog_of(span)
    parts = []
    while (batch := formed(backlog, pace, workers=2)) is not None:
        assert batch.span is not None
        parts.append((batch.span.first, batch.span.stop))
    assert [stop - first for first, stop in parts] == [25, 19, 14, 11, 11, 10, 10]
    assert [first for first, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == 100
    assert backlog.calls == 0


def test_a_span_that_is_a_little_long_by_now_leaves_no_sliver() -> None:
    backlog = backlog_of(make_span(100), *(make_span(100) for _ in range(20)))
    assert sizes(backlog, pace_of(TARGET_S / 98))[:3] == [100, 100, 100]


def test_a_call_of_which_nothing_is_known_is_cut_off_a_span() -> None:
    assert sizes(backlog_of(make_span(3)), pace_of(None)) == [1, 1, 1]


def test_less_than_a_millisecond_of_work_is_not_sent_ahead() -> None:
    pace = pace_of(SHORT_S / 10)
    few, enough = backlog_of(*many(9)), backlog_of(*many(11))
    assert formed(few, pace, ahead=True) is None
    assert len(few) == 9
    assert formed(enough, pace, ahead=True) is not None
    assert formed(few, pace, ahead=False) is not None


def test_what_is_long_or_unknown_is_sent_ahead() -> None:
    assert formed(backlog_of(make_record()), pace_of(None), ahead=True) is not None
    assert formed(backlog_of(make_record()), pace_of(1.0), ahead=True) is not None
    assert formed(backlog_of(make_span(1)), pace_of(1e-6), ahead=True) is not None
