"""In a worker: values of a span that were computed and not logged yet.

They are logged many at a time. Those of a map are nowhere else until then: after a crash their calls may run again.
Those of jobs are also written, one by one, into the *pending* area of the worker's row, where the parent finds them
after a death: a job that has finished is never run again.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from mpengine.runtime.channel import LogWriter
from mpengine.runtime.clock import monotonic
from mpengine.wire import codec
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import pack_error

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

_LENGTH = struct.Struct("<I")


class Pickled(bytes):
    """A value that was pickled as soon as it was there."""


class Held:
    """Values of the calls [index, index + len(values)) of a batch.

    The signal handler may log them between any two steps of a map's loop, so adding is one append. `keep` is more than
    that: it is called where the handler does nothing.

    Args:
        names: The ids of the jobs that the calls are, or their numbers; None: they are a map's.
    """

    def __init__(self, log: LogWriter, batch: int, position: int, names: Sequence[str | int] | None) -> None:
        self.batch = batch
        self.position = position
        self.names = names
        self.index = 0
        self.values: list[Any] = []
        self.times: list[float] = []  # when the jobs among them were started, and the one that runs
        self.all_atoms = True
        self.block: list[Any] = []  # what the loop goes through: emptied, it ends after the call that runs
        self._log = log
        self._pending_end = 0

    def append_pickled(self, blob: bytes) -> None:
        """Add a value that is not an atom."""
        self.all_atoms = False  # and so it stays for this span
        self.values.append(Pickled(blob))

    def next_index(self) -> int:
        """The first call without a value."""
        return self.index + len(self.values)

    def keep(self, blob: bytes, value: Any, *, is_atom: bool) -> None:
        """Add the value of a job; when this returns it outlives the worker."""
        self._write_pending(blob)
        if is_atom:
            self.values.append(value)
        else:
            self.append_pickled(blob)
        if not self._pending_end:
            self.log(0.0)  # it did not fit

    def _write_pending(self, blob: bytes) -> None:
        area, words = self._log.pending, self._log.words
        at, size = self._pending_end, _LENGTH.size + len(blob)
        if at + size > wire.PENDING_BYTES:
            self.log(0.0)
            at = 0
            if size > wire.PENDING_BYTES:
                return
        start = at + _LENGTH.size
        _LENGTH.pack_into(area, at, len(blob))
        area[start : start + len(blob)] = blob
        if not at:
            words[wire.PENDING_FIRST] = wire.started_word(self.batch, self.next_index())
        self._pending_end = at + size
        words[wire.PENDING] = (len(self.values) + 1) << 32 | self._pending_end  # last: from here on it counts

    def log(self, seconds: float, peak_memory: int = 0) -> None:
        """Commit what is held; it took so many seconds, 0: unknown."""
        values = self.values
        count = len(values)
        if not count:
            return
        times, started_at = None, 0.0
        if self.names is not None:
            started_at = self.times[0]
            ended_at = self.times[count] if len(self.times) > count else monotonic()
            times = array("d", [*self.times[:count], ended_at]).tobytes()
            seconds = ended_at - started_at
        flags = None
        packed = values
        if not self.all_atoms:
            flags = bytearray(type(value) is Pickled for value in values)
            packed = [bytes(v) if type(v) is Pickled else v for v in values]
        blob = codec.dump_values(packed, flags, times)
        try:
            self._log.commit(
                wire.VALUES, blob, batch=self.batch, index=self.index, count=count, started_at=started_at,
                duration=seconds, peak_memory=peak_memory,
            )  # fmt: skip
        except OSError as error:
            error.add_note(f"{count} results of {len(blob)} bytes could not be handed over")
            blob = pack_error(error, None)
            for index in range(self.index, self.index + count):
                self._log.commit(wire.ERROR, blob, batch=self.batch, index=index)
        if self.names is not None:
            self._log.words[wire.PENDING] = 0  # after the commit: what is told twice is told once
            self._pending_end = 0
            del self.times[:count]
        self.index += count
        values.clear()
