"""From batches to tickets in the job queue, and back out again. Dispatcher thread only."""

from __future__ import annotations

import itertools
import queue
from dataclasses import dataclass, field
from typing import Any

from mpengine.core.records import Batch, Record
from mpengine.runtime.arena import Arena
from mpengine.runtime.job_queue import JobQueue
from mpengine.wire import codec
from mpengine.wire import messages as wire

_keys = itertools.count(1)
_WHOLE = 4  # a payload goes along whole if no more than so many times what is needed of it


@dataclass(slots=True, eq=False)
class MappedFunction:
    """The function of a map or of many jobs: crosses once per worker, as a block of the arena its batches refer to."""

    name: str
    blob: bytes
    star: bool  # called with a tuple of arguments
    key: int = field(default_factory=lambda: next(_keys))
    block: tuple[int, int] | None = None
    users: int = 0  # batches in flight
    finished: bool = False  # its map is over


class Outbox:
    """Writes batches. See `core.actions.PutBatch`, `Retract` and `Forget`."""

    def __init__(self) -> None:
        self.queue = JobQueue()
        self.arena = Arena()
        self._blocks: dict[int, int] = {}  # batch -> offset of its body
        self._put: set[int] = set()  # batches written and not forgotten
        self._pills = 0
        self._unpacked: tuple[bytes, list[Any], bytes | None] = (b"", [], None)  # the payload that was cut last

    def put(self, batch: Batch) -> list[Record]:
        """Write a batch; returns its records whose futures turned out to be cancelled: those are sent empty.

        Raises:
            queue.Full: There is no room for a further ticket.
            OSError: There is no memory for the body.
        """
        refused: list[Record] = []
        if batch.span is not None:
            kind, parts = wire.SPAN, self._span_parts(batch)
        else:
            kind, parts = wire.JOBS, self._job_parts(batch, refused)
        size = sum(len(part) for part in parts)
        ticket: bytes
        if size <= wire.INLINE_BYTES:
            ticket = wire.TICKET.pack(batch.seq, kind, batch.size, 0, 0) + b"".join(parts)
        else:
            offset, length = self.arena.store(parts)
            self._blocks[batch.seq] = offset
            ticket = wire.TICKET.pack(batch.seq, kind, batch.size, offset, length)
        try:
            self.queue.put(ticket)
        except queue.Full:
            self._free(batch)
            raise
        self._put.add(batch.seq)
        if batch.span is not None:
            batch.span.fn.users += 1
        return refused

    def inline_ticket(self, seq: int, record: Record) -> bytes | None:
        """The whole ticket of a lone job's batch; None if it does not fit into a packet. Any thread."""
        payload = record.payload
        if payload is None or len(payload) > wire.INLINE_BYTES - 256 or not record.sink.start(record):
            return None
        header = [(record.job.id, 1, record.deadline, record.timeout, len(payload))]
        ticket = wire.TICKET.pack(seq, wire.LONE, 1, 0, 0) + b"".join(wire.body_parts(header, [payload]))
        return ticket if len(ticket) <= wire.PACKET_BYTES else None

    def was_put(self, seq: int) -> None:
        """The ticket of this batch was written by other means than `put`."""
        self._put.add(seq)
        self.queue.was_put()

    def _job_parts(self, batch: Batch, refused: list[Record]) -> list[bytes]:
        header = []
        payloads = []
        for record in batch.records:
            payload = record.payload or b""
            if not record.sink.start(record):
                refused.append(record)
                payload = b""
            header.append((record.job.id, record.attempt + 1, record.deadline, record.timeout, len(payload)))
            payloads.append(payload)
        return wire.body_parts(header, payloads)

    def _span_parts(self, batch: Batch) -> list[bytes]:
        span = batch.span
        assert span is not None
        fn: MappedFunction = span.fn
        if fn.block is None:
            fn.block = self.arena.store([fn.blob])
        about = (fn.key, *fn.block)
        if span.payload is not None:
            first, stop, payload = span.first, span.stop, span.payload
            if len(payload) > wire.INLINE_BYTES and (stop - first) * _WHOLE < span.total:
                payload = self._cut_out(payload, first, stop)
                first, stop = 0, stop - first
            return wire.body_parts((*about, first, stop, span.position + span.first, fn.star, None), [payload])
        jobs = span.open_jobs
        names = [job.label for job in jobs]
        values = codec.dump_values([job.args for job in jobs], None)
        return wire.body_parts((*about, 0, len(jobs), 0, fn.star, names), [values])

    def _cut_out(self, payload: bytes, first: int, stop: int) -> bytes:
        """A few of many calls, which turned out to be slower than when they were packed; the others follow soon."""
        if self._unpacked[0] is not payload:
            values, flags, _ = codec.load_values(payload)
            self._unpacked = payload, values, flags
        _, values, flags = self._unpacked
        return codec.dump_values(values[first:stop], None if flags is None else bytearray(flags[first:stop]))

    def put_pill(self) -> bool:
        """Tell one worker, whichever takes it, to leave; False if the queue is full."""
        try:
            self.queue.put(wire.TICKET.pack(0, wire.PILL, 0, 0, 0))
        except queue.Full:
            return False
        self._pills += 1
        return True

    def pill_taken(self) -> None:
        """A worker has left; if a pill was out, that was it."""
        if self._pills:
            self._pills -= 1
            self.queue.task_done()

    def retract(self) -> list[int]:
        """Take back all that nobody has claimed; returns the batches, oldest first. Pills are dropped."""
        seqs = []
        for ticket in self.queue.take_back():
            seq, kind, *_ = wire.TICKET.unpack_from(ticket)
            if kind == wire.PILL:
                self.pill_taken()
            else:
                seqs.append(seq)
        return seqs

    def forget(self, batch: Batch) -> None:
        """No worker will look at this batch any more. One that could not be put is forgotten, too."""
        if batch.seq not in self._put:
            return
        self._put.discard(batch.seq)
        self._free(batch)
        self.queue.task_done()
        if batch.span is not None:
            batch.span.fn.users -= 1
            self.release_function(batch.span.fn)

    def finish(self, fn: MappedFunction) -> None:
        """The map is over: its function goes when its last batch has gone."""
        fn.finished = True
        self._unpacked = (b"", [], None)
        self.release_function(fn)

    def release_function(self, fn: MappedFunction) -> None:
        """Free the function's block if nobody needs it."""
        if fn.finished and not fn.users and fn.block is not None:
            self.arena.free(fn.block[0])
            fn.block = None

    def _free(self, batch: Batch) -> None:
        offset = self._blocks.pop(batch.seq, None)
        if offset is not None:
            self.arena.free(offset)

    def close(self) -> None:
        """Give everything back. All workers must be gone."""
        self.queue.close()
        self.arena.close()
