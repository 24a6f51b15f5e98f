"""Imports point one way. The rules are a table; a part that is not there has nothing to break.

The files are read, not run, so that an import inside a function counts as well; one under
TYPE_CHECKING does not, which names a type and loads nothing. Only what `import mpengine` loads
is looked at in a real process.
"""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import mpengine
from tests.support import ROOT, run_python

# Modules that are public as they are: what they have is many, and asked for by few.
PUBLIC_MODULES = ("mpengine.adapters.joblib", "mpengine.errors", "mpengine.observing")

# Parts of the package that use it as any user would.
USERS = ("mpengine/batch", "mpengine/cli", "mpengine/report", "mpengine/adapters", "bench")

# What the parent alone runs. A worker that imported it would pay for it at every start.
PARENT_SIDE = tuple(
    f"mpengine.{name}"
    for name in (
        "engine",
        "futures",
        "streams",
        "runtime.collector",
        "runtime.dispatcher",
        "runtime.futures",
        "runtime.streams",
        "runtime.supervisor",
        "cli",
        "report",
        "adapters",
    )
)

# Effects that the pure core must not have.
IMPURE = ("multiprocessing", "threading", "time", "os", "random", "logging", "select", "socket", "subprocess")


@dataclass(frozen=True)
class Import:
    """One name that a file imports: `from module import name`, or `import module` with no name."""

    file: Path
    line: int
    module: str
    name: str | None

    def is_of(self, package: str) -> bool:
        """Whether this imports the package or something in it."""
        return any(
            target == package or target.startswith(package + ".")
            for target in (self.module, f"{self.module}.{self.name}")
        )

    def __str__(self) -> str:
        what = f"from {self.module} import {self.name}" if self.name else f"import {self.module}"
        return f"{self.file.relative_to(ROOT)}:{self.line}: {what}"


@cache
def imports_of(file: Path) -> tuple[Import, ...]:
    """All imports of a file, relative ones resolved."""
    return tuple(read_imports(file))


def read_imports(file: Path) -> Iterator[Import]:
    package = file.relative_to(ROOT).parent.parts
    for node in nodes_that_run(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *((node.module,) if node.module else ())))
            for alias in node.names:
                yield Import(file, node.lineno, module, alias.name)


def nodes_that_run(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, without the bodies of `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=orelse):
                for other in orelse:
                    yield from nodes_that_run(other)
            case _:
                yield from nodes_that_run(child)


def sources(folder: str) -> list[Path]:
    """The Python files below a folder of the checkout; none if it is not there."""
    return sorted((ROOT / folder).rglob("*.py"))


def broken(folder: str, *allowed: str) -> list[str]:
    """Imports of ours below a folder other than those of the allowed packages."""
    return [
        str(found)
        for file in sources(folder)
        for found in imports_of(file)
        if found.is_of("mpengine") and not any(found.is_of(package) for package in allowed)
    ]


def test_the_core_imports_nothing_of_ours_but_the_errors() -> None:
    assert broken("mpengine/core", "mpengine.core", "mpengine.errors") == []


def test_the_core_is_pure() -> None:
    found = [found for file in sources("mpengine/core") for found in imports_of(file)]
    assert [str(one) for one in found if any(one.is_of(name) for name in IMPURE)] == []


def test_the_wire_imports_only_the_core_the_errors_and_the_arrays() -> None:
    assert broken("mpengine/wire", "mpengine.wire", "mpengine.core", "mpengine.errors", "mpengine.arrays") == []


def test_the_arrays_stand_alone() -> None:
    assert broken("mpengine/arrays", "mpengine.arrays", "mpengine.errors") == []


def test_the_errors_import_nothing_of_ours_but_the_one_that_workers_raise() -> None:
    found = imports_of(ROOT / "mpengine/errors.py") + imports_of(ROOT / "mpengine/interrupt.py")
    assert {one.module for one in found if one.is_of("mpengine")} == {"mpengine.interrupt"}


def test_the_worker_never_imports_the_parent_side() -> None:
    """Followed through all modules of ours that the worker imports, directly or not."""
    wrong, seen, ahead = [], set(), ["mpengine.runtime.worker"]
    while ahead:
        module = ahead.pop()
        file = file_of(module)
        if module in seen or file is None:
            continue
        seen.add(module)
        for found in imports_of(file):
            if any(found.is_of(parent) for parent in PARENT_SIDE):
                wrong.append(str(found))
            ahead += [found.module, f"{found.module}.{found.name}"]
    assert wrong == []


def file_of(module: str) -> Path | None:
    """The file of a module of ours; the package `mpengine` itself is every module's parent and no import."""
    path = ROOT.joinpath(*module.split("."))
    candidates = [path.with_suffix(".py"), path / "__init__.py"]
    is_ours = module.startswith("mpengine.")
    return next((file for file in candidates if is_ours and file.is_file()), None)


def test_the_supervisor_does_not_know_the_ledger() -> None:
    files = [file for file in sources("mpengine/runtime") if file.name == "supervisor.py"]
    found = [found for file in files for found in imports_of(file)]
    assert [str(one) for one in found if one.is_of("mpengine.core.ledger")] == []


@pytest.mark.parametrize("folder", USERS)
def test_the_parts_around_the_engine_use_its_public_names(folder: str) -> None:
    own = {
        "mpengine/cli": ("mpengine.cli", "mpengine.batch", "mpengine.report"),
        "mpengine/batch": ("mpengine.batch", "mpengine.report"),
    }.get(folder, (folder.replace("/", "."),))
    wrong = [
        str(found)
        for file in sources(folder)
        for found in imports_of(file)
        if found.is_of("mpengine") and not any(found.is_of(package) for package in (*own, *PUBLIC_MODULES))
        if found.module != "mpengine" or (found.name is not None and found.name not in mpengine.__all__)
    ]
    assert wrong == []


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    """The names are made on first use; a list under TYPE_CHECKING says the same to tools that only read."""
    everything = ast.walk(ast.parse((ROOT / "mpengine/__init__.py").read_bytes()))
    told = {alias.asname for node in everything if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {*mpengine.__all__} == {*(told - {None}), "__version__"}
    assert [name for name in mpengine.__all__ if not hasattr(mpengine, name)] == []


def test_using_the_package_loads_no_heavy_one() -> None:
    """Also not on the first use of a public name: a worker pays for it at every start."""
    heavy = [
        "numpy", "click", "rich", "asyncio", "joblib", "dask", "ray", "IPython", "pytest", "prometheus_client",
        "http.server",
    ]  # fmt: skip
    code = "import sys, json; from mpengine import *; print(json.dumps(sorted(sys.modules)))"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert set(heavy).isdisjoint(json.loads(done.stdout))


def test_a_worker_loads_nothing_that_it_does_not_need() -> None:
    """What a spawned child and the fork server import: each of these takes milliseconds, at every start."""
    unwanted = {
        "cloudpickle", "concurrent.futures", "dataclasses", "inspect", "logging", "multiprocessing.connection",
        "multiprocessing.forkserver", "multiprocessing.popen_forkserver", "multiprocessing.popen_spawn_posix",
        "multiprocessing.queues", "psutil", "typing", "mpengine.errors", "mpengine.wire.by_value",
        "mpengine.runtime.launching",
    }  # fmt: skip
    code = (
        f"import sys, json; sys.path.insert(0, {str(ROOT)!r}); import mpengine.runtime.process, mpengine.runtime.worker"
        "; print(json.dumps(sorted(sys.modules)))"
    )
    done = run_python("-S", "-c", code)  # without what the installation itself loads at its start
    assert done.returncode == 0, done.stderr
    assert unwanted & set(json.loads(done.stdout)) == set()
