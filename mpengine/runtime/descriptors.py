"""The parent's ends. A forked copy of this process closes them at once, before anything else runs in it.

Without that, the copy of a pipe's end would keep workers from noticing that the parent is gone, and the copy's exit or
garbage collection could act on processes that are not its own.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import threading

# Held while descriptors are made and noted, or forgotten and closed: a fork in another thread waits for that. A copy of
# a leash's end that nobody has noted would keep workers alive when their parent is gone.
no_fork = threading.RLock()

_ours: set[int] = set()
_kept = threading.local()  # of the forking thread, which is the one that lives on in the child


def check_room(count: int, what: str) -> None:
    """Raise an OSError unless so many descriptors could be opened now; other threads may take them the next moment.

    Better than to run out half-way: a fork server to which a request was begun and not sent ends with a traceback.

    Args:
        what: Needs them.
    """
    if _last_are_free(count):
        return
    with contextlib.ExitStack() as opened, no_fork:
        try:
            for _ in range(count):
                opened.callback(os.close, os.eventfd(0, os.EFD_CLOEXEC))
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}: {what} needs {count} descriptors; close some, or raise `ulimit -n`"
            ) from None


def _last_are_free(count: int) -> bool:
    """Whether none of the highest numbers that this process may use is a descriptor; in one call to the kernel."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < count:  # none at all: -1
        return False
    poll = select.poll()
    for number in range(limit - count, limit):
        poll.register(number, 0)
    return [event for _, event in poll.poll(0)] == [select.POLLNVAL] * count


def own(*fds: int) -> None:
    """These descriptors belong to an engine of this process. Under `no_fork`, with the calls that make them."""
    _ours.update(fds)


def close(*fds: int) -> None:
    """Close descriptors that were owned. Out of the set first: the number may be given away again at once."""
    with no_fork:
        for fd in fds:
            if fd in _ours:
                _ours.discard(fd)
                os.close(fd)


def forget(fd: int) -> None:
    """Somebody else has closed it."""
    _ours.discard(fd)


def keep_in_fork(*fds: int) -> None:
    """Forks by this thread are a worker's, which keeps these; none: they are not any more."""
    _kept.fds = fds


def _after_fork_in_child() -> None:
    for fd in list(_ours):
        if fd not in getattr(_kept, "fds", ()):
            try:
                os.close(fd)
            except OSError:
                continue
    _ours.clear()
    _kept.fds = ()
    no_fork.release()


os.register_at_fork(
    before=no_fork.acquire, after_in_parent=no_fork.release, after_in_child=_after_fork_in_child
)  # fmt: skip
