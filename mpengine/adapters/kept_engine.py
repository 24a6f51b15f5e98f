"""An engine that many calls use, one after another or at the same time, and that is there for the next."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from mpengine import Engine, EngineBroken, EngineClosed


class KeptEngine:
    """Keeps the engine that was asked for last. Any thread.

    Nobody counts users: whoever asks holds the engine for as long as he needs it, and the last one asked for is held
    here as well. Any other is dropped by the last who uses it, and a dropped engine ends its workers.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler or a finalizer may ask, too
        self._kept: Engine | None = None
        self._options: weakref.WeakKeyDictionary[Engine, Mapping[str, Any]] = weakref.WeakKeyDictionary()
        os.register_at_fork(after_in_child=self._lock._at_fork_reinit)  # type: ignore[attr-defined]

    def get(self, options: Mapping[str, Any]) -> Engine:
        """An engine with these options that takes jobs: one that is in use or kept, else a new one.

        Raises:
            ValueError, TypeError: An option makes no sense.
        """
        with self._lock:
            for engine, known in list(self._options.items()):
                if _are_same(known, options) and _takes_jobs(engine):
                    break
            else:
                engine = Engine(**options)
                self._options[engine] = options
            self._kept = engine
            return engine

    def drop(self) -> None:
        """Keep none."""
        with self._lock:
            self._kept = None
            self._options.clear()


def _takes_jobs(engine: Engine) -> bool:
    """Not so one that is broken, that is being closed, or that is a forked copy. Asking takes some 20 us."""
    try:
        engine.share(None)
    except (EngineBroken, EngineClosed):
        return False
    return True


def _are_same(some: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether both have the same names and values. Values that cannot be compared are the same if they are one."""
    try:
        return some.keys() == others.keys() and all(
            value is others[name] or (type(value) is type(others[name]) and bool(value == others[name]))
            for name, value in some.items()
        )
    except Exception:  # of a user's object, or an array, which has no single truth
        return False
