"""`python -m bench report`: measures everything, and writes the tables, the plots and the README's summary.

All of it is made from the results of one run, which are kept beside it; nothing is taken over from another.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench import run, table, targets

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parent.parent / "README.md"
SHOWN = {"tiny": "Tiny jobs through each contender", "efficiency": "Efficiency by the length of the jobs"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all cases, or takes a run that was kept.

    Returns:
        0; 1 if a contender failed; 2 if nothing can be written; 130 after Ctrl-C, with what was measured kept.
    """
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__.partition("\n")[0])
    run.add_options(parser)
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="write it anew from a run's JSON")
    asked = parser.parse_args(arguments)
    if find_spec("matplotlib") is None:
        print("a report has plots, for which matplotlib is needed; pip install -e '.[bench]'", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    unfinished = RESULTS / "unfinished.json"
    if asked.source:
        results, interrupted = json.loads(asked.source.read_text()), False
        if "begun" not in results:
            print(f"{asked.source} is not the JSON of a run of this bench", file=sys.stderr)
            return 2
    else:
        results, interrupted = run.measure_all(run.options_of(asked), keep=lambda found: write(unfinished, found))
    if interrupted:
        print(f"broken off; `python -m bench report --from {unfinished}` makes a report of it", file=sys.stderr)
        return 130
    publish(results, RESULTS, README)
    if not asked.source:
        unfinished.unlink(missing_ok=True)
    return run.exit_code(results, interrupted)


def publish(results: run.Results, folder: Path, readme: Path) -> None:
    """Writes everything that is made of a run's results."""
    write(folder / "latest.json", results)
    drawn = draw(results, folder)
    (folder / "latest.md").write_text(page(results, drawn))
    insert(readme, "bench", summary(results))


def insert(readme: Path, name: str, block: str) -> None:
    """Puts a block in the place of the one of that name."""
    whole = readme.read_text()
    opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, begin, rest = whole.partition(opening)
    _, end, after = rest.partition(closing)
    if not (begin and end):
        raise ValueError(f"{readme} has no block between {opening.strip()} and {closing}")
    readme.write_text(before + begin + block + end + after)


def draw(results: run.Results, folder: Path) -> list[str]:
    from bench import plots  # it imports matplotlib

    return plots.draw_all(results, folder)


def page(results: run.Results, drawn: Sequence[str]) -> str:
    """bench/results/latest.md: the targets, the plots and every table."""
    images = "\n".join(f"![{name}]({name}.svg)" for name in drawn)
    reached = targets.render(results, main_only=False)
    return f"## What it is to reach\n\n{reached}\n{images}\n\n## All figures\n\n{table.render(results)}"


def summary(results: run.Results) -> str:
    """The README's block."""
    images = "\n".join(f"![{title}](bench/results/{name}.png)" for name, title in SHOWN.items())
    return f"{table.heading_of(results)}\n\n{targets.render(results, main_only=True)}\n{images}\n"


def write(file: Path, results: run.Results) -> None:
    """As a whole or not at all."""
    partly = file.with_suffix(".part")
    partly.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(partly, file)
