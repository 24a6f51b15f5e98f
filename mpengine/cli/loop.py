"""The plain loop that a benchmark holds the engine against: one process that reads, calls TARGET and encodes.

It reads the records as a run does and does with each what a worker does, but nothing crosses to another process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from mpengine.batch.work import Encoder
from mpengine.cli.inputs import Source
from mpengine.cli.readers import Limits, Reader, Shape
from mpengine.cli.signals import Stop
from mpengine.cli.targets import Description, Target, find


def run_loop(
    description: Description, sources: Sequence[Source], shape: Shape, encode: Encoder, limit: int | None
) -> tuple[int, float]:
    """How many jobs there were, and the seconds they took all in all. In a process that has imported the target."""
    with contextlib.ExitStack() as stack:
        stop = Stop()
        stack.push(stop)  # left, but not entered: this process's signals are its engine's
        function = Target(description, find(*description))
        reader = Reader(
            sources, function, stop, encode=lambda source: encode, shape=shape, limits=Limits(), limit=limit
        )
        jobs = 0
        began = time.monotonic()
        for job in reader.jobs():
            job.fn(*job.args)
            del reader.numbers[job.id]
            jobs += 1
        seconds = time.monotonic() - began
    if reader.problem is not None:
        raise reader.problem
    return jobs, seconds
