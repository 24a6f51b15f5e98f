"""A benchmark as JSON: all that was measured, what it comes to, and what it was measured on."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mpengine.cli.machine import Machine
from mpengine.cli.measuring import Measured
from mpengine.report.speedup import LOOP, Curve

if TYPE_CHECKING:
    from mpengine.cli.bench import BenchRequest


def as_json(
    request: BenchRequest,
    machine: Machine,
    begun: datetime.datetime,
    rounds: Sequence[Sequence[Measured]],
    found: Curve,
) -> str:
    """The whole file. Seconds, bytes, and parts of 1; `workers` is null for the plain loop."""
    told: dict[str, Any] = {
        "target": request.target,
        "inputs": list(request.inputs),
        "options": {
            "from": request.input_format,
            "to": request.output_format,
            "as": request.shape,
            "chunk": request.chunk,
            "timeout": request.timeout,
            "limit": request.limit,
        },
        "begun": begun.isoformat(timespec="seconds"),
        "machine": asdict(machine),
        "jobs": found.jobs,
        "rounds": len(rounds),
        "loop": {
            "seconds": None if found.loop is None else asdict(found.loop),
            "speedup": None if found.loop_speedup is None else asdict(found.loop_speedup),
            "peak_memory": peak_memory(rounds, LOOP),
        },
        "rows": [asdict(row) | {"peak_memory": peak_memory(rounds, row.workers)} for row in found.rows],
        "serial_part": None if found.serial is None else asdict(found.serial),
        "misfit": found.misfit,
        "best": found.best,
        "best_over_loop": None if found.over_loop is None else asdict(found.over_loop),
        "runs": [
            {"round": number, **asdict(one), "workers": one.workers or None}
            for number, measured in enumerate(rounds, 1)
            for one in measured
        ],
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def peak_memory(rounds: Sequence[Sequence[Measured]], workers: int) -> int:
    """Of the process that had the most: the median over the rounds."""
    return round(statistics.median(one.peak_memory for each in rounds for one in each if one.workers == workers))
