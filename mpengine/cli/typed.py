"""What options say, made of what was typed. Raises what click tells, in one line, for what makes no sense."""

from __future__ import annotations

import math
from typing import Any

import click

import mpengine
from mpengine.batch.formats import Format
from mpengine.cli.problems import Problem
from mpengine.cli.run import Halt


def as_size(text: str) -> int:
    try:
        return mpengine.parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def as_workers(text: str) -> int:
    """So many, or a part of the CPUs."""
    try:
        part = text.endswith("%")
        found = float(text.removesuffix("%")) if part else int(text)
        if not found > 0 or not math.isfinite(found):
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number of workers nor, as 50%, a part of the CPUs") from None
    return max(1, round(mpengine.cpu_count() * found / 100)) if part else int(found)


def as_counts(text: str) -> tuple[int, ...]:
    """Numbers of workers, with commas between."""
    return tuple(as_workers(part.strip()) for part in text.split(","))


def as_halt(text: str) -> Halt:
    if text == "never":
        return Halt()
    try:
        if text.endswith("%"):
            part = float(text.removesuffix("%")) / 100
            if not 0 < part <= 1:
                raise ValueError
            return Halt(part=part)
        count = int(text)
        if count < 1:
            raise ValueError
        return Halt(count=count)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither never, nor a number of failures, nor a part, as 5%") from None


def as_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise click.BadParameter(f"{text!r} is not a number of seconds greater than 0")
    return seconds


def take_formats(typed: dict[str, Any]) -> None:
    """Makes formats of their names. Raises `Problem` for options about records where there are none."""
    for name in ("input_format", "output_format"):
        typed[name] = None if typed[name] is None else Format(typed[name])
    if typed["shape"] == "path" and (typed["chunk"] or typed["input_format"]):
        raise Problem("--as path makes each INPUT a job, so there is nothing for --chunk or --from to do; leave it out")
