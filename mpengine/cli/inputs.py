"""The INPUT arguments -> sources: globs expanded, each one checked and named, before any job starts."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpengine.batch.formats import Compression, Format, told_by
from mpengine.cli.problems import Problem

STDIN_ARGUMENT = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """One input file, or stdin (``path`` is "-").

    ``label`` is unique in the run and stands in the ids of its jobs; ``path`` is as the user gave it.
    """

    label: str
    path: str
    absolute: str
    format: Format
    compression: Compression

    @property
    def is_stdin(self) -> bool:
        return self.path == STDIN_ARGUMENT


def find_sources(arguments: Sequence[str], *, as_paths: bool, format: Format | None = None) -> list[Source]:
    """Expands and checks the arguments, in their order. Raises `Problem` for the first that cannot be read.

    Args:
        as_paths: The files are not opened here.
        format: Of all of them; None: what their names tell, or text.
    """
    if as_paths and STDIN_ARGUMENT in arguments:
        raise Problem(
            "INPUT '-' cannot be a path; without --as path, each line of stdin is one job, which may well be a path"
        )
    if arguments.count(STDIN_ARGUMENT) > 1:
        raise Problem("INPUT '-' is given twice, but stdin can be read only once")
    sources = []
    labels: set[str] = set()
    for path in _expand(arguments):
        if path != STDIN_ARGUMENT:
            _check_readable(path, as_paths=as_paths)
        label = _unique("stdin" if path == STDIN_ARGUMENT else path, labels)
        told, compression = told_by("" if path == STDIN_ARGUMENT else path)
        chosen = format or told or Format.TEXT
        if (
            chosen is Format.PARQUET
            and not as_paths
            and (path == STDIN_ARGUMENT or compression is not Compression.NONE)
        ):
            raise Problem(f"INPUT {path!r}: Parquet is read from its end, and cannot be streamed; name a plain file")
        absolute = path if path == STDIN_ARGUMENT else os.path.abspath(path)
        sources.append(Source(label, path, absolute, chosen, compression))
    return sources


def _expand(arguments: Iterable[str]) -> Iterable[str]:
    for argument in arguments:
        if argument == STDIN_ARGUMENT or os.path.lexists(argument) or not glob.has_magic(argument):
            yield argument
            continue
        # A pattern the shell has left as it is. Folders that match are not meant.
        found = sorted(path for path in glob.iglob(argument, recursive=True) if not os.path.isdir(path))
        if not found:
            raise Problem(f"INPUT {argument!r} matches no file (in {os.getcwd()!r}); check the pattern")
        yield from found


def _check_readable(path: str, *, as_paths: bool) -> None:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            pattern = os.path.join(path, "**", "*")
            raise Problem(f"INPUT {path!r} is a directory; for the files below it, give '{pattern}'")
        if as_paths:
            return
        if stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY))
        elif not os.access(path, os.R_OK):  # opening a FIFO would wait for its writer
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    except FileNotFoundError:
        raise Problem(f"INPUT {path!r} does not exist (looked in {os.getcwd()!r}); check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Problem(f"INPUT {path!r} cannot be read: {reason}; check its permissions and its path") from None


def _unique(name: str, taken: set[str]) -> str:
    """``name``, or ``name#2`` and so on when it was given before: the ids of jobs must differ."""
    label, number = name, 1
    while label in taken:
        number += 1
        label = f"{name}#{number}"
    taken.add(label)
    return label
