"""One message, framed once per transport kind."""

from __future__ import annotations

import zlib

import pytest
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from narthex.protocol.framing import Framing, Prepared, deflate, websocket_text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_a_reader_that_is_not_ours_reads_the_frame(size: int) -> None:
    """The `websockets` client parses every length form back."""
    payload = b"x" * size
    reader = Protocol(CLIENT, state=OPEN, max_size=None)
    reader.receive_data(websocket_text_frame(payload))
    (frame,) = reader.events_received()
    assert frame.opcode is Opcode.TEXT  # type: ignore[union-attr]  # events of an open protocol are frames
    assert frame.data == payload  # type: ignore[union-attr]  # as above


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
