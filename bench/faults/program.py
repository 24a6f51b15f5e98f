"""A user's program, one for each case: `python -m bench.faults.program CASE CONTENDER FOLDER`.

It notes in FOLDER what it is about and what it got; its jobs note there that they began and ended. What
that comes to is judged by others. One can run it by hand, and look at what it does.
"""

import argparse
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.faults import misdeeds
from bench.faults.cases import CASES, INTERRUPTED, KILLED
from bench.faults.contenders import CONTENDERS
from bench.faults.run import IDLE_S, WORKERS, Run
from bench.faults.verdicts import MOST_AT_ONCE, MOST_DRAWN

OTHERS = 20
TIMEOUT_S = 1.0  # of a culprit that would not end


# ---- jobs ----------------------------------------------------------------------------------------------------


def culprit_among_others(run: Run) -> None:
    pool, _ = run.open()
    arguments = (getattr(misdeeds, run.case.argument)(),) if run.case.argument else ()
    timeout = TIMEOUT_S if run.case.needs_timeout else None
    first = run.others(pool, "other", range(OTHERS // 2))
    culprit = run.submit(pool, "culprit-1", run.misdeed(), *arguments, timeout=timeout)
    second = run.others(pool, "other", range(OTHERS // 2, OTHERS))
    run.take({**first, **second, "culprit-1": culprit})
    run.finish(pool)


def initializer_raises(run: Run) -> None:
    run.stage("starting")
    pool = run.open_with(misdeeds.fail_to_initialize)
    run.take({"culprit-1": run.submit(pool, "culprit-1", misdeeds.echo)})
    run.shut_down(pool.close)


# ---- workers -------------------------------------------------------------------------------------------------


def busy_killed(run: Run) -> None:
    pool, _ = run.open()
    culprits = {f"culprit-{n}": run.submit(pool, f"culprit-{n}", run.misdeed()) for n in range(WORKERS)}
    others = run.others(pool, "other", range(OTHERS))
    run.wait_for(lambda: len(run.culprits()) == WORKERS)
    for pid in run.culprits():
        os.kill(pid, signal.SIGKILL)
    run.take({**others, **culprits})
    run.finish(pool)


def idle_killed(run: Run) -> None:
    pool, pids = run.open()
    for pid in pids:  # all: not each of them waits with the lock of a queue in its hand
        os.kill(pid, signal.SIGKILL)
    time.sleep(IDLE_S)  # for the contender to notice and replace them; a kill in the midst of work is another case
    run.take(run.others(pool, "other", range(OTHERS)))
    run.finish(pool)


def idle_stopped(run: Run) -> None:
    pool, pids = run.open()
    os.kill(pids[0], signal.SIGSTOP)
    run.take(run.others(pool, "other", range(OTHERS)))
    run.finish(pool)


# ---- maps ----------------------------------------------------------------------------------------------------


class InputError(Exception):
    """The input's own."""


def input_raises(run: Run) -> None:
    def values() -> Iterator[int]:
        yield from range(10)
        raise InputError("half-way")

    def consume() -> None:
        """All of it; the culprit is the input, and its error is to arrive here."""
        for _ in pool.each(functools.partial(misdeeds.numbered, run.notes, "batch", misdeeds.short), values()):
            pass

    pool, _ = run.open()
    run.take({"culprit-1": consume})
    run.finish(pool)


def input_endless(run: Run) -> None:
    drawn = 0
    most = MOST_AT_ONCE

    def values() -> Iterator[int]:
        nonlocal drawn
        while True:
            if drawn > most:  # it would not stop before the memory is full
                run.report(**{"drawn past": most})
                os._exit(1)
            yield drawn
            drawn += 1

    pool, _ = run.open()
    run.stage("waiting for the first results of a map")
    results = pool.each(misdeeds.echo, values())
    most = MOST_DRAWN
    for n in range(100):
        if next(results) != n:
            raise AssertionError("a wrong result")
    run.stage("taking no more results of a map")
    deadline = time.monotonic() + 5.0
    before = -1
    while before != drawn and time.monotonic() < deadline:
        before = drawn
        time.sleep(1.0)
    run.report(**{"drawn when idle": drawn - before})
    drop(results)
    del results
    run.finish(pool)


def consumer_stops(run: Run) -> None:
    pool, _ = run.open()
    run.stage("waiting for the first results of a map")
    results = pool.each(functools.partial(misdeeds.numbered, run.notes, "batch", misdeeds.short), iter(range(400)))
    for _ in range(10):
        next(results)
    drop(results)
    del results
    run.finish(pool)


def drop(results: Iterator[Any]) -> None:
    """Lets go of an iterator, and says so where it can be told."""
    if hasattr(results, "close"):
        results.close()


# ---- ends ----------------------------------------------------------------------------------------------------


def abandoned(run: Run) -> None:
    pool, _ = run.open()
    run.submit(pool, "culprit-1", run.misdeed())
    run.wait_for(lambda: len(run.culprits()) == 1)
    run.shut_down(pool.abandon)


def ctrl_c(run: Run) -> None:
    pool, _ = run.open()

    def interrupt() -> None:
        run.wait_for(lambda: len(run.culprits()) == WORKERS)
        run.stage("after Ctrl-C")
        os.killpg(0, signal.SIGINT)  # as a terminal does: also to the workers that are in the program's group

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pool:
            for _ in pool.each(functools.partial(misdeeds.numbered, run.notes, "culprit", run.misdeed()), range(8)):
                pass
    except KeyboardInterrupt:
        run.stage(INTERRUPTED)
        raise


def parent_killed(run: Run) -> None:
    pool, _ = run.open()
    for n in range(WORKERS):
        run.submit(pool, f"culprit-{n}", run.misdeed())
    run.wait_for(lambda: len(run.culprits()) == WORKERS)
    run.stage(KILLED)
    os.kill(os.getpid(), signal.SIGKILL)


SCENARIOS: dict[str, Callable[[Run], None]] = {
    function.__name__: function
    for function in (
        culprit_among_others,
        initializer_raises,
        busy_killed,
        idle_killed,
        idle_stopped,
        input_raises,
        input_endless,
        consumer_stops,
        abandoned,
        ctrl_c,
        parent_killed,
    )
}


def main(arguments: Sequence[str] | None = None) -> None:
    cases = {case.name: case for case in CASES}
    parser = argparse.ArgumentParser(prog="python -m bench.faults.program", description=__doc__)
    parser.add_argument("case", choices=cases)
    parser.add_argument("contender", choices=CONTENDERS)
    parser.add_argument("folder", type=Path, help="an empty one, for the notes")
    asked = parser.parse_args(arguments)
    case = cases[asked.case]
    SCENARIOS[case.scenario](Run(case, CONTENDERS[asked.contender], asked.folder.resolve()))


if __name__ == "__main__":
    main()
