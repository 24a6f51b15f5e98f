"""The fixtures of tests with real workers."""

from tests.runtime.fixtures import gate, make_engine, make_gate

__all__ = ["gate", "make_engine", "make_gate"]
