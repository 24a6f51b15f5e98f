"""The documentation holds: every Python block of the README runs as it stands, and every command has help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks_of(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


BLOCKS = blocks_of("README.md")
OBSERVING = blocks_of("docs/observing.md")


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_of_the_readme_runs_as_a_script(block: str, tmp_path: Path) -> None:
    done = run_block(block, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def run_block(block: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "block.py"
    script.write_text(block)
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, cwd=folder)


@pytest.mark.parametrize("block", OBSERVING, ids=range(len(OBSERVING)))
def test_a_block_about_observing_runs_as_a_script(block: str, tmp_path: Path) -> None:
    if "Metrics" in block:
        pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: the extra `metrics`")
    if "progress=True" in block:
        done = run_block(block, tmp_path)
        assert done.returncode == 0
        assert re.fullmatch(r"mpengine: 2,000 jobs in .*: 2,000 succeeded\n", done.stderr)
        return
    test_a_block_of_the_readme_runs_as_a_script(block, tmp_path)
    if "Report(" in block:
        assert "<title>Thumbnails</title>" in (tmp_path / "report.html").read_text()
        assert json.loads((tmp_path / "run.trace.json").read_text())


def test_the_full_pattern_says_that_every_worker_is_gone(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "engine.shutdown" in block)
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=50, cwd=tmp_path)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("11 jobs finished, 0 cancelled, 1 lost; every worker is gone (pid ")
    assert last.count(" pill") == 2
    said = re.search(r"Its last line reads: `(.*?)`", (ROOT / "README.md").read_text())
    assert said is not None
    assert re.sub(r"pid \d+", "pid N", said[1]) == re.sub(r"pid \d+", "pid N", last)


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
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for section in sections:
        names = re.findall(r"`(test_\w+)`", section)
        assert names, f"no test holds this: {section}"
        for name in names:
            assert f"def {name}(" in tests, f"{name} is not a test"
