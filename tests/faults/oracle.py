"""What really happened, from a file that every job appends to, against what the engine said."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Diary:
    """The file of `jobs.note`: one "begin id" and one "end id" per job that ran."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def read(self) -> tuple[Counter[str], Counter[str]]:
        """How often each id began and ended."""
        begun: Counter[str] = Counter()
        ended: Counter[str] = Counter()
        for line in self.path.read_text().splitlines():
            what, id = line.split()
            (begun if what == "begin" else ended)[id] += 1
        return begun, ended

    def check(self, outcomes: Mapping[Any, Any], kills: int) -> None:
        """Exactly one outcome per job is the caller's to see; here: at most one lost per kill, none begun twice."""
        begun, ended = self.read()
        twice = [id for id, times in begun.items() if times > 1]
        assert not twice, f"begun more than once: {twice[:10]}"
        lost = []
        for id, outcome in outcomes.items():
            name = str(id)
            if outcome.status == "succeeded":
                assert outcome.value == id
                assert ended[name] == 1, f"{name} succeeded and did not end"
            else:
                assert outcome.status == "lost", f"{name}: {outcome.status}, {outcome.error!r}"
                lost.append(name)
        assert len(lost) <= kills, f"{len(lost)} jobs lost by {kills} kills"
        known = {str(id) for id in outcomes}
        assert set(begun) <= known
