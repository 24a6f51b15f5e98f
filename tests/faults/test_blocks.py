"""Large data when things go wrong: no block is used twice, none is kept for nothing."""

from __future__ import annotations

import os
import threading
from io import FileIO
from pathlib import Path

import numpy as np
import pytest

from mpengine import Engine
from tests.runtime.fixtures import MakeEngine
from tests.support import WAIT_S, run_python, wait_for, wait_gone

MIB = 1 << 20
COUNT = 1 << 17  # float64: 1 MiB

kept: list[np.ndarray] = []  # by a job, in its worker


def keep_last(*arrays: np.ndarray) -> float:
    kept.append(arrays[-1])
    return float(kept[-1][-1])


def look_again() -> float:
    return float(kept[-1][-1])


def ones(count: int) -> np.ndarray:
    return np.ones(count)


def first_of(array: np.ndarray) -> float:
    return float(array[0])


def return_twice(gate: str) -> tuple[int, np.ndarray]:
    pid = os.fork()
    if not pid:
        Path(gate).read_bytes()  # until the parent has the worker's result
        return 0, np.full(COUNT, 2.0)
    return pid, np.full(COUNT, 1.0)


def test_the_copy_that_a_job_forks_writes_over_nothing(
    make_engine: MakeEngine, start_method: str, tmp_path: Path
) -> None:  # fmt: skip
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    engine = make_engine(1, start_method)
    pid, array = engine.submit(return_twice, str(gate)).result(WAIT_S)
    gate.write_bytes(b"")
    wait_gone(pid)
    assert array.min() == array.max() == 1.0


def test_a_shared_object_that_was_rebuilt_is_still_held(make_engine: MakeEngine) -> None:
    """Seventeen are one more than a worker keeps: the first is let go and opened again in one job."""
    engine = make_engine(1)
    shared = [engine.share(np.full(COUNT, float(n))) for n in range(17)]
    assert engine.submit(first_of, shared[0]).result(WAIT_S) == 0.0
    assert engine.submit(keep_last, *shared[1:], shared[0]).result(WAIT_S) == 0.0
    assert engine.join(WAIT_S)
    shared.clear()
    others = [engine.share(np.full(COUNT, 99.0)) for _ in range(20)]
    assert engine.submit(look_again).result(WAIT_S) == 0.0
    del others


def test_after_shutdown_nothing_is_written_to_files_that_are_others_by_now(
    make_engine: MakeEngine, tmp_path: Path
) -> None:  # fmt: skip
    engine = make_engine(1)
    engine.submit(first_of, np.ones(COUNT)).result(WAIT_S)
    most = max(map(int, os.listdir("/proc/self/fd")))
    engine.shutdown()
    files: list[FileIO] = []
    try:
        while not files or files[-1].fileno() < most:  # so that every number is taken again
            files.append(FileIO(tmp_path / str(len(files)), "w+"))
        with pytest.raises(RuntimeError, match="after shutdown"):
            engine.submit(first_of, np.ones(COUNT))
        assert [os.fstat(file.fileno()).st_size for file in files] == [0] * len(files)
    finally:
        for file in files:
            file.close()


def test_what_a_closed_map_had_drawn_is_let_go(make_engine: MakeEngine) -> None:
    engine = make_engine(1)
    values = engine.map(first_of, [np.ones(COUNT) for _ in range(50)])
    next(values)
    values.close()
    del values
    wait_for(lambda: engine.stats().memory.in_use == 0)


def test_warm_blocks_do_not_count_against_the_memory_limit(make_engine: MakeEngine) -> None:
    engine = make_engine(1, memory_limit=300 * MIB)
    for _ in range(3):
        assert engine.submit(ones, 150 * COUNT).result(WAIT_S)[-1] == 1.0


def test_a_shared_object_is_not_to_blame_for_its_neighbour(engine: Engine) -> None:
    shared = engine.share(np.ones(COUNT))
    with pytest.raises(TypeError) as raised:
        list(engine.map(len, [[shared, threading.Lock()]]))
    assert "`[1]`" in raised.value.__notes__[-1]


RESULT_AT_EXIT = """
import numpy as np
from mpengine import Engine

def ones(n):
    return np.ones(n)

engine = Engine(1)
value = next(iter(engine.map(ones, [1 << 18])))
engine.shutdown()
"""


def test_a_result_that_is_there_until_the_end_makes_no_noise(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RESULT_AT_EXIT)
    ended = run_python(str(script))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
