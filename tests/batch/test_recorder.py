"""Cut off at every single step, and gone on with: OUT is what an undisturbed run would have written."""

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpengine.batch import parquet, sinks
from mpengine.batch.formats import Compression, Format
from mpengine.batch.journal import FailureRow, Journal
from mpengine.batch.order import Entry, Order
from mpengine.batch.parquet import ParquetSink
from mpengine.batch.recorder import Recorder, swap
from mpengine.batch.sinks import FileSink, Sink
from mpengine.batch.work import csv_row, json_line, table_row
from tests.batch.support import Disk, Effects, Killed, before, counted

JOBS = 40
FLAKY = {3, 4, 17, 39}  # fail in a first run, and succeed when they are tried again
BROKEN = {8, 20}  # always fail
WAIT_S = 20.0


class Machine:
    """A folder with OUT and its journal, and runs over the same jobs that are cut off now and then."""

    def __init__(self, folder: Path, format: Format, compression: Compression, *, ordered: bool = True) -> None:
        self.out = str(folder / "out")
        self._format = format
        self._compression = compression
        self._ordered = ordered
        self._encode: Callable[[Any], bytes] = {
            Format.JSONL: json_line, Format.CSV: csv_row, Format.PARQUET: table_row
        }[format]  # fmt: skip

    def run(
        self, numbers: list[int], effects: Effects, monkeypatch: pytest.MonkeyPatch, *, retry: bool = False
    ) -> bool:
        """One process: goes on with what the journal says; False: it was cut off."""
        with contextlib.ExitStack() as stack:
            journal = Journal.open(self.out + ".journal")
            stack.callback(journal.close)
            monkeypatch.setattr(journal, "transaction", counted(journal.transaction, effects))
            monkeypatch.setattr(os, "replace", before(os.replace, effects))
            try:
                order, sink, again = self._open(journal, effects, stack, retry)
            except Killed:
                return False
            finally:
                monkeypatch.undo()
            monkeypatch.setattr(journal, "transaction", counted(journal.transaction, effects))
            monkeypatch.setattr(os, "replace", before(os.replace, effects))
            ended = threading.Event()
            ticks = iter(range(10**9))
            recorder = Recorder(sink, order, journal, clock=lambda: float(next(ticks)), on_problem=ended.set)
            done = {n for n in range(JOBS) if order.knows(n) and n not in again}
            recorder.start()
            for number in numbers:
                if number not in done:
                    recorder.add(*self.outcome(number, retry))
            try:
                recorder.close(complete=True)
            except Killed:
                return False
            finally:
                monkeypatch.undo()
            return True

    def _open(
        self, journal: Journal, effects: Effects, stack: contextlib.ExitStack, retry: bool
    ) -> tuple[Order, Sink, set[int]]:
        state = journal.get("state") or {}
        again: set[int] = set()
        order = Order(ordered=self._ordered)
        if state:
            swap(journal, lambda file: self.out)
            rows = {row.number: row for row in journal.failures()}
            passed = (n for n, row in rows.items() if row.at is not None and n >= state["mark"])
            order = Order(state["mark"], {*journal.gone(), *passed}, journal.entries(), ordered=self._ordered)
            if retry:
                again = {*rows} - {*order.late}
                waiting = [number for number in again if number in order.waiting]
                order.forget(waiting)
                journal.drop(waiting)
                journal.drop_failures(waiting)
        out = state.get("out", {})
        if self._format is Format.PARQUET:
            return order, ParquetSink(self.out, out), again
        fd = os.open(self.out, os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, fd)
        assert os.fstat(fd).st_size >= out.get("size", 0), "the journal tells of more than there is"
        os.ftruncate(fd, out.get("size", 0))
        os.lseek(fd, 0, os.SEEK_END)
        return order, FileSink(self.out, Disk(fd, effects), fd, self._format, self._compression, out), again

    def outcome(self, number: int, retry: bool) -> tuple[Entry, FailureRow | None]:
        if number in BROKEN or (number in FLAKY and not retry):
            row = FailureRow(number, str(number), "failed", "E", "no", "", "", 1, 0.0, b"given")
            return Entry(number, str(number), b"", True), row
        value = {"n": number, "text": "x" * (number % 5)}
        return Entry(number, str(number), self._encode(value), False, b"given"), None


KINDS = [
    (Format.JSONL, Compression.NONE),
    (Format.JSONL, Compression.GZIP),
    (Format.CSV, Compression.NONE),
    (Format.PARQUET, Compression.NONE),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many frames and groups in few jobs. Not by `monkeypatch`, whose changes a run takes back."""
    frames, groups = sinks.FRAME_BYTES, parquet.GROUP_RESULTS
    sinks.FRAME_BYTES, parquet.GROUP_RESULTS = 100, 7
    monkeypatch.setattr("mpengine.batch.recorder._PAUSE_S", 0.0)
    yield
    sinks.FRAME_BYTES, parquet.GROUP_RESULTS = frames, groups


@pytest.mark.parametrize(("format", "compression"), KINDS)
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_a_run_that_is_cut_off_at_any_step_ends_as_one_that_is_not(
    format: Format, compression: Compression, ordered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(f"{format} {compression}")
    numbers = [*range(JOBS)]
    for at in range(0, JOBS, 8):  # as they come: not far from their places
        part = numbers[at : at + 8]
        chance.shuffle(part)
        numbers[at : at + 8] = part
    (tmp_path / "whole").mkdir()
    whole = Machine(tmp_path / "whole", format, compression, ordered=ordered)
    effects = Effects()
    assert whole.run(numbers, effects, monkeypatch)
    assert whole.run(numbers, effects, monkeypatch, retry=True)  # nothing else remains to be done
    assert effects.done > 8
    wanted = content(whole.out, format, compression)
    for end_at in range(effects.done):
        folder = tmp_path / str(end_at)
        folder.mkdir()
        machine = Machine(folder, format, compression, ordered=ordered)
        for _ in range(4):  # the same step ends it again and again; what it did before is kept
            machine.run(numbers, Effects(end_at), monkeypatch)
        assert machine.run(numbers, Effects(), monkeypatch)
        for _ in range(2):
            machine.run(numbers, Effects(end_at), monkeypatch, retry=True)
        assert machine.run(numbers, Effects(), monkeypatch, retry=True)
        found = content(machine.out, format, compression)
        if not ordered:
            found.sort(), wanted.sort()
        assert found == wanted, f"cut off at step {end_at}"
        journal = Journal.open(machine.out + ".journal")
        assert {row.number for row in journal.failures()} == BROKEN
        assert [*journal.entries()] == []
        assert (journal.get("state")["ended"], journal.get("state")["complete"]) == (JOBS, True)
        journal.close()
        left = {*os.listdir(folder)} - {"out", "out.journal"}
        assert left == set(), f"cut off at step {end_at}"


def content(path: str, format: Format, compression: Compression) -> list[str]:
    if format is Format.PARQUET:
        import pyarrow.parquet as pq

        return [str(row) for row in pq.read_table(path).to_pylist()]
    import gzip

    data = Path(path).read_bytes()
    return (gzip.decompress(data) if compression is Compression.GZIP else data).decode().splitlines()


@pytest.mark.parametrize("format", [Format.JSONL, Format.PARQUET])
def test_what_has_ended_out_of_its_turn_is_not_done_again(
    format: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, format, Compression.NONE)
    with contextlib.ExitStack() as stack:
        journal = Journal.open(machine.out + ".journal")
        stack.callback(journal.close)
        order, sink, _ = machine._open(journal, Effects(), stack, retry=False)
        recorder = Recorder(sink, order, journal, clock=lambda: 0.0)
        recorder.start()
        for number in (1, 3, 5):
            recorder.add(*machine.outcome(number, retry=False))
        recorder.close(complete=False)
    with contextlib.ExitStack() as stack:
        journal = Journal.open(machine.out + ".journal")
        stack.callback(journal.close)
        assert journal.get("state")["ended"] == 3
        order, _, _ = machine._open(journal, Effects(), stack, retry=False)
        assert [number for number in range(7) if order.knows(number)] == [1, 3, 5]


def test_a_result_that_out_refuses_is_a_failure_with_what_it_was_given(tmp_path: Path) -> None:
    journal = Journal.open(str(tmp_path / "out.journal"))
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    sink = FileSink(str(tmp_path / "out"), Disk(fd, Effects()), fd, Format.CSV, Compression.NONE, {})
    noted: list[FailureRow] = []
    recorder = Recorder(sink, Order(), journal, clock=lambda: 0.0, note_failure=noted.append)
    recorder.start()
    for number, value in enumerate([{"a": 1}, {"b": 2}, {"a": 3}]):
        recorder.add(Entry(number, f"f:{number}", csv_row(value), False, b"given"), None)
    recorder.close(complete=True)
    assert (tmp_path / "out").read_text() == "a\n1\n3\n"
    (row,) = journal.failures()
    assert (row.number, row.id, row.type, row.payload, row.at) == (1, "f:1", "UnfitResult", b"given", 2)
    assert noted[0].number == 1
    journal.close()
    os.close(fd)


def test_without_a_journal_failures_are_told_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    noted: list[FailureRow] = []
    sink = FileSink(None, Disk(fd, Effects()), fd, Format.JSONL, Compression.NONE, {})
    recorder = Recorder(sink, Order(), None, clock=lambda: 0.0, note_failure=noted.append)
    recorder.start()
    machine = Machine(tmp_path, Format.JSONL, Compression.NONE)
    for number in range(10):
        recorder.add(*machine.outcome(number, retry=False))
    recorder.close(complete=True)
    assert [row.number for row in noted] == [3, 4, 8]
    assert (recorder._failures, recorder._places) == ({}, [])
    assert len((tmp_path / "out").read_text().splitlines()) == 7
    os.close(fd)


def test_when_nothing_can_be_written_it_says_so_once(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    told = threading.Event()
    sink = FileSink(None, Disk(fd, Effects(0)), fd, Format.JSONL, Compression.NONE, {})
    recorder = Recorder(sink, Order(), None, clock=lambda: 0.0, on_problem=told.set)
    recorder.start()
    recorder.add(Entry(0, "0", b"text", False), None)
    assert told.wait(WAIT_S)
    with pytest.raises(Killed):
        recorder.close(complete=False)
    os.close(fd)
