"""Jobs that print and log."""

import logging
import os
import subprocess
import sys
import threading

from mpengine import current_job
from tests.runtime.gates import Door

logger = logging.getLogger("tests.printing")


def say(text: str) -> str:
    print("said", text)
    print("complained", text, file=sys.stderr)
    return text


def say_without_end(text: str) -> None:
    print("begun", text, end="")


def write_past_python(text: str, door: Door) -> None:
    os.write(1, f"written {text}\n".encode())
    subprocess.run([sys.executable, "-S", "-c", f"print('by a child of', {text!r})"], check=True)
    door.enter()


def say_past_python(text: str) -> str:
    print("said", text)
    os.write(1, f"written {text}\n".encode())
    return text


def log(text: str) -> None:
    logger.info("noted %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("went wrong", extra={"colour": "red"})


def say_in_threads(lines: int) -> None:
    def talk(name: str) -> None:
        for number in range(lines):
            print(name, number, "x" * (number * 97 % 6000))

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def say_and_die(text: str) -> None:
    print("last words of", text)
    os._exit(3)


def say_in_a_fork(text: str) -> None:
    pid = os.fork()
    if not pid:
        print("forked by", text)
        os._exit(0)
    os.waitpid(pid, 0)


def flood(door: Door) -> None:
    door.announce()
    while True:
        print("x" * 200)


def mention_oneself() -> str:
    job = current_job()
    assert job is not None
    print("I am", job.id)
    return job.id


def start_talking() -> None:
    print("initialized")


def odd_prints() -> list[object]:
    stream = sys.stdout
    print("\ud800 lone", flush=True)
    stream.buffer.write(b"\xff\xfe bytes\n")
    return [stream.fileno(), stream.isatty(), stream.encoding, stream.writable()]
