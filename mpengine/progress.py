"""What `Engine(progress=True)` shows: all the jobs of one engine, as its books have them."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING

from mpengine.report.display import Display
from mpengine.report.failures import describe, in_a_line
from mpengine.report.live import FAILURES_SHOWN, Ages, Rate, Standing
from mpengine.report.render import headline
from mpengine.report.summary import Summary
from mpengine.runtime.clock import monotonic
from mpengine.snapshot import EngineStats, engine_stats, worker_rows

if TYPE_CHECKING:
    from mpengine.drawing import Source
    from mpengine.runtime.dispatcher import Dispatcher


class EngineProgress:
    """See the module's text. It holds no reference to the engine, and ends with its dispatcher.

    Attributes:
        output: For the engine: what jobs print.
    """

    def __init__(self) -> None:
        self._dispatcher: Dispatcher | None = None
        self._display = Display()
        self.output = self._display.output
        self._inputs: dict[weakref.ref[Source], int | None] = {}
        self._failures: deque[tuple[str, BaseException]] = deque(maxlen=FAILURES_SHOWN)
        self._rate = Rate()
        self._ages = Ages()
        self._since: float | None = None  # when there was nothing to do before

    def begin(self, dispatcher: Dispatcher) -> None:
        """Show this one."""
        self._dispatcher = dispatcher
        self._display.begin(self._look, dispatcher.closed, last=self._last)

    def failed(self, id: str, error: BaseException) -> None:
        """A job did not succeed. Dispatcher thread."""
        self._failures.append((id, error))

    def expect(self, source: Source, length: int | None) -> None:
        """So many jobs will come from there; None: nobody knows. Any thread."""
        self._inputs[weakref.ref(source)] = length

    def close(self) -> None:
        """The engine is closed: wait until that is shown."""
        self._display.close()

    # ---- the display's thread ----------------------------------------------------------------------------------------

    def _look(self) -> Standing:
        dispatcher = self._dispatcher
        assert dispatcher is not None
        now = monotonic()
        stats = engine_stats(dispatcher)
        finished = stats.succeeded + _failed(stats)
        is_open = stats.pending + stats.queued > 0
        if not is_open:
            self._since = None
        elif self._since is None:
            self._since, self._rate = now, Rate()
        return Standing(
            finished=finished,
            total=self._total(finished + stats.pending + stats.queued),
            failed=_failed(stats),
            retried=stats.retried,
            open=is_open,
            elapsed=0.0 if self._since is None else now - self._since,
            rate=self._rate.add(now, finished),
            workers=self._ages.fill(worker_rows(dispatcher), now) if is_open else (),
            failures=[(id, in_a_line(describe(error))) for id, error in list(self._failures)],
        )

    def _total(self, accepted: int) -> int | None:
        """With all that is still to be drawn; None if that is not known of one input."""
        total: int | None = accepted
        for ref, length in list(self._inputs.items()):
            source = ref()
            if source is None or source.is_at_its_end:
                self._inputs.pop(ref, None)
            elif length is None or total is None:
                total = None
            else:
                total += max(0, length - source.drawn)
        return total

    def _last(self) -> str:
        dispatcher = self._dispatcher
        assert dispatcher is not None
        stats = engine_stats(dispatcher)
        counts = Counter(
            succeeded=stats.succeeded, failed=stats.failed, expired=stats.expired, lost=stats.lost,
            cancelled=stats.cancelled,
        )  # fmt: skip
        summary = Summary(counts, finished=counts.total(), retried=stats.retried)
        if not summary.finished:
            return ""
        return headline(summary, wall_s=stats.uptime, workers=dispatcher.supervisor.size).plain


def _failed(stats: EngineStats) -> int:
    return stats.failed + stats.expired + stats.lost + stats.cancelled
