"""`mpengine` as a user runs it: in a process of its own, in a folder of its own."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support import ROOT, WAIT_S, process_tree, run_python

MPENGINE = ("-m", "mpengine")


class Run:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The result lines on stdout, by id. Fails if two have the same."""
        return by_id(self.out)

    @property
    def message(self) -> str:
        """The one line on stderr. Fails if there is another, or if it is not ours."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("mpengine: ")
        return lines[0].removeprefix("mpengine: ")


def outcomes(arguments: Sequence[str]) -> list[str]:
    """The arguments; of a run that does not say how its results are to be told, with all that is to be told."""
    plain = [*arguments]
    if plain[:1] == ["run"] and "--to" not in plain:
        plain += ["--to", "outcomes"]
    return plain


def mpengine(*arguments: str, cwd: Path, stdin: str = "") -> Run:
    """Runs `python -m mpengine ARGUMENT...` to its end; whatever it says, it must not be a traceback of ours."""
    done = run_python(*MPENGINE, *outcomes(arguments), cwd=cwd, stdin=stdin, timeout=2 * WAIT_S)
    assert "Traceback" not in done.stderr, done.stderr
    return Run(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def started(
    *arguments: str,
    cwd: Path,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.PIPE,
    plain: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """`python -m mpengine ARGUMENT...` as it runs, in a process group of its own, as a shell's job is.

    It is killed at the end of the block if it has not ended by itself. `plain`: its results are told as it tells them.
    """
    # Where the tests run in the background of a script, SIGINT is ignored, and would be by the command.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, *MPENGINE, *(arguments if plain else outcomes(arguments))],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        process.wait()


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line of the command's stdout, which must come while the command runs."""
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    assert poll.poll(WAIT_S * 1000), f"no line came within {WAIT_S:g} s\n{process_tree()}"
    return process.stdout.readline()


def next_message(process: subprocess.Popen[str]) -> str:
    """The next line of the command's own on stderr, past what jobs have printed there."""
    assert process.stderr is not None
    while True:
        line: str = process.stderr.readline()  # the test's timeout bounds it
        if not line or line.startswith("mpengine: "):
            return line


class Pipe:
    """The command's stdin: what is written can be read at once, and it stays open until `close`."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        self._open = True

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        os.close(self.reader)

    def write(self, text: str) -> None:
        os.write(self._writer, text.encode())

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._writer)


def ended(process: subprocess.Popen[str]) -> Run:
    """Waits for the end of what `started` gave."""
    try:
        out, err = process.communicate(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"mpengine did not end within {WAIT_S:g} s\n{process_tree()}") from None
    assert "Traceback" not in (err or ""), err
    return Run(process.returncode, out or "", err or "")


def by_id(lines: str) -> dict[str, dict[str, Any]]:
    """Result lines by their id. Fails on a line that is not whole, and on an id that comes twice."""
    assert lines == "" or lines.endswith("\n"), f"the last line is not whole: {lines[-100:]!r}"
    records = [json.loads(line) for line in lines.splitlines()]
    found = {record["id"]: record for record in records}
    assert len(found) == len(records), "an id comes twice"
    return found


def values(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The values of the jobs that succeeded, by id."""
    return {id_: record["value"] for id_, record in records.items() if record["status"] == "succeeded"}


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path
