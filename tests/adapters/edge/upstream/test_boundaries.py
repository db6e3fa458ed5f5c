"""Frame boundaries in bytes that pass by, for any split of the bytes."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from narthex.adapters.edge.upstream.boundaries import FrameBoundaries
from narthex.protocol.framing import encode_close, encode_frame

FRAMES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 9, 10]),
        st.one_of(st.integers(0, 130), st.sampled_from([65_535, 65_536])),
        st.sampled_from([None, b"mask"]),
    ),
    min_size=1,
    max_size=5,
)
STEPS = st.lists(st.tuples(st.sampled_from([1, 2, 3, 9, 50, 66_000]), st.booleans()), min_size=1, max_size=40)


@given(FRAMES, STEPS)
def test_boundaries_are_known_for_every_split(
    kinds: list[tuple[int, int, bytes | None]], steps: list[tuple[int, bool]]
) -> None:
    """`between` holds at the ends of frames and nowhere else, whether bytes are followed or cut at the next end."""
    frames = [encode_frame(opcode, b"\x88" * size, key) for opcode, size, key in kinds]
    stream = b"".join(frames)
    ends = set(accumulate(map(len, frames)))
    follower = FrameBoundaries()
    at = step = 0
    while at < len(stream):
        size, cut = steps[step % len(steps)] if step < 300 else (66_000, False)
        step += 1
        part = stream[at : at + size]
        if cut and not follower.between:
            taken = follower.cut(part)
            assert taken > 0
            assert not any(at < end < at + taken for end in ends), "it passed an end"
            at += taken
        else:
            follower.advance(part)
            at += len(part)
        assert follower.between == (at in ends)
    assert not follower.closed


def test_a_close_frame_is_seen_with_its_header() -> None:
    """Behind another frame, masked or not, byte by byte."""
    for key in (None, b"mask"):
        text, close = encode_frame(1, b"\x88\x80", key), encode_close(1000, "bye", key)
        follower = FrameBoundaries()
        for at, byte in enumerate(text + close):
            follower.advance(bytes([byte]))
            assert follower.closed == (at > len(text))
        assert follower.between


def test_a_length_that_no_frame_may_have_is_followed() -> None:
    """A 64-bit length with its top bit set is the receiver's to refuse; the follower stands inside that frame."""
    follower = FrameBoundaries()
    follower.advance(bytes([0x82, 127]) + b"\xff" * 8)
    follower.advance(b"\x88\x00" * 1000)
    assert not follower.between
    assert not follower.closed
    assert follower.cut(b"abc") == 3
