"""From the backlog to one batch: as much work as suits one worker's turn, and no more than its fair share."""

from __future__ import annotations

from mpengine.core.backlog import Backlog
from mpengine.core.pace import MAX_ITEMS, TARGET_S, Pace
from mpengine.core.records import Batch, Entry, Record, Span

MAX_BYTES = 1 << 20  # of payloads in one batch; a job with a larger one travels alone


SHORT_S = 0.001  # of work: less is not sent ahead
LEAST_S = 0.0005  # nobody goes short for this little: a batch may always be as long


def form_batch(
    backlog: Backlog, pace: Pace, seq: int, workers: int, now: float, *, ahead: bool
) -> Batch | None:  # fmt: skip
    """Take the next batch out of the backlog, or return None if there is none to send now.

    `ahead`: every worker has a batch. Then only work of `SHORT_S` or more is sent: less is better gathered while the
    workers are busy, so that a stream of tiny jobs does not travel one by one.

    A batch is guided by what waits: half of each worker's share of it, but `LEAST_S` at least and `TARGET_S` at most.
    So batches get smaller towards the end, and all workers come to it at about the same time. A span is a batch, or is
    cut; records are collected. A function nothing is known about travels alone.
    """
    entry = backlog.peek()
    if entry is None:
        return None
    estimate = pace.seconds(entry.key)
    is_cut_to_size = isinstance(entry, Span) and entry.payload is not None  # by its iterator
    if ahead and not is_cut_to_size and estimate is not None and estimate * backlog.calls < SHORT_S:
        return None
    share = backlog.calls // (2 * max(1, workers))
    if estimate is not None:
        share = max(share, int(LEAST_S / max(estimate, 1e-9)))
    if isinstance(entry, Span):
        most = min(share, pace.calls(entry.key))
        if entry.size > MAX_BYTES:
            most = min(most, MAX_BYTES * len(entry.jobs or ()) // entry.size)
        parts = max(1, round(len(entry) / max(1, most)))  # of about one length
        return Batch(seq, span=backlog.pop_part(-(-len(entry) // parts)), ahead=ahead, now=now)
    records = _collect(backlog, entry, pace, max(1, min(MAX_ITEMS, share)))
    return Batch(seq, records=records, ahead=ahead, now=now)


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
