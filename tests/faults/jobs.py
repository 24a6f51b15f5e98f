"""Bodies of jobs that end badly, or do not end."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

from tests.runtime.gates import Door


def echo(value: Any = None) -> Any:
    return value


def pid(_: object = None) -> int:
    return os.getpid()


def call(function_and_argument: tuple[Any, Any]) -> Any:
    function, argument = function_and_argument
    return function(argument)


def make(kind: Any) -> Any:
    return kind()


def throw_new(kind: Any) -> None:
    raise kind("new")


def nest(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def depth_of(value: list[Any]) -> int:
    depth = 0
    while value:
        value = value[0]
        depth += 1
    return depth


def enter(door: Door, token: object = "", value: Any = None) -> Any:
    door.enter(token)
    return value


def take(seconds: float, value: Any = None) -> Any:
    """A job that takes so long."""
    time.sleep(seconds)
    return value


def pause(seconds: float) -> None:
    """What threads and children of jobs do."""
    time.sleep(seconds)


def note_or_exit(path: str, id: int, bad: int) -> int:
    """As `note`, in no time; the bad one ends its worker."""
    with open(path, "a", buffering=1) as file:
        file.write(f"begin {id}\n")
        if id == bad:
            os._exit(3)
        file.write(f"end {id}\n")
    return id


def note(path: str, id: object, micros: int = 0) -> object:
    """Leaves "begin id" and "end id" in a file that every process appends to."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"begin {id}\n".encode())
        if micros:
            until = time.perf_counter() + micros / 1e6
            while time.perf_counter() < until:
                pass
        os.write(fd, f"end {id}\n".encode())
    finally:
        os.close(fd)
    return id


# ---- ends ------------------------------------------------------------------------------------------------


def exit_with(code: int) -> None:
    os._exit(code)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def kill_myself(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(60)


def become_another_program(seconds: float = 0.0) -> None:
    os.execv(sys.executable, [sys.executable, "-S", "-c", f"import time; time.sleep({seconds})"])


def close_everything(then: float = 0.0) -> str:
    os.closerange(3, 256)
    time.sleep(then)
    return "closed"


def write_rubbish_everywhere() -> str:
    for fd in range(3, 256):
        try:
            os.write(fd, b"rubbish" * 100)
        except OSError:
            continue
    return "written"


def make_everything_nonblocking() -> str:
    for fd in range(3, 256):
        try:
            os.set_blocking(fd, False)
        except OSError:
            continue
    return "done"


# ---- jobs that do not end --------------------------------------------------------------------------------


def hang(door: Door) -> None:
    door.announce()
    time.sleep(600)


def hang_finally(door: Door) -> None:
    try:
        hang(door)
    finally:
        door.announce("finally")


def ignore_every_exception(door: Door) -> None:
    told = False
    while True:
        try:
            if not told:
                told = True
                door.announce()
            while True:
                time.sleep(0.01)
        except BaseException:
            door.announce("ignored")


def turn_deaf() -> None:
    """As `ignore_every_exception`, without a door."""
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


def hold_the_gil(door: Door) -> None:
    """C code that does not let go of the interpreter, and that no signal wakes: a lock taken twice."""
    library = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(128)
    library.pthread_mutex_lock(mutex)
    door.announce()
    library.pthread_mutex_lock(mutex)


def hopeless_regex(door: Door) -> None:
    door.announce()
    re.match(r"(a*)*b", "a" * 40)


def wait_for_a_child(door: Door) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    door.announce(child.pid)
    child.wait()


def ignore_sigterm(door: Door) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(door)


def stop_myself(door: Door) -> None:
    door.announce()
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)


# ---- what jobs leave behind ------------------------------------------------------------------------------

SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def start_family(door: Door, *, leave_group: bool, hang_on: bool) -> int:
    """Starts a child with a child of its own, perhaps in another session, and tells their pids."""
    code = (
        f"import subprocess, sys, time\n"
        f"grandchild = subprocess.Popen([sys.executable, '-S', '-c', {SLEEPER!r}])\n"
        f"print(grandchild.pid, flush=True)\n"
        f"time.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=leave_group
    )  # fmt: skip
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    door.announce(f"{child.pid} {grandchild}")
    if hang_on:
        time.sleep(600)
    return child.pid


def fork_here(path: str) -> str:
    """Returns in both: in the worker and in its copy."""
    pid = os.fork()
    with open(path, "a") as file:
        file.write("parent\n" if pid else "child\n")
    if pid:
        os.waitpid(pid, 0)
    return "parent" if pid else "child"


def fork_and_raise(path: str) -> str:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return "parent"
    raise ValueError("in the copy")


def change_everything() -> None:
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setrecursionlimit(500)


_kept: list[bytes] = []  # what jobs leave behind in their worker


def grow_until(most: int) -> int:
    """Hold more and more memory, up to `most` bytes."""
    held: list[bytes] = []
    while len(held) << 20 < most:
        held.append(b"\1" * (1 << 20))
    return len(held)


def hold_at_once(size: int) -> int:
    """Hold so many bytes, all touched."""
    return len(b"\1" * size)


def leave_behind(size: int) -> int:
    """Keep so many bytes in the worker for ever; returns its pid."""
    _kept.append(b"\1" * size)
    return os.getpid()


def work_a_while(seconds: float) -> int:
    """Be busy for so long; returns its pid."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(100))
    return os.getpid()


def have_a_child_hold(size: int) -> int:
    """As `hold_at_once`, in a process below the worker, which stays until it is killed."""
    code = f"import signal; held = b'1' * {size}; signal.pause()"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


def share_with_children(size: int, children: int) -> int:
    """Hold so many bytes once, and let so many forked children have them, too."""
    held = b"\1" * size
    read_end, write_end = os.pipe()
    pids = []
    for _ in range(children):
        pid = os.fork()
        if not pid:
            os.close(write_end)
            os.read(read_end, 1)  # until the parent's end is closed
            os._exit(0)
        pids.append(pid)
    until = time.monotonic() + 0.5  # long enough for several looks
    while time.monotonic() < until:
        sum(held[:: 1 << 12])
    os.close(write_end)
    os.close(read_end)
    for pid in pids:
        os.waitpid(pid, 0)
    return len(held)


def oom_score() -> int:
    """How ready the kernel is to kill this process, as it was set."""
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read())
