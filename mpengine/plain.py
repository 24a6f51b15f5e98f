"""Plain arguments: values that are the same now and later, so that they need not be pickled at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mpengine.arrays.parcel import Parcel
from mpengine.wire import codec

NUMBERS = codec.ATOMS - {str, bytes}  # those whose size need not be looked at


MOST_TEXT = 1 << 16  # of one job that is sent together with others


def is_plain_text(args: tuple[Any, ...]) -> bool:
    """Whether these are plain values that are not too large, where some are no numbers."""
    try:
        return codec.ATOMS.issuperset(map(type, args)) and text_bytes(args) <= MOST_TEXT
    except Exception:  # a class that cannot be hashed
        return False


def text_bytes(values: Iterable[Any]) -> int:
    """Of the strings and bytes among them, and of what lies in the blocks of parcels."""
    size = 0
    for value in values:  # of each job that is drawn: `isinstance` in a `sum` takes four times as long
        kind = type(value)
        if kind is bytes or kind is str:
            size += len(value)
        elif kind is Parcel:
            size += value.size
    return size
