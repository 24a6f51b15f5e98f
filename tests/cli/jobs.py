"""Targets for the tests of the command line, run as `tests/cli/jobs.py:NAME`."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SQUARE_S = float(os.environ.get("SQUARE_S", "0"))  # how long `square` takes


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


def wait_for_leave(line: str) -> str:
    """Says where it is, and ends when there is a file `leave`."""
    Path(f"hangs-{os.getpid()}").touch()
    while not Path("leave").exists():
        time.sleep(0.01)
    return line


def hang_after_two(line: str) -> str:
    if int(line) > 2:
        hang(line)
    return line


def fail(record: object) -> None:
    raise Refused("nothing is taken")


def fail_once(line: str) -> str:
    """Fails at the first attempt, and succeeds at the second."""
    marker = Path(f"tried-{line}")
    if marker.exists():
        return line
    marker.touch()
    raise ValueError("the first attempt")


def square(record: dict[str, Any]) -> dict[str, object] | None:
    """Of a record with a number `n`. Some are left out, and some fail."""
    number = int(record["n"])
    time.sleep(SQUARE_S)
    if number % 100 == 50:
        return None
    if number % 1000 == 7:
        raise Refused(f"will not take {number}")
    return {"n": number, "square": number**2, "text": "x" * (number % 10)}


def doze(line: str) -> str:
    time.sleep(0.001 * int(line))
    return line


def shout(line: str) -> str | None:
    return None if line == "skip" else line.upper()


def count(table: Any) -> list[int]:
    return [table.num_rows]


def as_set(line: str) -> object:
    return {line}


def odd_row(line: str) -> dict[str, object]:
    return {"a": int(line)} if line.isdigit() else {"a": [line], "b": line}


def niceness(line: str) -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def fill(line: str) -> int:
    """So many MB."""
    return len(b"x" * (int(line) * 10**6))


def mend(record: dict[str, Any]) -> dict[str, object] | None:
    """As `square`, and fails only as long as there is no file `mended`."""
    number = int(record["n"])
    if number % 1000 == 7 and Path("mended").exists():
        return {"n": number, "square": number**2, "text": "mended"}
    return square(record)


def total(records: Any) -> list[dict[str, int]]:
    """Of a list of records, or of a table."""
    rows = records if isinstance(records, list) else records.to_pylist()
    return [{"count": len(rows), "total": sum(int(row["n"]) for row in rows)}]


def as_frame(table: Any) -> Any:
    """A table as a DataFrame, with another column."""
    frame = table.to_pandas()
    frame["double"] = 2 * frame["n"].astype(int)
    return frame


def long(line: str) -> str:
    return line * 1_000
