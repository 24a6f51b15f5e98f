"""What the user can put right: one line on stderr, and an exit code."""

from __future__ import annotations

import signal
import sys

from mpengine import EngineBroken, EngineError
from mpengine.report.failures import describe
from mpengine.report.text import one_line

EXIT_OK = 0
EXIT_JOB_FAILED = 1
EXIT_USAGE = 2
EXIT_ENGINE_BROKE = 3
EXIT_SIGNAL = 128  # plus the signal's number: 130 for Ctrl-C, 143 for SIGTERM
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE: what a shell reports for any program whose reader went away


class Problem(Exception):
    """Subject, cause, values and next step, in one line; ends the command with ``exit_code``."""

    def __init__(self, message: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(one_line(message, limit=4000))
        self.exit_code = exit_code


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, wherever the program is; ``signum`` says which."""

    def __init__(self, signum: int) -> None:
        name = signal.Signals(signum).name
        super().__init__(f"interrupted ({name}) before any job had ended; to go on, run it again")
        self.signum = signum


def why_broken(error: EngineBroken, target: str) -> str:
    """In a line. If it is something of the user's, it is out of the only thing that workers do before their first job:
    they import the target."""
    cause = error.__cause__
    if cause is None or isinstance(cause, EngineError):
        return str(error)
    found = describe(cause)
    where = f"{found.where}: " if found.where else ""
    what = f"{found.type}: {found.message}".removesuffix(": ")
    return f"TARGET {target!r} cannot be imported in a worker: {where}{what}"


def say(line: str) -> None:
    """One line to whoever reads stderr, if anybody does."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"mpengine: {one_line(line, limit=4000)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
