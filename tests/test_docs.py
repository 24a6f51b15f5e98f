"""What the documentation says of commands and tests is so. Its code is run by tests/docs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_reference_of_the_command_line_is_what_its_help_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "reference.py", "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_option_is_in_the_documentation() -> None:
    from mpengine.cli.commands import commands

    text = (ROOT / "docs" / "command-line.md").read_text()
    for name, sub in commands.commands.items():
        assert f"## mpengine {name}\n" in text
        for param in sub.params:
            for option in (*param.opts, *param.secondary_opts):
                assert param.param_type_name != "option" or option in text, f"`{name} {option}` is not documented"


def test_every_command_and_option_has_help() -> None:
    from mpengine.cli.commands import commands

    assert commands.commands
    for name, sub in commands.commands.items():
        assert sub.help, f"`{name}` has no help"
        for param in sub.params:
            if param.param_type_name == "option":
                assert param.help, f"`{name} {param.opts[0]}` has no help"


def test_each_guarantee_names_tests_that_there_are() -> None:
    sections = (ROOT / "docs" / "guarantees.md").read_text().split("\n- ")[1:]
    tests = "".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))
    for section in sections:
        names = re.findall(r"`(test_\w+)`", section)
        assert names, f"no test holds this: {section}"
        for name in names:
            assert f"def {name}(" in tests, f"{name} is not a test"
