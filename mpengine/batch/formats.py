"""The formats of records, and the compressions, by the endings of file names."""

from __future__ import annotations

import os
from enum import StrEnum


class Format(StrEnum):
    """How records lie in a file. OUTCOMES is for output only: how each job ended, as JSON lines."""

    TEXT = "text"
    NUL = "nul"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    OUTCOMES = "outcomes"


class Compression(StrEnum):
    """Of a file as a whole. Parquet has its own, inside."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


INPUT_FORMATS = (Format.TEXT, Format.NUL, Format.JSONL, Format.CSV, Format.PARQUET)
OUTPUT_FORMATS = tuple(Format)

_FORMATS = {
    ".txt": Format.TEXT,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}
_COMPRESSIONS = {".gz": Compression.GZIP, ".zst": Compression.ZSTD}


def told_by(name: str) -> tuple[Format | None, Compression]:
    """What the endings of a file's name say; None: nothing about the format."""
    stem, ending = os.path.splitext(name.lower())
    compression = _COMPRESSIONS.get(ending, Compression.NONE)
    if compression is not Compression.NONE:
        ending = os.path.splitext(stem)[1]
    return _FORMATS.get(ending), compression
