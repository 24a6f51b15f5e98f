"""What can be asked of a journal."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pickle
import sqlite3
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from mpengine.batch.formats import Format, told_by
from mpengine.batch.journal import ENDING, FailureRow, Journal
from mpengine.batch.sinks import compress
from mpengine.cli.problems import Problem
from mpengine.cli.resuming import read_journal
from mpengine.cli.run import failure_line
from mpengine.report.text import one_line


def show_status(path: str) -> None:
    """A few lines on stdout."""
    with _opened(path) as journal:
        plan, state = _known(path, journal)
        by_status = journal.failed()
        ended = state["ended"]
        succeeded = ended - sum(by_status.values())
        counts = ", ".join(f"{count:,} {status}" for status, count in [("succeeded", succeeded), *by_status.items()])
        took = state["wall_s"]
        rate = f", {ended / took:,.1f} a second" if took else ""
        print(f"target    {plan['target']}")  # noqa: T201
        print(f"inputs    {', '.join(one['label'] for one in plan['inputs'][:5])}{_more(plan['inputs'][5:])}")  # noqa: T201
        print(f"state     {'complete' if state.get('complete') else 'unfinished; --resume goes on'}")  # noqa: T201
        print(f"jobs      {ended:,} ended: {counts}")  # noqa: T201
        print(f"time      {timedelta(seconds=round(took))}{rate}, {state['workers']} workers")  # noqa: T201


def show_failures(path: str, *, as_json: bool, inputs: str | None) -> None:
    """All failures on stdout; their inputs in a file."""
    with _opened(path) as journal:
        plan, state = _known(path, journal)
        for row in journal.failures():
            if as_json:
                sys.stdout.write(failure_line(row).decode())
                continue
            print(f"{one_line(row.id)}  {row.status} after {row.attempts} attempts, {row.duration:.3f} s")  # noqa: T201
            print(f"    {one_line(f'{row.type}: {row.message}', limit=4000)}")  # noqa: T201
            for line in row.traceback.splitlines():
                print(f"    {line}")  # noqa: T201
        if inputs is not None:
            _refuse_known(inputs, path, plan)
            write_inputs(inputs, plan, state["headers"], list(journal.failures()))


def _refuse_known(name: str, journal: str, plan: dict[str, Any]) -> None:
    """What is to be written must not be what the run has read or written."""
    out = journal.removesuffix(ENDING)
    files = [out] if plan["files"] is None else [os.path.join(out, file) for file in plan["files"]]
    for known in (journal, *files, *(one["path"] for one in plan["inputs"] if "path" in one)):
        with contextlib.suppress(OSError):
            if os.path.realpath(name) == os.path.realpath(known) or os.path.samefile(name, known):
                raise Problem(f"--inputs {name!r} is a file of the run itself ({known!r}); name another file")


def write_inputs(name: str, plan: dict[str, Any], headers: list[list[str]], rows: list[FailureRow]) -> None:
    """What the failed jobs were given, in the format of their inputs."""
    formats = {one["format"] for one in plan["inputs"]}
    if plan["options"]["--as"] == "path":
        formats = {"text"}
    if len(formats) > 1:
        raise Problem(
            f"--inputs {name!r}: the INPUTs are of different formats ({', '.join(sorted(formats))}); use --json"
        )
    format = Format(formats.pop())
    told, compression = told_by(name)
    if told is not None and told is not format:
        raise Problem(
            f"--inputs {name!r}: the INPUTs are {format}, and this would be {told}; name a file with that ending"
        )
    if plan["options"]["--as"] == "table" and format is Format.PARQUET:
        import pyarrow as pa

        tables = [pa.ipc.open_stream(row.payload).read_all() for row in rows]
        _write_parquet(name, pa.concat_tables(tables) if tables else pa.table({}))
        return
    payloads = [one for row in rows for one in _payloads(row.payload, many=plan["options"]["--chunk"] is not None)]
    if format is Format.PARQUET:
        import pyarrow as pa

        _write_parquet(name, pa.Table.from_pylist([pickle.loads(one) for one in payloads]))
        return
    if format is Format.CSV:
        if len(headers) > 1:
            raise Problem(
                f"--inputs {name!r}: the INPUTs have different columns, and one file has one header; use --json"
            )
        data = _csv(headers, payloads)
    else:
        separator = b"\0" if format is Format.NUL else b"\n"
        data = b"".join(os.fsencode(one) + separator for one in payloads)
    try:
        with open(name, "wb") as file:
            file.write(compress(data, compression))
    except OSError as error:
        raise Problem(f"--inputs {name!r} cannot be written: {error.strerror}; name another file") from None


def _payloads(payload: Any, *, many: bool) -> list[Any]:
    if payload is None:  # of a record that could not be cut out
        return []
    found: list[Any] = pickle.loads(payload) if many else [payload]
    return found


def _csv(headers: list[list[str]], payloads: list[bytes]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(headers)
    writer.writerows(pickle.loads(one) for one in payloads)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _write_parquet(name: str, table: Any) -> None:
    import pyarrow.parquet as pq

    try:
        pq.write_table(table, name)
    except OSError as error:
        raise Problem(f"--inputs {name!r} cannot be written: {error}; name another file") from None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Journal]:
    journal = read_journal(path)
    try:
        yield journal
    except sqlite3.Error as error:
        raise Problem(f"JOURNAL {path!r} cannot be read: {error}; check the path") from None
    except ImportError as error:
        raise Problem(f"--inputs: {error}") from None
    finally:
        journal.close()


def _known(path: str, journal: Journal) -> tuple[dict[str, Any], dict[str, Any]]:
    plan, state = journal.get("plan"), journal.get("state")
    if plan is None or state is None:
        raise Problem(f"JOURNAL {path!r} is of a run in which no job has ended yet")
    return plan, state


def _more(rest: list[Any]) -> str:
    return f" and {len(rest):,} more" if rest else ""
