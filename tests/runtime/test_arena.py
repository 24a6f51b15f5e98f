"""The arena: bodies of batches in a memory file, re-used warm, given back."""

import errno
import os
import random

import pytest

from mpengine.runtime import arena as arena_module
from mpengine.runtime.arena import Arena, fetch


@pytest.fixture
def arena():
    made = Arena()
    yield made
    made.close()


def allocated(arena: Arena) -> int:
    return os.fstat(arena.read_fd).st_blocks * 512


def test_what_is_stored_is_fetched(arena: Arena) -> None:
    parts: list[bytes | memoryview] = [b"", b"one", memoryview(b"two" * 5000), b"", bytes(range(256)) * 40]
    offset, length = arena.store(parts)
    assert length == sum(map(len, parts))
    assert bytes(fetch(arena.read_fd, offset, length)) == b"".join(parts)


@pytest.mark.parametrize("count", [1, 511, 512, 513, 2000])
def test_any_number_of_parts(arena: Arena, count: int) -> None:
    parts = [str(n).encode() for n in range(count)]
    offset, length = arena.store(parts)
    assert bytes(fetch(arena.read_fd, offset, length)) == b"".join(parts)


def test_parts_that_the_kernel_does_not_take_at_once(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "_MOST_BYTES", 1000)
    parts = [os.urandom(700), os.urandom(5000), b"", os.urandom(1), os.urandom(2999)]
    offset, length = arena.store(parts)
    assert bytes(fetch(arena.read_fd, offset, length)) == b"".join(parts)


def test_blocks_in_use_never_overlap_and_free_ones_are_used_again(arena: Arena) -> None:
    chance = random.Random(7)
    live: dict[int, bytes] = {}
    tops = []
    for _ in range(400):
        if live and chance.random() < 0.5:
            offset = chance.choice(list(live))
            assert bytes(fetch(arena.read_fd, offset, len(live[offset]))) == live.pop(offset)
            arena.free(offset)
        else:
            body = os.urandom(chance.choice([1, 4095, 4096, 4097, 20_000, 100_000]))
            offset, length = arena.store([body])
            assert offset not in live
            assert length == len(body)
            live[offset] = body
        tops.append(max(live, default=0))
    for offset, body in live.items():
        assert bytes(fetch(arena.read_fd, offset, len(body))) == body
        arena.free(offset)
    assert arena.in_use == 0
    again = [arena.store([b"x" * 4096])[0] for _ in range(3)]
    assert max(again) <= max(tops)  # room that was used before


def test_memory_goes_back_when_nothing_is_in_use(arena: Arena) -> None:
    big, _ = arena.store([bytes(1 << 20)] * 80)
    small, _ = arena.store([b"small"])
    assert allocated(arena) >= 80 << 20
    arena.free(big)
    assert bytes(fetch(arena.read_fd, small, 5)) == b"small"
    arena.free(small)
    assert arena.in_use == 0
    assert allocated(arena) <= 64 << 20
    offset, length = arena.store([b"and on"])
    assert bytes(fetch(arena.read_fd, offset, length)) == b"and on"


def test_no_room_is_an_error_and_the_block_is_free_again(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        with pytest.raises(OSError, match="no room"):
            arena.store([b"x"])
    assert arena.in_use == 0
    arena.free(arena.store([b"x"])[0])


def test_workers_can_read_only(arena: Arena) -> None:
    offset, length = arena.store([b"mine"])
    with pytest.raises(OSError, match=r"Bad file descriptor|not permitted"):
        os.pwrite(arena.read_fd, b"rubbish", offset)
    assert bytes(fetch(arena.read_fd, offset, length)) == b"mine"
    with pytest.raises(EOFError):
        fetch(arena.read_fd, 1 << 40, 10)


def test_freeing_twice_is_a_bug_that_shows(arena: Arena) -> None:
    offset, _ = arena.store([b"x"])
    arena.free(offset)
    with pytest.raises(KeyError):
        arena.free(offset)
