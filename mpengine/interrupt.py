"""`JobInterrupt`, which workers raise. Not in `errors`, which needs concurrent.futures: spawned workers would pay."""

from __future__ import annotations


class JobInterrupt(BaseException):
    """Raised inside a job, in its worker, when its time is over or it is cancelled.

    Not an ``Exception``, as ``KeyboardInterrupt`` is not: code that catches broadly does not swallow it by accident.
    Let it pass; ``finally`` blocks and context managers run on its way.
    """
