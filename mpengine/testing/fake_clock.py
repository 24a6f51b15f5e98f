"""A clock that goes when it is told to."""

from __future__ import annotations


class FakeClock:
    """Monotonic seconds that pass only by `advance`. Call it to read it, as one calls `time.monotonic`.

    Example:
        >>> clock = FakeClock(100.0)
        >>> clock.advance(2.5)
        102.5
        >>> clock()
        102.5
    """

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Let so many seconds pass; returns the new time. Raises ValueError if they are negative."""
        if not seconds >= 0:
            raise ValueError(f"FakeClock: time does not run backwards, got {seconds!r} s")
        self._now += seconds
        return self._now

    def advance_to(self, when: float) -> float:
        """Let the time pass until `when`; returns the time, which stays if that is over already."""
        self._now = max(self._now, when)
        return self._now
