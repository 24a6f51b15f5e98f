"""OUT with its journal: begun anew, or gone on with from where an earlier run was cut off."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mpengine.batch.formats import Compression, Format, told_by
from mpengine.batch.journal import ENDING, Journal
from mpengine.batch.order import Order
from mpengine.batch.parquet import ParquetSink
from mpengine.batch.recorder import swap
from mpengine.batch.sinks import FileSink, Sink
from mpengine.cli.problems import Problem
from mpengine.cli.resuming import compare, open_journal
from mpengine.cli.writer import STDOUT_ARGUMENT, Writer

# Of whatever is in OUT after this is in the journal, it is known that it is not to be relied upon.
_NOTHING = {"mark": 0, "ended": 0, "out": {}, "wall_s": 0.0, "workers": 0, "headers": []}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked of OUT."""

    name: str
    format: Format
    unordered: bool
    resume: bool
    resume_failed: bool


@dataclass(slots=True)
class Out:
    """OUT, and what an earlier run has left of it.

    Attributes:
        make_sink: To be called once all else is right: it touches OUT.
        journal: None where nothing can be gone on with.
        retried: Jobs that are tried again, and whose place in OUT is passed.
        wall_s: Seconds of earlier runs.
    """

    name: str
    writer: Writer
    order: Order
    make_sink: Callable[[], Sink]
    journal: Journal | None = None
    retried: set[int] = field(default_factory=set)
    wall_s: float = 0.0
    done_before: int = 0

    def __post_init__(self) -> None:
        self.done_before = self.order.mark + len(self.order) + len(self.order.gone)


def format_of(asked: Format | None, name: str) -> Format:
    """Of an OUT: what was asked for, else by its ending, else JSON lines."""
    return asked or told_by("" if name == STDOUT_ARGUMENT else name)[0] or Format.JSONL


def open_with_journal(
    wanted: Wanted, fd: int, writer: Writer, stack: contextlib.ExitStack, plan: dict[str, Any]
) -> Out:
    """Nothing of OUT is changed yet. Raises `Problem` if it cannot be what it is to be.

    Args:
        fd: Of OUT, open for writing.
        stack: Closes the journal.
        plan: Of this run, see `resuming`.
    """
    if wanted.name == STDOUT_ARGUMENT or not stat.S_ISREG(os.fstat(fd).st_mode):
        return _without_journal(wanted, fd, writer)
    _lock(fd, writer.name)
    writer.again = "run it again (with --resume, if it is the same OUT)"
    path = os.path.abspath(wanted.name)
    journal = open_journal(path + ENDING)
    stack.callback(journal.close)
    state = journal.get("state") or {}
    going_on = wanted.resume or wanted.resume_failed
    _check_begun(wanted, writer.name, state, os.fstat(fd).st_size, going_on)
    if not (state and going_on):
        order = Order(ordered=not wanted.unordered)
        return Out(writer.name, writer, order, lambda: _begin(wanted, path, fd, writer, journal, plan), journal)
    if any(source["label"] == "stdin" for source in plan["inputs"]):
        raise Problem("stdin cannot be read again from its start, so its run cannot go on; save it to a file first")
    compare(writer.name + ENDING, journal.get("plan"), plan)
    if swap(journal, lambda file: path):  # what we have open is no more what is there
        new = os.open(path, os.O_RDWR)
        os.dup2(new, fd, inheritable=False)
        os.close(new)
        _lock(fd, writer.name)
    before = state["out"]
    least = before.get("size", int(before.get("whole", False)))
    size = os.fstat(fd).st_size
    if size < least:
        raise Problem(
            f"OUT {writer.name!r} has {size:,} bytes, and its journal tells of {least:,} or more: it was changed; put "
            f"it back, or remove {writer.name + ENDING!r} to begin anew"
        )
    order, retried = _order(wanted, state, journal)
    if before:
        out = Out(writer.name, writer, order, lambda: _go_on(wanted, path, fd, writer, before), journal, retried)
    else:  # it was cut off before anything was written
        out = Out(writer.name, writer, order, lambda: _begin(wanted, path, fd, writer, journal, plan), journal)
    out.wall_s = state["wall_s"]
    return out


def _lock(fd: int, name: str) -> None:
    """For as long as it is open."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Problem(f"OUT {name!r} is being written by another run; wait for its end, or name another") from None
    except OSError:  # a file system without locks
        pass


def _without_journal(wanted: Wanted, fd: int, writer: Writer) -> Out:
    if wanted.resume or wanted.resume_failed:
        raise Problem(
            f"--resume needs a file for OUT, with its journal beside it, and {writer.name!r} is none; use -o FILE"
        )
    if wanted.format is Format.PARQUET:
        raise Problem(f"Parquet is written to its end, which {writer.name!r} has not; name a file with -o FILE")
    compression = Compression.NONE if wanted.name == STDOUT_ARGUMENT else told_by(wanted.name)[1]
    order = Order(ordered=not wanted.unordered)
    return Out(writer.name, writer, order, lambda: FileSink(None, writer, fd, wanted.format, compression, {}))


def _check_begun(wanted: Wanted, name: str, state: dict[str, Any], size: int, going_on: bool) -> None:
    if state and not going_on and not state.get("complete"):
        raise Problem(
            f"OUT {name!r} has a journal of a run that was cut off after {state['mark']:,} jobs; --resume goes on with "
            f"it; to begin anew, remove {name + ENDING!r} first"
        )
    if going_on and not state and size:
        raise Problem(
            f"OUT {name!r} is there and has no journal that tells what is in it; move it away, or leave out --resume"
        )


def _order(wanted: Wanted, state: dict[str, Any], journal: Journal) -> tuple[Order, set[int]]:
    """Of what has ended, and the jobs that are tried again whose place in OUT is passed."""
    failed = {row.number: row for row in journal.failures()}
    passed = (number for number, row in failed.items() if row.at is not None and number >= state["mark"])
    order = Order(state["mark"], {*journal.gone(), *passed}, journal.entries(), ordered=not wanted.unordered)
    if not wanted.resume_failed:
        return order, set()
    retried = failed.keys() - order.late.keys()
    again = retried & order.waiting.keys()
    order.forget(again)
    with journal.transaction():
        journal.drop(again)
        journal.drop_failures(again)
    return order, retried - again


def _begin(wanted: Wanted, path: str, fd: int, writer: Writer, journal: Journal, plan: dict[str, Any]) -> Sink:
    with journal.transaction():
        journal.clear()
        journal.put("plan", plan)
        journal.put("state", _NOTHING)
    writer.start()
    return _go_on(wanted, path, fd, writer, {})


def _go_on(wanted: Wanted, path: str, fd: int, writer: Writer, state: dict[str, Any]) -> Sink:
    if wanted.format is Format.PARQUET:
        return ParquetSink(path, state)
    writer.start(state.get("size", 0))
    return FileSink(path, writer, fd, wanted.format, told_by(wanted.name)[1], state)
