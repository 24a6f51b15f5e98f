"""The buddy allocator: blocks never overlap, and what is said to be warm has been written."""

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mpengine.arrays.blocks import Block, Blocks

SMALLEST = 4


class Room(RuleBasedStateMachine):
    """A model that knows of each unit of the smallest size whether it has memory, and whose it is."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(SMALLEST)
        self.has_memory: set[int] = set()
        self.used: dict[int, Block] = {}

    @rule(target=taken, length=st.integers(1, 300))
    def take(self, length: int) -> Block:
        block = offset, size, warm = self.blocks.take(length)
        assert size >= length
        assert size & (size - 1) == 0
        assert offset % size == 0
        assert 0 <= warm <= size
        assert set(range(offset, offset + warm)) <= self.has_memory
        for other, (_, other_size, _) in self.used.items():
            assert offset + size <= other or other + other_size <= offset
        self.used[offset] = block
        return block

    @rule(block=consumes(taken), share=st.integers(0, 4))
    def give_back(self, block: Block, share: int) -> None:
        offset, size, warm = block
        written = max(warm, size * share // 4)
        self.has_memory |= set(range(offset, offset + written))
        del self.used[offset]
        self.blocks.give_back(offset, written)

    @rule()
    def cool(self) -> None:
        while (block := self.blocks.take_warm(SMALLEST + 2)) is not None:
            gone = set(range(block[0], block[0] + block[1]))
            assert not gone & self.in_use()
            self.has_memory -= gone
            self.blocks.give_back(block[0], 0)
        assert self.has_memory <= self.in_use()
        assert not self.blocks.is_warm
        self.blocks.reset()
        assert self.used or not self.blocks.top

    @invariant()
    def adds_up(self) -> None:
        assert len(self.blocks) == len(self.used)
        assert max(self.in_use(), default=0) <= self.blocks.top

    def in_use(self) -> set[int]:
        return {unit for offset, size, _ in self.used.values() for unit in range(offset, offset + size)}


TestRoom = Room.TestCase


def test_the_last_freed_is_taken_first() -> None:
    blocks = Blocks(SMALLEST)
    (one, *_), (other, *_) = blocks.take(100), blocks.take(100)
    blocks.give_back(one, 100)
    blocks.give_back(other, 100)
    assert blocks.take(90) == (other, 128, 100)


def test_warm_room_is_split_before_the_segment_grows() -> None:
    blocks = Blocks(SMALLEST)
    large, *_ = blocks.take(256)
    blocks.give_back(large, 200)
    assert [blocks.take(128), blocks.take(128)] == [(0, 128, 128), (128, 128, 72)]
    assert blocks.top == 256


def test_small_blocks_become_a_large_one_again() -> None:
    blocks = Blocks(SMALLEST)
    for offset, *_ in [blocks.take(16) for _ in range(16)]:
        blocks.give_back(offset, 16)
    assert blocks.take(256) == (0, 256, 256)
    assert blocks.top == 256


def test_what_is_warm_is_made_cold_in_parts() -> None:
    blocks = Blocks(SMALLEST)
    (large, *_), (other, *_) = blocks.take(128), blocks.take(30)
    blocks.give_back(large, 100)
    assert blocks.take_warm(6) == (0, 64, 64)
    blocks.give_back(0, 0)
    assert blocks.take_warm(6) == (64, 64, 36)
    blocks.give_back(64, 0)
    assert blocks.take_warm(6) is None
    blocks.reset()
    assert blocks.top == 160  # one is in use
    blocks.give_back(other, 0)
    blocks.reset()
    assert blocks.top == 0
