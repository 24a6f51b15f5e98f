"""The standard streams, kept apart from what targets and jobs print and read.

Workers inherit descriptors 0, 1 and 2. A job that prints would write into the results on stdout; a job that
runs ffmpeg or ssh would eat lines from stdin. So the command moves the stream it uses to a descriptor of
its own, which no child inherits, before TARGET is imported and before workers start.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from mpengine.cli.problems import Problem

STDIN, STDOUT, STDERR = 0, 1, 2


def fill_closed() -> None:
    """Opens /dev/null where a standard stream is closed. To be called before anything else is opened.

    Otherwise OUT might become descriptor 2, and whatever anybody writes to stderr would land in it.
    """
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: fd itself
            os.set_inheritable(taken, True)


@contextlib.contextmanager
def own_stdout() -> Iterator[int]:
    """A descriptor that is the stdout of the command; within, what anybody prints goes to stderr."""
    if sys.stdout is None:  # as Python says that it was started without
        raise Problem("stdout is closed, so there is no place for the results; name a file with -o FILE")
    with _moved(STDOUT, STDERR) as fd:
        yield fd


@contextlib.contextmanager
def own_stdin() -> Iterator[int]:
    """A descriptor that is the stdin of the command; within, whoever reads stdin finds it empty."""
    if sys.stdin is None:
        raise Problem("INPUT '-': stdin is closed; pipe the lines in, or name a file")
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        with _moved(STDIN, nothing) as fd:
            yield fd
    finally:
        os.close(nothing)


@contextlib.contextmanager
def _moved(fd: int, instead: int) -> Iterator[int]:
    _flush()
    ours = os.dup(fd)  # not inheritable
    os.dup2(instead, fd)  # inheritable
    try:
        yield ours
    finally:
        _flush()
        os.dup2(ours, fd)
        os.close(ours)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
