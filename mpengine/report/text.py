"""Text of any origin made fit for one line of a terminal."""

from __future__ import annotations

import re


def one_line(text: str, limit: int = 400) -> str:
    """``text`` without line breaks and control characters, which would move the cursor, and not too long."""
    flat = " ".join(text.split())
    flat = re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", flat)
    flat = flat.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates of odd file names
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."
