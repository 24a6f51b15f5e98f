import importlib.util
from collections.abc import Iterator

import pytest

from tests.runtime.fixtures import gate, make_gate

__all__ = ["gate", "make_gate"]

needs = {"test_joblib.py": ("joblib", "sklearn")}
collect_ignore = [
    file for file, modules in needs.items() if any(importlib.util.find_spec(module) is None for module in modules)
]


@pytest.fixture
def no_engine_kept() -> Iterator[None]:
    """The engine that the adapter keeps for the next call goes before anybody looks for what is left."""
    from mpengine.adapters.joblib import MpengineBackend

    MpengineBackend.end_workers()
    yield
    MpengineBackend.end_workers()
