"""`python -m bench scikit`: scikit-learn's n_jobs on joblib's own loky and on this engine, by the adapter.

What is fitted, and what comes out, must be the very same. Each measurement is a fresh process, which does the work
twice: the first time is with the workers' start and all that they import, the second is how it goes on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine
from bench.table import number, spread

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = RESULTS.parent.parent
BACKENDS = ("loky", "mpengine")
PACKAGES = ("mpengine", "joblib", "scikit-learn", "numpy", "scipy")
LONGEST_S = 300.0  # for one measurement

Work = Callable[[int], Any]  # of the number of workers; returns what is compared


def grid_search_short() -> Work:
    """270 fits of 10 ms or so."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_breast_cancer(return_X_y=True)
    grid = {"logisticregression__C": [10.0**power for power in range(-12, 15)]}

    def work(n_jobs: int) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        return scores(GridSearchCV(model, grid, cv=10, n_jobs=n_jobs).fit(x, y))

    return work


def grid_search_digits() -> Work:
    """60 fits of a tenth of a second or so."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    x, y = load_digits(return_X_y=True)
    grid = {"C": [0.1, 1.0, 10.0, 100.0], "gamma": [1e-4, 1e-3, 1e-2]}
    return lambda n_jobs: scores(GridSearchCV(SVC(), grid, cv=5, n_jobs=n_jobs).fit(x, y))


def grid_search_large() -> Work:
    """24 fits on 128 MB, which every task is given."""
    from sklearn.datasets import make_classification
    from sklearn.model_selection import GridSearchCV
    from sklearn.naive_bayes import GaussianNB

    x, y = make_classification(200_000, 80, n_informative=20, random_state=0)
    grid = {"var_smoothing": [10.0**power for power in range(-9, -1)]}
    return lambda n_jobs: scores(GridSearchCV(GaussianNB(), grid, cv=3, n_jobs=n_jobs).fit(x, y))


def forest_digits() -> Work:
    """300 trees of a few ms each, and what they predict; scikit-learn predicts on threads, whatever the backend."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_digits(return_X_y=True)

    def work(n_jobs: int) -> Any:
        forest = RandomForestClassifier(300, random_state=0, n_jobs=n_jobs, oob_score=True).fit(x, y)
        return [forest.oob_score_, forest.predict_proba(x).sum(axis=0).tolist()]

    return work


def forest_large() -> Work:
    """32 shallow trees on 64 MB (as float32, which a forest makes of its input), and what they predict."""
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    x, y = make_classification(200_000, 80, n_informative=20, random_state=0)

    def work(n_jobs: int) -> Any:
        forest = RandomForestClassifier(32, max_depth=3, max_samples=20_000, random_state=0, n_jobs=n_jobs).fit(x, y)
        return [forest.score(x, y), forest.feature_importances_.tolist()]

    return work


def nested() -> Work:
    """6 fits of forests that ask for workers as well."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    x, y = load_digits(return_X_y=True)

    def work(n_jobs: int) -> Any:
        forest = RandomForestClassifier(60, random_state=0, n_jobs=n_jobs)
        return cross_val_score(forest, x, y, cv=6, n_jobs=n_jobs).tolist()

    return work


def tiny_tasks() -> Work:
    """100,000 calls of `abs`, without scikit-learn: batches that size themselves."""
    from joblib import Parallel, delayed

    return lambda n_jobs: sum(Parallel(n_jobs=n_jobs)(delayed(abs)(-n) for n in range(100_000)))


def scores(search: Any) -> Any:
    """What a search has found."""
    return [search.cv_results_["mean_test_score"].tolist(), search.best_params_]


CASES: dict[str, Callable[[], Work]] = {
    "grid-search-short": grid_search_short,
    "grid-search-digits": grid_search_digits,
    "grid-search-large": grid_search_large,
    "forest-digits": forest_digits,
    "forest-large": forest_large,
    "nested": nested,
    "tiny-tasks": tiny_tasks,
}


class Measured(NamedTuple):
    """Seconds, and what came out, as JSON."""

    first: float
    warm: float
    result: str


def measure_here(case: str, backend: str, n_jobs: int) -> Measured:
    """In this process."""
    import joblib

    import mpengine.adapters.joblib  # noqa: F401  (registers the backend)

    work = CASES[case]()
    with joblib.parallel_config(backend):
        start = time.perf_counter()
        work(n_jobs)
        middle = time.perf_counter()
        result = work(n_jobs)
        return Measured(middle - start, time.perf_counter() - middle, json.dumps(result))


def measure(case: str, backend: str, n_jobs: int) -> Measured:
    """In a fresh one."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.scikit", "--measure", case, backend, "--workers", str(n_jobs)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=LONGEST_S,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{case} on {backend} failed:\n{done.stderr}")
    return Measured(*json.loads(done.stdout))


def rounds_of(case: str, rounds: int, n_jobs: int) -> list[dict[str, Measured]]:
    """By backend; who is first takes turns.

    Raises:
        AssertionError: They did not come to the same.
    """
    found = []
    for turn in range(rounds):
        order = BACKENDS if turn % 2 == 0 else BACKENDS[::-1]
        measured = {backend: measure(case, backend, n_jobs) for backend in order}
        results = {backend: one.result for backend, one in measured.items()}
        assert len({*results.values()}) == 1, f"{case}: the results differ: {results}"
        found.append(measured)
    return found


def row(case: str, found: Sequence[dict[str, Measured]]) -> str:
    """Of the table: medians, and the median of the rounds' ratios with their spread."""
    doc = (CASES[case].__doc__ or "").strip().partition(";")[0].rstrip(".")
    cells = [f"`{case}`: {doc}"]
    for which in ("first", "warm"):
        times = {backend: [getattr(one[backend], which) for one in found] for backend in BACKENDS}
        ratios = [ours / theirs for ours, theirs in zip(times["mpengine"], times["loky"], strict=True)]
        cells += [number(statistics.median(times[backend])) for backend in BACKENDS]
        cells += [f"{number(statistics.median(ratios))} ({spread(ratios)})"]
    return "| " + " | ".join(cells) + " |"


def heading(rounds: int, n_jobs: int) -> str:
    facts = machine.facts(PACKAGES)
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['system']}, {facts['python']}, load {facts['load']} at its "
        f"beginning. {versions}. n_jobs={n_jobs}, {rounds} interleaved rounds.\n\n"
        "| work | first, s: loky | mpengine | ratio | again, s: loky | mpengine | ratio |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench scikit", description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=[*CASES], help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured; default: 7")
    parser.add_argument("--workers", type=int, default=machine.usable_cpus(), help="n_jobs")
    parser.add_argument("--save", action="store_true", help="write bench/results/scikit.md")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "BACKEND"), help="one measurement, here, as JSON")
    asked = parser.parse_args(arguments)
    if asked.measure:
        case, backend = asked.measure
        print(json.dumps(measure_here(case, backend, asked.workers)))
        return 0
    lines = [heading(asked.rounds, asked.workers)]
    print(lines[0], flush=True)
    for case in asked.case or CASES:
        lines.append(row(case, rounds_of(case, asked.rounds, asked.workers)))
        print(lines[-1], flush=True)
    lines.append(
        "\nMedians. A ratio is mpengine's time over loky's, formed within a round: its median, and the lowest and "
        "highest. `first` is with the start of the workers and their imports, `again` the same work once more in the "
        "same program. Both came to the same results, to the last digit."
    )
    print(lines[-1])
    if asked.save:
        (RESULTS / "scikit.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
