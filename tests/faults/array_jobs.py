"""Bodies of jobs with large data that end badly."""

from __future__ import annotations

import resource
import zlib
from typing import Any

import numpy as np

from tests.runtime.gates import Door


def checksum(array: Any) -> int:
    return zlib.crc32(array.data)


def come_and_look(door: Door, array: Any) -> int:
    door.announce("in")
    return checksum(array)


def come_and_make(door: Door, size: int, value: int) -> Any:
    door.announce("out")
    return np.full(size, value, np.uint8)


def look_between(door: Door, array: Any) -> tuple[int, Any]:
    """The argument's checksum, when the gate is open, and what it was before."""
    before = checksum(array)
    door.enter("between")
    assert checksum(array) == before
    return before, array + np.uint8(1)


def filled(size: int, value: int) -> Any:
    return np.full(size, value, np.uint8)


def limit_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def filled_within(most: int, size: int) -> Any:
    limit_files(most)
    return np.full(size, 1, np.uint8)
