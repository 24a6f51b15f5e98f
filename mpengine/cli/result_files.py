"""Files that a command writes when all is done: refused at its start if that will not be possible, and then whole."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence

from mpengine.cli.inputs import Source
from mpengine.cli.problems import Problem


class ResultFile:
    """What an option names. Nothing of it is touched until `write`.

    Args:
        option: Its name, for messages.
        others: What it must not be: other files of this command.

    Raises:
        Problem: It cannot be written, or is one of the sources or of the others.
    """

    def __init__(self, option: str, name: str, sources: Sequence[Source], others: Iterable[ResultFile] = ()) -> None:
        self.option = option
        self.name = name
        try:
            self.path = os.path.realpath(name)  # what a symbolic link leads to is written, not the link
            known = [(source.path, source.absolute) for source in sources] + [(one.name, one.path) for one in others]
            for shown, path in known:
                if path == self.path or (
                    os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name)
                ):
                    raise self._problem(f"is the same file as {shown!r}", "name another")
            self._check()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise self._failed(error) from None

    def _check(self) -> None:
        folder = os.path.dirname(self.path)
        if os.path.isdir(self.path):
            raise self._problem("is a directory", f"name a file in it, such as {os.path.join(self.name, 'bench')!r}")
        if not os.path.isdir(folder):
            raise self._problem(f"cannot be written: there is no folder {folder!r}", "make it first")
        if self._is_plain:
            if not os.access(folder, os.W_OK | os.X_OK):
                raise self._problem(
                    f"cannot be written: the folder {folder!r} is not yours to write to", "name another"
                )
        elif not os.access(self.path, os.W_OK):
            raise self._problem("cannot be written", "name another")

    @property
    def _is_plain(self) -> bool:
        """Not so a pipe or a device, which cannot be replaced by a file."""
        return not os.path.exists(self.path) or stat.S_ISREG(os.stat(self.path).st_mode)

    def write(self, text: str) -> None:
        """Replaces what was there, at once. Raises `Problem`; what was there is then still there."""
        data = text.encode("utf-8", "backslashreplace")
        part = f"{self.path}.{os.getpid()}.part"
        try:
            if not self._is_plain:
                with open(self.path, "wb") as file:
                    file.write(data)
                return
            try:
                with open(part, "wb") as file:
                    file.write(data)
                os.replace(part, self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(part)
                raise
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError | ValueError) -> Problem:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return self._problem(f"cannot be written: {reason}", "name another file")

    def _problem(self, what: str, next_step: str) -> Problem:
        return Problem(f"{self.option} {self.name!r} {what}; {next_step}")
