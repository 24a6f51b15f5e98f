"""What jobs print, on its way to the parent: one pipe for each worker, in it frames, and between them raw bytes.

    frame   magic | kind u8 | more u8 | id length u16 | length u16 | source u64 | the job's id | so many bytes

A frame is written at once and is no longer than what a pipe takes as a whole, so that nothing comes between its bytes.
A longer message is several frames of one source (a thread), all but its last with `more`. Raw bytes are what C code and
the worker's child processes write to descriptors 1 and 2, which lead to the same pipe.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator

RAW, STDOUT, STDERR, RECORD = range(4)  # RECORD: a pickled dict, of a record of logging

MAGIC = b"\0mp\x16out\0"
HEADER = struct.Struct("<8sBBHHQ")
_FRAME_BYTES = 4096  # PIPE_BUF
_MOST_ID = 1024  # bytes; longer ids are cut


def frames(kind: int, id: str | None, data: bytes, source: int) -> Iterator[bytes]:
    """A message as frames, each to be written at once."""
    name = b"" if id is None else id.encode("utf-8", "surrogatepass")[:_MOST_ID]
    room = _FRAME_BYTES - HEADER.size - len(name)
    for at in range(0, max(1, len(data)), room):
        part = data[at : at + room]
        more = at + room < len(data)
        yield HEADER.pack(MAGIC, kind, more, len(name), len(part), source) + name + part


class Parser:
    """Bytes of one pipe, in any pieces, to messages."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun: dict[int, list[bytes]] = {}  # messages whose last frame has not come, by source

    def feed(self, data: bytes) -> list[tuple[int, str | None, bytes]]:
        """Kind, id and bytes of all that is complete now; raw bytes have no id."""
        found: list[tuple[int, str | None, bytes]] = []
        data = self._rest + data
        at = 0
        while at < len(data):
            start = data.find(MAGIC, at)
            if start < 0:
                start = len(data) - _beginning(data, at)
                if start == len(data):
                    found.append((RAW, None, data[at:]))
                    at = start
                    break
            if start > at:
                found.append((RAW, None, data[at:start]))
                at = start
            if len(data) - at < HEADER.size:
                break
            _, kind, more, name_size, size, source = HEADER.unpack_from(data, at)
            end = at + HEADER.size + name_size + size
            if not STDOUT <= kind <= RECORD or end - at > _FRAME_BYTES:  # somebody's bytes that look like ours
                found.append((RAW, None, data[at : at + 1]))
                at += 1
                continue
            if end > len(data):
                break
            parts = self._begun.pop(source, [])
            parts.append(data[end - size : end])
            if more:
                self._begun[source] = parts
            else:
                name = data[at + HEADER.size : end - size]
                found.append((kind, name.decode("utf-8", "replace") if name_size else None, b"".join(parts)))
            at = end
        self._rest = data[at:]
        return found

    def end(self) -> bytes:
        """The pipe is at its end: what is left is no frame."""
        rest, self._rest = self._rest, b""
        return rest


def _beginning(data: bytes, at: int) -> int:
    """How many bytes at the end of `data` may be the first of a frame."""
    for size in range(min(len(MAGIC) - 1, len(data) - at), 0, -1):
        if MAGIC.startswith(data[-size:]):
            return size
    return 0
