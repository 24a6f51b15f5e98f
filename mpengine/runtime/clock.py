"""The only clock: monotonic seconds, the same in every process of the machine."""

from __future__ import annotations

import time

monotonic = time.monotonic
sleep = time.sleep
