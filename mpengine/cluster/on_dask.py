"""The workers of a Dask cluster, reached over `distributed.Client`.

A node is a Dask worker process. Its agent is called by `Client.run`, which runs a function there beside Dask's own
tasks, and never a second time; so an agent is no task, takes none of the worker's threads, and the scheduler moves and
repeats nothing of ours. A worker that Dask starts anew, perhaps at the same address, knows nothing of the agent that
was there, and says so.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from mpengine.cluster.agent import About, Agent, NoSuchAgent
from mpengine.cluster.driver import Done, NodeGone
from mpengine.runtime.clock import monotonic

CONNECT_S = 10.0
ANSWER_S = 10.0  # for the scheduler to say who is there
GOODBYE_S = 2.0

# ---- on a Dask worker ------------------------------------------------------------------------------------------------

_agents: dict[str, Agent] = {}
_agent_numbers = itertools.count(1)
_threads: concurrent.futures.ThreadPoolExecutor | None = None


def _in_thread() -> concurrent.futures.ThreadPoolExecutor:
    global _threads
    if _threads is None:
        _threads = concurrent.futures.ThreadPoolExecutor(64, "mpengine-agent")
        threading._register_atexit(_end_agents)  # type: ignore[attr-defined]  # before engines finish what they have
    return _threads


def _end_agents() -> None:
    """The Dask worker leaves: nobody would hear of what its jobs come to."""
    for agent in _agents.values():
        agent.close(0.0)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Dask logs each call of a function that is no task: of ours there may be hundreds a second."""
    return not (isinstance(record.args, tuple) and record.args[:1] == (call_agent.__name__,))


def _start(spec: bytes, slots: int) -> tuple[str, About]:
    logging.getLogger("distributed.worker").addFilter(_is_wanted)  # the same one again is no other
    agent = Agent(spec, slots)
    name = f"{os.getpid()}-{next(_agent_numbers)}"
    _agents[name] = agent
    return name, agent.about()


async def start_agent(spec: bytes, slots: int) -> tuple[str, About]:
    """Start one; returns its name."""
    return await asyncio.get_running_loop().run_in_executor(_in_thread(), _start, spec, slots)


async def call_agent(name: str, method: str, args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Call a method; its error is a result, of which Dask writes no log."""
    agent = _agents.get(name)
    if agent is None:
        return None, NoSuchAgent("its process was started anew")
    try:
        result = await asyncio.get_running_loop().run_in_executor(_in_thread(), getattr(agent, method), *args)
    except Exception as error:
        return None, error
    if method == "close":
        _agents.pop(name, None)
    return result, None


# ---- here ------------------------------------------------------------------------------------------------------------


class DaskDriver:
    """See `driver.Driver`. Has an event loop, in a thread of its own, and a client in that.

    Args:
        address: Of the scheduler, as Dask writes it.
        security: As of a `distributed.Client`.
    """

    def __init__(self, address: str, security: Any = None) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise ImportError("an engine on Dask needs distributed: pip install 'mpengine[dask]'") from error
        self.what = f"the Dask scheduler at {address}"
        self._kills: list[threading.Event] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mpengine-dask", daemon=True)
        self._thread.start()

        async def connect() -> Any:
            client = Client(
                address, asynchronous=True, security=security, set_as_default=False, timeout=CONNECT_S, name="mpengine"
            )
            try:
                return await client
            except BaseException:
                await client.close()
                raise

        try:
            self._client = self._wait(connect(), CONNECT_S + GOODBYE_S)
        except Exception as error:
            self._end_loop()
            raise ConnectionError(
                f"{self.what} does not answer: {type(error).__name__}: {error}; is it running, and is this its address?"
            ) from error

    @classmethod
    def to(cls, where: Any) -> DaskDriver:
        """One for an address "dask://host:port", or for the scheduler that a `distributed.Client` is connected to."""
        if isinstance(where, str):
            rest = where.removeprefix("dask://")
            host, _, port = rest.rpartition(":")
            if not host or not port.isdecimal():
                raise ValueError(f"connect: {where!r} is no address of a Dask scheduler; give dask://host:port")
            return cls(f"tcp://{rest}")
        scheduler = getattr(getattr(where, "scheduler", None), "address", None)
        if not isinstance(scheduler, str):
            raise TypeError(
                f"connect: a {type(where).__name__} is no address of an engine; give a string such as "
                '"dask://host:port", or a distributed.Client'
            )
        return cls(scheduler, getattr(where, "security", None))

    def _wait(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, seconds), self._loop).result()

    def nodes(self) -> dict[str, int]:
        """Addresses of the workers, and their threads."""

        async def ask() -> Any:
            return await self._client.nthreads()

        return dict(self._wait(ask(), ANSWER_S))

    def _run(self, key: str, done: Done, function: Callable[..., Any], *args: Any) -> None:
        """Run a function on a worker."""

        async def run() -> Any:
            answers = await self._client.run(function, *args, workers=[key], on_error="return")
            return answers[key]

        def finished(future: concurrent.futures.Future[Any]) -> None:
            if future.cancelled():
                done(None, NodeGone("the engine is closed"))
                return
            error = future.exception()
            result = None if error is not None else future.result()
            if isinstance(result, BaseException):
                result, error = None, result
            done(result, error)

        try:
            asyncio.run_coroutine_threadsafe(run(), self._loop).add_done_callback(finished)
        except RuntimeError:  # the loop is closed
            done(None, NodeGone("the engine is closed"))

    def start(self, key: str, slots: int, spec: bytes, done: Done) -> None:
        """As in `Driver`. The handle: address and name."""

        def started(result: Any, error: BaseException | None) -> None:
            if error is None:
                name, about = result
                result = ((key, name), about)
            done(result, error)

        self._run(key, started, start_agent, spec, slots)

    def call(self, handle: Any, method: str, args: tuple[Any, ...], done: Done) -> None:
        """As in `Driver`."""
        key, name = handle

        def called(result: Any, error: BaseException | None) -> None:
            if error is None:
                result, error = result
            if isinstance(error, NoSuchAgent):
                error = NodeGone(str(error))
            done(result, error)

        self._run(key, called, call_agent, name, method, args)

    def kill(self, handle: Any) -> None:
        """As in `Driver`: its jobs are ended; the Dask worker is Dask's."""
        killed = threading.Event()
        self._kills.append(killed)
        self.call(handle, "close", (0.0,), lambda result, error: killed.set())

    def close(self) -> None:
        """As in `Driver`."""
        if self._loop.is_closed():
            return

        deadline = monotonic() + GOODBYE_S
        for killed in self._kills:  # as far as they can be reached
            killed.wait(max(0.0, deadline - monotonic()))

        async def bye() -> None:
            await self._client.close()

        with contextlib.suppress(Exception):  # nobody is there to say it to
            self._wait(bye(), GOODBYE_S)
        self._end_loop()

    def _end_loop(self) -> None:
        async def cancel_all() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        with contextlib.suppress(Exception):  # one of Dask's takes its time
            self._wait(cancel_all(), GOODBYE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GOODBYE_S)
        if not self._thread.is_alive():
            self._loop.close()
