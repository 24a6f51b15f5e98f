"""What other threads leave for the dispatcher thread, and how they wake it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import Any

from mpengine.runtime import descriptors


class Inbox:
    """Many threads post, one takes. `wake_fd` becomes readable when there is something while the reader sleeps.

    Attributes:
        is_asleep: Whether the reader sleeps, or is about to. Not in a nap: then whoever has only work for it need not
            wake it.
    """

    def __init__(self) -> None:
        # A pipe, not an eventfd: its writer tells the kernel that it is about to sleep, so that the reader is woken on
        # the same CPU. Waking an idle one costs more than all else on the way of a job (docs/design.md, "Round trips").
        with descriptors.no_fork:
            self.wake_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            descriptors.own(self.wake_fd, self._write_fd)
        self._pid = os.getpid()
        self._items: deque[Any] = deque()
        self.is_asleep = False
        self._naps = False

    def post(self, item: Any) -> None:
        """Leave something and wake the reader. Never blocks, takes no lock: finalizers may call it."""
        if self._pid != os.getpid():
            return  # a forked copy: the descriptor is not its own
        self._items.append(item)
        self.wake()

    def post_work(self, item: Any) -> None:
        """As `post`, for what has time until the reader's nap is over."""
        self._items.append(item)
        if self.is_asleep:
            self.wake()

    def wake(self) -> None:
        """Wake the reader, if it sleeps: there is something for it, here or elsewhere."""
        if (self.is_asleep or self._naps) and self._pid == os.getpid():
            self.is_asleep = self._naps = False  # the next to post need not wake it again
            try:
                os.write(self._write_fd, b"\0")
            except OSError:
                return  # closed: the reader has ended, and nobody is left to wake

    def __bool__(self) -> bool:
        return bool(self._items)

    def may_sleep(self) -> bool:
        """The reader is about to sleep; False if something has come in the meantime. The order matters:
        asleep first, then the look, so that whoever posts after the look wakes."""
        self.is_asleep = True
        return not self._items

    def nap(self) -> None:
        """After `may_sleep`: the reader is about to sleep for a moment in which there is work enough."""
        self._naps = True  # before the other: who posts in between must see one of them
        self.is_asleep = False

    def awake(self) -> None:
        """The reader is awake, for whatever reason."""
        self.is_asleep = self._naps = False

    def clear_wake(self) -> None:
        """The descriptor was readable."""
        try:
            os.read(self.wake_fd, 4096)
        except BlockingIOError:
            return

    def take(self) -> Iterator[Any]:
        """All that is there now; what is posted meanwhile has its turn later."""
        for _ in range(len(self._items)):
            yield self._items.popleft()

    def close(self) -> None:
        """Nothing is read any more."""
        descriptors.close(self.wake_fd, self._write_fd)
