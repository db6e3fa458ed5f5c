"""One message, framed once per transport kind."""

from __future__ import annotations

import zlib

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from narthex.protocol.framing import (
    BINARY,
    NO_MASK,
    Framing,
    Prepared,
    decode_close,
    deflate,
    encode_close,
    encode_frame,
)


@pytest.mark.parametrize("size", [0, 1, 3, 125, 126, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("key", [None, NO_MASK, b"\x11\x22\x33\x44"])
def test_a_reader_that_is_not_ours_reads_the_frame(size: int, key: bytes | None) -> None:
    """The `websockets` package parses every length form back: its client a server's frames, its server a client's."""
    payload = b"xyz" * (size // 3) + b"x" * (size % 3)
    reader = Protocol(CLIENT if key is None else SERVER, state=OPEN, max_size=None)
    reader.receive_data(encode_frame(BINARY, payload, key))
    (frame,) = reader.events_received()
    assert isinstance(frame, Frame)
    assert frame.opcode is Opcode.BINARY
    assert bytes(frame.data) == payload


def test_close_frames_out_and_in() -> None:
    """Codes that must not be sent become an empty frame; reasons are cut at a character."""
    assert encode_close(1005) == encode_close(1006, "x") == b"\x88\x00"
    assert encode_close(3500, "no") == b"\x88\x04\x0d\xacno"
    assert encode_close(1000, key=NO_MASK) == b"\x88\x82\x00\x00\x00\x00\x03\xe8"
    long = encode_close(1000, "\u00e9" * 100)
    assert long[1] == 124
    assert decode_close(long[2:]) == (1000, "\u00e9" * 61)
    assert decode_close(b"") == decode_close(b"\x03") == (1005, "")
    assert decode_close(b"\x0f\xa1\xff") == (4001, "\ufffd")


def test_deflate_is_raw_and_without_its_tail() -> None:
    """RFC 7692: the receiver appends 00 00 ff ff and inflates with a fresh window."""
    payload = b'{"delta":"hello"}' * 50
    machine = zlib.decompressobj(wbits=-15)
    assert machine.decompress(deflate(payload) + b"\x00\x00\xff\xff") == payload


def test_small_messages_are_not_compressed() -> None:
    """A frame without RSV1 is legal beside compressed ones."""
    assert Prepared(b"{}").framed(Framing.WEBSOCKET_DEFLATE)[0] == 0x81
    assert Prepared(b"a" * 1000).framed(Framing.WEBSOCKET_DEFLATE)[0] == 0xC1


def test_each_framing_is_computed_once() -> None:
    """Every subscriber gets the same bytes object: that is what makes fan-out cheap."""
    prepared = Prepared(b'{"a":1}\n{"b":2}')
    for framing in Framing:
        assert prepared.framed(framing) is prepared.framed(framing)
    assert prepared.framed(Framing.HTTP_STREAM) == b'{"a":1}\n{"b":2}\n'
    assert prepared.framed(Framing.SSE) == b'data: {"a":1}\n\ndata: {"b":2}\n\n'
