"""Small helpers of these tests."""

from collections.abc import Iterable
from typing import Any


def keep(got: list[Any], values: Iterable[Any]) -> None:
    """As `list.extend`, but what came before an error is kept."""
    for value in values:
        got.append(value)
