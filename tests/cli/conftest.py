from tests.runtime.fixtures import gate, make_gate

__all__ = ["gate", "make_gate"]
