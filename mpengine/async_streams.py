"""`Engine.arun`: the stream of `run`, consumed in an event loop. Imported when used: asyncio is large.

    jobs ─ drawer thread ─▶ (as for `run`) ─▶ mailbox ─▶ the task that iterates
     │ async: _Fed, its task draws                └─ bell: call_soon_threadsafe, only if that task waits

Rules:
1. Nothing in the loop's thread blocks: the input is drawn and pickled by the drawer thread; one that is asynchronous by
   a task, a few jobs ahead of the drawer.
2. No thread waits for the loop's sake. What has arrived is taken in lots, without a word to the loop; that is called
   when the consumer has found its mailbox empty, and gets its turn at least every few milliseconds.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from typing import Any

from mpengine.core.job import Job, Outcome
from mpengine.mailbox import End
from mpengine.runtime.clock import monotonic
from mpengine.streams import RunStream

_FED_AHEAD = 64  # jobs of an asynchronous input that the drawer has not taken
_TURN_S = 0.002  # how long a consumer that always finds something keeps the loop from others


async def iterate(
    jobs: Iterable[Job] | AsyncIterable[Job], make_stream: Callable[[Iterator[Any]], RunStream], engine: object
) -> AsyncGenerator[Outcome, None]:
    """Outcomes. It keeps the engine alive, and no reference to what it has handed out.

    Args:
        make_stream: Begins to draw from the iterator it is given, in a thread.
    """
    loop = asyncio.get_running_loop()
    fed = _Fed(jobs, loop) if isinstance(jobs, AsyncIterable) else None
    stream = None
    try:
        stream = make_stream(iter(jobs) if fed is None else fed)  # type: ignore[arg-type]
        post = _Post(stream, loop)
        turn_ends = monotonic() + _TURN_S
        while True:
            outcomes = await _arrived(stream, post)
            if outcomes is None:
                stream.raise_problem()
                return
            if post.has_waited:
                post.has_waited = False
                turn_ends = monotonic() + _TURN_S
            elif monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = monotonic() + _TURN_S
            for outcome in stream.handing_out(outcomes):
                box = [outcome]
                del outcome
                yield box.pop()
    finally:
        if stream is not None:
            stream.close()
        if fed is not None:
            fed.close()


async def _arrived(stream: RunStream, post: _Post) -> list[Outcome] | None:
    """The next to hand out; None if there is no more."""
    while (outcomes := stream.early()) is None:
        received = await post.receive()
        if received is None:
            return None
        outcomes = stream.take_in(received)
        if outcomes is not None:
            break
    return outcomes


class _Post:
    """A stream's mailbox, to be waited for in the loop."""

    def __init__(self, stream: RunStream, loop: asyncio.AbstractEventLoop) -> None:
        self.has_waited = False
        self._stream = stream
        self._mailbox = stream.mailbox
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._mailbox.bell = self._ring

    async def receive(self) -> Any:
        """The next result that arrives, of whatever job; None: there are no more."""
        while not self._stream.is_over():
            try:
                arrived = self._mailbox.receive(0)
            except queue.Empty:
                await self._wait()
                continue
            if not isinstance(arrived, End):
                return arrived
            self._stream.end = arrived
        return None

    async def _wait(self) -> None:
        self.has_waited = True
        self._waiter = self._loop.create_future()
        try:
            if self._mailbox.empty():  # looked at again, for the bell is heard only from now on
                await self._waiter
        finally:
            self._waiter = None

    def _ring(self) -> None:
        """From the thread that has put something in."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            _call(self._loop, _wake, waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _call(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(what, *args)
    except RuntimeError:  # it is closed: nobody waits any more
        return


class _Fed(Iterator[Any]):
    """An asynchronous input, as the drawer thread sees it: `next` waits until the task has drawn one."""

    def __init__(self, jobs: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._drawn: queue.SimpleQueue[tuple[Any] | BaseException | None] = queue.SimpleQueue()
        self._room = asyncio.Event()
        self._is_full = False
        self._closed = False
        self._task = loop.create_task(self._feed(jobs))

    def __next__(self) -> Any:
        item = self._drawn.get()
        if item is None:
            self._drawn.put(None)
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        if self._is_full and self._drawn.qsize() <= _FED_AHEAD // 2:
            self._is_full = False
            _call(self._loop, self._room.set)
        return item[0]

    async def _feed(self, jobs: AsyncIterable[Any]) -> None:
        try:
            async for job in jobs:
                self._drawn.put((job,))
                if self._drawn.qsize() >= _FED_AHEAD:
                    await self._wait_for_room()
        except (Exception, asyncio.CancelledError) as error:
            if self._closed:
                return
            self._drawn.put(error)
        finally:
            self._drawn.put(None)

    async def _wait_for_room(self) -> None:
        self._room.clear()
        self._is_full = True
        if self._drawn.qsize() > _FED_AHEAD // 2:  # looked at again: the drawer may have taken them before
            await self._room.wait()

    def close(self) -> None:
        """Nobody wants more. In the loop."""
        self._closed = True
        self._task.cancel()
        self._drawn.put(None)
