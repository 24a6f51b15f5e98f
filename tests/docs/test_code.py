"""All code of the README and of the site runs, and prints what is shown."""

import json
import re
import sys
from pathlib import Path

import pytest

import mpengine
from tests.docs.programs import PAGES, Program, missing_in, programs, same
from tests.support import ROOT, run_python

PROGRAMS = list(programs())


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_the_code_of_a_page_runs(program: Program, tmp_path: Path) -> None:
    if missing := missing_in(program):
        pytest.skip(f"not there yet: {missing}")
    for module in needed_by(program):
        pytest.importorskip(module, reason=f"{module} is not installed")
    if program.page == "docs/command-line.md":
        prepare_files(tmp_path)
    printed = program.run(tmp_path)
    if program.page == "README.md":
        assert printed.strip()
    if "Report(" in program.text:
        assert "<title>" in (tmp_path / "report.html").read_text()
    if "Trace(" in program.text:
        assert json.loads((tmp_path / "run.trace.json").read_text())
    if "engine.shutdown" in program.text and program.page == "README.md":
        last = printed.splitlines()[-1]
        assert last.startswith("11 jobs finished, 0 cancelled, 1 lost; every worker is gone (pid ")
        assert last.count(" pill") == 2
        said = re.search(r"Its last line reads: `(.*?)`", (ROOT / "README.md").read_text())
        assert said is not None
        assert re.sub(r"pid \d+", "pid N", said[1]) == re.sub(r"pid \d+", "pid N", last)


def needed_by(program: Program) -> set[str]:
    """What it imports that is not Python's, nor ours, nor needed by ours."""
    named = set(re.findall(r"^(?:from|import) (\w+)", program.text, re.MULTILINE))
    return (named - sys.stdlib_module_names - {"mpengine", "numpy"}) | (
        {"prometheus_client"} if "Metrics(" in program.text else set()
    )


def prepare_files(folder: Path) -> None:
    """What the commands of docs/command-line.md are called with."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra `parquet`")
    parquet = pytest.importorskip("pyarrow.parquet")
    (folder / "clean.py").write_text("def normalise(record):\n    return {**record, 'name': record['name'].strip()}\n")
    (folder / "data").mkdir()
    for name in "ab":
        records = [{"name": f" {name}{n} ", "unit": "m"} for n in range(30)]
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        parquet.write_table(pyarrow.Table.from_pylist(records), folder / "data" / f"{name}.parquet")
    (folder / "scripts").symlink_to(ROOT / "scripts")


def test_what_is_code_is_found() -> None:
    """The mechanism itself: a page whose code nobody sees would never fail."""
    found = {page: sum(len(program.blocks) for program in PROGRAMS if program.page == page) for page in PAGES}
    for page in PAGES:
        fences = re.findall(r"^`{3}(?:python|sh)$", (ROOT / page).read_text(), re.MULTILINE)
        assert found[page] >= len(fences), page
    assert sum(found.values()) > 50


def test_examples_in_docstrings_run() -> None:
    """Those of public names, which the reference shows."""
    modules = sorted({"mpengine.observing", *(f"mpengine.{home}" for home in mpengine._HOMES.values())})
    code = (
        "import doctest, importlib\n"
        f"done = [doctest.testmod(importlib.import_module(name)) for name in {modules}]\n"
        "print(sum(one.failed for one in done), sum(one.attempted for one in done) > 0)"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 True\n", "")


def test_what_is_printed_is_compared() -> None:
    assert same("2 of 3\n", "2 of 3\n", about=False)
    assert not same("2 of 3\n", "1 of 3\n", about=False)
    assert same("2 of 3 in 1.5 s\n", "1 of 12 in 0.07 s\n", about=True)
    assert not same("2 of 3\n", "2 in 3\n", about=True)
    assert same("File ..., line 3\n", "File '/a/b.py', line 3\n", about=False)
