"""Layout of everything that crosses: tickets (parent to workers), the board row, log records (worker to parent).

    ticket   32 bytes, one packet of the queue's pipe together with what fits behind it
             seq u64 | kind u32 | items u32 | offset u64 | length u64      length 0: the body follows inline
    body     header length u32 | header (a pickle of plain values) | the payloads, one after another
    answer   batch u64 | the pickled value, if there is one and it fits; one packet of the answers' pipe
    row      64-bit words in the first page of a worker's channel, see the names below
    record   64 bytes of header, then the blob, in a worker's log; if that is large, in a block behind the table
    table    which of the worker's blocks are free again (arrays/borrowed.py)

A started item is one 64-bit word, so that one store says it all: batch << INDEX_BITS | index + 1.
"""

from __future__ import annotations

import pickle
import struct
import sys
from collections.abc import Sequence

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

TICKET = struct.Struct("<QIIQQ")
PACKET_BYTES = 4096  # PIPE_BUF: what one write puts into one packet
INLINE_BYTES = PACKET_BYTES - TICKET.size

# LONE: a batch of one job, on the short way (runtime/express.py). CALL: the same of a plain call, whose body is a
# pickle of the label of its id, its pickled function, its arguments.
JOBS, SPAN, PILL, LONE, CALL = 0x4D50_0001, 0x4D50_0002, 0x4D50_0003, 0x4D50_0004, 0x4D50_0005

ANSWER = struct.Struct("<Q")

INDEX_BITS = 24
INDEX_MASK = (1 << INDEX_BITS) - 1

# Words of the row. The kernel writes the first four (a claim is the ticket, read straight into the row); the worker
# those up to PARENT_WORDS; the parent the rest.
CLAIM = 0
STARTED = 4
STARTED_AT = 5  # a double: monotonic seconds
COMMITTED = 6  # bytes of log written, ever
PEAK_MEMORY = 7  # bytes
PROGRESS_DONE, PROGRESS_TOTAL = 8, 9  # doubles
PENDING = 10  # bytes of the pending area that are in use: values of a span that are not in the log yet
PENDING_FIRST = 11  # a started word: whose value is the first of those
PARENT_WORDS = 16
CONSUMED = 16  # bytes of log read, ever
REVOKED = 17  # a batch: start no further item of it
INTERRUPT = 18  # a started word: break this item off
FLUSH = 19  # a batch: log the values held back
LEAN = 20  # a count: give back the memory that is not in use

ROW_BYTES = 4096
PENDING_AT = 512  # within the row: the pending area, of segments one after another
PENDING_BYTES = ROW_BYTES - PENDING_AT
SEGMENT = struct.Struct("<II")  # bytes, values; behind it `codec.dump_values`, or, with 0 values, one pickled value
LOG_BYTES = 1 << 20
TABLE_AT = ROW_BYTES + LOG_BYTES
BLOCKS_AT = 2 * LOG_BYTES + (1 << 16)  # behind what is mapped; a multiple of any page's size
BLOCK_BITS = 16
MOST_BLOCKS = BLOCKS_AT - TABLE_AT - 1

RECORD = struct.Struct("<IHHIIQddQQQ")
RECORD_MAGIC = 0x4D50_4C47

# Kinds of records
SKIP = 0  # the rest of the log up to its end is unused
READY = 1
START_FAILED = 2
VALUE = 3
ERROR = 4
INTERRUPTED = 5
SKIPPED = 6
VALUES = 7
GAVE_BACK = 8
LEAVING = 9
OFFERED = 10  # a value that may be in an answer, too
HELD = 11  # blocks of the parent's that the worker looks at, by number: they outlast their jobs
RELEASED = 12  # of those, blocks that it no longer looks at
LENT = 13  # blocks that the next record refers to: the key of their segment, then number, offset, length of each


# The low bytes of two words: of 256 items in a row, all but the first are marked and looked at with these alone.
_LOW = 0 if sys.byteorder == "little" else 7
STARTED_LOW = 8 * STARTED + _LOW
REVOKED_LOW = 8 * REVOKED + _LOW


def started_word(batch: int, index: int) -> int:
    """The word that says which item a worker has started."""
    return batch << INDEX_BITS | (index + 1)


def split_started(word: int) -> tuple[int, int]:
    """Batch and item of a started word; item -1: none."""
    return word >> INDEX_BITS, (word & INDEX_MASK) - 1


def body_parts(header: Any, payloads: Sequence[bytes]) -> list[bytes]:
    """The buffers of a body, in order."""
    packed = pickle.dumps(header, 5)
    return [struct.pack("<I", len(packed)), packed, *payloads]


def split_body(body: memoryview) -> tuple[Any, memoryview]:
    """The header, and the payloads in one piece."""
    (length,) = struct.unpack_from("<I", body)
    return pickle.loads(body[4 : 4 + length]), body[4 + length :]
