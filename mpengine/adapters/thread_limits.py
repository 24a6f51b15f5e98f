"""In a worker: how many threads native libraries may use.

They read it once, when they are loaded; so this module loads nothing that would load them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any


def start(
    variables: Iterable[str], threads: int, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]
) -> None:
    """A worker's initializer: set these environment variables, whatever they were, then call the user's own."""
    os.environ.update(dict.fromkeys(variables, str(threads)))
    if initializer is not None:
        initializer(*initargs)
