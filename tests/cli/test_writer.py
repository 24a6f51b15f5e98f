"""OUT gets whole lines, and when it can take no more, that is one problem and no half a line."""

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpengine.batch.formats import Format
from mpengine.cli import places
from mpengine.cli.inputs import find_sources
from mpengine.cli.problems import Problem
from mpengine.cli.signals import Stop
from mpengine.cli.writer import ReaderGone, Writer, open_out, refuse_input


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop() as stop:
        yield stop


@pytest.fixture
def out(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old\n")
    fd = open_out(str(path))
    yield fd, path
    os.close(fd)


def test_an_old_file_is_begun_anew_at_the_start_only(out: tuple[int, Path], stop: Stop) -> None:
    fd, path = out
    writer = Writer(fd, "out.jsonl", stop)
    assert path.read_bytes() == b"old\n"
    writer.start()
    writer.write(b"1\n", records=1)
    assert path.read_bytes() == b"1\n"  # at once, not when it is closed
    writer.write(b"2\n", records=1)
    assert path.read_bytes() == b"1\n2\n"
    assert writer.records == 2


@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["over", "append"])
@pytest.mark.parametrize("taken", [0, 3])
def test_a_full_disk_leaves_whole_lines(
    flags: int, taken: int, tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"before\n")
    fd = os.open(path, os.O_WRONLY | flags)
    if not flags:
        os.lseek(fd, 0, os.SEEK_END)  # as `>` leaves it when a program before us wrote to the same file
    writer = Writer(fd, "out.jsonl", stop)
    writer.write(b"first\n", records=1)
    room = [taken]
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if not room or not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[: room.pop()])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Problem) as raised:
        writer.write(b"second\n", records=1)
    monkeypatch.undo()
    os.close(fd)
    assert path.read_bytes() == b"before\nfirst\n"
    assert raised.value.exit_code == 2
    assert "OUT 'out.jsonl' cannot be written: No space left on device, after 1 results" in str(raised.value)
    assert "make room" in str(raised.value)


def test_a_reader_that_is_gone_is_not_a_broken_disk(stop: Stop) -> None:
    theirs, ours = os.pipe()
    writer = Writer(ours, "stdout", stop)
    writer.write(b"1\n", records=1)
    assert os.read(theirs, 10) == b"1\n"
    os.close(theirs)
    with pytest.raises(ReaderGone) as raised:
        writer.write(b"2\n", records=1)
    os.close(ours)
    assert (raised.value.exit_code, str(raised.value)) == (141, "")


def test_a_long_line_to_a_slow_reader_is_whole(stop: Stop) -> None:
    theirs, ours = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096)
    line = bytes(range(32, 127)) * 2_000 + b"\n"
    read: list[bytes] = []

    def reader() -> None:
        while chunk := os.read(theirs, 1_000):
            read.append(chunk)

    thread = threading.Thread(target=reader)
    thread.start()
    Writer(ours, "stdout", stop).write(line, records=1)
    os.close(ours)
    thread.join(10)
    os.close(theirs)
    assert b"".join(read) == line


def test_a_wish_to_stop_ends_the_wait_for_a_reader(stop: Stop) -> None:
    theirs, ours = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096)
    writer = Writer(ours, "stdout", stop)
    with stop.gently(lambda: None):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(ReaderGone):
            writer.write(b"x" * 100_000, records=1)
        os.read(theirs, 100_000)
        writer.write(b"what has ended before\n", records=1)  # is still written to whoever reads
        assert os.read(theirs, 100) == b"what has ended before\n"
    os.close(ours)
    os.close(theirs)


def test_stdin_and_out_may_be_one_file(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("a\n")
    ours = os.open(path, os.O_RDONLY)
    out = open_out(str(path))
    sources = find_sources(["-"], as_paths=False)
    with pytest.raises(Problem, match="the same file as INPUT '-'"):
        refuse_input(out, str(path), sources, ours)
    refuse_input(out, str(path), sources, None)
    os.close(out)
    os.close(ours)


def test_devices_and_pipes_are_nobodys_input() -> None:
    fd = open_out(os.devnull)
    refuse_input(fd, os.devnull, find_sources([os.devnull], as_paths=False), None)
    os.close(fd)


def test_the_name_of_a_new_out_is_on_the_disk_before_results_are(
    tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut could leave a journal that tells of a file which is not there."""
    synced: list[str] = []
    monkeypatch.setattr(places, "sync_folder", synced.append)
    path = str(tmp_path / "out.jsonl")
    fd = open_out(path)
    place = places.FilePlace(path, fd, Writer(fd, path, stop), Format.JSONL)
    place.clear()
    os.close(fd)
    assert synced == [str(tmp_path)]
