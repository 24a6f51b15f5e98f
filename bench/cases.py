"""The cases, in the order of the report.

A contender's number of jobs is chosen so that one measurement takes about a second, also for the slow:
rates and times per job are compared, and they do not depend on it. Where they do, all have the same number.
"""

from bench.case import Case, Column, of_the_ideal, over, under
from bench.peers import PACKAGES

START_METHODS = ("fork", "forkserver", "spawn")
CPU_SECONDS = {"10us": 10e-6, "100us": 100e-6, "1ms": 1e-3, "10ms": 10e-3, "100ms": 100e-3}


def cpu_case(label: str, seconds: float) -> Case:
    full = round(2.0 / seconds)  # two seconds of work: one for each of two workers
    # Who has a cost for each job has as many as take it a second or two with it.
    by_cost = {"pool.imap": 30e-6, "executor.map": 150e-6, "ray.remote": 500e-6, "dask.map": 1_200e-6}
    slow = {contender: round(2.0 / (seconds + 2 * cost)) for contender, cost in by_cost.items()}
    few = frozenset({"executor.map", "pool.map", "executor.map/tuned", "mpire.imap", "ray.remote", "dask.map"})
    even = ("bare.serial", "bare.forks", "engine.map", "joblib.generator", "pool.imap/tuned", "executor.map/tuned")
    return Case(
        name=f"cpu-{label}",
        title=f"CPU-bound jobs of about {label.replace('us', ' µs').replace('ms', ' ms')}",
        kind="wall_time",
        metrics={"wall per job": "µs"},
        contenders=dict.fromkeys((*even, "pool.map", "mpire.imap"), full) | slow,
        seldom=few,
        columns=(
            Column("wall / bare.forks", "bare.forks", over),
            Column("of the ideal", "bare.serial", of_the_ideal, percent=True),
            Column("wall / engine.map", "engine.map", over),
        ),
        seconds=seconds,
        note="`bare.forks`: two forks do the same work, each its half. The ideal is the serial time divided by the "
        "number of workers; where two CPUs share a core, nobody reaches it.",
    )


def tail_case(where: str) -> Case:
    return Case(
        name=f"tail-{where}",
        title=f"Heavy-tailed jobs, the longest {where}",
        kind=f"tail_{where}",
        metrics={"wall": "s"},
        contenders=dict.fromkeys(
            (
                "bare.greedy",
                "engine.map",
                "engine.map_unordered",
                "engine.run",
                "pool.imap_unordered",
                "pool.imap_unordered/tuned",
                "pool.map",
                "executor.map",
                "executor.map/tuned",
                "joblib.generator",
                "mpire.imap_unordered",
                "dask.map",
            ),
            400,
        ),
        seldom=frozenset({"executor.map/tuned", "pool.map", "mpire.imap_unordered", "dask.map"}),
        columns=(Column("wall / bare.greedy", "bare.greedy", over), Column("wall / engine.map", "engine.map", over)),
        seconds=0.002,
        scaled=False,  # the one long job would be most of a short run
        note="`bare.greedy` is greedy list scheduling in the given order on bare forks: who is free takes the next "
        "number out of a pipe. It runs in the same round, so that it has what two CPUs really give here. One job is a "
        "hundred times the mean, the others are drawn from a log-normal distribution with a fixed seed.",
    )


def start_case(start_method: str) -> Case:
    return Case(
        name=f"start-{start_method}",
        title=f"Start-up, {start_method}",
        kind="start_up",
        metrics={"life": "ms", "first": "ms", "second": "ms"},
        contenders=dict.fromkeys(("engine.map", "executor.map", "pool.map"), 10),
        columns=tuple(
            Column(f"{metric} / executor", "executor.map", over, metric=metric)
            for metric in ("first", "second", "life")
        ),
        start_method=start_method,
        scaled=False,
        note="`first`: from the constructor to the first result; `life`: ten jobs and the shutdown as well; `second`: "
        "to the first result of a second one in the same program. Imports are done before.",
    )


CASES = (
    Case(
        name="tiny",
        title="Tiny jobs, `x -> x + 1`",
        kind="rate",
        metrics={"rate": "jobs/s"},
        contenders={
            "bare.batches": 4_000_000,
            "engine.map": 2_000_000,
            "engine.map_unordered": 2_000_000,
            "engine.run": 500_000,
            "engine.submit": 50_000,
            "pool.map": 2_000_000,
            "pool.map/tuned": 2_000_000,
            "pool.imap": 50_000,
            "pool.imap/tuned": 2_000_000,
            "pool.imap_unordered": 50_000,
            "pool.imap_unordered/tuned": 2_000_000,
            "pool.apply_async": 20_000,
            "executor.map": 10_000,
            "executor.map/tuned": 1_000_000,
            "executor.submit": 10_000,
            "loky.map": 10_000,
            "loky.map/tuned": 1_000_000,
            "loky.submit": 10_000,
            "joblib.list": 500_000,
            "joblib.list/tuned": 500_000,
            "joblib.generator": 500_000,
            "mpire.map": 200_000,
            "mpire.map/tuned": 200_000,
            "mpire.imap_unordered": 200_000,
            "mpire.imap_unordered/tuned": 200_000,
            "pebble.map": 10_000,
            "pebble.map/tuned": 300_000,
            "pebble.schedule": 5_000,
            "ray.remote": 2_000,
            "ray.remote/tuned": 1_000_000,
            "dask.map": 1_000,
            "dask.map/tuned": 50_000,
        },
        better="high",
        seldom=frozenset(
            {"pool.imap", "loky.map", "loky.map/tuned", "loky.submit", "joblib.generator", "mpire.map", "pebble.map"}
            | {"mpire.imap_unordered", "mpire.map/tuned", "pebble.schedule", "ray.remote", "dask.map"}
            | {"pebble.map/tuned", "ray.remote/tuned", "dask.map/tuned"}
        ),
        columns=tuple(
            Column(f"engine.{method} is", f"engine.{method}", under)
            for method in ("map", "map_unordered", "run", "submit")
        ),
        note="`submit`, `apply_async`, `schedule` and `remote` give one future a job, and all are waited for.",
    ),
    Case(
        name="round-trip",
        title="Round trip, one job at a time through idle workers",
        kind="round_trips",
        metrics={"p50": "µs", "p99": "µs"},
        contenders={
            "bare.pipe": 10_000,
            "engine.submit": 5_000,
            "pool.apply": 5_000,
            "executor.submit": 5_000,
            "loky.submit": 2_000,
            "mpire.map": 2_000,
            "pebble.schedule": 500,
            "ray.remote": 1_000,
            "dask.submit": 300,
        },
        seldom=frozenset({"loky.submit", "mpire.map", "pebble.schedule", "ray.remote", "dask.submit"}),
        columns=(
            Column("p50 / bare.pipe", "bare.pipe", over),
            Column("p50 / engine", "engine.submit", over),
            Column("p99 / engine", "engine.submit", over, metric="p99"),
        ),
        note="`submit(...).result()`; `bare.pipe` is a bare multiprocessing.Pipe, there and back.",
    ),
    *(cpu_case(label, seconds) for label, seconds in CPU_SECONDS.items()),
    tail_case("first"),
    tail_case("last"),
    Case(
        name="first-results",
        title="First results of a long stream",
        kind="first_results",
        metrics={"first": "ms", "worst": "ms"},
        contenders=dict.fromkeys(
            (
                "engine.map",
                "engine.map_unordered",
                "engine.run",
                "pool.imap",
                "pool.imap/tuned",
                "pool.map",
                "executor.map",
                "executor.map/tuned",
                "joblib.generator",
                "mpire.imap",
            ),
            1_000,
        ),
        seldom=frozenset({"pool.map", "executor.map/tuned", "mpire.imap"}),
        columns=(Column("first / engine.map", "engine.map", over),),
        seconds=1e-3,
        scaled=False,
        note="Jobs of 1 ms, of which nobody knew how long they take. From a job's end in its worker (in order: that of "
        "the last one before it) to the consumer's having its result: the first job's, and the worst of the first 100.",
    ),
    *(start_case(start_method) for start_method in START_METHODS),
    Case(
        name="start-others",
        title="Start-up, each in its own way",
        kind="start_up",
        metrics={"life": "ms", "first": "ms", "second": "ms"},
        contenders=dict.fromkeys(
            ("engine.map", "loky.map", "joblib.list", "mpire.map", "pebble.map", "ray.remote", "dask.map"), 10
        ),
        seldom=frozenset({"mpire.map", "pebble.map", "ray.remote", "dask.map"}),
        columns=(Column("life / engine", "engine.map", over),),
        scaled=False,
        note="As above.",
    ),
    Case(
        name="import",
        title="Import, in a fresh Python",
        kind="import_time",
        metrics={"time": "ms"},
        contenders=dict.fromkeys(
            ("engine.package", *(f"{peer}.names" for peer in ("engine", "pool", "executor", *PACKAGES))),
            1,
        ),
        seldom=frozenset(f"{peer}.names" for peer in PACKAGES),
        scaled=False,
        note="`engine.package` is `import mpengine` alone; `names` what a program that uses the peer begins with.",
    ),
    Case(
        name="memory",
        title="Memory of a stream whose consumer pauses for five seconds in the middle",
        kind="stream_memory",
        metrics={"growth": "MiB", "workers": "MiB", "ahead": "jobs", "per job": "µs"},
        contenders={
            "engine.map": 10_000_000,
            "engine.map_unordered": 2_000_000,
            "engine.run": 2_000_000,
            "pool.imap": 200_000,
            "pool.imap/tuned": 2_000_000,
            "executor.map": 100_000,
            "executor.map/tuned": 2_000_000,
            "joblib.generator": 2_000_000,
            "mpire.imap": 500_000,
        },
        seldom=frozenset(
            {"engine.map_unordered", "engine.run", "pool.imap", "pool.imap/tuned", "executor.map"}
            | {"executor.map/tuned", "joblib.generator", "mpire.imap"}
        ),
        note="Tiny jobs from a generator. `growth`: peak of the parent's resident memory above what it was before the "
        "first job; `workers`: the same, of all processes below it; `ahead`: how many more items had been drawn than "
        "results taken at the end of the pause; `per job`: without the pause. Those whose growth has no bound have "
        "fewer jobs: compare per job.",
    ),
    Case(
        name="cost",
        title="Cost per job, by the number of jobs",
        kind="cost_per_job",
        metrics={
            "longest / 100,000": "x",
            "1,000": "µs",
            "10,000": "µs",
            "100,000": "µs",
            "1,000,000": "µs",
            "10,000,000": "µs",
        },
        contenders={
            "engine.map": 10_000_000,
            "pool.imap": 100_000,
            "pool.imap/tuned": 10_000_000,
            "executor.map": 10_000,
            "executor.map/tuned": 1_000_000,
            "joblib.generator": 1_000_000,
        },
        seldom=frozenset({"pool.imap", "executor.map", "pool.imap/tuned", "executor.map/tuned", "joblib.generator"}),
        note="Tiny jobs from a generator through one pool, fewest first. `longest / 100,000`: cost at the "
        "largest number over that at 100,000.",
    ),
)
