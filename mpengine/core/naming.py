"""How ids look that were made for a job. Workers load this, too."""

from __future__ import annotations

AUTOMATIC = "job-"
MAP = "map-"  # before the number of a call


def id_text(name: int | str) -> str:
    """The id of a job that is known by its number, or by the id it was given."""
    return f"{AUTOMATIC}{name}" if isinstance(name, int) else name
