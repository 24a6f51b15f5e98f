"""`python -m bench`: this engine beside its peers and beside what the machine allows."""

import argparse
import sys
from collections.abc import Callable, Sequence

from bench import arrays, clusters, guard, records, report, run, scikit, sweep, table
from bench.cases import CASES
from bench.faults import command as faults

# Each says with --help what it does; without any of these words the tables are printed.
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "report": report.main,
    "guard": guard.main,
    "sweep": sweep.main,
    "faults": faults.main,
    "arrays": arrays.main,
    "records": records.main,
    "clusters": clusters.main,
    "scikit": scikit.main,
}
OTHER_COMMANDS = f"Further commands, each with a --help of its own: {', '.join(COMMANDS)}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for and prints the tables.

    Returns:
        0; 1 if a contender failed; 130 after Ctrl-C, with the tables of the rounds that were done.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, epilog=OTHER_COMMANDS)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this one")
    run.add_options(parser)
    asked = parser.parse_args(words)
    results, interrupted = run.measure_all(run.options_of(asked), asked.case)
    print(table.render(results), end="")
    return run.exit_code(results, interrupted)


if __name__ == "__main__":
    sys.exit(main())
