"""Jobs that print a lot, in every way there is; used by name, as TARGET."""

import logging
import os
import subprocess
import sys

from mpengine import current_job
from tests.runtime.gates import Door


def chatter(line: str) -> str:
    number = int(line)
    for part in range(5):
        print(f"out {number} {part}", "." * (number * part % 40))
        print(f"err {number} {part}", file=sys.stderr)
    print("\x1b[31mcoloured\x1b[0m", number, "\x1b[2A\x1b[5D")
    os.write(2, f"raw {number}\n".encode())
    logging.getLogger("noisy").warning("logged %d", number)
    if number % 9 == 4:
        raise ValueError(f"bad {number}")
    return line


def child(line: str) -> str:
    subprocess.run(["sh", "-c", f"echo child {line}; echo of {line} >&2"], check=True)
    return line


def wait_at(line: str) -> str:
    """``path number``: announce oneself, tell how far it is, wait."""
    path, number = line.rsplit(" ", 1)
    job = current_job()
    assert job is not None
    if number == "3":
        raise ValueError("bad 3")
    job.progress(3, 4)
    print("at the door", number)
    Door(path).enter(number)
    return number
