"""Which files the INPUT arguments mean, and what their jobs are called."""

import os
from pathlib import Path

import pytest

from mpengine.batch.formats import Format
from mpengine.cli.inputs import find_sources


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deeper/d.txt", "sub/deeper/e.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")


def labels(*arguments: str, as_paths: bool = False) -> list[str]:
    return [source.label for source in find_sources(arguments, as_paths=as_paths)]


def test_files_stay_in_the_order_given() -> None:
    assert labels("b.txt", "a.txt") == ["b.txt", "a.txt"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("[b].txt", ["b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "sub/c.txt", "sub/deeper/d.txt"]),
        ("sub/**", ["sub/c.txt", "sub/deeper/d.txt", "sub/deeper/e.jsonl"]),  # files only
        ("*", ["a.txt", "b.txt"]),
    ],
)
def test_patterns_are_expanded_and_sorted(pattern: str, found: list[str]) -> None:
    assert labels(pattern) == found
    assert labels(pattern, as_paths=True) == found


def test_a_file_that_looks_like_a_pattern_is_a_file() -> None:
    Path("[a].txt").write_text("x\n")
    assert labels("[a].txt") == ["[a].txt"]


def test_a_file_given_again_has_another_label() -> None:
    Path("a.txt#2").write_text("x\n")
    assert labels("a.txt", "a.txt#2", "a.txt", "?.txt") == ["a.txt", "a.txt#2", "a.txt#3", "a.txt#4", "b.txt"]


def test_stdin_beside_a_file_of_that_name() -> None:
    Path("stdin").write_text("x\n")
    assert labels("stdin", "-") == ["stdin", "stdin#2"]


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a", "text", "none"),
        ("a.jsonl", "jsonl", "none"),
        ("a.NDJSON.gz", "jsonl", "gzip"),
        ("a.csv.zst", "csv", "zstd"),
        ("a.parquet", "parquet", "none"),
        ("a.gz", "text", "gzip"),
    ],
)
def test_a_format_is_told_by_the_ending(name: str, format: str, compression: str) -> None:
    Path(name).touch()
    (source,) = find_sources([name], as_paths=False)
    assert (source.format, source.compression) == (format, compression)
    (source,) = find_sources([name], as_paths=False, format=Format.NUL)
    assert source.format == "nul"


def test_a_path_outlives_a_change_of_the_current_folder(tmp_path: Path) -> None:
    (source,) = find_sources(["sub/c.txt"], as_paths=False)
    assert source.path == "sub/c.txt"
    assert source.absolute == str(tmp_path / "sub" / "c.txt")


def test_a_fifo_is_not_opened_to_look_at_it() -> None:
    os.mkfifo("pipe")
    assert labels("pipe") == ["pipe"]
