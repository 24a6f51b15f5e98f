"""A folder with a file for each input: what each job's file is, and that it is whole, wherever the run was cut off."""

import contextlib
import os
import random
import resource
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mpengine.batch import parquet, sinks
from mpengine.batch.folder import Boundaries, FolderSink, OutFile, clear
from mpengine.batch.formats import Compression, Format, result_name
from mpengine.batch.journal import FailureRow, Journal
from mpengine.batch.order import Entry, Order
from mpengine.batch.recorder import Recorder, swap
from mpengine.batch.sinks import FileNote
from mpengine.batch.work import csv_row, json_line, table_row
from tests.batch.support import Disk, Effects, Killed, before, counted

COUNTS = [0, 9, 0, 14, 1, 0, 16, 0]  # of the jobs of each input
JOBS = sum(COUNTS)
NONE = {23}  # the only result of its file
FLAKY = {3, 4, 17, 39}  # fail in a first run, and succeed when they are tried again
BROKEN = {8, 20}  # always fail


class Machine:
    """A folder with its journal beside it, and runs over the same jobs that are cut off now and then."""

    def __init__(
        self, folder: Path, format: Format, compression: Compression, counts: Sequence[int] = tuple(COUNTS)
    ) -> None:
        folder.mkdir()
        self.firsts = [sum(counts[:file]) for file in range(len(counts))]
        self.jobs = sum(counts)
        self.flaky = set(FLAKY)
        self.broken = set(BROKEN)
        self.none = set(NONE)
        self.out = folder / "out"
        self.out.mkdir()
        self._encode: Callable[[Any], bytes] = {
            Format.JSONL: json_line, Format.CSV: csv_row, Format.PARQUET: table_row
        }[format]  # fmt: skip
        self.files = [
            OutFile(str(self.out / ("sub" if file > 3 else ".") / f"{file}"), format, compression)
            for file in range(len(counts))
        ]

    def run(
        self,
        numbers: list[int],
        effects: Effects,
        monkeypatch: pytest.MonkeyPatch,
        *,
        retry: bool = False,
        lead: int = 0,
        until: int | None = None,
    ) -> bool:
        """One process: goes on with what the journal says; False: it was cut off.

        Args:
            numbers: The jobs, in the order they end.
            retry: What failed is tried again, and what is flaky succeeds.
            lead: How far the reader is ahead of what ends.
            until: So many of the numbers; then the run is interrupted, and closes in good order.
        """
        with contextlib.ExitStack() as stack:
            journal = Journal.open(f"{self.out}.journal")
            stack.callback(journal.close)
            monkeypatch.setattr(journal, "transaction", counted(journal.transaction, effects))
            for name in ("replace", "ftruncate", "mkdir"):
                monkeypatch.setattr(os, name, before(getattr(os, name), effects))
            monkeypatch.setattr(os, "open", creation(os.open, effects))
            monkeypatch.setattr(shutil, "rmtree", torn_removal(shutil.rmtree, effects))
            try:
                self._run(journal, numbers, effects, stack, retry, lead, until)
            except Killed:
                return False
            finally:
                monkeypatch.undo()
            return True

    def _run(
        self,
        journal: Journal,
        numbers: list[int],
        effects: Effects,
        stack: contextlib.ExitStack,
        retry: bool,
        lead: int = 0,
        until: int | None = None,
    ) -> None:
        order, again = Order(), set[int]()
        state = journal.get("state") or {}
        if state:
            swap(journal, lambda file: self.files[file].path)
            rows = {row.number: row for row in journal.failures()}
            order = Order(state["mark"], (), journal.entries())
            if retry:
                again = {*rows} - {*order.late}
                waiting = [number for number in again if number in order.waiting]
                order.forget(waiting)
                journal.drop(waiting)
                journal.drop_failures(waiting)
        boundaries = Boundaries(journal.firsts())
        sink = FolderSink(
            self.files, boundaries, lambda fd, path: Disk(fd, effects), state.get("out", {}), journal.file_state
        )
        stack.callback(sink.close)
        ticks = iter(range(10**9))
        recorder = Recorder(sink, order, journal, clock=lambda: float(next(ticks)))
        done = {number for number in range(self.jobs) if order.knows(number) and number not in again}
        recorder.start()
        firsts = deque(self.firsts)
        for number in numbers[:until]:
            while firsts and firsts[0] <= number + lead:
                assert boundaries.begin(firsts.popleft())
            if number not in done:
                recorder.add(*self.outcome(number, retry))
        while firsts and until is None:
            assert boundaries.begin(firsts.popleft())
        recorder.close(complete=until is None)

    def outcome(self, number: int, retry: bool) -> tuple[Entry, FailureRow | None]:
        if number in self.broken or (number in self.flaky and not retry):
            row = FailureRow(number, str(number), "failed", "E", "no", "", "", 1, 0.0, b"given")
            return Entry(number, str(number), b"", True), row
        value = None if number in self.none else {"n": number, "text": "x" * (number % 5)}
        return Entry(number, str(number), self._encode(value), False, b"given"), None

    def content(self) -> dict[str, bytes]:
        """Of all that is in the folder, by its path there."""
        return {str(path.relative_to(self.out)): path.read_bytes() for path in self.out.rglob("*") if path.is_file()}


def creation(open: Callable[..., int], effects: Effects) -> Callable[..., int]:
    """Opening what may not be there yet."""

    def step(path: str, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            effects.step()
        return open(path, flags, *more, **options)

    return step


def torn_removal(rmtree: Callable[..., None], effects: Effects) -> Callable[..., None]:
    """A folder of which a part is left."""

    def step(path: str, **options: Any) -> None:
        if not os.path.isdir(path):
            return
        try:
            effects.step()
        except Killed:
            for name in sorted(os.listdir(path))[:1]:
                os.unlink(os.path.join(path, name))
            raise
        rmtree(path, **options)
        effects.step()

    return step


KINDS = [
    (Format.JSONL, Compression.NONE),
    (Format.JSONL, Compression.GZIP),
    (Format.CSV, Compression.NONE),
    (Format.PARQUET, Compression.NONE),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many frames and groups in few jobs. Not by `monkeypatch`, whose changes a run takes back."""
    kept = sinks.FRAME_BYTES, parquet.GROUP_RESULTS
    sinks.FRAME_BYTES, parquet.GROUP_RESULTS = 100, 5
    monkeypatch.setattr("mpengine.batch.recorder._PAUSE_S", 0.0)
    yield
    sinks.FRAME_BYTES, parquet.GROUP_RESULTS = kept


def as_they_come(jobs: int, chance: random.Random, spread: int = 8) -> list[int]:
    """Not far from their places."""
    numbers = [*range(jobs)]
    for at in range(0, jobs, spread):
        part = numbers[at : at + spread]
        chance.shuffle(part)
        numbers[at : at + spread] = part
    return numbers


@pytest.mark.parametrize(("format", "compression"), KINDS)
def test_a_folder_that_was_cut_off_at_any_step_is_as_one_that_was_not(
    format: Format, compression: Compression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = as_they_come(JOBS, random.Random(f"{format} {compression}"))
    whole = Machine(tmp_path / "whole", format, compression)
    effects = Effects()
    assert whole.run(numbers, effects, monkeypatch)
    assert whole.run(numbers, effects, monkeypatch, retry=True)
    wanted = whole.content()
    assert wanted.keys() == {os.path.relpath(file.path, whole.out) for file in whole.files}
    assert effects.done > 3 * len(COUNTS)
    for end_at in range(effects.done):
        machine = Machine(tmp_path / str(end_at), format, compression)
        for _ in range(4):  # the same step ends it again and again; what it did before is kept
            machine.run(numbers, Effects(end_at), monkeypatch)
        assert machine.run(numbers, Effects(), monkeypatch)
        for _ in range(2):
            machine.run(numbers, Effects(end_at), monkeypatch, retry=True)
        assert machine.run(numbers, Effects(), monkeypatch, retry=True)
        assert machine.content() == wanted, f"cut off at step {end_at}"
        journal = Journal.open(f"{machine.out}.journal")
        assert {row.number for row in journal.failures()} == BROKEN
        assert [*journal.entries()] == []
        assert journal.firsts() == machine.firsts
        for note in journal.finished():
            size = (note.state or {}).get("size", os.path.getsize(machine.files[note.number].path))
            assert size == os.path.getsize(machine.files[note.number].path)
        assert (journal.get("state")["ended"], journal.get("state")["complete"]) == (JOBS, True)
        journal.close()
        assert {*os.listdir(machine.out.parent)} == {"out", "out.journal"}
        assert {*os.listdir(machine.out)} == {"sub", "0", "1", "2", "3"}


@pytest.mark.parametrize("seed", range(int(os.environ.get("MPENGINE_FOLDER_SEEDS", "40"))))
def test_whatever_the_inputs_are_and_however_often_it_was_cut_off(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed or interrupted, with what failed tried again in between, or not."""
    chance = random.Random(seed)
    counts = [chance.choice((0, 0, 1, 2, 5, 9, 17)) for _ in range(chance.randint(1, 8))] + [1]
    format, compression = chance.choice(KINDS)
    whole, cut = (Machine(tmp_path / name, format, compression, counts) for name in ("whole", "cut"))
    for machine in (whole, cut):
        chance = random.Random(seed)
        machine.flaky = {number for number in range(machine.jobs) if chance.random() < 0.2}
        machine.broken = {number for number in range(machine.jobs) if chance.random() < 0.1}
        machine.none = {number for number in range(machine.jobs) if chance.random() < 0.2}

    def numbers() -> list[int]:
        return as_they_come(whole.jobs, chance, chance.choice((1, 4, 8, 30)))

    assert whole.run(numbers(), Effects(), monkeypatch)
    assert whole.run(numbers(), Effects(), monkeypatch, retry=True)
    for _ in range(chance.randint(0, 6)):
        effects = Effects(chance.randint(0, 40))
        until = chance.choice((None, None, chance.randrange(cut.jobs)))
        lead = chance.choice((0, 3, 50))
        cut.run(numbers(), effects, monkeypatch, retry=chance.random() < 0.3, lead=lead, until=until)
    assert cut.run(numbers(), Effects(), monkeypatch, retry=True)
    assert cut.run(numbers(), Effects(), monkeypatch, retry=True)
    assert cut.content().keys() == whole.content().keys()
    for one, other in zip(cut.files, whole.files, strict=True):
        assert rows(one) == rows(other)


@pytest.mark.parametrize(("format", "compression"), KINDS)
def test_what_came_late_is_where_it_would_have_been_at_once(
    format: Format, compression: Compression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Machine(tmp_path / "late", format, compression)
    assert late.run([*range(JOBS)], Effects(), monkeypatch)
    assert late.run([*range(JOBS)], Effects(), monkeypatch, retry=True)
    at_once = Machine(tmp_path / "at once", format, compression)
    assert at_once.run([*range(JOBS)], Effects(), monkeypatch, retry=True)
    for one, other in zip(late.files, at_once.files, strict=True):
        assert rows(one) == rows(other)
    assert [len(rows(file)) for file in late.files] == [0, 8, 0, 13, 0, 0, 16, 0]


@pytest.mark.parametrize(("format", "compression"), KINDS)
def test_what_comes_late_one_after_the_other_finds_its_place(
    format: Format, compression: Compression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "one by one", format, compression)
    assert machine.run([*range(JOBS)], Effects(), monkeypatch)
    machine.broken |= FLAKY
    for number in (3, 17, 4, 39):  # 4 is in a file that was written anew before
        machine.broken.remove(number)
        assert machine.run([*range(JOBS)], Effects(), monkeypatch, retry=True)
        journal = Journal.open(f"{machine.out}.journal")
        assert {row.number for row in journal.failures()} == machine.broken
        journal.close()
    at_once = Machine(tmp_path / "at once", format, compression)
    assert at_once.run([*range(JOBS)], Effects(), monkeypatch, retry=True)
    for one, other in zip(machine.files, at_once.files, strict=True):
        assert rows(one) == rows(other)


def rows(file: OutFile) -> list[Any]:
    if file.format is Format.PARQUET:
        import pyarrow.parquet as pq

        found: list[Any] = pq.read_table(file.path).to_pylist()
        return found
    import gzip

    data = Path(file.path).read_bytes()
    lines = (gzip.decompress(data) if file.compression is Compression.GZIP else data).decode().splitlines()
    return lines[1:] if file.format is Format.CSV else lines


def test_a_commit_tells_of_a_file_once_and_removes_nothing_before(tmp_path: Path) -> None:
    files = [OutFile(str(tmp_path / f"{number}.parquet"), Format.PARQUET, Compression.NONE) for number in range(3)]
    boundaries = Boundaries()
    sink = FolderSink(files, boundaries, lambda fd, path: Disk(fd, Effects()), {}, lambda file: {})
    for first in (0, 7, 7):
        assert boundaries.begin(first)
    entries = [Entry(number, str(number), table_row({"n": number}), False) for number in range(9)]
    assert sink.take(entries, final=False).count == 7
    assert [(note.number, note.first, note.state is not None) for note in sink.notes()] == [
        (0, 0, False), (1, 7, False), (2, 7, False), (0, 0, True), (1, 7, True)
    ]  # fmt: skip
    assert os.path.isdir(f"{files[0].path}{parquet.PARTS}"), "the journal does not know yet"
    sink.clean()
    assert sorted(os.listdir(tmp_path)) == ["0.parquet", "1.parquet"]
    assert sink.notes() == []
    sink.close()


def test_what_a_commit_tells_of_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data, and the names of files and folders."""
    machine = Machine(tmp_path / "folder", Format.JSONL, Compression.NONE)
    synced: set[str] = set()

    def noted(sync: Callable[[int], None]) -> Callable[[int], None]:
        def step(fd: int) -> None:
            synced.add(os.path.realpath(f"/proc/self/fd/{fd}"))
            sync(fd)

        return step

    def looked_at(notes: Iterable[FileNote]) -> None:
        for note in notes:
            if note.state is not None:
                path = os.path.realpath(machine.files[note.number].path)
                assert {path, os.path.dirname(path)} <= synced
                if "sub" in path:
                    assert str(machine.out) in synced
        note_files(notes)

    with contextlib.ExitStack() as stack:
        journal = Journal.open(f"{machine.out}.journal")
        stack.callback(journal.close)
        note_files = journal.note_files
        monkeypatch.setattr(os, "fsync", noted(os.fsync))
        monkeypatch.setattr(os, "fdatasync", noted(os.fdatasync))
        monkeypatch.setattr(journal, "note_files", looked_at)
        machine._run(journal, [*range(JOBS)], Effects(), stack, retry=False)
    assert {os.path.realpath(file.path) for file in machine.files} <= synced


def test_a_file_takes_what_it_can_before_it_ends(tmp_path: Path) -> None:
    files = [OutFile(str(tmp_path / "0"), format, Compression.NONE) for format in (Format.JSONL, Format.PARQUET)]
    for file in files:
        boundaries = Boundaries([0])
        sink = FolderSink([file], boundaries, lambda fd, path: Disk(fd, Effects()), {}, lambda number: {})
        entries = [Entry(number, "", table_row({"n": number}), False) for number in range(6)]
        assert not sink.wants([], 0)
        assert sink.wants(entries[:1], 1) == (file.format is Format.JSONL)
        assert sink.wants(entries, 6)
        sink.close()


def test_results_that_waited_in_the_journal_find_their_files(tmp_path: Path) -> None:
    """They are offered before the input has been read as far again."""
    journal = Journal.open(str(tmp_path / "journal"))
    files = [OutFile(str(tmp_path / f"{number}"), Format.JSONL, Compression.NONE) for number in range(4)]
    for run in range(2):
        state = (journal.get("state") or {}).get("out", {})
        boundaries = Boundaries(journal.firsts())
        sink = FolderSink(files, boundaries, lambda fd, path: Disk(fd, Effects()), state, journal.file_state)
        order = Order((journal.get("state") or {}).get("mark", 0), (), journal.entries())
        recorder = Recorder(sink, order, journal, clock=lambda: 0.0)
        recorder.start()
        if run == 0:
            for first in (0, 2, 2, 4):
                boundaries.begin(first)
            for number in (1, 2, 3, 4):
                recorder.add(Entry(number, str(number), json_line(number), False), None)
        else:
            boundaries.begin(0)
            recorder.add(Entry(0, "0", json_line(0), False), None)
        recorder.close(complete=False)
        sink.close()
    assert [Path(file.path).read_text() for file in files] == ["0\n1\n", "", "2\n3\n", "4\n"]
    journal.close()


def test_an_input_with_other_records_is_noticed() -> None:
    boundaries = Boundaries([0, 5])
    assert boundaries.begin(0)
    assert not boundaries.begin(4)


def test_beginning_anew_leaves_what_is_not_ours(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.new", "b.parquet", "other.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "b.parquet.parts").mkdir()
    (tmp_path / "b.parquet.parts" / "000000.parquet").touch()
    clear(
        [
            OutFile(str(tmp_path / "a.jsonl"), Format.JSONL, Compression.NONE),
            OutFile(str(tmp_path / "b.parquet"), Format.PARQUET, Compression.NONE),
            OutFile(str(tmp_path / "not" / "there.csv"), Format.CSV, Compression.NONE),
        ]
    )
    assert os.listdir(tmp_path) == ["other.jsonl"]


@pytest.mark.parametrize("format", [Format.JSONL, Format.PARQUET])
def test_one_file_is_open_at_a_time(format: Format, tmp_path: Path) -> None:
    files = [OutFile(str(tmp_path / f"{number}"), format, Compression.NONE) for number in range(300)]
    boundaries = Boundaries()
    sink = FolderSink(files, boundaries, lambda fd, path: Disk(fd, Effects()), {}, lambda file: {})
    encode = json_line if format is Format.JSONL else table_row
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        waiting: list[Entry] = []
        for number in range(300):
            boundaries.begin(number)
            waiting.append(Entry(number, str(number), encode({"n": number}), False))
            del waiting[: sink.take(waiting, final=number == 299).count]
        sink.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sink.close()
    sink.clean()
    assert [len(rows(file)) for file in files] == [1] * 300
    assert len(os.listdir(tmp_path)) == 300


@pytest.mark.parametrize(
    ("name", "read_as", "to", "result"),
    [
        ("a.jsonl", None, None, ("a.jsonl", Format.JSONL, Compression.NONE)),
        ("a.ndjson", None, None, ("a.ndjson", Format.JSONL, Compression.NONE)),
        ("a.csv.gz", None, None, ("a.csv.gz", Format.CSV, Compression.GZIP)),
        ("a.PARQUET", None, None, ("a.PARQUET", Format.PARQUET, Compression.NONE)),
        ("a.txt", None, None, ("a.txt", Format.TEXT, Compression.NONE)),
        ("a.log", None, None, ("a.log.jsonl", Format.JSONL, Compression.NONE)),
        ("a.b/a", None, None, ("a.b/a.jsonl", Format.JSONL, Compression.NONE)),
        ("a.log.zst", None, None, ("a.log.jsonl.zst", Format.JSONL, Compression.ZSTD)),
        ("a.dat", Format.CSV, None, ("a.dat", Format.CSV, Compression.NONE)),
        ("a.txt", Format.JSONL, None, ("a.txt", Format.JSONL, Compression.NONE)),
        ("a.txt", None, Format.JSONL, ("a.jsonl", Format.JSONL, Compression.NONE)),
        ("a.ndjson", None, Format.JSONL, ("a.ndjson", Format.JSONL, Compression.NONE)),
        ("a.csv.gz", None, Format.JSONL, ("a.jsonl.gz", Format.JSONL, Compression.GZIP)),
        ("a.csv.gz", None, Format.PARQUET, ("a.parquet", Format.PARQUET, Compression.NONE)),
        ("a.pq", None, Format.PARQUET, ("a.pq", Format.PARQUET, Compression.NONE)),
        ("a.parquet", None, Format.OUTCOMES, ("a.jsonl", Format.OUTCOMES, Compression.NONE)),
        ("a.jsonl", None, Format.OUTCOMES, ("a.jsonl", Format.OUTCOMES, Compression.NONE)),
        ("a.log", None, Format.TEXT, ("a.log", Format.TEXT, Compression.NONE)),
        ("a.log", None, Format.CSV, ("a.log.csv", Format.CSV, Compression.NONE)),
        ("a.txt", None, Format.NUL, ("a.nul", Format.NUL, Compression.NONE)),
        ("a.v1.csv", None, Format.TEXT, ("a.v1.txt", Format.TEXT, Compression.NONE)),
    ],
)
def test_the_file_of_an_input(
    name: str, read_as: Format | None, to: Format | None, result: tuple[str, Format, Compression]
) -> None:
    assert result_name(name, read_as, to) == result
