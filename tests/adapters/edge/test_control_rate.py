"""The rate of control frames at its number and one past it; and a socket whose peer left before its 101."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from narthex.adapters.edge.edge import Edge
from narthex.adapters.edge.frames import FrameReader
from narthex.adapters.edge.limits import EdgeLimits, MessageLimits
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.websocket import WebSocket
from narthex.protocol.framing import Prepared
from tests.adapters.edge.harness import PathGate, Recorder, Running, masked

RATE = 5


def test_as_many_control_frames_a_second_as_allowed() -> None:
    """N are answered, in each second anew; one more closes 3013."""
    with (
        Running(EdgeLimits(app=MessageLimits(control_per_s=RATE))) as server,
        server.websocket() as peer,
    ):
        for second in (100.0, 101.0):
            server.call(partial(setattr, server.edge, "clock", partial(float, second)))
            peer.send(b"".join(masked(0x9, bytes([number])) for number in range(RATE)))
            for number in range(RATE):
                assert peer.frame() == (0x8A, bytes([number]))
        peer.send(masked(0x9, b"one more"))
        code, reason = peer.close_frame()
        assert code == 3013
        assert "5 control frames" in reason


async def test_a_peer_that_left_before_its_101() -> None:
    """The receiver is opened and closed once; nothing is written after, and nothing more is told."""

    class Transport:
        written = b""

        def write(self, data: bytes) -> None:
            self.written += data

        def get_extra_info(self, _: str) -> None:
            return None

        def get_write_buffer_size(self) -> int:
            return 0

        def abort(self) -> None: ...

    rules = HeadRules(allowed_host=lambda _: True, websocket_paths=PathGate.paths)
    edge = Edge(PathGate(), rules=rules)
    edge.start(asyncio.get_running_loop())
    receiver, limits = Recorder(), MessageLimits()
    transport: Any = Transport()
    socket = WebSocket(edge, transport, receiver, limits, FrameReader(limits))
    socket.miss()
    assert [receiver.next(), receiver.next()] == [("opened",), ("closed", 1006, "")]
    socket.send(Prepared(b"late"))
    socket.close(3001, "late")
    socket.connection_lost(None)
    assert transport.written == b""
    assert receiver.events.empty()
    assert len(edge.deadlines) == 0
