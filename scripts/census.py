"""A census of Python source: what each module holds, how branched it is, and its most complex function.

As a target, one job per path:

    mpengine run scripts/census.py:census --as path 'src/**/*.py' --to outcomes -o census.jsonl

As a program, what the demo needs besides:

    census.py files                  the .py files of this Python's standard library, one per line
    census.py found RESULTS          what a result file says: totals, and the most complex functions
    census.py compare RESULTS S      the same work in this one process, and its time beside the S seconds of the run

How it counts: *lines* are the lines of the file, as `wc -l` counts them, and one more if the last has no
ending. *Functions* are `def` and `async def`, methods and nested ones included; *classes* likewise. A
*branch* is a point where the way through the code forks: `if` and `elif`, `for`, `while`, `except`, `case`
(but not `case _`), the conditional expression, each `for` and each `if` of a comprehension, each `and` and
`or`. The *complexity* of a function is 1 and its branches, those of functions and classes inside it not
included: they are counted as their own.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
import sysconfig
import time
import tokenize
import warnings
from collections.abc import Iterator
from typing import Any

STDLIB = os.path.realpath(sysconfig.get_path("stdlib"))
_NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__"}
_TOP = 10

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def census(path: str) -> dict[str, Any]:
    """Everything countable about one source file.

    A file that is not Python (the standard library keeps some broken ones for its tests) has an ``error``
    in place of the counts. Raises OSError if the file cannot be read.
    """
    start: dict[str, Any] = {"module": module_name(path), "path": path}
    try:
        with tokenize.open(path) as file:  # honours the encoding the source declares
            source = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dubious escapes and the like: not asked for
            counts = count(source, ast.parse(source, path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # ValueError: undecodable bytes, null bytes; MemoryError: the parser's word for "nested too deeply"
        text = str(error).replace(path, os.path.basename(path))
        return {**start, "error": f"{type(error).__name__}: {text}"}
    return {**start, **counts}


def count(source: str, tree: ast.Module) -> dict[str, Any]:
    """The numbers of one module."""
    counter = _Counter()
    counter.visit(tree)
    return {
        "lines": source.count("\n") + (source != "" and not source.endswith("\n")),
        "functions": len(counter.functions),
        "classes": counter.classes,
        "branches": counter.branches,
        # Of equals, the first in the file.
        "most_complex": max(counter.functions, key=lambda each: each["complexity"], default=None),
    }


class _Counter(ast.NodeVisitor):
    """Walks a module once. ``_scopes`` are the names it is in, ``_open`` the functions it is in, innermost last."""

    def __init__(self) -> None:
        self.functions: list[dict[str, Any]] = []
        self.classes = 0
        self.branches = 0
        self._scopes: list[str] = []
        self._open: list[dict[str, Any] | None] = [None]  # None: the body of a module or a class

    def generic_visit(self, node: ast.AST) -> None:
        forks = forks_at(node)
        if forks:
            self.branches += forks
            function = self._open[-1]
            if function is not None:
                function["complexity"] += forks
        super().generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.classes += 1
        self._enter(node, None)

    def visit_FunctionDef(self, node: FunctionNode) -> None:
        name = ".".join([*self._scopes, node.name])
        function = {"name": name, "line": node.lineno, "complexity": 1}
        self.functions.append(function)
        self._enter(node, function)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def _enter(self, node: FunctionNode | ast.ClassDef, function: dict[str, Any] | None) -> None:
        # Decorators, defaults, annotations and bases are evaluated outside.
        body = set(map(id, node.body))
        for child in ast.iter_child_nodes(node):
            if id(child) not in body:
                self.visit(child)
        self._scopes.append(node.name)
        self._open.append(function)
        for statement in node.body:
            self.visit(statement)
        self._open.pop()
        self._scopes.pop()


def forks_at(node: ast.AST) -> int:
    """How many ways more than one lead on from this very node."""
    match node:
        case ast.If() | ast.For() | ast.AsyncFor() | ast.While() | ast.ExceptHandler() | ast.IfExp():
            return 1
        case ast.comprehension(ifs=conditions):
            return 1 + len(conditions)
        case ast.BoolOp(values=operands):
            return len(operands) - 1
        case ast.match_case(pattern=ast.MatchAs(pattern=None), guard=None):  # `case _` and `case name`: the rest
            return 0
        case ast.match_case():
            return 1
    return 0


def module_name(path: str) -> str:
    """The dotted name, for a file of the standard library; the file's own name for any other."""
    real = os.path.realpath(path)
    inside = os.path.relpath(real, STDLIB) if real.startswith(STDLIB + os.sep) else os.path.basename(real)
    parts = os.path.splitext(inside)[0].split(os.sep)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def modules(number: int) -> str:
    return f"{number:,} module" + ("" if number == 1 else "s")


def stdlib_files() -> Iterator[str]:
    """The .py files of the standard library of this Python, without what was installed into it."""
    for folder, subfolders, names in os.walk(STDLIB):
        subfolders[:] = sorted(set(subfolders) - _NOT_STDLIB)
        for name in sorted(names):
            if name.endswith(".py"):
                yield os.path.join(folder, name)


def show_found(results: list[dict[str, Any]]) -> None:
    """Prints the totals and the most complex functions of a run's result lines."""
    values = [result["value"] for result in results if result["status"] == "succeeded"]
    counted = [value for value in values if "error" not in value]
    broken = [value for value in values if "error" in value]
    totals = {key: sum(value[key] for value in counted) for key in ("lines", "functions", "classes", "branches")}
    print(f"{modules(len(counted))}: " + ", ".join(f"{number:,} {key}" for key, number in totals.items()))
    if broken:
        print(f"and {modules(len(broken))} that this Python cannot parse (it keeps some for its own tests):")
        for value in broken:
            print(f"    {value['module']}: {value['error'].splitlines()[0][:80]}")
    functions = [(value["most_complex"], value["module"]) for value in counted if value["most_complex"]]
    functions.sort(key=lambda found: (-found[0]["complexity"], found[1]))
    print("the most complex function of each of the most complex modules:")
    print(f"    {'complexity':>10}  function")
    for function, module in functions[:_TOP]:
        print(f"    {function['complexity']:>10}  {module}.{function['name']} (line {function['line']})")


def compare(results: list[dict[str, Any]], parallel_s: float) -> bool:
    """Does the work of the results again, here, one file after the other; prints both times; True if both agree."""
    paths = [result["id"] for result in results]
    print(f"the same {modules(len(paths))} in one process, for comparison ...", flush=True)
    before = time.perf_counter()
    serial = {path: census(path) for path in paths}
    serial_s = time.perf_counter() - before
    workers = len({result["worker_pid"] for result in results})
    ratio = serial_s / parallel_s
    print(f"    one process  {serial_s:8.2f} s   the work alone")
    print(f"    mpengine     {parallel_s:8.2f} s   the whole command, {workers} workers: {ratio:.2f} times as fast")
    differing = [result["id"] for result in results if result.get("value") != serial[result["id"]]]
    if differing:
        print(f"    the results differ for {modules(len(differing))}, the first: {differing[0]}")
    else:
        print("    the results are the same, module by module")
    return not differing


def main() -> int:
    parser = argparse.ArgumentParser(description="What the demo needs besides `mpengine run`.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("files", help="list the standard library's .py files")
    found = commands.add_parser("found", help="tell what a result file says")
    found.add_argument("results")
    both = commands.add_parser("compare", help="do the same work in one process")
    both.add_argument("results")
    both.add_argument("seconds", type=float, help="the time the run took")
    typed = parser.parse_args()
    if typed.command == "files":
        print("\n".join(stdlib_files()))
        return 0
    with open(typed.results, encoding="utf-8") as file:
        results = [json.loads(line) for line in file]
    if typed.command == "found":
        show_found(results)
        return 0
    return 0 if compare(results, typed.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
