"""Programs that a test looks at while they run."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.support import ROOT, WAIT_S, process_tree


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A script in a process group of its own, as a shell's job is; killed at the end if it has not ended."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read_line(process: subprocess.Popen[bytes]) -> str:
    """A line of its output, within a bound."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what a buffer holds, no select sees
        ready, _, _ = select.select([process.stdout], [], [], WAIT_S)
        assert ready, f"no output but {line!r}\n{process_tree()}"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"it ended after {line!r}"
        line += byte
    return line.decode().strip()


def below(process: subprocess.Popen[bytes]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
