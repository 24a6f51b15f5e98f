"""The cases: what goes wrong, and what may be expected all the same.

What its user may expect is the same for every case and contender: only the culprit is
affected, every other job completes exactly once, the pool stays usable, and it can be shut down with
nothing left behind. A case adds what becomes of the culprit, and how the program that has it ends.
"""

import signal
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

END = "leaving the interpreter"  # the stage after the last
KILLED = "killing the program"
INTERRUPTED = "interrupted"

Fate = Literal["fails", "succeeds", "either"]


@dataclass(frozen=True)
class Case:
    """One misbehaviour.

    Attributes:
        title: As a row of the table; "a job" in it is the culprit.
        scenario: The function of program.py that plays it.
        misdeed: The function of misdeeds.py that the culprit runs.
        argument: The function of misdeeds.py that makes its argument, if it has one.
        culprit: What its outcome must be.
        needs_timeout: Whether the contender must be able to end a job by itself.
        last: The stage that the program must have come to.
        exit_codes: How it may end there; None: however it does.
    """

    name: str
    title: str
    scenario: str
    misdeed: str = ""
    argument: str = ""
    culprit: Fate = "fails"
    needs_timeout: bool = False
    last: str = END
    exit_codes: Collection[int] | None = (0,)


def among_others(name: str, title: str, misdeed: str, *, argument: str = "", culprit: Fate = "fails") -> Case:
    return Case(name, title, "culprit_among_others", misdeed, argument, culprit)


def too_long(name: str, title: str, misdeed: str) -> Case:
    return Case(name, title, "culprit_among_others", misdeed, needs_timeout=True)


def parent_killed(name: str, title: str, misdeed: str) -> Case:
    return Case(name, title, "parent_killed", misdeed, last=KILLED, exit_codes=(-signal.SIGKILL,))


CASES = (
    among_others("exit-0", "a job calls `os._exit(0)`", "exit_0"),
    among_others("exit-1", "a job calls `os._exit(1)`", "exit_1"),
    among_others("sigkill", "a job's worker is killed by SIGKILL, as the OOM killer does", "sigkill"),
    among_others("segfault", "a job crashes with a segmentation fault", "segfault"),
    among_others("descriptors", "a job closes every descriptor it finds", "close_descriptors", culprit="either"),
    Case("busy-killed", "all workers are killed by SIGKILL while busy", "busy_killed", "sleep"),
    Case("idle-killed", "all workers are killed by SIGKILL while idle", "idle_killed"),
    Case("idle-stopped", "an idle worker is stopped by SIGSTOP", "idle_stopped"),
    among_others("system-exit", "a job raises SystemExit", "raise_system_exit"),
    among_others("keyboard-interrupt", "a job raises KeyboardInterrupt", "raise_keyboard_interrupt"),
    too_long("timeout-asleep", "a job sleeps past its timeout", "sleep"),
    too_long("timeout-sigterm", "a job past its timeout ignores SIGTERM", "ignore_sigterm"),
    too_long("timeout-deaf", "a job past its timeout swallows every exception", "swallow_exceptions"),
    too_long("timeout-gil", "a job past its timeout holds the GIL in C", "hold_the_gil"),
    among_others("argument-dump", "an argument cannot be pickled", "echo", argument="unpicklable"),
    among_others("argument-load", "an argument cannot be unpickled in the worker", "echo", argument="unloadable"),
    among_others("result-dump", "a result cannot be pickled", "unpicklable"),
    among_others("result-load", "a result cannot be unpickled in the parent", "unloadable"),
    among_others("error-load", "an exception cannot be unpickled in the parent", "raise_needs_two"),
    Case("input-raises", "the input of a map raises half-way", "input_raises"),
    Case("input-endless", "the input of a map never ends, its consumer takes 100 and pauses", "input_endless"),
    Case("consumer-stops", "the consumer of a map takes 10 of 400 and drops the iterator", "consumer_stops"),
    among_others(
        "grandchild", "a job leaves a child process that holds all descriptors", "leave_a_child", culprit="succeeds"
    ),
    Case("initializer", "the initializer raises", "initializer_raises"),
    Case("shutdown-asleep", "a bounded shutdown while a job sleeps for ever", "abandoned", "sleep"),
    Case("shutdown-sigterm", "a bounded shutdown while a job ignores SIGTERM", "abandoned", "ignore_sigterm"),
    Case("ctrl-c", "Ctrl-C during a map over long jobs", "ctrl_c", "sleep", last=INTERRUPTED, exit_codes=None),
    parent_killed("parent-killed", "the program is killed by SIGKILL while its jobs sleep", "sleep"),
    parent_killed("parent-killed-gil", "the program is killed while its jobs hold the GIL in C", "hold_the_gil"),
)
