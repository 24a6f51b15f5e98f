"""Values as JSON: strictly, and with numpy's values made plain."""

from __future__ import annotations

import json
from typing import Any

_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode


def dump(value: Any) -> bytes:
    """UTF-8. Raises what the encoder raises for what JSON has not."""
    return encode(_strict(value))


def lenient(value: Any) -> Any:
    """The value with numpy's scalars and arrays plain, and with null for NaN and infinities, which JSON has not."""
    return json.loads(json.dumps(value, default=_plain), parse_constant=lambda name: None)


def encode(text: str) -> bytes:
    """UTF-8; a lone surrogate, as in a file name that is not UTF-8, as the escape JSON has for it."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(json.loads(text)).encode("ascii")


def _plain(value: Any) -> Any:
    """Without importing numpy."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")
