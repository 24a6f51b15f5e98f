"""The table fits 80 columns whatever is in it, and each sentence is there when its time has come."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mpengine.report.speedup import LOOP, Curve, amdahl, curve
from mpengine.report.speedup_text import conclusions, doubts, rate, table


def shown(found: Curve, memory: float = 30 << 20) -> list[str]:
    file = io.StringIO()
    counts = (LOOP, *(row.workers for row in found.rows))
    Console(file=file, width=80).print(table(found, dict.fromkeys(counts, memory)))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def sentences(found: Curve) -> list[str]:
    return [line.plain for line in conclusions(found)]


def test_a_table() -> None:
    found = curve(
        [{LOOP: 1.9, 1: 2.0, 2: 1.0, 4: 0.64}, {LOOP: 1.9, 1: 2.2, 2: 1.1, 4: 0.66}], jobs=10_000, cpus=4
    )  # fmt: skip
    assert shown(found) == [
        "workers  seconds        quartiles  jobs/s  speed-up  efficiency  memory",
        "───────────────────────────────────────────────────────────────────────",
        "   loop    1.900    1.900 … 1.900   5,263      1.11              30 MiB",
        "      1    2.100    2.050 … 2.150   4,762      1.00       100 %  30 MiB",
        "      2    1.050    1.025 … 1.075   9,524      2.00       100 %  30 MiB",
        "    * 4   0.6500  0.6450 … 0.6550  15.4 k      3.23        81 %  30 MiB",
    ]


times = st.fixed_dictionaries(dict.fromkeys((LOOP, 1, 2, 16, 999), st.floats(0.1, 10)))


@given(st.lists(times, min_size=1, max_size=4), st.floats(1e-3, 1e4), st.integers(1, 10**9), st.floats(0, 1e13))
def test_a_table_fits_80_columns_and_cuts_nothing(
    rounds: list[dict[int, float]], pace: float, jobs: int, memory: float
) -> None:
    slowed = [{n: pace * seconds for n, seconds in one.items()} for one in rounds]
    lines = shown(curve(slowed, jobs=jobs, cpus=8), memory)
    assert len(lines) == 2 + 5
    assert all(len(line) <= 80 for line in lines)
    assert not any("…" in line.replace(" … ", "") for line in lines)


def test_without_a_loop_there_is_no_row_for_it() -> None:
    assert [line.split()[0] for line in shown(curve([{1: 1.0}], jobs=1, cpus=1))[2:]] == ["1"]


def by_law(serial: float, *counts: int) -> dict[int, float]:
    return {n: 1 / amdahl(serial, n) for n in counts}


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (
            {LOOP: 0.9, **by_law(0.05, 1, 2, 4)},
            [
                "Best: 4 workers, 3.48 times as fast as 1 worker, 3.13 times as fast as the plain loop.",
                "Serial part: 5.0 % (5.0 … 5.0 %) by Amdahl's law: never more than 20 times as fast as 1 worker.",
            ],
        ),
        (
            by_law(0.4, 1, 2),
            [
                "Best: 2 workers, 1.43 times as fast as 1 worker.",
                "Serial part: 40.0 % (40.0 … 40.0 %) by Amdahl's law: never more than 2.5 times as fast as 1 worker.",
            ],
        ),
        (
            by_law(0.0, 1, 2),
            [
                "Best: 2 workers, 2.00 times as fast as 1 worker.",
                "Serial part: 0.0 % (0.0 … 0.0 %) by Amdahl's law.",
            ],
        ),
        (
            {LOOP: 0.5, 1: 1.0, 2: 1.05},
            [
                "Best: 1 worker, as far as these rounds tell more are not faster. "
                "The plain loop is 2.00 times as fast as that.",
                "Serial part: 100.0 % (100.0 … 100.0 %) by Amdahl's law: more workers do not make it faster.",
            ],
        ),
        (
            {1: 1.0},
            ["Serial part: not told; that takes 1 worker and others, as many as there are CPUs at most (4)."],
        ),
    ],
)
def test_what_it_comes_to(one: dict[int, float], said: list[str]) -> None:
    assert sentences(curve([one], jobs=1, cpus=4)) == said


def test_jobs_that_are_too_short_are_told_from_others() -> None:
    best = sentences(curve([{LOOP: 0.25, 1: 1.0, 2: 0.5}], jobs=10_000, cpus=2))[0]
    assert best == (
        "Best: 2 workers, 2.00 times as fast as 1 worker. The plain loop is 2.00 times as fast as that: a job takes "
        "25 µs, less than its way to a worker; --chunk makes longer ones."
    )
    longer = sentences(curve([{LOOP: 0.25, 1: 1.0, 2: 0.5}], jobs=1_000, cpus=2))[0]
    assert longer == "Best: 2 workers, 2.00 times as fast as 1 worker. The plain loop is 2.00 times as fast as that."


def test_a_law_that_does_not_fit_says_so() -> None:
    last = sentences(curve([{1: 1.0, 2: 0.5, 4: 0.6}], jobs=1, cpus=4))[-1]
    assert last.endswith(" The law is off by up to 32 %: something that grows with the workers counts, too.")


def test_a_good_measurement_raises_no_doubts() -> None:
    assert doubts(curve([{1: 1.0, 2: 0.5}, {1: 1.05, 2: 0.52}], jobs=1, cpus=2)) == []


def test_a_short_batch_and_an_uneven_one_are_doubtful() -> None:
    short = doubts(curve([{1: 0.09, 2: 0.049}], jobs=1, cpus=2))
    assert short == [
        "the batch takes 49 ms with 2 workers, of which much is the engine's own; give more input, for a second or more"
    ]
    uneven = doubts(curve([{1: 1.0, 2: 0.5}, {1: 1.5, 2: 0.5}], jobs=1, cpus=2))
    assert uneven == [
        "the times with 1 worker are uneven: their quartiles are 20 % apart; let the machine rest, give more input, or "
        "more --rounds"
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (1.234, "1.23"),
        (99.96, "100"),
        (999.4, "999"),
        (9999.4, "9,999"),
        (9999.9, "10.0 k"),
        (151_234, "151 k"),
        (1e6, "1,000 k"),
        (1.2e9, "1,200 M"),
        (1.2e13, "12,000 G"),
    ],
)
def test_a_rate(value: float, text: str) -> None:
    assert rate(value) == text
