"""In a worker: the inner loops over the calls of a map. Every instruction counts: such a call may take 20 ns.

Before each call, in this order: mark it as started, look whether the batch was revoked (see `running`).
"""

from __future__ import annotations

from mpengine.runtime.channel import LogWriter
from mpengine.runtime.held import Held
from mpengine.wire import codec
from mpengine.wire import messages as wire

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any


def run_plain(fn: Any, values: list[Any], index: int, seq: int, log: LogWriter, held: Held) -> bool:
    """Run calls with these values, the first of them number `index` of the batch; True: the rest was revoked."""
    cells, words = log.cells, log.words
    append, atoms, kind = held.values.append, codec.ATOMS, int
    started_low, revoked_low, low_seq = wire.STARTED_LOW, wire.REVOKED_LOW, seq & 0xFF
    base = wire.started_word(seq, 0)
    at = 0
    while at < len(values):
        words[wire.STARTED] = word = base + index + at
        low = word & 0xFF
        held.block = values[at : at + 256 - low]
        for cells[started_low], value in zip(range(low, 256), held.block, strict=False):
            if cells[revoked_low] == low_seq and words[wire.REVOKED] == seq:
                return True
            value = fn(value)  # the argument is not to outlive its call
            if type(value) is kind:
                append(value)
            elif type(value) in atoms:
                kind = type(value)
                append(value)
            else:
                held.append_pickled(codec.pack_result(value, held.segment))
        if not held.block:
            return False  # it was cut short
        at += 256 - low
    return False


def run_each(
    fn: Any, values: list[Any], flags: bytes | None, first: int, index: int, stop: int, star: bool, seq: int,
    words: memoryview, held: Held,
) -> bool:  # fmt: skip
    """As `run_plain`, with values that are pickled one by one, or hold all arguments of a call."""
    loads, atoms = codec.loads, codec.ATOMS
    base = wire.started_word(seq, 0)
    held.block = list(range(index, stop))
    for at in held.block:
        words[wire.STARTED] = base + at
        if words[wire.REVOKED] == seq:
            return True
        value = values[first + at]
        if flags is not None and flags[first + at]:
            value = loads(value)
        value = fn(*value) if star else fn(value)
        if type(value) in atoms:
            held.values.append(value)
        else:
            held.append_pickled(codec.pack_result(value, held.segment))
    return False
