"""Every kind of engine keeps the promises of `conformance.py`.

Each in a process of its own: clients of clusters keep threads, descriptors and servers, which no other test should see.
"""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "kind",
    [
        "local",
        "dask",
        "ray",
        pytest.param("ray-client", marks=pytest.mark.stress),  # its server may take minutes to start, see `clusters`
    ],
)
def test_an_engine_keeps_its_promises(kind: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cluster/conformance.py"]
    environment = {**os.environ, "MPENGINE_CLUSTER": kind, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=230, check=False)
    assert done.returncode == 0, f"{done.stdout[-20000:]}\n{done.stderr[-5000:]}"
