"""What it takes to reach the nodes of one kind of cluster: its public client, and nothing else.

A driver knows nothing of jobs. Its methods are called by the dispatcher thread and must not block, but for `nodes`,
which is called in a thread of its own, and `close`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Done = Callable[[Any, BaseException | None], None]  # a result, or why there is none; called once, in any thread


class NodeGone(Exception):
    """The process that an agent was in is gone, or the agent has ended: asking again is of no use."""


class Driver(Protocol):
    """See the module's text.

    Attributes:
        what: The cluster, for messages.
    """

    what: str

    def nodes(self) -> dict[str, int]:
        """The nodes that are there now, and how many jobs each can run at once. Blocks; raises if it cannot be told."""

    def start(self, key: str, slots: int, spec: bytes, done: Done) -> None:
        """Start an `Agent` on this node; `done` gets its handle and what its `about` says."""

    def call(self, handle: Any, method: str, args: tuple[Any, ...], done: Done) -> None:
        """Call a method of an agent; NodeGone if there is no such agent any more."""

    def kill(self, handle: Any) -> None:
        """End an agent, and all it runs, as fast as may be. Does nothing for one that has ended."""

    def close(self) -> None:
        """Let go of the cluster. Blocks for a moment."""
