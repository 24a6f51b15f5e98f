"""Files that are memory and have no name."""

from __future__ import annotations

import errno
import os

_NOT_HERE = (errno.ENOSYS, errno.EPERM, errno.EACCES)  # an old kernel, or a container that forbids the call


def create(name: str) -> int:
    """A new empty file in memory, which is gone with its last descriptor; returns that, to read and write.

    By `memfd_create`, which needs no mount and knows no limit but the machine's. Where that is not to be had, the file
    has a name in /dev/shm, or else in the temporary folder, for as long as it takes to remove that.

    Args:
        name: For people who look at /proc.
    """
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    except AttributeError:
        pass
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    return _create_named(name)


def _create_named(name: str) -> int:
    import tempfile  # workers import this module, and need none

    folders = ("/dev/shm", tempfile.gettempdir())
    for folder in folders:
        try:
            fd, path = tempfile.mkstemp(prefix=f"{name}-", dir=folder)
        except OSError:
            continue
        os.unlink(path)
        return fd
    raise OSError(
        errno.ENOSYS,
        f"no memory to share between processes: this platform has no memfd_create, and no file can be made in "
        f"{' or '.join(folders)}; make one of them writable",
    )
