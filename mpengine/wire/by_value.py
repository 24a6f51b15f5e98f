"""Users' objects to bytes by value, with cloudpickle. Imported when one needs it, for that takes milliseconds."""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from types import CodeType
from typing import Any, ClassVar

import cloudpickle

PROTOCOL = 5

_NO_FILE = "<dynamic-code>"


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """By value what must be; functions with the name of their file, so that a traceback can show their lines.

    cloudpickle 3.1.3 takes that away, for pickles that are the same wherever the file lies.
    """

    @staticmethod
    def _reduce_code(code: CodeType) -> tuple[Any, ...]:
        kind, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
        return kind, tuple(code.co_filename if type(part) is str and part == _NO_FILE else part for part in parts)

    dispatch_table: ClassVar[Any] = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


def dumps_by_value(obj: Any) -> bytes:
    """Pickle a user's object, with all that lives in `__main__` or is registered to travel by value."""
    main = sys.modules.get("__mp_main__")
    if main is not None and main.__name__ not in cloudpickle.list_registry_pickle_by_value():
        _register_mp_main(main)
    buffer = io.BytesIO()
    Pickler(buffer, PROTOCOL).dump(obj)
    return buffer.getvalue()


def _register_mp_main(main: Any) -> None:
    try:
        cloudpickle.register_pickle_by_value(main)
    except ValueError:  # it goes by another name: then its classes do, too
        return
