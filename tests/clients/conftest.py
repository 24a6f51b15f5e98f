from tests.runtime.fixtures import engine, gate, make_engine, make_gate

__all__ = ["engine", "gate", "make_engine", "make_gate"]
