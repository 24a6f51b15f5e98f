"""Any interleaving of ends gives the order of the input, loses nothing and tells nothing twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpengine.batch.order import Entry, Order


def entry(number: int, *, failed: bool = False) -> Entry:
    return Entry(number, f"f:{number}", b"" if failed else b"%d" % number, failed, b"payload")


@given(
    st.permutations(range(12)),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
    st.booleans(),
    st.sets(st.integers(0, 11)),
)
@settings(max_examples=300)
def test_any_interleaving(numbers: list[int], takes: list[int], ordered: bool, failed: set[int]) -> None:
    order = Order(ordered=ordered)
    out: list[int] = []
    for number, take in zip(numbers, takes, strict=True):
        assert not order.knows(number)
        order.add(entry(number, failed=number in failed))
        assert order.knows(number)
        found = order.next()[:take]
        order.took(len(found))
        out += [one.number for one in found]
        # What is known is exactly what was told, whatever has been taken of it.
        assert {n for n in range(12) if order.knows(n)} == {*numbers[: numbers.index(number) + 1]}
        assert len(order) == len(order.waiting)
        assert (order.size > 0) == (len(order) > 0)
        assert not order.gone & order.waiting.keys()
    rest = [*order.next()]
    order.took(len(rest))
    out += [one.number for one in rest]
    assert out == sorted(numbers) if ordered else sorted(out) == sorted(numbers)
    assert (order.mark, order.waiting, order.gone, order.size) == (12, {}, set(), 0)


@given(st.permutations(range(8)), st.integers(0, 8), st.booleans())
def test_a_run_that_goes_on_ends_like_one_that_was_not_cut_off(numbers: list[int], cut: int, ordered: bool) -> None:
    first = Order(ordered=ordered)
    for number in numbers[:cut]:
        first.add(entry(number))
    taken = first.next()[: cut // 2]
    first.took(len(taken))
    second = Order(first.mark, first.gone, first.waiting.values(), ordered=ordered)
    for number in numbers[cut:]:
        assert not second.knows(number)
        second.add(entry(number))
    assert sorted([*(one.number for one in taken), *(one.number for one in second.next())]) == [*range(8)]
    assert second.late == {}


def test_what_ends_behind_the_mark_is_late() -> None:
    order = Order(3, {5})
    order.add(entry(1))
    order.add(entry(5))
    order.add(entry(3))
    assert [*order.late] == [1, 5]
    assert [one.number for one in order.next()] == [3]


def test_what_is_to_be_tried_again_is_not_known_any_more() -> None:
    order = Order(0, (), [entry(1, failed=True), entry(2)])
    order.forget([1, 7])
    assert [order.knows(number) for number in range(3)] == [False, False, True]
    assert order.size == Order(0, (), [entry(2)]).size


@pytest.mark.parametrize("ordered", [True, False])
def test_without_order_each_goes_as_it_comes(ordered: bool) -> None:
    order = Order(ordered=ordered)
    order.add(entry(1))
    assert [one.number for one in order.next()] == ([] if ordered else [1])
