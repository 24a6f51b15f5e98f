"""The ids of open jobs: no two of them have the same."""

from __future__ import annotations

from collections.abc import Sequence

from mpengine.core.naming import AUTOMATIC
from mpengine.core.records import Call, Record


class OpenIds:
    """Any thread takes ids, the dispatcher thread releases them.

    Ids that were made by us are known by their numbers: a set of integers costs a tenth of a dict of strings.
    """

    def __init__(self) -> None:
        self._holders: dict[str, Record | Call] = {}
        self._numbers: set[int | str] = set()

    def __len__(self) -> int:
        return len(self._holders) + len(self._numbers)

    def take(self, record: Record) -> Record | Call | None:
        """Take the record's id; returns who has it, if it is taken: the record itself if that is a plain call."""
        id = record.job.id
        if self._is_automatic_and_open(id):
            return record
        holder = self._holders.setdefault(id, record)
        return None if holder is record else holder

    def _is_automatic_and_open(self, id: str) -> bool:
        number = id.removeprefix(AUTOMATIC)
        return bool(self._numbers) and number.isdecimal() and number != id and int(number) in self._numbers

    def replace(self, record: Record) -> None:
        """Take the record's id from a holder that is over."""
        self._holders[record.job.id] = record

    def take_fresh(self, call: Call) -> bool:
        """Take an id that was made a moment ago; False: somebody had chosen the very same."""
        if self._holders and call.id in self._holders:
            return False
        self._numbers.add(call.label)
        return True

    def take_call(self, call: Call) -> bool:
        """Take the id of a job that is a call of a span; False: it is taken."""
        id = call.label
        if not isinstance(id, str):
            if id in self._numbers or (self._holders and call.id in self._holders):
                return False
            self._numbers.add(id)
            return True
        return not self._is_automatic_and_open(id) and id not in self._holders and (
            self._holders.setdefault(id, call) is call
        )  # fmt: skip

    def become_record(self, call: Call, record: Record) -> None:
        """What was to be a call is a record."""
        self._numbers.discard(call.label)
        self._holders[record.job.id] = record

    def release(self, record: Record) -> None:
        """The record has ended."""
        if self._holders.get(record.job.id) is record:
            del self._holders[record.job.id]

    def release_id(self, id: str) -> None:
        """What had it was not let in."""
        self._holders.pop(id, None)

    def release_calls(self, calls: Sequence[Call]) -> None:
        """These have ended."""
        labels = [call.label for call in calls]
        self._numbers.difference_update(labels)
        if self._holders:
            for label in labels:
                if isinstance(label, str):
                    self._holders.pop(label, None)
