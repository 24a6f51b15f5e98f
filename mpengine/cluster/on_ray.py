"""The nodes of a Ray cluster, reached by actors.

A node of ours is a Ray node, of which one actor has all CPUs for itself; in it is the agent. Ray neither starts an
actor of ours anew nor repeats a call to it, and ends it when this program ends.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from typing import Any

from mpengine.cluster.agent import Agent, NoSuchAgent
from mpengine.cluster.driver import Done, NodeGone

_AT_ONCE = 8  # calls of an agent: one is a `take`, which waits


class Actor:
    """Has the agent. Bytes go in and come out, for Ray takes several times as long to pickle anything else."""

    def __init__(self, spec: bytes, slots: int) -> None:
        self._agent = Agent(spec, slots)

    def call(self, call: bytes) -> bytes:
        """A method's name and arguments, pickled; and what it returns."""
        method, args = pickle.loads(call)
        return pickle.dumps(getattr(self._agent, method)(*args), pickle.HIGHEST_PROTOCOL)


class RayDriver:
    """See `driver.Driver`.

    Args:
        address: "ray://host:port"; None: the cluster this program has joined, can join, or starts. A program that is in
            a cluster stays in that, whatever the address.
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
        self._gone: tuple[type[BaseException], ...] = (ray.exceptions.RayActorError, ray.exceptions.RaySystemError)
        self.what = "Ray" if address is None else f"Ray at {address}"
        self._actors: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = False
        _join(ray, address, self.what)
        self._remote = ray.remote(Actor)

    def nodes(self) -> dict[str, int]:
        """Ids of the nodes that are alive, and their CPUs."""
        return {
            node["NodeID"]: int(node["Resources"]["CPU"])
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        }

    def start(self, key: str, slots: int, spec: bytes, done: Done) -> None:
        """As in `Driver`. The handle: the actor."""
        try:
            actor = self._remote.options(
                num_cpus=slots, max_restarts=0, max_task_retries=0, max_concurrency=_AT_ONCE,
                scheduling_strategy=self._affinity(key, soft=False),
            ).remote(spec, slots)  # fmt: skip
        except Exception as error:  # this program has left Ray
            done(None, error)
            return
        with self._lock:
            self._actors.add(actor)
        self.call(actor, "about", (), lambda about, error: done((actor, about), error))

    def call(self, handle: Any, method: str, args: tuple[Any, ...], done: Done) -> None:
        """As in `Driver`."""

        def called(future: Any) -> None:
            try:
                answer = pickle.loads(future.result())
            except Exception as error:
                cause = getattr(error, "cause", None)  # a RayTaskError has the actor's own exception
                if isinstance(error, (*self._gone, NoSuchAgent)) or isinstance(cause, NoSuchAgent):
                    error = NodeGone(f"its actor has ended: {' '.join(str(error).split())[:500]}")
                done(None, error)
            else:
                done(answer, None)

        try:
            future = handle.call.remote(pickle.dumps((method, args), pickle.HIGHEST_PROTOCOL)).future()
        except Exception as error:  # this program has left Ray
            done(None, NodeGone(str(error)))
            return
        future.add_done_callback(called)

    def kill(self, handle: Any) -> None:
        """As in `Driver`."""
        with self._lock:
            self._actors.discard(handle)
        with contextlib.suppress(Exception):  # it is gone, or Ray is
            self._ray.kill(handle)

    def close(self) -> None:
        """As in `Driver`. A cluster that was joined or started for engines is left with the last of them."""
        with self._lock:
            actors, closed, self._closed = list(self._actors), self._closed, True
        for actor in actors:
            self.kill(actor)
        if not closed:
            _leave(self._ray)


# ---- a program is in one Ray cluster at a time -----------------------------------------------------------------------

_joining = threading.Lock()
_engines = 0
_ours = False  # it was joined, or started, for engines


def _join(ray: Any, address: str | None, what: str) -> None:
    """Be in a cluster: the one that the program is in, or that one."""
    global _engines, _ours
    with _joining:
        if not ray.is_initialized():
            try:
                if address is None:
                    ray.init(logging_level="error")
                else:
                    ray.init(address, logging_level="error")
            except Exception as error:
                raise ConnectionError(
                    f"{what} does not answer: {' '.join(str(error).split())}; is it running, and is this its address?"
                ) from error
            _ours = True
        _engines += 1


def _leave(ray: Any) -> None:
    """One engine less; the last one leaves the cluster, unless the program was in it before."""
    global _engines, _ours
    with _joining:
        _engines -= 1
        if not _engines and _ours:
            _ours = False
            ray.shutdown()
