"""The entry: signals first, and then all the rest is imported, so that an early Ctrl-C is one line as well."""

from __future__ import annotations

import sys
from typing import NoReturn

from mpengine.cli.problems import EXIT_SIGNAL, Interrupted, say
from mpengine.cli.signals import Stop
from mpengine.cli.streams import fill_closed


def main() -> NoReturn:
    """The `mpengine` command. Exits with one of the codes that `mpengine run --help` tells."""
    fill_closed()
    said = False
    try:
        with Stop() as stop:
            try:
                from mpengine.cli.commands import commands  # takes a while: click, rich, the engine

                commands.main(prog_name="mpengine", obj=stop)
            except SystemExit as end:
                said = True
                code = end.code
            # A signal now would only bring a traceback out of the interpreter's own last steps.
            stop.leave()
    except Interrupted as error:
        if not said:
            say(str(error))
        code = EXIT_SIGNAL + error.signum
    sys.exit(code)
