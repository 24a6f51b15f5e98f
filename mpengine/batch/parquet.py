"""OUT as Parquet: groups of rows in files of their own beside it, which become one file at the end.

A Parquet file can only be written to its end, and read only then. So each group of rows is a whole file, and what is
not yet a group is in the journal. Types are those that pyarrow finds in the rows, the widest of all groups.
"""

from __future__ import annotations

import base64
import importlib
import os
import pickle
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from mpengine.batch.order import Entry
from mpengine.batch.reading import pyarrow
from mpengine.batch.sinks import NEW, Late, OneFile, Taken, sync_folder
from mpengine.batch.work import UnfitResult

GROUP_RESULTS = 1 << 16
GROUP_BYTES = 1 << 25
PARTS = ".parts"


class ParquetSink(OneFile):
    """See the module.

    Args:
        path: OUT.
        state: Of an earlier run; {}: a new one.
    """

    def __init__(self, path: str, state: dict[str, Any]) -> None:
        self._pa = pyarrow()
        self._pq = importlib.import_module("pyarrow.parquet")
        self._path = path
        self._folder = path + PARTS
        self._rows = int(state.get("position", 0))
        self._parts = int(state.get("parts", 0))
        self._whole = bool(state.get("whole", False))
        encoded = state.get("schema")
        self._schema = (
            None if encoded is None else self._pa.ipc.read_schema(self._pa.py_buffer(base64.b64decode(encoded)))
        )

    def _begin(self) -> None:
        """The folder of the groups is ready to take the next."""
        if self._whole:  # there are more results now: what was OUT is the first group
            remove_groups(self._path)  # which are in OUT
            os.makedirs(self._folder)
            shutil.copyfile(self._path, self._part(0))
            _sync(self._part(0))
            self._parts, self._whole = 1, False
        if not os.path.isdir(self._folder):
            os.makedirs(self._folder)
            sync_folder(os.path.dirname(self._folder))

    def wants(self, entries: Sequence[Entry], size: int) -> bool:
        return len(entries) >= GROUP_RESULTS or size >= GROUP_BYTES

    def take(self, entries: Sequence[Entry], *, final: bool) -> Taken:
        taken = Taken()
        group: list[Entry] = []
        size = 0
        for at, entry in enumerate(entries, 1):
            group.append(entry)
            size += len(entry.blob)
            if len(group) >= GROUP_RESULTS or size >= GROUP_BYTES or (final and at == len(entries)):
                self._write(group, taken)
                taken.count = at
                group, size = [], 0
        return taken

    def _write(self, group: list[Entry], taken: Taken) -> None:
        try:
            table = self._table([_content(entry.blob) for entry in group if entry.blob])
        except Exception:  # pyarrow's own errors are of many classes; now one by one
            table = self._one_by_one(group, taken)
        refused = {entry.number for entry, _ in taken.refused}
        if refused or any(entry.failed for entry in group):
            position = self._rows
            for entry in group:
                if entry.failed or entry.number in refused:  # of which there are no rows
                    taken.places.append((entry.number, position, 0))
                elif entry.blob:
                    position += _rows(_content(entry.blob))
        if table is not None and table.num_rows:
            self._begin()
            self._schema = self._unify(table.schema)
            self._save(table, self._part(self._parts))
            self._parts += 1
            self._rows += table.num_rows

    def _one_by_one(self, group: list[Entry], taken: Taken) -> Any:
        tables = []
        schema = self._schema
        for entry in group:
            if not entry.blob:
                continue
            try:
                table = self._table([_content(entry.blob)])
                self._schema = self._unify(table.schema)
                tables.append(table)
            except Exception as error:
                taken.refused.append((entry, f"the result does not fit in OUT: {_first_line(error)}"))
        wide = self._schema
        self._schema = schema
        if not tables or wide is None:
            return None
        return self._pa.concat_tables([_widened(table, wide) for table in tables])

    def _table(self, contents: list[Any]) -> Any:
        """Of lists of rows and tables, of types that fit with those before. None of none; raises if they do not."""
        rows: list[Any] = []
        tables: list[Any] = []
        for content in contents:
            if isinstance(content, list):
                rows += content
            else:
                if rows:
                    tables.append(self._of_rows(rows))
                    rows = []
                tables.append(content)
        if rows:
            tables.append(self._of_rows(rows))
        if not tables:
            return None
        table = self._pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]
        self._unify(table.schema)
        return table

    def _of_rows(self, rows: list[Any]) -> Any:
        names = dict.fromkeys(name for row in rows for name in row)  # from_pylist looks at the first row only
        return self._pa.Table.from_pydict({name: [row.get(name) for row in rows] for name in names})

    def _unify(self, schema: Any) -> Any:
        schema = schema.remove_metadata()
        if self._schema is None:
            return schema
        return self._pa.unify_schemas([self._schema, schema], promote_options="permissive")

    def _save(self, table: Any, path: str) -> None:
        self._pq.write_table(table, path + NEW)
        _sync(path + NEW)
        os.replace(path + NEW, path)

    def _part(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:06}.parquet")

    def sync(self) -> None:
        """Each group is, when it is written; this is about their names."""
        if os.path.isdir(self._folder):
            sync_folder(self._folder)

    def state(self) -> dict[str, Any]:
        encoded = None if self._schema is None else base64.b64encode(self._schema.serialize().to_pybytes()).decode()
        return {"position": self._rows, "parts": self._parts, "whole": self._whole, "schema": encoded}

    def finish(self) -> None:
        if self._whole:
            return
        self._write_whole(table for number in range(self._parts) for table in self._groups(self._part(number)))
        os.replace(self._path + NEW, self._path)
        sync_folder(os.path.dirname(self._path))  # before anybody removes the groups
        self._whole, self._parts = True, 0

    def clean(self) -> None:
        if self._whole:
            remove_groups(self._path)

    def path_of(self, file: int) -> str:
        return self._path

    def size_of(self, blob: bytes) -> int:
        if not blob:
            return 0
        try:
            table = self._table([_content(blob)])
        except Exception as error:
            raise UnfitResult(f"the result does not fit in OUT: {_first_line(error)}") from None
        return int(table.num_rows)

    def rewrite(self, late: Sequence[Late]) -> dict[str, Any]:
        late = [one for one in late if one.blob]  # without one it has no rows, and had none
        tables = [self._table([_content(one.blob)]) for one in late]
        for table in tables:
            self._schema = self._unify(table.schema)
        self._write_whole(self._merged(late, tables))
        grown = sum(table.num_rows - one.size for one, table in zip(late, tables, strict=True))
        return {**self.state(), "position": self._rows + grown}

    def _merged(self, late: Sequence[Late], tables: Sequence[Any]) -> Iterator[Any]:
        position = 0
        waiting = list(zip(late, tables, strict=True))
        for table in self._groups(self._path):
            first, start = 0, position
            while waiting and waiting[0][0].at <= start + table.num_rows:
                one, insertion = waiting.pop(0)
                yield table.slice(first, one.at - start - first)
                yield insertion
                first = one.at - start + one.size
            yield table.slice(first)
            position += table.num_rows
        for _, insertion in waiting:
            yield insertion

    def _groups(self, path: str) -> Iterator[Any]:
        with self._pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)

    def _write_whole(self, tables: Iterator[Any]) -> None:
        schema = self._schema if self._schema is not None else self._pa.schema([])
        with self._pq.ParquetWriter(self._path + NEW, schema) as writer:
            for table in tables:
                if table.num_rows:
                    writer.write_table(_widened(table, schema))
        _sync(self._path + NEW)


def remove_groups(path: str) -> None:
    """What is left of those of an OUT."""
    shutil.rmtree(path + PARTS, ignore_errors=True)


def _content(blob: bytes) -> Any:
    return pickle.loads(blob)


def _rows(content: Any) -> int:
    return len(content) if isinstance(content, list) else int(content.num_rows)


def _widened(table: Any, schema: Any) -> Any:
    """The table with all columns of the schema, in its order and of its types."""
    import pyarrow as pa

    columns = [
        table.column(item.name).cast(item.type, safe=False)
        if item.name in table.column_names
        else pa.nulls(table.num_rows, item.type)
        for item in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
