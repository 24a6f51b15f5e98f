"""From the backlog to one batch: as much work as suits one worker's turn, and no more than its fair share."""

from __future__ import annotations

from mpengine.core.backlog import Backlog
from mpengine.core.pace import MAX_ITEMS, TARGET_S, Pace
from mpengine.core.records import Batch, Entry, Record, Span

MAX_BYTES = 1 << 20  # of payloads in one batch; a job with a larger one travels alone


# Nobody goes short for this little; a batch may always be as long, and one that is shorter is not sent ahead.
SHORT_S = 0.001


def form_batch(
    backlog: Backlog, pace: Pace, seq: int, workers: int, now: float, *, ahead: bool
) -> Batch | None:  # fmt: skip
    """Take the next batch out of the backlog, or return None if there is none to send now.

    `ahead`: every worker has a batch. Then only work of `SHORT_S` or more is sent: less is better gathered while the
    workers are busy, so that a stream of tiny jobs does not travel one by one.

    A span of a map is one batch: its iterator has cut it to size. Of other spans so many jobs are taken, and so many
    records are collected, as fit in `TARGET_S` by their estimated time while nobody else would go short: at most half
    of what there is to share, per worker. A function nothing is known about travels alone.
    """
    entry = backlog.peek()
    if entry is None:
        return None
    if isinstance(entry, Span) and entry.payload is not None:
        return Batch(seq, span=_pop_span(backlog), now=now)
    estimate = pace.seconds(entry.key)
    waiting = len(backlog) + (len(entry) - 1 if isinstance(entry, Span) else 0)
    if ahead and estimate is not None and estimate * waiting < SHORT_S:
        return None
    share = waiting // (2 * max(1, workers))
    if estimate is not None:
        share = max(share, int(SHORT_S / max(estimate, 1e-9)))
    most = max(1, min(MAX_ITEMS, share))
    if isinstance(entry, Span):
        return Batch(seq, span=_cut(backlog, entry, min(most, pace.calls(entry.key))), now=now)
    return Batch(seq, records=_collect(backlog, entry, pace, most), now=now)


def _collect(backlog: Backlog, entry: Entry | None, pace: Pace, most: int) -> list[Record]:
    records: list[Record] = []
    seconds = 0.0
    size = 0
    while isinstance(entry, Record) and len(records) < most:
        estimate = pace.seconds(entry.key)
        seconds += TARGET_S if estimate is None else estimate
        size += len(entry.payload or b"")
        if records and (seconds > TARGET_S or size > MAX_BYTES or entry.priority != records[0].priority):
            break
        backlog.pop()
        records.append(entry)
        entry = backlog.peek()
    return records


def _cut(backlog: Backlog, span: Span, most: int) -> Span:
    """The first jobs of a span; the rest of it stays where it is."""
    if span.size > MAX_BYTES:
        most = max(1, min(most, MAX_BYTES * len(span.jobs or ()) // span.size))
    if len(span) <= most:
        return _pop_span(backlog)
    part = span.part(span.first, span.first + most)
    span.first += most
    return part


def _pop_span(backlog: Backlog) -> Span:
    span = backlog.pop()
    assert isinstance(span, Span)
    return span
