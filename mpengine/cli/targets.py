"""TARGET -> a callable that finds its way into the workers.

``module:function`` is imported as Python would from here (the current folder comes first, as with ``python
-m``); ``path/file.py:function`` is loaded from its path, with its folder first, as with ``python file.py``,
under a name of our own, so that a file called ``json.py`` is in nobody's way.

A `Target` crosses to a worker as its description, and arrives as the user's function itself: the file is
executed once per worker, not pickled with every job, whatever its globals hold; its classes are found under
the same name on both sides; and no frame of ours stands in the user's tracebacks.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from mpengine.cli.problems import Problem
from mpengine.report.failures import message, type_name

_PREFIX = "_mpengine_target_"


class Description(NamedTuple):
    """All that a worker needs to find the function again. ``file`` is empty for a module."""

    module: str
    attribute: str
    file: str
    folder: str


class Target:
    """A callable that pickles to its `Description` and unpickles to the user's function."""

    def __init__(self, description: Description, function: Callable[[Any], Any]) -> None:
        self.description = description
        self.function = function
        self.__name__ = self.__qualname__ = description.attribute

    def __call__(self, argument: Any) -> Any:
        return self.function(argument)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return find, tuple(self.description)


def find(module: str, attribute: str, file: str, folder: str) -> Any:
    """The described function; imports its module if this process has not yet. Raises what the import raises."""
    found: Any = sys.modules.get(module)
    if found is None:
        found = _import(Description(module, attribute, file, folder))
    for name in attribute.split("."):
        found = getattr(found, name)
    return found


def load_target(text: str) -> Target:
    """Resolves what the user typed, in this process. Raises `Problem`, in one line, for all that can be wrong."""
    where, colon, attribute = text.rpartition(":")
    if not colon or not where or not all(attribute.split(".")):
        raise Problem(f"TARGET {text!r} is not of the form module:function or path/file.py:function")
    description = _describe_file(where, attribute) if _is_file(where) else _describe_module(where, attribute)
    try:
        function = find(*description)
    except KeyboardInterrupt:
        raise
    except AttributeError as error:
        raise _missing_attribute(text, description, error) from None
    except BaseException as error:  # the user's code: it may raise anything, SystemExit included
        raise _import_failed(text, description, error) from None
    _check_callable(text, function)
    return Target(description, function)


def _is_file(where: str) -> bool:
    return where.endswith(".py") or os.sep in where or os.path.isfile(where)


def _describe_file(where: str, attribute: str) -> Description:
    if not os.path.exists(where):
        raise Problem(f"TARGET file {where!r} does not exist (looked in {os.getcwd()!r}); check the path")
    if not os.path.isfile(where):
        raise Problem(f"TARGET {where!r} is not a file; give path/file.py:function")
    path = os.path.abspath(where)
    stem = os.path.splitext(os.path.basename(path))[0]
    return Description(_PREFIX + stem, attribute, path, os.path.dirname(path))


def _describe_module(where: str, attribute: str) -> Description:
    if not all(part.isidentifier() for part in where.split(".")):
        raise Problem(f"TARGET module {where!r} is not a module's name; a file needs its ending: path/file.py:function")
    try:
        here = os.getcwd()
    except OSError:  # the current folder was deleted
        here = ""
    return Description(where, attribute, "", here)


def _import(description: Description) -> ModuleType:
    if description.folder and description.folder not in sys.path:
        sys.path.insert(0, description.folder)
    if not description.file:
        return importlib.import_module(description.module)
    loader = importlib.machinery.SourceFileLoader(description.module, description.file)
    spec = importlib.util.spec_from_file_location(description.module, description.file, loader=loader)
    assert spec is not None  # a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[description.module] = module  # before it runs: dataclasses and pickle look there
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(description.module, None)
        raise
    return module


def _missing_attribute(text: str, description: Description, error: AttributeError) -> Problem:
    module = sys.modules.get(description.module)
    if module is None:  # it was the module's own code that raised
        return _import_failed(text, description, error)
    subject = repr(description.file or description.module)
    found: Any = module
    missing = description.attribute
    for missing in description.attribute.split("."):
        if not hasattr(found, missing):
            break
        found = getattr(found, missing)
    names = sorted(
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and callable(value) and _module_of(value) == description.module
    )
    hint = f"it has {', '.join(names[:8])}" if names else "check the spelling"
    return Problem(f"TARGET {text!r}: there is no {missing!r} in {subject}; {hint}")


def _module_of(value: Any) -> str:
    return str(getattr(value, "__module__", ""))


def _import_failed(text: str, description: Description, error: BaseException) -> Problem:
    wanted = description.module
    if (
        isinstance(error, ModuleNotFoundError)
        and not description.file
        and error.name is not None
        and (wanted == error.name or wanted.startswith(error.name + "."))
    ):
        return Problem(
            f"TARGET {text!r}: there is no module {error.name!r}; install it, or run from the folder that holds it"
        )
    if isinstance(error, SystemExit):
        what = f'it ended the program (exit code {error.code}); put that under `if __name__ == "__main__":`'
    else:
        text = error.msg if isinstance(error, SyntaxError) else message(error)
        what = f"{type_name(error)}: {text}".removesuffix(": ")
    if isinstance(error, ImportError) and "relative import" in str(error):
        what += "; name it as module:function, from the folder above its package"
    return Problem(f"TARGET {text!r} cannot be imported: {_line_of(error, description)}{what}")


def _line_of(error: BaseException, description: Description) -> str:
    """``file:line: `` of the innermost frame in the user's own folder, else of the innermost that is not ours."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno}: "
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    own = [frame for frame in frames if frame.filename.startswith(description.folder + os.sep)] or frames
    return f"{own[-1].filename}:{own[-1].lineno}: " if own else ""


def _check_callable(text: str, function: Any) -> None:
    if not callable(function):
        raise Problem(f"TARGET {text!r} is a {type(function).__name__}, which cannot be called; name a function")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise Problem(f"TARGET {text!r} is an async function; name a plain one (it may call asyncio.run)")
    if inspect.isgeneratorfunction(function):
        raise Problem(f"TARGET {text!r} is a generator function; name one that returns its result, such as a list")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins do not tell
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise Problem(
            f"TARGET {text!r} is called with one argument, and its signature is {signature}: {error}; "
            "give the others a default"
        ) from None
