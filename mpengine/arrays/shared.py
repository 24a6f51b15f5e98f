"""`Shared`: one read-only copy of an object for all jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mpengine.arrays.parcel import current_packing, open_shared
from mpengine.arrays.segment import ALIGNMENT, Lease, positions

if TYPE_CHECKING:
    from mpengine.arrays.segment import Segment

T = TypeVar("T")


class Shared(Generic[T]):
    """An object that lies in shared memory once, and that any job may be given. Made by `Engine.share`.

    Hand it to jobs as any other argument, by itself, inside other objects, or from a closure: in the job it is the
    object itself. Its arrays and other buffers are not copied there, but mapped, and are read-only. What else it
    consists of, such as lists or dicts, is rebuilt once per worker, for all jobs of that: do not change it. It is freed
    when it is dropped here and the last job that uses it is over.

    Attributes:
        nbytes: Bytes of shared memory that it takes.
    """

    def __init__(
        self,
        data: bytes,
        buffers: Sequence[memoryview],
        others: Sequence[Lease],
        segment: Segment,
    ) -> None:
        parts = [data, *buffers]
        lengths = [len(part) for part in parts]
        lease = segment.put(parts, ALIGNMENT)
        segment.let_stay(lease)
        places = tuple(zip(positions(lengths, ALIGNMENT), lengths, strict=True))
        self.nbytes = lease.length
        self._segment = segment
        self._leases = (lease, *others)  # those of shared objects inside it, too
        self._reduced = open_shared, (segment.key, lease.place, places)

    def __reduce__(self) -> tuple[Any, ...]:
        packing = current_packing()
        if packing is None or packing.segment is not self._segment:
            raise TypeError(
                "a Shared can only be sent to jobs of the engine that made it; "
                "give anybody else the object itself, or share it with that engine"
            )
        packing.leases += self._leases
        return self._reduced

    def __repr__(self) -> str:
        return f"<Shared {self.nbytes:,} bytes>"
