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


def proportional_bytes(pid: int) -> int:
    """Resident memory now, each shared page divided among those that share it; 0 if it cannot be told.

    Slower than `resident_bytes`: the kernel walks the page tables.
    """
    with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
        for line in rollup:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def family(pid: int) -> list[int]:
    """The process and all below it, as far as the kernel tells (CONFIG_PROC_CHILDREN)."""
    found = [pid]
    for one in found:  # it grows meanwhile
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                with contextlib.suppress(OSError), open(f"/proc/{one}/task/{thread}/children", "rb") as children:
                    found += map(int, children.read().split())
    return found


def weigh(pid: int, limit: int) -> tuple[int, float]:
    """Bytes held by a worker and all below it, and seconds until they can be more than the limit.

    Shared pages, such as those that forked children have in common, are counted once; but only where that matters, for
    it takes longer.
    """
    members = family(pid)
    size = sum(map(resident_bytes, members))
    if size > limit:
        size = sum(map(proportional_bytes, members)) or size  # 0: it has ended, or this kernel does not tell
    return size, min(LATEST_S, max(SOONEST_S, (limit - size) / FASTEST_GROWTH))
