"""What the machine allows: the same work by hand, without anything that makes an engine of it.

No result is safe here, no error comes back, nobody notices a death. These are lines to measure the
distance to, not alternatives.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from typing import Any

BATCH = 1_000  # jobs in a message; more brings nothing, measured
NUMBER_SIZE = 4  # bytes; it divides a page, so that no number is read in halves
IN_FLIGHT = 3  # messages on their way to or from each process


def ping_pong(n: int) -> list[float]:
    """Sends a small object through a pipe to another process and back, n times: the seconds of each trip."""
    here, there = Pipe()
    process = get_context("fork").Process(target=echo, args=(there, here))
    process.start()
    there.close()
    trips = []
    for number in range(n):
        start = time.perf_counter()
        here.send(number)
        here.recv()
        trips.append(time.perf_counter() - start)
    here.close()
    process.join()
    return trips


def echo(end: Connection[Any, Any], other_end: Connection[Any, Any]) -> None:
    other_end.close()
    try:
        while True:
            end.send(end.recv())
    except EOFError:
        pass


def bare_forks(fn: Callable[[Any], Any], values: list[Any], workers: int) -> None:
    """Forks once a worker, hands each its share beforehand and waits: no message, no result."""
    pids = []
    for worker in range(workers):
        pid = os.fork()
        if not pid:
            for value in values[worker::workers]:
                fn(value)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


def greedy_forks(fn: Callable[[Any], Any], values: list[Any], workers: int) -> None:
    """Greedy scheduling in the given order, at next to no cost: who is free takes the next number from a pipe.

    All numbers are in the pipe before the first fork, and the kernel gives each to one reader.
    """
    numbers = b"".join(number.to_bytes(NUMBER_SIZE, "little") for number in range(len(values)))
    taking, giving = os.pipe()
    os.set_blocking(giving, False)
    if os.write(giving, numbers) != len(numbers):
        raise ValueError(f"{len(values):,} jobs are more than there is room for in a pipe")
    os.close(giving)
    pids = []
    for _ in range(workers):
        pid = os.fork()
        if not pid:
            while number := os.read(taking, NUMBER_SIZE):
                fn(values[int.from_bytes(number, "little")])
            os._exit(0)
        pids.append(pid)
    os.close(taking)
    for pid in pids:
        os.waitpid(pid, 0)


class BatchLoop:
    """Processes that take lists of values from a pipe each and send back lists of results."""

    def __init__(self, fn: Callable[[Any], Any], workers: int) -> None:
        context = get_context("fork")
        self._ends: list[Connection[Any, Any]] = []
        self._processes = []
        for _ in range(workers):
            here, there = Pipe()
            # A forked process also holds what was open before: each gets the list, to close it.
            inherited = [*self._ends, here]
            process = context.Process(target=run_batches, args=(fn, there, inherited))
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)

    def map_unordered(self, values: Iterable[Any]) -> Iterator[Any]:
        """The results of all values, a batch at a time, as they come."""
        source = iter(values)
        waiting = deque(end for _ in range(IN_FLIGHT) for end in self._ends)
        busy = 0
        while True:
            while waiting and (batch := list(islice(source, BATCH))):
                waiting.popleft().send(batch)
                busy += 1
            if not busy:
                return
            for end in wait(self._ends):
                assert isinstance(end, Connection)
                yield from end.recv()
                busy -= 1
                waiting.append(end)

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join()


def run_batches(fn: Callable[[Any], Any], end: Connection[Any, Any], others: list[Connection[Any, Any]]) -> None:
    for other in others:
        other.close()
    try:
        while True:
            end.send([fn(value) for value in end.recv()])
    except EOFError:
        pass
