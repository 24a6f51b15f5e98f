"""An OUT that is a folder: which file each INPUT has in it, and whether all of them may be written."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mpengine.batch.folder import Boundaries, FolderSink, OutFile, clear
from mpengine.batch.formats import Format, result_name
from mpengine.batch.journal import ENDING, Journal
from mpengine.batch.parquet import PARTS
from mpengine.batch.sinks import NEW, Sink, sync_folder
from mpengine.cli.inputs import Source
from mpengine.cli.out import AGAIN
from mpengine.cli.places import Place, check_size, lock
from mpengine.cli.problems import Problem
from mpengine.cli.signals import Stop
from mpengine.cli.writer import STDOUT_ARGUMENT, Writer


@dataclass(frozen=True, slots=True)
class Asked:
    """The options that a folder depends on."""

    read_as: Format | None
    to: Format | None
    as_paths: bool
    unordered: bool


def is_folder(out: str) -> bool:
    """Whether an OUT is one: it is there as one, or its name says that it is to be."""
    return out != STDOUT_ARGUMENT and (out.endswith("/") or os.path.isdir(out))


def layout_of(out: str, sources: Sequence[Source], options: Asked) -> Layout | None:
    """None: OUT is no folder. Nothing is touched. Raises `Problem` if it is one and cannot hold what was asked for."""
    if not is_folder(out):
        return None
    if options.as_paths:
        raise Problem(
            f"--as path gives one result for each INPUT, and {out!r} is a folder, with a file for each; name a file "
            "with -o FILE"
        )
    if options.unordered:
        raise Problem(
            f"--unordered mixes the results of all INPUTs, and {out!r} is a folder, with a file for each; leave it "
            "out, or name a file with -o FILE"
        )
    if any(source.is_stdin for source in sources):
        raise Problem(f"INPUT '-' has no name that its file in the folder {out!r} could have; name a file with -o FILE")
    return Layout(out, sources, options.read_as, options.to)


class Layout:
    """Which file each source has.

    Args:
        out: As it was typed.
        read_as: The format of all sources, if that was asked for.
        to: That of all results, if that was asked for.

    Attributes:
        names: Of the files, from the folder on, in the order of the sources.
    """

    def __init__(self, out: str, sources: Sequence[Source], read_as: Format | None, to: Format | None) -> None:
        self.out = out
        self.path = os.path.abspath(out)
        self._sources = sources
        common = os.path.commonpath([os.path.dirname(source.absolute) for source in sources])
        found = [result_name(os.path.relpath(source.absolute, common), read_as, to) for source in sources]
        self.names = [name for name, _, _ in found]
        self.files = [OutFile(os.path.join(self.path, name), format, packed) for name, format, packed in found]
        self._formats = {source.label: file.format for source, file in zip(sources, self.files, strict=True)}
        self._check_names()

    @property
    def formats(self) -> set[Format]:
        return set(self._formats.values())

    @property
    def strictest(self) -> Format:
        """The one that asks most of a run: those come first that may refuse a result."""
        return min(self.formats, key=lambda format: (format not in (Format.CSV, Format.PARQUET), format))

    def format_of(self, source: Source) -> Format:
        return self._formats[source.label]

    def known(self) -> Iterator[str]:
        """What nothing else may be: the files, the folders they are in, the journal."""
        yield self.path + ENDING
        for file in self.files:
            yield file.path
        yield from self._folders()

    def typed(self, path: str) -> str:
        """A path in the folder as its name would be typed."""
        return os.path.join(self.out, os.path.relpath(path, self.path))

    def _folders(self) -> set[str]:
        """Those below OUT that the files need."""
        found: set[str] = set()
        for file in self.files:
            folder = os.path.dirname(file.path)
            while folder != self.path and folder not in found:
                found.add(folder)
                folder = os.path.dirname(folder)
        return found

    def _check_names(self) -> None:
        """Each file, and what stands beside it for a while, is one source's alone."""
        owners: dict[str, Source] = {}
        for source, file in zip(self._sources, self.files, strict=True):
            before = owners.setdefault(file.path, source)
            if before is not source:
                self._refuse_both(before, source, file.path)
        folders = self._folders()
        for source, file in zip(self._sources, self.files, strict=True):
            for path in (file.path, file.path + NEW, *([file.path + PARTS] if file.format is Format.PARQUET else ())):
                other = owners.get(path, source)
                if path in folders:
                    other = next(one for known, one in owners.items() if known.startswith(path + os.sep))
                if other is not source:
                    self._refuse_both(source, other, path)

    def _refuse_both(self, one: Source, other: Source, path: str) -> None:
        if one.absolute == other.absolute:
            raise Problem(
                f"INPUT {one.path!r} is given twice, and {self.typed(path)!r} would have its results twice; give it "
                "once"
            )
        raise Problem(
            f"INPUTs {one.path!r} and {other.path!r} both need {self.typed(path)!r}; give them in two runs, with a "
            "folder each, or rename one"
        )

    def check(self) -> None:
        """That all may be written: nothing that is there is in the way, and none of it is an INPUT."""
        above = os.path.dirname(self.path)
        try:
            if os.path.lexists(self.path) and not os.path.isdir(self.path):
                raise Problem(f"OUT {self.out!r} cannot be a folder: there is a file of that name; name another folder")
            if not os.path.isdir(above):
                raise Problem(f"OUT {self.out!r} cannot be made: there is no folder {above!r}; make it first")
            for folder in sorted({above, self.path, *self._folders()}):
                if not os.path.lexists(folder):
                    continue
                if not os.path.isdir(folder):
                    raise Problem(f"OUT {self.typed(folder)!r} is to be a folder, and there is a file; move it away")
                if not os.access(folder, os.W_OK | os.X_OK):  # `above`: for the journal
                    raise Problem(
                        f"OUT {self.out!r} cannot be written: {folder!r}: Permission denied; name another folder"
                    )
            self._check_files()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise Problem(f"OUT {self.out!r} cannot be written: {reason}; name another folder") from None

    def _check_files(self) -> None:
        inputs: dict[tuple[int, int], Source] = {}
        groups = {file.path + PARTS for file in self.files if file.format is Format.PARQUET}
        for source in self._sources:
            with contextlib.suppress(OSError):  # gone since; the reader will say so
                found = os.stat(source.absolute)
                inputs[found.st_dev, found.st_ino] = source
            if os.path.dirname(source.absolute) in groups:
                raise Problem(f"INPUT {source.path!r} is in a folder that OUT {self.out!r} uses itself; move it away")
        for file in self.files:
            for path in (file.path, file.path + NEW):
                try:
                    found = os.stat(path)
                except FileNotFoundError:
                    continue
                if (same := inputs.get((found.st_dev, found.st_ino))) is not None:
                    raise Problem(
                        f"OUT {self.typed(path)!r} is the same file as INPUT {same.path!r}; name another folder"
                    )
                if not stat.S_ISREG(found.st_mode):
                    raise Problem(f"OUT {self.typed(path)!r} is there, and is no regular file; move it away")


class FolderPlace(Place):
    """The folder of a layout, made if it was not there. The stack closes, and undoes what was done for nothing."""

    def __init__(self, layout: Layout, stop: Stop, stack: contextlib.ExitStack) -> None:
        made = not os.path.isdir(layout.path)
        try:
            if made:
                os.mkdir(layout.path)
                stack.callback(self._undo, layout.path)
            self._fd = os.open(layout.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Problem(f"OUT {layout.out!r} cannot be written: {error.strerror}; name another folder") from None
        stack.callback(os.close, self._fd)
        super().__init__(layout.out, Writer(self._fd, layout.out, stop))
        self._layout = layout
        self._stop = stop
        self._stack = stack
        self._boundaries = Boundaries()

    def _undo(self, path: str) -> None:
        """A folder that was made for a run that never began."""
        if not self.begun:
            with contextlib.suppress(OSError):
                os.rmdir(path)

    @property
    def journal(self) -> str:
        plain = self.name.rstrip("/")
        return (self.path if os.path.basename(plain) in ("", ".", "..") else plain) + ENDING

    def lock(self) -> None:
        lock(self._fd, self.name)

    def holds(self) -> str | None:
        return next((self._layout.typed(file.path) for file in self._layout.files if os.path.lexists(file.path)), None)

    def check(self, journal: Journal, before: dict[str, Any]) -> None:
        for note in journal.finished():
            self._check_file(note.number, note.state or {}, finished=True)
        if before:
            self._check_file(before["file"], before["state"], finished=False)

    def _check_file(self, number: int, state: dict[str, Any], *, finished: bool) -> None:
        path = self.path_of(number)
        name = self._layout.typed(path)
        there = os.path.exists(path)
        if finished and not there:  # it may have been empty
            raise Problem(
                f"OUT {name!r} is gone, and its journal tells of it; put it back, or remove {self.journal!r} to begin "
                "anew"
            )
        check_size(name, os.path.getsize(path) if there else 0, state, self.journal)

    def path_of(self, file: int) -> str:
        return self._layout.files[file].path

    def reopen(self) -> None:
        """Nothing but the folder is open."""

    def clear(self) -> None:
        clear(self._layout.files)
        sync_folder(os.path.dirname(self.path))  # where the folder may be new

    def sink(self, journal: Journal, before: dict[str, Any]) -> Sink:
        self._boundaries = Boundaries(journal.firsts())
        sink = FolderSink(self._layout.files, self._boundaries, self._pieces, before, journal.file_state)
        self._stack.callback(sink.close)
        return sink

    def _pieces(self, fd: int, path: str) -> Writer:
        writer = Writer(fd, self._layout.typed(path), self._stop)
        writer.again = AGAIN
        return writer

    def format_of(self, source: Source) -> Format:
        return self._layout.format_of(source)

    def on_source(self, number: int) -> None:
        """In the thread that reads: it comes to the next source. Raises `Problem` if an earlier run found another."""
        if not self._boundaries.begin(number):
            raise Problem(
                f"the INPUTs have other records than when the journal {self.journal!r} was begun; put the old ones "
                "back, or remove the journal to begin anew"
            )
