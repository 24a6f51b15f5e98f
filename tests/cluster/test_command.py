"""`mpengine run --on ADDRESS`, over a real Dask cluster of a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import mpengine
from tests.support import ROOT, WAIT_S

CLUSTER = """
import sys
from tests.cluster.clusters import dask
if __name__ == "__main__":
    with dask() as cluster:
        print(cluster.address, flush=True)
        sys.stdin.read()
"""

TARGET = """
import os, signal

def double(record):
    if record["n"] == 13:
        raise ValueError("thirteen")
    if record["n"] == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"n": record["n"] * 2}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script = tmp_path_factory.mktemp("cluster") / "cluster.py"
    script.write_text(CLUSTER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    yield process.stdout.readline().strip()
    process.stdin.close()
    try:
        process.wait(WAIT_S)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "target.py").write_text(TARGET)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(300)))
    return tmp_path


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    done = mpengine("run", "target.py:double", "in.jsonl", *arguments, "--to", "jsonl", cwd=folder)
    return done.code, done.err


def test_the_same_command_runs_on_a_cluster(address: str, folder: Path) -> None:
    at_home = run(folder, "-o", "home.jsonl", "--errors", "home-errors.jsonl")
    there = run(folder, "-o", "there.jsonl", "--errors", "there-errors.jsonl", "--on", address)
    assert (at_home[0], there[0]) == (1, 1)
    assert (folder / "there.jsonl").read_text() == (folder / "home.jsonl").read_text()
    lines = (folder / "there-errors.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["status"] for line in lines) == ["failed", "lost"]


def test_its_report_and_trace_tell_of_all_jobs(address: str, folder: Path) -> None:
    code, err = run(folder, "-o", "out.jsonl", "--on", address, "--report", "r.html", "--trace", "t.json")
    assert code == 1, err
    assert "300" in (folder / "r.html").read_text()
    assert json.loads((folder / "t.json").read_text())


def test_what_is_wrong_there_is_one_line(address: str, folder: Path) -> None:
    code, err = run(folder, "--on", "dask://nowhere")
    assert code == 2
    assert err.startswith("mpengine: --on dask://nowhere: ")
    (folder / "target.py").write_text(f"{TARGET}\nimport os\nif os.path.basename(os.getcwd()) != 'x': pass\n")
    broken = "import sys\nif not sys.argv[0].endswith('__main__.py'):\n    raise LookupError('not here')\n"
    (folder / "target.py").write_text(broken + TARGET)
    code, err = run(folder, "--on", address)
    assert code == 3, err
    assert "TARGET 'target.py:double' cannot be imported in a worker: " in err
    assert "LookupError: not here" in err
