"""The other side of a segment: objects that look at a block, each of which keeps a lease of it.

    open(lease, OWN)     writable, and what is written is in the block: for who is the only one to look at it
                COPY     writable, and what is written is a copy of that page, which nobody else sees
                SHARED   read-only

What users get is a memoryview of an exporter (a ctypes array over the mapping). Arrays, slices and views of it keep the
exporter, and that keeps the lease: when the last of them is gone, so is the lease.

A fork has to give the child memory of its own. So before any fork of this process, what its objects look at is made
private to it, at the same addresses, and the leases are let go.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from mpengine.arrays.mapping import Mapping
from mpengine.arrays.parcel import OWN, SHARED
from mpengine.arrays.segment import Lease


class Reader:
    """See the module's text. Any thread.

    Args:
        open_file: Gives a descriptor of the segment's file, to read and write, which is the caller's to close.
        base: Where in the file the blocks begin.
    """

    def __init__(self, open_file: Callable[[], int], base: int) -> None:
        self.mapping = Mapping(open_file, base)
        self._looked_at: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        _readers.add(self)

    def open(self, lease: Lease, mode: int) -> memoryview:
        """Look at a block. Raises OSError or MemoryError if it cannot be mapped."""
        length = lease.length
        with _no_fork:
            if mode == OWN:
                piece, at = self.mapping.find(lease.offset, length)
            else:
                piece, at = self.mapping.copy_on_write(lease.offset, max(length, mmap.PAGESIZE)), 0
            exporter = piece.block(at, length)
            exporter.lease = lease
            exporter.mode = mode
            self._looked_at[id(exporter)] = exporter  # it has no hash
        view = memoryview(exporter).cast("B")[:length]
        return view.toreadonly() if mode == SHARED else view

    def forget(self) -> None:
        """Unmap what nobody looks at."""
        self.mapping.forget()

    def make_private(self) -> None:
        """Give all that is looked at memory of its own, where it is, and let go of the leases."""
        self.mapping.forget()  # the pieces hold private parts from now on: not for those who come
        for exporter in list(self._looked_at.values()):
            lease = exporter.lease
            if lease is not None:  # else an interrupt came before the last step below
                address = ctypes.addressof(exporter)
                self.mapping.make_private(address, lease.offset, lease.length, is_shared=exporter.mode == OWN)
                exporter.lease = None
            self._looked_at.pop(id(exporter), None)


_readers: weakref.WeakSet[Reader] = weakref.WeakSet()
# Held while a block is opened, and from before a fork until after it: what another thread opened in between would be
# mapped in both.
_no_fork = threading.RLock()


def before_fork() -> None:
    """What a fork waits for. An exception from a signal handler must not leave some of it undone, nor the rest."""
    late: BaseException | None = None
    _no_fork.acquire()
    for reader in list(_readers):
        while True:
            try:
                reader.make_private()
                break
            except (OSError, MemoryError) as error:
                late = error
                break
            except BaseException as error:
                late = error
    if late is not None:
        raise late


os.register_at_fork(before=before_fork, after_in_parent=_no_fork.release, after_in_child=_no_fork.release)
