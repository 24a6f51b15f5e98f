"""The nodes of an engine: who is there, and the mail to and from each. Dispatcher thread only, but for what is said.

    found ──start──▶ STARTING ──its agent answers──▶ READY ──close, kill──▶ gone
                        └──it cannot start: tried again later       └──silent, or its process is gone──▶ lost

Of the two calls to an agent, `give` is under way only when there is something to say, one at a time; `take` always is.
One that fails is tried again until the node has been silent for `SILENCE_S`, unless it is known to be gone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from mpengine.cluster import payloads
from mpengine.cluster.agent import About, Ending
from mpengine.cluster.driver import Driver, NodeGone
from mpengine.cluster.payloads import CarriedFunction, Payload, SharedAbroad
from mpengine.core.policy import Rung
from mpengine.core.records import Record
from mpengine.errors import WorkerStartError
from mpengine.runtime.clock import monotonic
from mpengine.snapshot import WorkerRow

logger = logging.getLogger("mpengine")

LINGER_S = 0.002  # for which it waits for the end of what an idle node was given: so a short job is one call
WAIT_S = 1.0  # for which an agent holds a `take` that it has nothing for
SILENCE_S = 30.0  # as the agent's LEASE_S: by then it has ended its jobs
RETRY_S = 0.25  # before a call that failed is tried again
LOOK_S = 1.0  # between two looks at who is there
REST_S = 5.0  # before a node that could not start is tried again
CLUSTER_GONE_S = 15.0  # for which nobody could tell who is there


class Keeper(Protocol):
    """Whom the nodes tell: the dispatcher."""

    def post(self, what: Callable[[], None]) -> None:
        """Have the dispatcher thread do this. Any thread."""

    def node_ready(self, node: NodeLink) -> None: ...

    def node_lost(self, node: NodeLink, reason: str) -> None: ...

    def node_told(self, node: NodeLink, message: Any) -> None: ...

    def node_failed(self, name: str, error: BaseException) -> None:
        """It could not start."""

    def cluster_gone(self, error: BaseException) -> None: ...


class NodeLink:
    """One node whose agent has started, and the mail to it and from it.

    Attributes:
        name: For messages.
        about: Who the agent is.
        rows: How its workers stood, when they were last told.
        rung: How far it has been asked to go.
        held: Jobs that were handed over and have not ended.
    """

    def __init__(self, id: int, key: str, slots: int, handle: Any, about: About, nodes: Nodes) -> None:
        self.id = id
        self.key = key
        self.slots = slots
        self.about = about
        self.name = f"node {key} (pid {about.pid} on {about.host})"
        self.rows: list[WorkerRow] = []
        self.rung = Rung.DIED
        self.held = 0
        self.gone = False
        self._handle = handle
        self._nodes = nodes
        self._driver = nodes.driver
        self._outgoing: list[tuple[Any, ...]] = []
        self._outgoing_batches: set[int] = set()
        self._bundle: bytes | None = None  # under way, or to be tried again
        self._number = 0  # of the last bundle
        self._confirmed = 0  # number of the last message that was taken in, and so all before it
        self._early: dict[int, Any] = {}  # messages that came before those with smaller numbers
        self._linger_s = 0.0
        self._known: set[int] = set()  # functions and shared objects that it was told of
        self._heard_at = monotonic()
        self._retries: list[tuple[float, Callable[[], None]]] = []

    # ---- to the node -------------------------------------------------------------------------------------------------

    def run(self, batch: int, record: Record, now: float) -> None:
        """Send a job, and first what it needs."""
        payload = record.payload
        assert isinstance(payload, Payload)
        function = payload.function
        for one in payload.shared.values():
            self._share(one)
        if function is not None:
            self._tell_function(function)
        remaining = None if record.deadline is None else max(0.0, record.deadline - now)
        self._outgoing_batches.add(batch)
        self._send(
            "run", batch, record.job.id, record.job.name, record.attempt, record.retries, record.timeout, remaining,
            record.key, None if function is None else function.number, tuple(payload.shared), bytes(payload),
        )  # fmt: skip

    def _share(self, shared: SharedAbroad[Any]) -> None:
        if shared.number not in self._known:
            self._known.add(shared.number)
            self._send("share", shared.number, list(shared.parts))

    def _tell_function(self, function: CarriedFunction) -> None:
        if function.number not in self._known:
            self._known.add(function.number)
            self._send("function", function.number, function.blob)

    def cancel(self, batch: int) -> None:
        """End a job, running or not."""
        self._send("cancel", batch)

    def recall(self, batch: int) -> None:
        """Give a job back, unless it has started."""
        self._send("recall", batch)

    def forget(self, number: int) -> None:
        """Nobody here will need this function or shared object any more."""
        if number in self._known:
            self._known.discard(number)
            self._send("forget", number)

    def _send(self, *message: Any) -> None:
        self._outgoing.append(message)
        self._nodes.with_mail.add(self)

    def flush(self) -> None:
        """Hand over what has gathered, unless a bundle is under way."""
        if self._bundle is None and self._outgoing and not self.gone:
            self._number += 1
            # All it has, as far as is known, is what it is about to get.
            self._linger_s = LINGER_S if 0 < len(self._outgoing_batches) <= self.slots and not self.held else 0.0
            self.held += len(self._outgoing_batches)
            self._bundle = payloads.dumps(self._outgoing)
            self._outgoing.clear()
            self._outgoing_batches.clear()
            self._give()

    def unsent(self) -> set[int]:
        """Batches that were not handed over."""
        return self._outgoing_batches

    def _give(self, again: bool = False) -> None:
        args = (self._number, self._bundle, self._confirmed, self._linger_s, again)
        self._call("give", args, self._given, lambda: self._give(again=True))

    def _given(self, result: Any) -> None:
        self._bundle = None
        self._nodes.with_mail.add(self)
        self._told(result)

    # ---- from the node -----------------------------------------------------------------------------------------------

    def listen(self, again: bool = False) -> None:
        """Ask for what it has to say; from now on always."""
        args = (self._confirmed, WAIT_S, again)
        self._call("take", args, self._taken, lambda: self.listen(again=True))

    def _taken(self, result: Any) -> None:
        messages, rows = result
        if rows is not None:
            self.rows = rows
        self._nodes.to_hear.add(self)  # once what came is delivered: to ask takes longer than to tell
        self._told(messages)

    def _told(self, messages: Iterable[tuple[int, Any]]) -> None:
        """Take these in, each once and in their order: the answers to two calls may cross."""
        self._early.update((number, message) for number, message in messages if number > self._confirmed)
        while (message := self._early.pop(self._confirmed + 1, None)) is not None:
            self._confirmed += 1
            self.held -= isinstance(message, Ending)
            self._nodes.keeper.node_told(self, message)

    # ---- the line ----------------------------------------------------------------------------------------------------

    def _call(
        self, method: str, args: tuple[Any, ...], done: Callable[[Any], None], again: Callable[[], None]
    ) -> None:  # fmt: skip
        def answered(result: Any, error: BaseException | None) -> None:
            self._nodes.keeper.post(lambda: self._answered(result, error, done, again))

        self._driver.call(self._handle, method, args, answered)

    def _answered(
        self, result: Any, error: BaseException | None, done: Callable[[Any], None], again: Callable[[], None]
    ) -> None:  # fmt: skip
        if self.gone:
            return
        if error is None:
            self._heard_at = monotonic()
            done(result)
        elif isinstance(error, NodeGone):
            self.lost(str(error))
        else:
            logger.debug("%s: a call failed and is tried again: %r", self.name, error)
            self._retries.append((monotonic() + RETRY_S, again))

    def lost(self, reason: str, *, ended: bool = False) -> None:
        """It is gone, or as good as that. `ended`: its agent has ended, as far as it can."""
        if not self.gone:
            self.gone = True
            if not ended:
                self._driver.kill(self._handle)
            self._nodes.forget(self)
            self._nodes.keeper.node_lost(self, reason)

    def look_after(self, now: float) -> None:
        """Try again what failed; give up what is silent."""
        due = [again for at, again in self._retries if at <= now]
        self._retries = [(at, again) for at, again in self._retries if at > now]
        if now - self._heard_at > SILENCE_S:
            self.lost(f"it has not answered for {SILENCE_S:g} s")
            return
        for again in due:
            again()

    def due(self) -> float:
        """When it is to be looked after."""
        return min([self._heard_at + SILENCE_S + 0.001, *(at for at, _ in self._retries)])

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None) -> None:
        """Have its engine end: within `timeout` seconds, else when its jobs have ended."""
        self.rung = Rung.PILL if timeout is None else Rung.TERMINATED

        def closed(last_words: Any, error: BaseException | None) -> None:
            if error is None and not self.gone:
                self._told(last_words)
            self.lost("it was closed", ended=error is None)

        def answered(result: Any, error: BaseException | None) -> None:
            self._nodes.keeper.post(lambda: closed(result, error))

        self._driver.call(self._handle, "close", (timeout,), answered)

    def kill(self) -> None:
        """End it at once."""
        self.rung = Rung.KILLED
        self.lost("it was killed")


class Nodes:
    """All of them.

    Args:
        spec: For their agents.
        most: Slots in all; None: as many as there are.

    Attributes:
        links: Those that are ready, by id.
        starting: Keys of those that are about to be.
        with_mail: Those that have something to be sent.
        to_hear: Those that are to be asked for more.
        seen: Whether it is known who is there.
    """

    def __init__(self, driver: Driver, spec: bytes, most: int | None, keeper: Keeper, name: str) -> None:
        self.driver = driver
        self.keeper = keeper
        self.links: dict[int, NodeLink] = {}
        self.starting: dict[str, int] = {}
        self.with_mail: set[NodeLink] = set()
        self.to_hear: set[NodeLink] = set()
        self.seen = False
        self._spec = spec
        self._most = most
        self._ids = 0
        self._resting: dict[str, float] = {}  # until when a node that could not start is left alone
        self._closing = threading.Event()
        self._unseen_since: float | None = None
        self._watcher = threading.Thread(target=self._watch, name=f"{name}-watcher", daemon=True)

    @property
    def slots(self) -> int:
        """Of all that are ready."""
        return sum(link.slots for link in list(self.links.values()))

    def begin(self) -> None:
        """Look who is there, from now on."""
        self._watcher.start()

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                found = self.driver.nodes()
            except Exception as error:  # a client's, which may be anything
                self.keeper.post(lambda error=error: self._not_found(error))  # type: ignore[misc]
            else:
                self.keeper.post(lambda found=found: self._found(found))  # type: ignore[misc]
            self._closing.wait(LOOK_S)

    def _not_found(self, error: BaseException) -> None:
        now = monotonic()
        if self._unseen_since is None:
            self._unseen_since = now
        if now - self._unseen_since > CLUSTER_GONE_S or not self.seen:
            self.keeper.cluster_gone(error)

    def _found(self, found: dict[str, int]) -> None:
        if self._closing.is_set():
            return
        self.seen = True
        self._unseen_since = None
        now = monotonic()
        here = {link.key for link in self.links.values()}
        for link in [link for link in self.links.values() if link.key not in found]:
            link.lost("the cluster has taken it off", ended=True)  # or is about to; its lease sees to the rest
        left = None if self._most is None else self._most - self.slots - sum(self.starting.values())
        for key, slots in found.items():
            if key in here or key in self.starting or self._resting.get(key, 0.0) > now:
                continue
            wanted = slots if left is None else min(slots, left)
            if wanted > 0:
                left = None if left is None else left - wanted
                self._start(key, wanted)

    def _start(self, key: str, slots: int) -> None:
        self.starting[key] = slots

        def done(result: Any, error: BaseException | None) -> None:
            self.keeper.post(lambda: self._started(key, slots, result, error))

        self.driver.start(key, slots, self._spec, done)

    def _started(self, key: str, slots: int, result: Any, error: BaseException | None) -> None:
        self.starting.pop(key, None)
        if error is not None:
            self.rest(key)
            self.keeper.node_failed(key, error)
            return
        handle, about = result
        if self._closing.is_set():
            self.driver.kill(handle)
            return
        here = About(0, "")
        if (about.python, about.version) != (here.python, here.version):
            self.rest(key)
            self.driver.kill(handle)
            self.keeper.node_failed(
                key,
                WorkerStartError(
                    f"it has Python {about.python} and mpengine {about.version}, this program Python {here.python} and "
                    f"mpengine {here.version}; use the same here and there"
                ),
            )
            return
        self._ids += 1
        link = self.links[self._ids] = NodeLink(self._ids, key, slots, handle, about, self)
        link.listen()
        self.keeper.node_ready(link)

    def rest(self, key: str) -> None:
        """Leave this node alone for a while."""
        now = monotonic()
        self._resting = {one: until for one, until in self._resting.items() if until > now}
        self._resting[key] = now + REST_S

    def forget(self, link: NodeLink) -> None:
        """It is gone."""
        self.links.pop(link.id, None)
        self.with_mail.discard(link)
        self.to_hear.discard(link)

    def flush(self) -> None:
        """At the end of a turn: hand over what has gathered."""
        while self.with_mail:
            self.with_mail.pop().flush()

    def listen(self) -> None:
        """At the very end of a turn: ask for more."""
        while self.to_hear:
            self.to_hear.pop().listen()

    def look_after(self, now: float) -> None:
        """Of each, what time has brought."""
        for link in list(self.links.values()):
            link.look_after(now)

    def due(self) -> Iterable[float]:
        """When they are to be looked after."""
        return [link.due() for link in self.links.values()]

    def stop(self) -> None:
        """Start none any more."""
        self._closing.set()

    def close(self) -> None:
        """Let go of the cluster. Blocks for a moment."""
        self.stop()
        if self._watcher.is_alive():
            self._watcher.join(LOOK_S)
        self.driver.close()
