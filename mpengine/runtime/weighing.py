"""How much memory a process or a worker's whole family holds, and when to look again. Reads /proc, as it is cheap.

Imported by workers, too: nothing here imports psutil.
"""

from __future__ import annotations

import contextlib
import os

FASTEST_GROWTH = 4 << 30  # bytes a second: what one process can touch
SOONEST_S = 0.005
LATEST_S = 0.1

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Resident memory now; 0 if it cannot be told."""
    with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES
    return 0


class Portions:
    """What a process holds, in bytes: `proportional` divides each shared page among those that share it."""

    # No NamedTuple: workers would pay for what makes one.
    __slots__ = ("private", "proportional", "shared")

    def __init__(self, proportional: int, private: int, shared: int) -> None:
        self.proportional = proportional
        self.private = private
        self.shared = shared


def portions(pid: int) -> Portions:
    """What it holds now; zeros if that cannot be told. Slower than `resident_bytes`: the kernel walks page tables."""
    found = dict.fromkeys((b"Pss", b"Private_Clean", b"Private_Dirty", b"Shared_Clean", b"Shared_Dirty"), 0)
    with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
        for line in rollup:
            name, _, value = line.partition(b":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
    pss, *private_and_shared = found.values()
    return Portions(pss, sum(private_and_shared[:2]), sum(private_and_shared[2:]))


def family(pid: int) -> list[int]:
    """The process and all below it, as far as the kernel tells (CONFIG_PROC_CHILDREN)."""
    found = [pid]
    for one in found:  # it grows meanwhile
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{one}/task/{thread}/children", "rb") as children:
                    found += map(int, children.read().split())
    return found


def weigh(pid: int, limit: int, inherited: int = 0) -> tuple[int, float]:
    """Bytes held by a worker and all below it, and seconds until they can be more than the limit.

    Shared pages, such as those that forked children have in common, are counted once, and what the worker had from its
    own parent when it was forked not at all; but only where that matters, for it takes longer.

    Args:
        inherited: Bytes that the worker shared with others when it was ready.
    """
    members = family(pid)
    size = sum(map(resident_bytes, members))
    if size > limit:
        held = [portions(member) for member in members]
        proportional = sum(one.proportional for one in held)
        if proportional:  # 0: it has ended, or this kernel does not tell
            # Which of the shared pages are inherited, nobody tells. All of them together are not counted more than
            # once in the sum, so without them it is too small rather than too large; what is private is its own.
            size = max(proportional - inherited, sum(one.private for one in held))
    return size, min(LATEST_S, max(SOONEST_S, (limit - size) / FASTEST_GROWTH))
