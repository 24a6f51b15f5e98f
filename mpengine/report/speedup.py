"""What times of one batch with 1, 2, ... workers say: speed-up, efficiency, serial part, best number. Pure.

All counts of workers are measured in each round, and ratios are formed within it, so that what changes on the machine
from round to round falls out of them. A figure's median and quartiles are those over the rounds.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LOOP = 0  # stands for the plain loop where a number of workers is asked for: one process, and no engine

Round = Mapping[int, float]  # seconds, by the number of workers


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the rounds. Half of them lie between the quartiles `lower` and `upper`."""

    median: float
    lower: float
    upper: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Row:
    """What so many workers came to.

    Attributes:
        speedup: Over one worker.
        efficiency: The part of each worker that has arrived: speed-up over workers.
        karp_flatt: The serial part that this row alone tells; None with one worker. Where it grows from row to row, it
            is overhead that grows with the workers, and no part that is serial.
    """

    workers: int
    seconds: Spread
    rate: float
    speedup: Spread
    efficiency: float
    karp_flatt: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """What all rounds came to.

    Attributes:
        loop: Seconds of the plain loop; None: it was not measured.
        loop_speedup: Of the plain loop over one worker.
        serial: The part that does not get faster with workers, by Amdahl's law; None: nothing to fit it to.
        misfit: How far the law is from a measured median at most, as a part of that.
        best: A number of workers, see `best_of`.
        over_loop: How much faster that is than the plain loop.
    """

    jobs: int
    cpus: int
    rows: tuple[Row, ...]
    loop: Spread | None
    loop_speedup: Spread | None
    serial: Spread | None
    misfit: float | None
    best: int
    over_loop: Spread | None

    def row(self, workers: int) -> Row:
        return next(row for row in self.rows if row.workers == workers)


def curve(rounds: Sequence[Round], *, jobs: int, cpus: int) -> Curve:
    """Of rounds that all have the same counts of workers, 1 among them, and perhaps the `LOOP`.

    Args:
        rounds: At least one; all times are greater than 0.
        jobs: In each batch.
        cpus: The serial part is fitted to as many workers at most: more of them cannot run at once.
    """
    counts = sorted(set(rounds[0]) - {LOOP})
    seconds = {workers: spread(one[workers] for one in rounds) for workers in rounds[0]}
    speedups = {workers: spread(one[1] / one[workers] for one in rounds) for workers in rounds[0]}
    rows = tuple(
        Row(
            workers,
            seconds[workers],
            jobs / seconds[workers].median,
            speedups[workers],
            speedups[workers].median / workers,
            karp_flatt(speedups[workers].median, workers),
        )
        for workers in counts
    )
    fitted = [serial_part({n: one[1] / one[n] for n in counts if n <= cpus}) for one in rounds]
    known = [part for part in fitted if part is not None]
    serial = spread(known) if known else None
    misfit = None
    if serial is not None:
        laws = {n: amdahl(serial.median, n) for n in counts if n <= cpus}
        misfit = max(abs(speedups[n].median / law - 1) for n, law in laws.items())
    best = best_of(rounds, counts)
    over_loop = spread(one[LOOP] / one[best] for one in rounds) if LOOP in seconds else None
    return Curve(jobs, cpus, rows, seconds.get(LOOP), speedups.get(LOOP), serial, misfit, best, over_loop)


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    found = sorted(values)
    lower, median, upper = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else 3 * found
    return Spread(median, lower, upper, found[0], found[-1])


def amdahl(serial: float, workers: float) -> float:
    """The speed-up of `workers` where the part `serial` of the time of one does not get shorter."""
    return 1 / (serial + (1 - serial) / workers)


def serial_part(speedups: Mapping[int, float]) -> float | None:
    """Amdahl's serial part that comes nearest to speed-ups by workers, from 0 to 1; None: nothing but one worker.

    In times it is a straight line, 1/speedup = 1/workers + serial * (1 - 1/workers), so the least squares of the times
    have a closed form.
    """
    pairs = [(1 - 1 / workers, 1 / speedup - 1 / workers) for workers, speedup in speedups.items() if workers > 1]
    if not pairs:
        return None
    slope = sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)
    return min(1.0, max(0.0, slope))


def karp_flatt(speedup: float, workers: int) -> float | None:
    """The serial part that one speed-up tells, as Karp and Flatt have it; it may be less than 0, by noise or caches."""
    return None if workers == 1 else (1 / speedup - 1 / workers) / (1 - 1 / workers)


def best_of(rounds: Sequence[Round], counts: Iterable[int]) -> int:
    """The least number of workers that is as fast as the fastest, as far as the rounds can tell.

    The fastest has the greatest median of speed-ups. As fast as that is whose time over its time, within a round, has a
    lower quartile of 1 or less; so one round that was disturbed decides nothing.
    """
    counts = sorted(counts)
    fastest = max(counts, key=lambda workers: spread(one[1] / one[workers] for one in rounds).median)
    return min(n for n in counts if spread(one[n] / one[fastest] for one in rounds).lower <= 1)


def schedule(counts: Iterable[int], rounds: int, seed: int = 1) -> list[list[int]]:
    """The order of each round: shuffled, and every second one is the one before it turned round.

    So a machine that gets slower all the time (it warms up, others begin) makes no count look worse than another. The
    same for the same seed.
    """
    chance = random.Random(seed)
    orders: list[list[int]] = []
    for number in range(rounds):
        if number % 2:
            orders.append(orders[-1][::-1])
        else:
            order = sorted(counts)
            chance.shuffle(order)
            orders.append(order)
    return orders
