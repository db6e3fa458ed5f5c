"""Heads and frames: parsing, and no exception for any input from outside."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from narthex.doctor import frames, heads
from narthex.protocol.framing import BINARY, NO_MASK, TEXT, encode_frame

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3


def test_the_accept_of_the_rfc() -> None:
    """RFC 6455 section 1.3."""
    assert heads.accept_of(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_only_harmless_headers_are_kept() -> None:
    """Cookies are counted and not kept."""
    head = heads.parse_head(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nServer: x\r\nServer: y")
    assert head is not None
    assert head.headers == {"server": "x, y"}
    assert head.lines == 3


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_do_not(raw: bytes) -> None:
    """No exception for any input."""
    heads.parse_head(raw)
    heads.parse_head(b"HTTP/1.1 101 X\r\n" + raw)
    frames.ClientFrameReader().feed(raw)


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 40))
def test_any_split_of_the_bytes_gives_the_same_frames(payloads: list[bytes], size: int) -> None:
    """Unmasked server frames, cut anywhere."""
    raw = b"".join(encode_frame(BINARY, payload) for payload in payloads)
    reader = frames.ClientFrameReader()
    found = [frame for at in range(0, len(raw), size) for frame in reader.feed(raw[at : at + size])]
    assert [frame.payload for frame in found] == payloads
    assert not reader.fault


def test_a_masked_frame_of_ours_is_a_fault_from_a_server() -> None:
    """Clients mask, servers must not (RFC 6455 section 5.1)."""
    reader = frames.ClientFrameReader()
    reader.feed(encode_frame(TEXT, b"x" * 70000, NO_MASK))
    assert reader.fault == "a masked frame from the server"
