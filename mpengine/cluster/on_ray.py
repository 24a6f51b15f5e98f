"""The nodes of a Ray cluster, reached by actors.

A node of ours is a Ray node, of which one actor has all CPUs for itself; in it is the agent. Ray neither starts an
actor of ours anew nor repeats a call to it, and ends it when this program ends.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from mpengine.cluster.agent import Agent, NoSuchAgent
from mpengine.cluster.driver import Done, NodeGone

_AT_ONCE = 8  # calls of an agent: one is a `take`, which waits


class RayDriver:
    """See `driver.Driver`.

    Args:
        address: "ray://host:port"; None: the cluster this program has joined, can join, or starts.
    """

    def __init__(self, address: str | None) -> None:
        try:
            import ray
            import ray.exceptions
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        except ImportError as error:
            raise ImportError("an engine on Ray needs ray: pip install 'mpengine[ray]'") from error
        self._ray = ray
        self._affinity = NodeAffinitySchedulingStrategy
        self._gone = (ray.exceptions.RayActorError, ray.exceptions.RaySystemError)
        self.what = "Ray" if address is None else f"Ray at {address}"
        self._context: Any = None
        self._actors: set[Any] = set()
        self._lock = threading.Lock()
        if address is not None:
            try:
                # A connection of its own, beside one that the program may have.
                self._context = ray.init(address, allow_multiple=True, logging_level="error", log_to_driver=True)
            except Exception as error:
                raise ConnectionError(
                    f"{self.what} does not answer: {error}; is its client server running, and is this its address?"
                ) from error
        elif not ray.is_initialized():
            ray.init(logging_level="error", include_dashboard=False)
        self._remote = ray.remote(Agent)

    def _connected(self) -> Any:
        """A context in which calls of Ray go to our cluster."""
        return contextlib.nullcontext() if self._context is None else self._context

    def nodes(self) -> dict[str, int]:
        """Ids of the nodes that are alive, and their CPUs."""
        with self._connected():
            nodes = self._ray.nodes()
        return {
            node["NodeID"]: int(node["Resources"]["CPU"])
            for node in nodes
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        }

    def start(self, key: str, slots: int, spec: bytes, done: Done) -> None:
        """As in `Driver`. The handle: the actor."""
        with self._connected():
            actor = self._remote.options(
                num_cpus=slots, max_restarts=0, max_task_retries=0, max_concurrency=_AT_ONCE,
                scheduling_strategy=self._affinity(key, soft=False), name=None,
            ).remote(spec, slots)  # fmt: skip
            with self._lock:
                self._actors.add(actor)
            self.call(actor, "about", (), lambda about, error: done((actor, about), error))

    def call(self, handle: Any, method: str, args: tuple[Any, ...], done: Done) -> None:
        """As in `Driver`."""

        def called(future: Any) -> None:
            error = future.exception()
            if error is None:
                done(future.result(), None)
                return
            cause = getattr(error, "cause", None)  # a RayTaskError has the actor's own exception
            if isinstance(error, self._gone) or isinstance(cause, NoSuchAgent) or isinstance(error, NoSuchAgent):
                error = NodeGone(f"its actor has ended: {' '.join(str(error).split())[:500]}")
            done(None, error)

        try:
            with self._connected():
                future = getattr(handle, method).remote(*args).future()
        except Exception as error:  # this program has left Ray
            done(None, NodeGone(str(error)))
            return
        future.add_done_callback(called)

    def kill(self, handle: Any) -> None:
        """As in `Driver`."""
        with self._lock:
            self._actors.discard(handle)
        with contextlib.suppress(Exception), self._connected():  # it is gone, or Ray is
            self._ray.kill(handle)

    def close(self) -> None:
        """As in `Driver`. What this program has joined or started before it stays."""
        with self._lock:
            actors = list(self._actors)
        for actor in actors:
            self.kill(actor)
        if self._context is not None:
            with contextlib.suppress(Exception):
                self._context.disconnect()
