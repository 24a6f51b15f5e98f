"""Whether a run may go on from its journal: what shapes OUT must be the same, and what else has changed is said."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

from mpengine.batch.journal import ENDING, Journal, NoJournal
from mpengine.cli.inputs import Source
from mpengine.cli.problems import Problem, say
from mpengine.cli.targets import Target

_LOOKED_AT = 1 << 16  # bytes, of the beginning and of the end of an input


def make_plan(
    target: str, loaded: Target, sources: Sequence[Source], options: dict[str, Any], files: Sequence[str] | None = None
) -> dict[str, Any]:
    """All that shapes OUT, as JSON. `files`: the names in an OUT that is a folder."""
    return {
        "target": target,
        "code": _code_of(loaded),
        "inputs": [_describe(source) for source in sources],
        "options": options,
        "files": None if files is None else [*files],
    }


def compare(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Says what has changed since a journal was begun. Raises `Problem` if its run cannot go on with that."""
    journal = f"the journal {name!r}"
    again = "give what it was begun with, or remove the journal to begin anew"
    if before["target"] != now["target"]:
        raise Problem(f"TARGET is {now['target']!r}, and {journal} is of {before['target']!r}; {again}")
    for option, value in now["options"].items():
        if before["options"].get(option) != value:
            raise Problem(f"{option} is {value}, and in {journal} it is {before['options'].get(option)}; {again}")
    labels, known = ([one["label"] for one in plan["inputs"]] for plan in (now, before))
    if labels != known:
        raise Problem(
            f"the INPUTs are not those of {journal}: {len(labels):,} files, of {len(known):,}, "
            f"{next((one for one in [*labels, *known] if one not in labels or one not in known), 'in another order')}; "
            f"{again}"
        )
    _compare_files(before["files"], now["files"], journal, again)
    for old, new in zip(before["inputs"], now["inputs"], strict=True):
        if old["format"] != new["format"]:
            raise Problem(
                f"INPUT {new['label']!r} is read as {new['format']}, and in {journal} as {old['format']}; {again}"
            )
        if old.get("content") != new.get("content") or old.get("size") != new.get("size"):
            raise Problem(
                f"INPUT {new['label']!r} has changed since {journal} was begun ({old.get('size', 0):,} bytes then, "
                f"{new.get('size', 0):,} now), so its records may be others; put the old one back, or remove the "
                "journal to begin anew"
            )
        if old.get("changed") != new.get("changed"):
            say(f"INPUT {new['label']!r} was written since the journal was begun, and looks the same; going on")
    if before["code"] != now["code"]:
        say(f"TARGET {now['target']!r} has changed since the journal was begun; what has ended stays as it was")


def _compare_files(before: list[str] | None, now: list[str] | None, journal: str, again: str) -> None:
    if before is None or now is None:
        if before is not now:
            kinds = ("a file", "a folder") if now is None else ("a folder", "a file")
            raise Problem(f"OUT is {kinds[0]}, and in {journal} it is {kinds[1]}; {again}")
        return
    for old, new in zip(before, now, strict=True):
        if old != new:
            raise Problem(f"in OUT there is to be {new!r}, and in {journal} it is {old!r}; {again}")


def open_journal(path: str) -> Journal:
    """Opens or makes it. Raises `Problem`."""
    try:
        return Journal.open(path)
    except NoJournal as error:
        raise Problem(f"the journal {path!r} {error}; move it away, or name another OUT") from None
    except (sqlite3.Error, OSError) as error:
        raise Problem(f"the journal {path!r} cannot be written: {_reason(error)}; name another OUT") from None


def read_journal(path: str) -> Journal:
    """Opens an existing one. Raises `Problem`."""
    try:
        return Journal.open(path, readonly=True)
    except NoJournal as error:
        raise Problem(f"JOURNAL {path!r} {error}; name OUT{ENDING}, which is beside the OUT of a run") from None
    except FileNotFoundError:
        hint = f"; did you mean {path + ENDING!r}?" if os.path.exists(path + ENDING) else "; check the path"
        raise Problem(f"JOURNAL {path!r} does not exist{hint}") from None
    except (sqlite3.Error, OSError) as error:
        raise Problem(f"JOURNAL {path!r} cannot be read: {_reason(error)}; check the path") from None


def _reason(error: sqlite3.Error | OSError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _code_of(target: Target) -> str:
    """A digest of the file that has the function; "" for what has none, such as a builtin."""
    module = sys.modules.get(target.description.module)
    file = target.description.file or getattr(module, "__file__", None)
    try:
        with open(file or "", "rb") as source:
            return hashlib.sha256(source.read()).hexdigest()
    except OSError:
        return ""


def _describe(source: Source) -> dict[str, Any]:
    about: dict[str, Any] = {"label": source.label, "format": str(source.format)}
    if source.is_stdin:
        return about
    try:
        found = os.stat(source.absolute)
        about["path"] = source.absolute
        about["size"] = found.st_size
        about["changed"] = found.st_mtime_ns
        if os.path.isfile(source.absolute):
            digest = hashlib.sha256()
            with open(source.absolute, "rb") as file:
                digest.update(file.read(_LOOKED_AT))
                file.seek(max(0, found.st_size - _LOOKED_AT))
                digest.update(file.read(_LOOKED_AT))
            about["content"] = digest.hexdigest()
    except OSError:  # the reader will say so
        pass
    return about
