"""OUT with its journal: begun anew, or gone on with from where an earlier run was cut off."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mpengine.batch.formats import Compression, Format, told_by
from mpengine.batch.journal import ENDING, Journal
from mpengine.batch.order import Order
from mpengine.batch.recorder import swap
from mpengine.batch.sinks import FileSink, Sink
from mpengine.cli.inputs import Source
from mpengine.cli.places import FilePlace, Place
from mpengine.cli.problems import Problem
from mpengine.cli.resuming import compare, open_journal
from mpengine.cli.writer import STDOUT_ARGUMENT, Writer

# Of whatever is in OUT after this is in the journal, it is known that it is not to be relied upon.
_NOTHING = {"mark": 0, "ended": 0, "out": {}, "wall_s": 0.0, "workers": 0, "headers": []}

AGAIN = "run it again (with --resume, if it is the same OUT)"


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
        format: Of the results; where they are not all of one, that which asks most of a run.
        format_of: Of the results of a source.
        on_source: To be told the number of the first job of each source.
        journal: None where nothing can be gone on with.
        retried: Jobs that are tried again, and whose place in OUT is passed.
        wall_s: Seconds of earlier runs.
    """

    name: str
    writer: Writer
    order: Order
    make_sink: Callable[[], Sink]
    format: Format
    format_of: Callable[[Source], Format]
    on_source: Callable[[int], None] = lambda number: None
    journal: Journal | None = None
    retried: set[int] = field(default_factory=set)
    wall_s: float = 0.0
    done_before: int = 0

    def __post_init__(self) -> None:
        self.done_before = self.order.mark + len(self.order) + len(self.order.gone)


def format_of(asked: Format | None, name: str) -> Format:
    """Of an OUT: what was asked for, else by its ending, else JSON lines."""
    return asked or told_by("" if name == STDOUT_ARGUMENT else name)[0] or Format.JSONL


def open_out_of(wanted: Wanted, fd: int, writer: Writer, stack: contextlib.ExitStack, plan: dict[str, Any]) -> Out:
    """What is open, with its journal if it can have one. See `open_with_journal`."""
    if wanted.name == STDOUT_ARGUMENT or not stat.S_ISREG(os.fstat(fd).st_mode):
        return _without_journal(wanted, fd, writer)
    return open_with_journal(wanted, FilePlace(wanted.name, fd, writer, wanted.format), stack, plan)


def open_with_journal(wanted: Wanted, place: Place, stack: contextlib.ExitStack, plan: dict[str, Any]) -> Out:
    """Nothing of OUT is changed yet. Raises `Problem` if it cannot be what it is to be.

    Args:
        stack: Closes the journal.
        plan: Of this run, see `resuming`.
    """
    place.lock()
    place.writer.again = AGAIN
    path = place.path + ENDING
    going_on = wanted.resume or wanted.resume_failed
    if not os.path.exists(path):
        _check_begun(place, {}, going_on)
        stack.callback(_remove_unless_begun, place)
    journal = open_journal(path)
    stack.callback(journal.close)
    state = journal.get("state") or {}
    _check_begun(place, state, going_on)
    begin = functools.partial(_begin, place, journal, plan)
    make = functools.partial(
        Out, place.name, place.writer, format=wanted.format, format_of=place.format_of, on_source=place.on_source,
        journal=journal,
    )  # fmt: skip
    if not (state and going_on):
        return make(Order(ordered=not wanted.unordered), begin)
    if any(source["label"] == "stdin" for source in plan["inputs"]):
        raise Problem("stdin cannot be read again from its start, so its run cannot go on; save it to a file first")
    compare(place.journal, journal.get("plan"), plan)
    if swap(journal, place.path_of):
        place.reopen()
    before = state["out"]
    place.check(journal, before)
    order, retried = _order(wanted, state, journal)
    # Without a state it was cut off before anything was written.
    make_sink = functools.partial(_go_on, place, journal, before) if before else begin
    return make(order, make_sink, retried=retried, wall_s=state["wall_s"])


def _without_journal(wanted: Wanted, fd: int, writer: Writer) -> Out:
    if wanted.resume or wanted.resume_failed:
        raise Problem(
            f"--resume needs a file for OUT, with its journal beside it, and {writer.name!r} is none; use -o FILE"
        )
    if wanted.format is Format.PARQUET:
        raise Problem(f"Parquet is written to its end, which {writer.name!r} has not; name a file with -o FILE")
    compression = Compression.NONE if wanted.name == STDOUT_ARGUMENT else told_by(wanted.name)[1]
    order = Order(ordered=not wanted.unordered)
    return Out(
        writer.name,
        writer,
        order,
        lambda: FileSink(None, writer, fd, wanted.format, compression, {}),
        wanted.format,
        lambda source: wanted.format,
    )


def _check_begun(place: Place, state: dict[str, Any], going_on: bool) -> None:
    if state and not going_on and not state.get("complete"):
        raise Problem(
            f"OUT {place.name!r} has a journal of a run that was cut off after {state['mark']:,} jobs; --resume goes "
            f"on with it; to begin anew, remove {place.journal!r} first"
        )
    if going_on and not state and (there := place.holds()) is not None:
        raise Problem(
            f"OUT {there!r} is there and has no journal that tells what is in it; move it away, or leave out --resume"
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


def _begin(place: Place, journal: Journal, plan: dict[str, Any]) -> Sink:
    place.begun = True
    with journal.transaction():
        journal.clear()
        journal.put("plan", plan)
        journal.put("state", _NOTHING)
    place.clear()
    return place.sink(journal, {})


def _go_on(place: Place, journal: Journal, before: dict[str, Any]) -> Sink:
    place.begun = True
    return place.sink(journal, before)


def _remove_unless_begun(place: Place) -> None:
    """A journal that is ours, and in which nothing is."""
    if not place.begun:
        with contextlib.suppress(OSError):
            os.unlink(place.path + ENDING)
