"""Fossil deltas, applied by the decoder of the Python SDK, which shares no line with the encoder.

The decoders of the other SDKs: tests/acceptance/test_sdks.py.
"""

from __future__ import annotations

import json

import pytest
from centrifuge.fossil import apply_delta
from hypothesis import example, given
from hypothesis import strategies as st

from narthex.protocol.fossil import create_delta


def applied(source: bytes, delta: bytes) -> bytes:
    """What a client makes of a delta."""
    return bytes(apply_delta(source, delta))


PIECES = st.lists(
    st.sampled_from(["a", "żółw", "🐢", "\n", '"', "\\", "0123456789abcdef", "content of a message"]),
    max_size=40,
).map("".join)


@given(PIECES, PIECES)
@example("🐢" * 20 + "🐣", "🐢" * 20 + "🐤" + "🐢" * 20)  # the characters differ in their last byte only
@example("x" * 70_000, "x" * 70_001)
@example("", "y" * 300)
@example("source é" + "y" * 40, "target ©" + "y" * 40)  # é and © end in the same byte
def test_a_client_gets_the_same_bytes(one: str, other: str) -> None:
    """Any two texts; a delta is text too, and shorter than the target by an eighth."""
    source, target = one.encode(), other.encode()
    delta = create_delta(source, target)
    if delta is not None:
        delta.decode()
        assert applied(source, delta) == target
        assert len(delta) <= len(target) - len(target) // 8


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=300), st.binary(max_size=60))
def test_an_insertion_a_removal_and_a_move_are_found(
    head: bytes, middle: bytes, body: bytes, tail: bytes
) -> None:
    """Texts that share long parts: the delta is applied to the same bytes."""
    parts = [part.hex().encode() for part in (head, middle, body, tail)]
    for source, target in (
        (parts[0] + parts[2], parts[0] + parts[1] + parts[2]),
        (parts[0] + parts[1] + parts[2], parts[0] + parts[2]),
        (parts[0] + parts[2] + parts[3], parts[3] + parts[1] + parts[2] + parts[0]),
    ):
        delta = create_delta(source, target)
        assert delta is None or applied(source, delta) == target


def event(text: str, seq: int) -> bytes:
    """An event as a run publishes it."""
    found = {
        "type": "TEXT_MESSAGE_CONTENT",
        "messageId": "0198f7c2-93a1-7bbb-8ccc-abcdefabcdef",
        "delta": text,
        "threadId": "0198f7c2-1111-7bbb-8ccc-abcdefabcdef",
        "runId": "0198f7c2-2222-7bbb-8ccc-abcdefabcdef",
        "seq": seq,
    }
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()


def test_the_events_of_a_text_become_small() -> None:
    """Two successive ones: a copy before the text, one to the number, and the literals in between."""
    source, target = event(" hello", 41), event(" world, żółw", 42)
    delta = create_delta(source, target)
    assert delta is not None
    assert applied(source, delta) == target
    assert len(delta) < len(target) / 4


@pytest.mark.parametrize(("shared", "copied"), [(b"01234567", True), (b"0123456", False)])
def test_a_short_likeness_is_copied_where_that_is_shorter(shared: bytes, copied: bool) -> None:
    """Eight bytes are; a copy of fewer would be no shorter than they are."""
    source = b"x" * 100 + b"????" + shared + b"!!!!"
    target = b"x" * 100 + b"AAAA" + shared + b"BBBB"
    delta = create_delta(source, target)
    assert delta is not None
    assert applied(source, delta) == target
    assert (shared not in delta) is copied


def test_texts_without_likeness_are_not_worth_a_delta() -> None:
    """None: the publication is sent whole."""
    assert create_delta(b"a" * 100, b"b" * 100) is None
    assert create_delta(b"", b"b" * 100) is None
    assert create_delta(b"a" * 100, b"") is None
    assert create_delta(b"a" * 100, b"aaa") is None


@pytest.mark.parametrize("size", [63, 64, 4_095, 4_096, 262_144])
def test_numbers_have_as_many_digits_as_they_need(size: int) -> None:
    """Lengths and offsets at the ends of one, two, three and four digits."""
    source = b"0123456789" * (size // 10 + 1)
    target = source[:size]
    if (delta := create_delta(source, target)) is not None:
        assert applied(source, delta) == target
    assert (delta is None) is (size < 20)


def test_the_work_is_bounded() -> None:
    """Two large texts that share a word here and there: the search ends, and the rest is literal."""
    source = b"".join(b"%08d-" % (number * 7) for number in range(30_000))
    target = b"".join(b"%08d+" % (number * 11) for number in range(30_000))
    delta = create_delta(source, target + source)
    assert delta is not None
    assert applied(source, delta) == target + source
