"""Targets for the tests of the command line, run as `tests/cli/jobs.py:NAME`."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


class Refused(Exception):
    """An error whose class only this file has."""


def echo(argument: object) -> object:
    return argument


def pid(line: str) -> int:
    return os.getpid()


def refuse(line: str) -> str:
    if line.startswith("bad"):
        raise Refused(f"will not take {line!r}")
    return line


def talk(line: str) -> str:
    """Writes to stdout in every way there is."""
    print("printed", line)
    sys.stdout.flush()
    os.write(1, b"written\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    return line


def make_noise(line: str) -> str:
    """Writes to every standard stream there is."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.write(fd, b"noise\n")
    return refuse(line)


def listen(line: str) -> str:
    """Reads all of what a child finds on stdin."""
    child = subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin.read())"], capture_output=True)
    return child.stdout.decode().strip()


def end_badly(line: str) -> object:
    match line:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "hang":
            hang(line)
        case "unpicklable":
            return threading.Lock()
        case "system exit":
            sys.exit("enough")
    return line


def hang(line: str) -> None:
    """Ends only when it is ended. Says where it is, in the current folder, before it waits."""
    Path(f"hangs-{os.getpid()}").touch()
    threading.Event().wait()


def hang_after_two(line: str) -> str:
    if int(line) > 2:
        hang(line)
    return line


def fail_once(line: str) -> str:
    """Fails at the first attempt, and succeeds at the second."""
    marker = Path(f"tried-{line}")
    if marker.exists():
        return line
    marker.touch()
    raise ValueError("the first attempt")


def long(line: str) -> str:
    return line * 1_000
