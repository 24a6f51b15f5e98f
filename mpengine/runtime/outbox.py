"""From batches to tickets in the job queue, and back out again. Dispatcher thread only."""

from __future__ import annotations

import itertools
import mmap
import os
import queue
from dataclasses import dataclass, field
from typing import Any

from mpengine.arrays import files
from mpengine.arrays.segment import Lease, Segment
from mpengine.core.records import Batch, Record
from mpengine.runtime import descriptors
from mpengine.runtime.job_queue import JobQueue
from mpengine.wire import codec
from mpengine.wire import messages as wire

_keys = itertools.count(1)
_SMALLEST_BITS = max(12, (mmap.PAGESIZE - 1).bit_length())  # of a block in the arena: a page
_WHOLE = 4  # a payload goes along whole if no more than so many times what is needed of it


@dataclass(slots=True, eq=False)
class MappedFunction:
    """The function of a map or of many jobs: crosses once per worker, as a block of the arena its batches refer to."""

    name: str
    blob: bytes
    star: bool  # called with a tuple of arguments
    key: int = field(default_factory=lambda: next(_keys))
    block: Lease | None = None
    users: int = 0  # batches in flight
    finished: bool = False  # its map is over


class Outbox:
    """Writes batches. See `core.actions.PutBatch`, `Retract` and `Forget`.

    Attributes:
        arena: What is too large for the queue's pipe: bodies of batches, functions, and what lies in parcels.
        arena_fd: Of its file, read-only, for the workers.
    """

    def __init__(self) -> None:
        self.queue = JobQueue()
        with descriptors.no_fork:
            self._fd = files.create("mpengine-arena")
            self.arena_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
            descriptors.own(self._fd, self.arena_fd)
        self.arena = Segment(self._fd, 0, _SMALLEST_BITS)
        self._put: dict[int, tuple[Any, ...]] = {}  # batches written and not forgotten; what they need kept
        self._pills = 0
        self._unpacked: tuple[bytes, list[Any], bytes | None] = (b"", [], None)  # the payload that was cut last

    def put(self, batch: Batch) -> list[Record]:
        """Write a batch; returns its records whose futures turned out to be cancelled: those are sent empty.

        Raises:
            queue.Full: There is no room for a further ticket.
            MemoryError: There is no room for the body.
        """
        refused: list[Record] = []
        kept: tuple[Any, ...]
        if batch.span is not None:
            kind, parts = wire.SPAN, self._span_parts(batch)
            kept = (batch.span.payload,)
        else:
            kept = tuple(record.payload for record in batch.records)
            kind, parts = wire.JOBS, self._job_parts(batch, refused)
        size = sum(len(part) for part in parts)
        ticket: bytes
        if size <= wire.INLINE_BYTES:
            ticket = wire.TICKET.pack(batch.seq, kind, batch.size, 0, 0) + b"".join(parts)
        else:
            body = self.arena.put(parts)
            kept += (body,)
            ticket = wire.TICKET.pack(batch.seq, kind, batch.size, body.offset, body.length)
        self.queue.put(ticket)
        self._put[batch.seq] = kept
        if batch.span is not None:
            batch.span.fn.users += 1
        return refused

    def inline_ticket(self, seq: int, record: Record) -> bytes | None:
        """The whole ticket of a lone job's batch; None if it does not fit into a packet. Any thread."""
        payload = record.payload
        if payload is None or len(payload) > wire.INLINE_BYTES - 256 or not record.sink.start(record):
            return None
        header = [(record.job.id, record.attempt + 1, record.deadline, record.timeout, len(payload))]
        ticket = wire.TICKET.pack(seq, wire.LONE, 1, 0, 0) + b"".join(wire.body_parts(header, [payload]))
        return ticket if len(ticket) <= wire.PACKET_BYTES else None

    def was_put(self, seq: int, record: Record) -> None:
        """The ticket of this batch was written by other means than `put`."""
        self._put[seq] = (record.payload,)
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
            fn.block = self.arena.put([fn.blob])
        about = (fn.key, fn.block.offset, fn.block.length)
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
        # The leases of parcels among them are the span's payload's, which is kept with the batch.
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
        del self._put[batch.seq]
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
            fn.block = None

    def close(self) -> None:
        """Give everything back. All workers must be gone."""
        self.queue.close()
        self.arena.close(lambda: descriptors.close(self._fd, self.arena_fd))
