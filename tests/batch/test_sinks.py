"""OUT is what an undisturbed run would have written, whatever was cut off, refused or came late."""

import gzip
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mpengine.batch import parquet, sinks
from mpengine.batch.formats import Compression, Format
from mpengine.batch.order import Entry
from mpengine.batch.parquet import ParquetSink
from mpengine.batch.recorder import Splice, shifted
from mpengine.batch.sinks import FileSink, Late, Sink
from mpengine.batch.work import UnfitResult, csv_row, json_line, table_row

DECOMPRESS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZIP: gzip.decompress,
    Compression.ZSTD: lambda data: zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read(),
}


class Plain:
    """A file of which every piece is written whole."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.records = 0

    def write(self, data: bytes, *, records: int) -> None:
        assert os.write(self.fd, data) == len(data)
        self.records += records


_fds: list[int] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _fds:
        os.close(_fds.pop())


def opened(path: Path, format: Format, compression: Compression, state: dict[str, Any]) -> FileSink:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    _fds.append(fd)
    os.ftruncate(fd, state.get("size", 0))
    os.lseek(fd, 0, os.SEEK_END)
    return FileSink(str(path), Plain(fd), fd, format, compression, state)


def entries(blobs: Sequence[bytes], first: int = 0, *, failed: Sequence[int] = ()) -> list[Entry]:
    return [
        Entry(number, str(number), b"" if number in failed else blob, number in failed)
        for number, blob in enumerate(blobs, first)
    ]


def write_all(sink: Sink, offered: list[Entry], *, final: bool = True) -> list[Entry]:
    """Offers all of them; returns those that were not taken."""
    taken = sink.take(offered, final=final)
    return offered[taken.count :]


@pytest.mark.parametrize("compression", list(Compression))
@given(cuts=st.lists(st.integers(0, 300), max_size=5), data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_file_is_the_same_wherever_it_was_cut_off(
    compression: Compression, cuts: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("out")
    blobs = [json_line({"n": number, "text": "x" * (number % 17)}) for number in range(300)]
    before, sinks.FRAME_BYTES = sinks.FRAME_BYTES, 500
    try:
        whole = opened(folder / "whole", Format.JSONL, compression, {})
        assert write_all(whole, entries(blobs)) == []
        state: dict[str, Any] = {}
        mark = 0
        for cut in sorted(cuts):
            sink = opened(folder / "cut", Format.JSONL, compression, state)
            offered = entries(blobs)[mark : max(mark, cut)]
            rest = write_all(sink, offered, final=False)
            mark += len(offered) - len(rest)
            state = sink.state()
            if data.draw(st.booleans()):  # killed after it wrote more, and before anybody noted that
                os.write(sink._fd, b"torn")
        sink = opened(folder / "cut", Format.JSONL, compression, state)
        assert write_all(sink, entries(blobs)[mark:]) == []
    finally:
        sinks.FRAME_BYTES = before
    assert (folder / "cut").read_bytes() == (folder / "whole").read_bytes()
    assert DECOMPRESS[compression]((folder / "cut").read_bytes()) == b"".join(blobs)


@pytest.mark.parametrize("compression", list(Compression))
def test_a_file_without_results_is_one_of_its_kind(compression: Compression, tmp_path: Path) -> None:
    sink = opened(tmp_path / "out", Format.JSONL, compression, {})
    write_all(sink, entries([b"", b""]))
    sink.finish()
    assert DECOMPRESS[compression]((tmp_path / "out").read_bytes()) == b""


def test_csv_has_the_columns_of_its_first_row(tmp_path: Path) -> None:
    sink = opened(tmp_path / "out", Format.CSV, Compression.NONE, {})
    rows = [
        None,
        {"b": 1, "a": "x,y"},
        {"a": "", "b": None},
        {"a": 1},
        {"a": 1, "b": 2, "c": 3},
        {"b": 'q"', "a": "l\nm"},
    ]
    taken = sink.take(entries([csv_row(row) for row in rows]), final=False)
    assert (tmp_path / "out").read_text() == 'b,a\n1,"x,y"\n,\n"q""","l\nm"\n'
    assert [entry.number for entry, _ in taken.refused] == [3, 4]
    assert taken.refused[0][1].startswith("the result's columns are a, and those of OUT, after its first row, b, a; ")
    assert [(number, size) for number, _, size in taken.places] == [(3, 0), (4, 0)]
    again = opened(tmp_path / "out", Format.CSV, Compression.NONE, sink.state())
    again.take(entries([csv_row({"b": 9, "a": 9})], 6), final=True)
    assert (tmp_path / "out").read_text().splitlines()[-1] == "9,9"
    assert (tmp_path / "out").read_text().count("b,a") == 1


def late_in(sink: Sink, places: dict[int, tuple[int, int]], blobs: dict[int, bytes]) -> list[Late]:
    order = sorted(blobs, key=lambda number: (places[number][0], number))
    return [Late(*places[number], blobs[number]) for number in order]


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("format", [Format.JSONL, Format.CSV])
@given(failed=st.sets(st.integers(0, 29)), mended=st.sets(st.integers(0, 29)))
@settings(max_examples=40, deadline=None)
def test_late_results_are_where_they_would_have_been(
    format: Format,
    compression: Compression,
    failed: set[int],
    mended: set[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("out") / "out"
    encode = json_line if format is Format.JSONL else csv_row
    blobs = [encode({"n": number, "text": "x" * (number % 7)}) for number in range(30)]
    sink = opened(path, format, compression, {})
    taken = sink.take(entries(blobs, failed=[*failed]), final=True)
    sink.finish()
    places = {number: (at, size) for number, at, size in taken.places}
    assert places.keys() == failed
    mended &= failed
    state = sink.rewrite(late_in(sink, places, {number: blobs[number] for number in mended}))
    written = Path(f"{path}{sinks.NEW}").read_bytes()
    assert state["size"] == len(written)
    wanted = opened(path.with_name("wanted"), format, Compression.NONE, {})
    wanted.take(entries(blobs, failed=[*failed - mended]), final=True)
    assert DECOMPRESS[compression](written) == path.with_name("wanted").read_bytes()
    assert state["position"] == wanted.state()["position"]


def test_a_late_line_takes_the_place_of_the_one_that_told_of_the_failure(tmp_path: Path) -> None:
    sink = opened(tmp_path / "out", Format.OUTCOMES, Compression.NONE, {})
    offered = [Entry(0, "0", b"one\n", False), Entry(1, "1", b"failed\n", True), Entry(2, "2", b"three\n", False)]
    taken = sink.take(offered, final=True)
    assert taken.places == [(1, 4, 7)]
    sink.rewrite([Late(4, 7, b"two\n")])
    assert (tmp_path / f"out{sinks.NEW}").read_text() == "one\ntwo\nthree\n"


def test_places_are_shifted_by_what_came_before_them() -> None:
    from mpengine.batch.journal import FailureRow

    rows = [
        FailureRow(number, str(number), "failed", "", "", "", "", 1, 0.0, None, at, size)
        for number, at, size in [(1, 4, 0), (3, 4, 7), (5, 20, 0), (9, None, 0)]
    ]  # fmt: skip
    late = [Splice(4, 1, 0, 10, rows), Splice(4, 3, 7, 2, rows)]  # type: ignore[arg-type]
    assert [*shifted(rows, late)] == [(1, 4, 10), (3, 14, 2), (5, 25, 0)]


# ---- Parquet ---------------------------------------------------------------------------------------------------------


@given(cuts=st.lists(st.integers(0, 100), max_size=4))
@settings(max_examples=30, deadline=None)
def test_parquet_is_the_same_wherever_it_was_cut_off(cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("out")
    rows = [
        None if number % 7 == 3 else {"n": number, "half": number / 2 if number > 50 else None} for number in range(100)
    ]
    blobs = [table_row(row) for row in rows]
    before, parquet.GROUP_RESULTS = parquet.GROUP_RESULTS, 20
    try:
        for name, marks in (("whole", []), ("cut", sorted(cuts))):
            state: dict[str, Any] = {}
            mark = 0
            for cut in marks:
                sink = ParquetSink(str(folder / name), state)
                offered = entries(blobs)[mark : max(mark, cut)]
                rest = write_all(sink, offered, final=False)
                mark += len(offered) - len(rest)
                state = sink.state()
            sink = ParquetSink(str(folder / name), state)
            assert write_all(sink, entries(blobs)[mark:]) == []
            sink.finish()
            sink.clean()
    finally:
        parquet.GROUP_RESULTS = before
    assert sorted(os.listdir(folder)) == ["cut", "whole"]
    assert (folder / "cut").read_bytes() == (folder / "whole").read_bytes()
    assert pq.read_table(folder / "cut").to_pylist() == [row for row in rows if row is not None]


def test_types_of_parquet_are_the_widest_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    sink = ParquetSink(str(tmp_path / "out"), {})
    rows = [{"a": None}, {"a": 1}, {"a": "text"}, {"a": 2.5, "b": "new"}, {"a": [1]}]
    refused = [
        entry.number
        for number, row in enumerate(rows)
        for entry, _ in sink.take(entries([table_row(row)], number), final=True).refused
    ]
    sink.finish()
    assert refused == [2, 4]
    assert pq.read_table(tmp_path / "out").to_pylist() == [
        {"a": None, "b": None},
        {"a": 1.0, "b": None},
        {"a": 2.5, "b": "new"},
    ]


def test_a_result_that_does_not_fit_spares_its_group(tmp_path: Path) -> None:
    sink = ParquetSink(str(tmp_path / "out"), {})
    taken = sink.take(entries([table_row({"a": value}) for value in (1, "text", 3)]), final=True)
    sink.finish()
    assert [entry.number for entry, _ in taken.refused] == [1]
    assert taken.places == [(1, 1, 0)]
    assert pq.read_table(tmp_path / "out").to_pylist() == [{"a": 1}, {"a": 3}]


def test_tables_and_rows_and_late_rows(tmp_path: Path) -> None:
    sink = ParquetSink(str(tmp_path / "out"), {})
    blobs = [pickle.dumps(pa.table({"a": [0, 1]})), table_row({"a": 2}), table_row({"a": 3}), table_row({"a": 4})]
    taken = sink.take(entries(blobs, failed=[1, 3]), final=True)
    sink.finish()
    assert taken.places == [(1, 2, 0), (3, 3, 0)]
    with pytest.raises(UnfitResult):
        sink.size_of(table_row({"a": "text"}))
    state = sink.rewrite([Late(2, 0, blobs[1]), Late(3, 0, blobs[3])])
    assert pq.read_table(f"{tmp_path / 'out'}{sinks.NEW}").to_pylist() == [{"a": number} for number in range(5)]
    assert state["position"] == 5


def test_a_late_result_that_is_none_leaves_parquet_as_it_is(tmp_path: Path) -> None:
    sink = ParquetSink(str(tmp_path / "out"), {})
    taken = sink.take(entries([table_row({"a": 1}), b"", table_row({"a": 3})], failed=[1]), final=True)
    sink.finish()
    assert taken.places == [(1, 1, 0)]
    assert sink.size_of(b"") == 0
    assert sink.rewrite([Late(1, 0, b"")])["position"] == 2
    assert pq.read_table(f"{tmp_path / 'out'}{sinks.NEW}").to_pylist() == [{"a": 1}, {"a": 3}]


def test_parquet_without_results(tmp_path: Path) -> None:
    sink = ParquetSink(str(tmp_path / "out"), {})
    sink.take(entries([b"", b""]), final=True)
    sink.finish()
    assert pq.read_table(tmp_path / "out").num_rows == 0


def test_a_whole_file_of_parquet_can_grow(tmp_path: Path) -> None:
    sink = ParquetSink(str(tmp_path / "out"), {})
    sink.take(entries([table_row({"a": 1})]), final=True)
    sink.finish()
    sink.clean()
    again = ParquetSink(str(tmp_path / "out"), sink.state())
    again.take(entries([table_row({"a": 2})], 1), final=True)
    again.finish()
    assert pq.read_table(tmp_path / "out").to_pylist() == [{"a": 1}, {"a": 2}]


def test_a_whole_file_of_parquet_is_left_alone_when_there_is_nothing_more(tmp_path: Path) -> None:
    sink = ParquetSink(str(tmp_path / "out"), {})
    sink.take(entries([table_row({"a": 1})]), final=True)
    sink.finish()
    sink.clean()
    before = (tmp_path / "out").stat()
    again = ParquetSink(str(tmp_path / "out"), sink.state())
    again.take(entries([b""], 1), final=True)
    again.finish()
    again.sync()
    assert (tmp_path / "out").stat().st_ino == before.st_ino
    assert os.listdir(tmp_path) == ["out"]
