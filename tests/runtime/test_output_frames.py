"""What jobs print, as frames among raw bytes, in whatever pieces a pipe gives them out."""

from hypothesis import given
from hypothesis import strategies as st

from mpengine.wire import output as wire

ids = st.none() | st.text(min_size=1, max_size=8)
messages = st.tuples(
    st.sampled_from([wire.STDOUT, wire.STDERR, wire.RECORD]), ids, st.binary(max_size=6) | st.binary(min_size=9000)
)
raws = st.builds(lambda data: (wire.RAW, None, data), st.binary(min_size=1, max_size=30))


def joined(found: list[tuple[int, str | None, bytes]]) -> list[tuple[int, str | None, bytes]]:
    """With the raw bytes that follow each other in one piece."""
    result: list[tuple[int, str | None, bytes]] = []
    for kind, id, data in found:
        if kind == wire.RAW and result and result[-1][0] == wire.RAW:
            data = result.pop()[2] + data
        result.append((kind, id, data))
    return result


@given(st.lists(messages | raws, max_size=6), st.integers(1, 5000))
def test_messages_and_raw_bytes_come_out_as_they_went_in(sent: list[tuple[int, str | None, bytes]], piece: int) -> None:
    data = b"".join(text if kind == wire.RAW else b"".join(wire.frames(kind, id, text, 7)) for kind, id, text in sent)
    parser = wire.Parser()
    found = []
    for at in range(0, len(data), piece):
        found += parser.feed(data[at : at + piece])
    rest = parser.end()
    found += [(wire.RAW, None, rest)] if rest else []
    surrogates = joined([(kind, id and id.encode("utf-8", "surrogatepass").decode("utf-8", "replace"), text)
                         for kind, id, text in sent])  # fmt: skip
    assert joined(found) == surrogates


def test_a_frame_is_no_longer_than_a_pipe_takes_at_once() -> None:
    for frame in wire.frames(wire.STDOUT, "i" * 5000, bytes(50_000), 1):
        assert len(frame) <= 4096


def test_long_messages_of_two_threads_do_not_mix() -> None:
    one = list(wire.frames(wire.STDOUT, "one", b"1" * 9000, 1))
    other = list(wire.frames(wire.STDOUT, "other", b"2" * 9000, 2))
    parser = wire.Parser()
    found = []
    for pair in zip(one, other, strict=True):
        for frame in pair:
            found += parser.feed(frame)
    assert found == [(wire.STDOUT, "one", b"1" * 9000), (wire.STDOUT, "other", b"2" * 9000)]


def test_bytes_that_begin_like_a_frame_and_are_none_are_raw() -> None:
    parser = wire.Parser()
    data = wire.MAGIC + bytes(40) + b"end\n"
    found = parser.feed(data)
    assert b"".join(text for _, _, text in found) + parser.end() == data
    assert {kind for kind, _, _ in found} == {wire.RAW}
