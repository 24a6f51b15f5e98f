"""Writes what `mpengine COMMAND --help` says into docs/command-line.md, between its marks.

scripts/reference.py            write it
scripts/reference.py --check    say whether it is the same, by the exit code
"""

import sys
from pathlib import Path

import click

from mpengine.cli.commands import commands

PAGE = Path(__file__).resolve().parent.parent / "docs" / "command-line.md"
BEGIN, END = "<!-- reference -->\n", "<!-- /reference -->"


def reference() -> str:
    """A section for each command."""
    parts = []
    with click.Context(commands, info_name="mpengine") as parent:
        for name, command in commands.commands.items():
            with click.Context(
                command, info_name=name, parent=parent, terminal_width=110, max_content_width=110
            ) as context:
                parts.append(f"## mpengine {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def main() -> int:
    text = PAGE.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    whole = before + begin + reference() + end + after
    if "--check" in sys.argv[1:]:
        if whole != text:
            print(f"{PAGE.name} is not what the help says; run scripts/reference.py", file=sys.stderr)
        return int(whole != text)
    PAGE.write_text(whole)
    return 0


if __name__ == "__main__":
    sys.exit(main())
