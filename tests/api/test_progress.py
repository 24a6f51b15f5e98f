"""`Engine(progress=True)`: seen in a terminal, in a notebook, and with tqdm around it."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tqdm

from mpengine import Engine
from tests.api import jobs
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import ROOT, WAIT_S
from tests.terminal import terminal

SCRIPT = """
    import logging
    import sys

    from mpengine import Engine, Job, current_job
    from tests.runtime.gates import Door

    door = Door(sys.argv[1])

    def work(number):
        current_job().progress(number, 8)
        print("at work", number)
        if number == 2:
            raise ValueError("bad 2")
        door.enter(number)
        return number

    def numbers():
        yield from range(6)

    if __name__ == "__main__":
        logging.basicConfig(format="%(message)s")
        with Engine(2, progress=True, name="shown") as engine:
            input_ = numbers() if sys.argv[2] == "generator" else range(6)
            for outcome in engine.run([Job(work, (n,), id=f"n{n}") for n in input_]
                                      if sys.argv[2] == "jobs" else (Job(work, (n,), id=f"n{n}") for n in input_)):
                print("ended", outcome.job.id)
                logging.warning("the program logs")
        print("after it")
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return str(path)


def test_it_is_seen_in_a_terminal(script: str, gate: Gate, tmp_path: Path) -> None:
    with terminal(script, gate.door.path, "jobs", cwd=tmp_path) as screen:
        gate.arrivals(2)
        lines = screen.wait_for(lambda lines: any(line.startswith("0 of 6 jobs ━") for line in lines))
        gate.release(2)
        gate.arrivals(2)
        lines = screen.wait_for(
            lambda lines: (
                any(line.startswith("3 of 6 jobs ━") for line in lines) and sum("MiB" in line for line in lines) == 2
            )
        )
        at = next(at for at, line in enumerate(lines) if line.startswith("3 of 6 jobs"))
        assert lines[at + 1] == "  1 failed"
        assert re.fullmatch(r" *\d+ n[0-5] +[━╸╺]+ +[\d.]+ s +\d+ MiB", lines[at + 2])
        assert lines[at + 4].startswith("  ✗ n2  ValueError: bad 2 (")
        gate.open()
        assert screen.code() == 0
        transcript = screen.transcript()
    assert "━" not in "\n".join(transcript)
    assert transcript[-1] == "after it"
    assert re.fullmatch(r"6 jobs in [\d.]+ s \([\d.]+ a second, 2 workers\): 5 succeeded, 1 failed", transcript[-2])
    expected = [f"[n{n}] at work {n}" for n in range(6)] + [f"ended n{n}" for n in range(6)]
    assert sorted(transcript[:-2]) == sorted(expected + 6 * ["the program logs"])


def test_of_an_input_without_a_length_no_end_is_foretold(script: str, gate: Gate, tmp_path: Path) -> None:
    with terminal(script, gate.door.path, "generator", cwd=tmp_path) as screen:
        gate.arrivals(2)
        lines = screen.wait_for(lambda lines: any("━" in line for line in lines))
        assert any(re.match(r"\d jobs ━|\d of 6 jobs ━", line) for line in lines)  # the second once it is at its end
        gate.open()
        assert screen.code() == 0


def test_where_stderr_is_no_terminal_the_end_is_told_in_a_line(script: str, gate: Gate, tmp_path: Path) -> None:
    gate.open()
    done = subprocess.run(
        [sys.executable, script, gate.door.path, "jobs"],
        capture_output=True, text=True, timeout=WAIT_S, check=True, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path,
    )  # fmt: skip
    assert "[n3] at work 3" in done.stderr.splitlines()
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"mpengine: 6 jobs in .*: 5 succeeded, 1 failed", last)
    assert done.stdout.splitlines()[-1] == "after it"


def test_an_engine_without_jobs_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Engine(1, progress=True):
        pass
    assert capfd.readouterr().err == ""


def test_calls_of_a_map_are_counted_too(capfd: pytest.CaptureFixture[str]) -> None:
    with Engine(2, progress=True) as engine:
        assert list(engine.map(abs, range(-5000, 0))) == list(range(5000, 0, -1))
    assert "5,000 jobs in " in capfd.readouterr().err


def test_a_dropped_engine_takes_its_display_with_it(make_engine: MakeEngine) -> None:
    engine = Engine(1, progress=True)
    engine.submit(abs, -1).result(WAIT_S)
    del engine  # the fixture around all tests looks for threads


def test_tqdm_shows_how_a_map_goes(make_engine: MakeEngine, capfd: pytest.CaptureFixture[str]) -> None:
    engine = make_engine(2)
    numbers = range(200)
    values = list(tqdm.tqdm(engine.map(jobs.square, numbers), total=len(numbers), mininterval=0.0))
    assert values == [number * number for number in numbers]
    shown = capfd.readouterr().err
    assert "200/200" in shown
    assert "100%" in shown


CELL = """
from mpengine import Engine, current_job

class Point:
    def __init__(self, x):
        self.x = x

def move(point):
    print("moving", point.x)
    current_job().progress(1, 2)
    return Point(point.x + 1)

with Engine(2, progress=True) as engine:
    moved = [point.x for point in engine.map(move, map(Point, range(4)))]
moved
"""


EXECUTE = """
import json, sys
import nbclient, nbformat
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(sys.stdin.read())])
nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(json.dumps(notebook.cells[0].outputs))
"""


def test_it_is_seen_in_a_notebook(tmp_path: Path) -> None:
    """In a real kernel; in a process of its own, for its client leaves threads and descriptors behind."""
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE], input=CELL, stdout=subprocess.PIPE, text=True, timeout=2 * WAIT_S, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    outputs = json.loads(done.stdout)
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert sorted(printed.splitlines()) == [f"[map-{n}] moving {n}" for n in range(4)]
    (page,) = [output["data"]["text/html"] for output in outputs if output["output_type"] == "display_data"]
    assert "4 jobs in " in page
    assert outputs[-1]["data"]["text/plain"] == "[1, 2, 3, 4]"
