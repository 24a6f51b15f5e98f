"""What a worker does with one payload: make it a record, call the user's function, make the result a blob.

The frames of ours that stand before the user's function are cut off where tracebacks are shown.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mpengine.batch.formats import Format

Decoder = Callable[[Any], Any]
Encoder = Callable[[Any], bytes]

_SHOWN = 60  # characters of a bad record


class MalformedRecord(ValueError):
    """A record of the input is not what the format asks for. It is this record's failure."""


class UnfitResult(ValueError):
    """What the function returned has no place in OUT's format. It is this record's failure."""


class Work:
    """What is done with each payload of an input.

    Args:
        function: Called with one record; with a list of them or a table, where the decoder makes one.
        decode: Payload to record.
        encode: Result to blob.
    """

    def __init__(self, function: Callable[[Any], Any], decode: Decoder, encode: Encoder) -> None:
        self.function = function
        self.decode = decode
        self.encode = encode

    def __call__(self, payload: Any) -> bytes:
        return self.encode(self.function(self.decode(payload)))


def record(packed: bytes, payload: Any) -> bytes:
    """The function of all jobs of a run, by whose name messages speak of them.

    It is found by its name, and all it is given are plain values, so that jobs travel many at once, see
    `mpengine.functions`; `packed` is the very same object for all jobs of an input, which crosses once with each lot.
    """
    return unpacked(packed)(payload)


@functools.lru_cache(maxsize=64)
def unpacked(packed: bytes) -> Work:
    """A pickled `Work`. Once per worker and input."""
    work: Work = pickle.loads(packed)
    return work


# ---- records in ------------------------------------------------------------------------------------------------------


def as_it_is(payload: Any) -> Any:
    """The payload is the record: a path."""
    return payload


def text_of_line(payload: bytes) -> str:
    """A line without its ending."""
    return text_of(payload.removesuffix(b"\r"))


def text_of(payload: bytes) -> str:
    """UTF-8."""
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRecord(
            f"not UTF-8: byte 0x{payload[error.start]:02x} at its byte {error.start + 1:,}; convert the file first, as "
            "with iconv -f LATIN1 -t UTF-8, or use --as path if the function reads the file itself"
        ) from None


def json_of(payload: bytes) -> Any:
    """A line's JSON value."""
    text = text_of(payload)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)
        raise MalformedRecord(f"not JSON: {reason}, in {shown(text)}; put the line right") from None


def unpickled(payload: bytes) -> Any:
    """A record that the parent had to read as a whole: a row of Parquet."""
    return pickle.loads(payload)


class CsvRow:
    """A row of CSV as a dict of strings.

    Args:
        header: The names of the columns.
    """

    def __init__(self, header: list[str]) -> None:
        self.header = header

    def __call__(self, payload: bytes) -> dict[str, str]:
        fields: list[str] = pickle.loads(payload)
        if len(fields) != len(self.header):
            raise MalformedRecord(
                f"{len(fields):,} fields where the header has {len(self.header):,} columns, in "
                f"{shown(','.join(fields))}; put the row right"
            )
        try:
            "".join(fields).encode()
        except UnicodeEncodeError:  # surrogates stand for bytes that are not UTF-8
            raise MalformedRecord(
                f"not UTF-8, in {shown(','.join(fields))}; convert the file first, as with iconv -f LATIN1 -t UTF-8"
            ) from None
        return dict(zip(self.header, fields, strict=True))


class Chunk:
    """A list of records of one decoder, made of a list of payloads."""

    def __init__(self, decode: Decoder) -> None:
        self.decode = decode

    def __call__(self, payload: bytes) -> list[Any]:
        return [self.decode(one) for one in pickle.loads(payload)]


class Table:
    """A pyarrow.Table, of a list of payloads or, from Parquet, of a stream of Arrow's."""

    def __init__(self, decode: Decoder | None) -> None:
        self.chunk = None if decode is None else Chunk(decode)

    def __call__(self, payload: bytes) -> Any:
        import pyarrow as pa

        if self.chunk is None:
            return pa.ipc.open_stream(payload).read_all()
        records = self.chunk(payload)
        return pa.Table.from_pylist([one if isinstance(one, dict) else {"value": one} for one in records])


def reject(message: str, payload: bytes | None) -> bytes:
    """The job of a record of which the parent knows that it is malformed. `payload` is for the journal."""
    raise MalformedRecord(message)


# ---- results out -----------------------------------------------------------------------------------------------------


def encoder(to: Format, *, many: bool) -> Encoder:
    """For one result, or for a list of them or a table."""
    if to is Format.OUTCOMES:
        from mpengine.batch.outcome_lines import value_fields

        return value_fields
    if to is Format.CSV:
        return csv_rows if many else csv_row
    if to is Format.PARQUET:
        return table_rows if many else table_row
    one = {Format.JSONL: json_line, Format.TEXT: text_line, Format.NUL: nul_text}[to]
    return Each(one) if many else one


class Each:
    """The blobs of a list of results, or of the rows of a table, one after the other."""

    def __init__(self, encode: Encoder) -> None:
        self.encode = encode

    def __call__(self, results: Any) -> bytes:
        return b"".join(map(self.encode, rows_of(results)))


def json_line(result: Any) -> bytes:
    """None is no record."""
    if result is None:
        return b""
    from mpengine.batch.plain_json import dump, lenient

    try:
        return dump(result) + b"\n"
    except Exception as error:  # also the user's own: a dict's subclass may raise anything
        try:
            return dump(lenient(result)) + b"\n"
        except Exception:
            raise UnfitResult(
                f"the result is not JSON: {type(error).__name__}: {error}; return what JSON has, or use --to outcomes"
            ) from None


def text_line(result: Any) -> bytes:
    """None is no record; what is no text is told as `str` tells it."""
    if result is None:
        return b""
    if isinstance(result, bytes):
        return result + b"\n"
    return str(result).encode("utf-8", "surrogateescape") + b"\n"


def nul_text(result: Any) -> bytes:
    """As `text_line`, ended by a NUL."""
    text = text_line(result)[:-1]
    if b"\0" in text:
        raise UnfitResult("the result has a NUL character in it, which ends a record here; use --to jsonl")
    return text + b"\0" if result is not None else b""


def csv_row(result: Any) -> bytes:
    """A line with the names of its columns, and one with its values. None is no record."""
    return b"" if result is None else csv_rows([result])


def csv_rows(results: Any) -> bytes:
    """A line with the names of the columns, and one for each row, all of the same columns."""
    rows = [check_row(row, "CSV") for row in rows_of(results) if row is not None]
    if not rows:
        return b""
    names = list(rows[0])
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if any("\n" in name or "\r" in name for name in names):
        raise UnfitResult(f"a column's name has a line break in it: {names!r}; rename it")
    writer.writerow(names)
    for row in rows:
        if list(row) != names:
            raise UnfitResult(f"rows of one result have different columns: {names!r} and {list(row)!r}")
        writer.writerow(row.values())
    return file.getvalue().encode("utf-8", "surrogateescape")


def table_row(result: Any) -> bytes:
    """A pickled list of one row. None is no record."""
    return b"" if result is None else pickle.dumps([check_row(result, "Parquet")], 5)


def table_rows(results: Any) -> bytes:
    """A pickled list of rows, or a pickled pyarrow.Table."""
    if (table := as_table(results)) is not None:
        return pickle.dumps(table, 5) if table.num_rows else b""
    rows = [check_row(row, "Parquet") for row in rows_of(results) if row is not None]
    return pickle.dumps(rows, 5) if rows else b""


def check_row(result: Any, place: str) -> dict[str, Any]:
    if not isinstance(result, Mapping):
        raise UnfitResult(
            f"the result is {_article(type(result).__name__)}; {place} has rows: return a dict of column to value"
        )
    if not all(isinstance(name, str) for name in result) or not result:
        raise UnfitResult(f"the result's columns are {list(result)[:10]!r}; {place} wants strings for their names")
    return dict(result)


def rows_of(results: Any) -> Iterable[Any]:
    """Of a function that got many records: a list of results, or a table."""
    if results is None:
        return []
    if (table := as_table(results)) is not None:
        rows: list[Any] = table.to_pylist()
        return rows
    if isinstance(results, str | bytes | Mapping) or not isinstance(results, Iterable):
        raise UnfitResult(
            f"the result for a chunk of records is {_article(type(results).__name__)}; return a list with the results"
        )
    return results


def as_table(results: Any) -> Any:
    """A pyarrow.Table of what is a table for Arrow, a DataFrame too; None if it is none."""
    if not hasattr(results, "__arrow_c_stream__") and not hasattr(results, "__arrow_c_array__"):
        return None
    import pyarrow as pa

    return pa.table(results)


def shown(text: str) -> str:
    """The beginning of a bad record, on one line."""
    from mpengine.report.text import one_line

    return repr(one_line(text, limit=_SHOWN))


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
