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

# What a name ends with that is to tell a format. Outcomes are lines of JSON; NUL is told by no name.
ENDINGS = {
    Format.TEXT: ".txt",
    Format.NUL: ".nul",
    Format.JSONL: ".jsonl",
    Format.CSV: ".csv",
    Format.PARQUET: ".parquet",
    Format.OUTCOMES: ".jsonl",
}


def told_by(name: str) -> tuple[Format | None, Compression]:
    """What the endings of a file's name say; None: nothing about the format."""
    stem, ending = os.path.splitext(name.lower())
    compression = _COMPRESSIONS.get(ending, Compression.NONE)
    if compression is not Compression.NONE:
        ending = os.path.splitext(stem)[1]
    return _FORMATS.get(ending), compression


def result_name(name: str, read_as: Format | None, to: Format | None) -> tuple[str, Format, Compression]:
    """The name of the file that has an input's results, its format and its compression.

    They are the input's. Where neither its ending nor anybody else says what it is, they are lines of JSON, as results
    are unless something else is asked for; and so that no name says less than is in the file, it gets that ending.

    Args:
        read_as: What the input is read as, whatever its ending.
        to: The format that is asked for; its ending takes the place of one that tells another.
    """
    told, compression = told_by(name)
    stem, packed = (name, "") if compression is Compression.NONE else os.path.splitext(name)
    if to is None:
        known = read_as or told
        return (
            (name, known, compression) if known else (stem + ENDINGS[Format.JSONL] + packed, Format.JSONL, compression)
        )
    if to is Format.PARQUET:  # which has its own
        packed, compression = "", Compression.NONE
    plain = Format.JSONL if to is Format.OUTCOMES else to
    if (told or Format.TEXT) is not plain:
        stem = (os.path.splitext(stem)[0] if told else stem) + ENDINGS[to]
    return stem + packed, to, compression
