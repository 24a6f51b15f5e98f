"""`python -m bench clusters`: what a job costs on a Dask or Ray cluster, by our engine and by the cluster's own client.

Both use the same cluster, which is started here for each kind: two workers, in processes of their own, on loopback. The
two take turns in every round, so that other load falls on both alike, and the ratio is formed within a round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine
from bench.table import number, spread
from bench.work import busy, increment
from mpengine import AnyEngine, connect

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 9
TRIPS = 300

Function = Callable[..., Any]


class Way(NamedTuple):
    """To have calls made: many at once, or one and its value."""

    many: Callable[[Function, Sequence[Any]], list[Any]]
    one: Callable[[Function, Any], Any]


class Case(NamedTuple):
    """So many calls of a function at once; with `single`, one after another."""

    name: str
    function: Callable[..., Any]
    arguments: Sequence[Any]
    single: bool = False


CASES = (
    Case("free", increment, range(2000)),
    Case("1 ms", busy, [0.001] * 400),
    Case("10 ms", busy, [0.010] * 100),
    Case("100 ms", busy, [0.100] * 20),
    Case("round trip", increment, range(TRIPS), single=True),
)


@contextmanager
def on_dask() -> Iterator[tuple[Way, Way]]:
    """What the client does, and an engine there."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs="CRITICAL"
        ) as cluster,
        Client(cluster) as client,
        connect(client) as engine,
    ):
        own = Way(
            lambda fn, items: client.gather(client.map(fn, items, pure=False)),
            lambda fn, item: client.submit(fn, item, pure=False).result(),
        )
        yield own, ours(engine)


@contextmanager
def on_ray() -> Iterator[tuple[Way, Way]]:
    """Four CPUs, of which the engine has two for itself and leaves two to Ray's own tasks."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, logging_level="error")
    remote = {fn: ray.remote(fn) for fn in (increment, busy)}
    try:
        with connect("ray", max_workers=2) as engine:
            own = Way(
                lambda fn, items: ray.get([remote[fn].remote(item) for item in items]),
                lambda fn, item: ray.get(remote[fn].remote(item)),
            )
            yield own, ours(engine)
    finally:
        ray.shutdown()


def ours(engine: AnyEngine) -> Way:
    return Way(lambda fn, items: [*engine.map(fn, items)], lambda fn, item: engine.submit(fn, item).result())


KINDS = {"dask": on_dask, "ray": on_ray}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench clusters", description=__doc__)
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="only this one")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds (default: {ROUNDS})")
    parser.add_argument("--write", action="store_true", help="also into results/clusters.md")
    asked = parser.parse_args(arguments)
    lines = [
        "| cluster | job | its own client, µs a job | mpengine, µs a job | mpengine takes |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for kind in asked.kind or KINDS:
        with KINDS[kind]() as (own, mine):
            for case in CASES:
                lines.append(row(kind, case, own, mine, asked.rounds))
                print(lines[-1], file=sys.stderr, flush=True)
    facts = machine.facts(("mpengine", "distributed", "ray"))
    head = (
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['system']}, {facts['python']}, load {facts['load']} at its end, "
        f"{', '.join(f'{name} {version}' for name, version in facts['versions'].items())}. "
        f"{asked.rounds} interleaved rounds; medians, and the spread of the ratios.\n\n"
    )
    text = head + "\n".join(lines) + "\n"
    print(text, end="")
    if asked.write:
        (RESULTS / "clusters.md").write_text(text)
    return 0


def row(kind: str, case: Case, own: Way, mine: Way, rounds: int) -> str:
    """One line of the table."""
    costs: dict[Way, list[float]] = {own: [], mine: []}
    for turn in range(-1, rounds):  # the first is to warm up
        for way in (own, mine) if turn % 2 else (mine, own):
            cost = measure(case, way)
            if turn >= 0:
                costs[way].append(cost)
    ratios = [cost / theirs for cost, theirs in zip(costs[mine], costs[own], strict=True)]
    cells = [
        kind, case.name, number(statistics.median(costs[own])), number(statistics.median(costs[mine])),
        f"{number(statistics.median(ratios))} x ({spread(ratios)})",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def measure(case: Case, way: Way) -> float:
    """Microseconds a job."""
    began = time.perf_counter()
    if case.single:
        found = [way.one(case.function, item) for item in case.arguments]
    else:
        found = way.many(case.function, case.arguments)
    cost = (time.perf_counter() - began) / len(case.arguments) * 1e6
    if len(found) != len(case.arguments):
        raise ValueError(f"{len(found)} results of {len(case.arguments)} jobs")
    return cost


if __name__ == "__main__":
    sys.exit(main())
