"""In a worker: values of a span that were computed and not logged yet.

They are logged many at a time: each record costs the parent as much as a call of 10 us. Until then they lie in the
*pending* area of the worker's row, where the parent finds them after a death: a job, or a call of some length, that has
finished is never run again. Those of shorter calls get there in groups (see `running.GROUP_S`).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from mpengine.arrays.parcel import Parcel
from mpengine.runtime.channel import LogWriter
from mpengine.runtime.clock import monotonic
from mpengine.wire import codec
from mpengine.wire import messages as wire
from mpengine.wire.remote_error import pack_error

TYPE_CHECKING = False  # as typing has it, whose import takes a worker milliseconds
if TYPE_CHECKING:
    from typing import Any

_MOST_PENDING = 256  # values of one group: more are worth a record


class Pickled(bytes):
    """A value that was pickled as soon as it was there."""


_FLAGS: dict[type, int] = {Pickled: 1, Parcel: 2}


class Held:
    """Values of the calls [index, index + len(values)) of a batch.

    The signal handler may log them between any two steps of a map's loop, so adding is one append. `keep` and
    `keep_all` are more than that: they are called where the handler does nothing.

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
        self.segment = log.segment
        self.block: list[Any] = []  # what the loop goes through: emptied, it ends after the call that runs
        self._log = log
        self._since = monotonic()  # when the first of them was started, about
        self._kept = 0  # so many of them are pending
        self._pending_end = 0

    def append_pickled(self, blob: bytes) -> None:
        """Add a value that is not an atom."""
        self.all_atoms = False  # and so it stays for this span
        self.values.append(blob if type(blob) is Parcel else Pickled(blob))

    def next_index(self) -> int:
        """The first call without a value."""
        return self.index + len(self.values)

    def keep(self, blob: bytes, value: Any, *, is_atom: bool) -> None:
        """Add a value; when this returns it outlives the worker."""
        is_pending = type(blob) is not Parcel and self._write_pending(blob, 0)
        if is_atom:
            self.values.append(value)
        else:
            self.append_pickled(blob)
        if is_pending:
            self._kept += 1
        else:
            self.log()

    def keep_all(self) -> None:
        """When this returns, all values outlive the worker."""
        count = len(self.values) - self._kept
        if not count:
            return
        packed = b"" if count > _MOST_PENDING else self._packed(self._kept)
        if not packed or type(packed) is Parcel or not self._write_pending(packed, count):
            self.log()  # of what is pending nobody takes leases
        else:
            self._kept += count

    def _write_pending(self, blob: bytes, count: int) -> bool:
        """Add a segment to the pending area; False: it has no room for it."""
        area, words, at = self._log.pending, self._log.words, self._pending_end
        start = at + wire.SEGMENT.size
        end = start + len(blob)
        if end > wire.PENDING_BYTES:
            return False
        wire.SEGMENT.pack_into(area, at, len(blob), count)
        area[start:end] = blob
        if not at:
            words[wire.PENDING_FIRST] = wire.started_word(self.batch, self.index)
        self._pending_end = end
        words[wire.PENDING] = end  # last: from here on it counts
        return True

    def _packed(self, start: int = 0, times: bytes | None = None) -> bytes:
        values = self.values[start:] if start else self.values
        if self.all_atoms:
            return codec.dump_values(values, None, times)
        return codec.dump_values(values, bytearray(_FLAGS.get(type(value), 0) for value in values), times)

    def log(self, *, in_call: bool = False) -> None:
        """Commit what is held.

        Args:
            in_call: A call is running. So how long the others took is not known.
        """
        count = len(self.values)
        if not count:
            return
        times, started_at, seconds = None, 0.0, 0.0
        if self.names is not None:
            started_at = self.times[0]
            ended_at = self.times[count] if len(self.times) > count else monotonic()
            times = array("d", [*self.times[:count], ended_at]).tobytes()
            seconds = ended_at - started_at
        elif not in_call:
            seconds = monotonic() - self._since
        blob = self._packed(times=times)
        peak = self._log.words[wire.PEAK_MEMORY]
        try:
            self._log.commit(
                wire.VALUES, blob, batch=self.batch, index=self.index, count=count, started_at=started_at,
                duration=seconds, peak_memory=peak,
            )  # fmt: skip
        except MemoryError as error:
            error.add_note(f"{count} results of {len(blob)} bytes could not be handed over")
            blob = pack_error(error, None)
            for index in range(self.index, self.index + count):
                self._log.commit(wire.ERROR, blob, batch=self.batch, index=index)
        self._log.words[wire.PENDING] = 0  # after the commit: what is told twice is told once
        self._pending_end = 0
        self._kept = 0
        if self.names is not None:
            del self.times[:count]
        self.index += count
        self.values.clear()
        self._since = monotonic()
