"""Open WebSockets over real sockets: messages, limits, closing from either side, back-pressure."""

from __future__ import annotations

import socket
import time
from functools import partial

import pytest

from narthex.adapters.edge.limits import EdgeLimits, MessageLimits
from narthex.adapters.edge.websocket import WebSocket
from narthex.protocol.framing import Framing, Prepared
from tests.adapters.edge.harness import Recorder, Running, masked, upgrade


def receiver_of(server: Running) -> Recorder:
    receiver = server.gate.receivers.get(timeout=5)
    assert receiver.next() == ("opened",)
    return receiver


def close(code: int, reason: str = "") -> bytes:
    return masked(8, code.to_bytes(2, "big") + reason.encode())


def test_messages_in_both_directions(server: Running) -> None:
    """Text and binary in; prepared messages and joined frames out, at once."""
    with server.websocket(
        extra="Sec-WebSocket-Protocol: jwt-auth, x\r\n", behind=masked(1, b"first")
    ) as peer:
        receiver = receiver_of(server)
        assert receiver.next() == ("message", b"first", False)
        peer.send(masked(2, b"\xff"))
        assert receiver.next() == ("message", b"\xff", True)
        out = receiver.socket
        assert out is not None
        assert (out.framing, out.session, out.buffered()) == (Framing.WEBSOCKET, "", 0)
        message = Prepared(b'{"a":1}')
        server.call(lambda: out.send(message))
        server.call(lambda: out.send_frames(message.framed(Framing.WEBSOCKET) * 2))
        assert [peer.frame() for _ in range(3)] == [(0x81, b'{"a":1}')] * 3


def test_closing_from_the_client(server: Running) -> None:
    """The code is echoed, the receiver is called, FIN is sent; nothing is delivered afterwards."""
    with server.websocket() as peer:
        receiver = receiver_of(server)
        peer.send(close(4321, "done") + masked(1, b"late"))
        assert peer.close_frame() == (4321, "")
        assert peer.rest() == b""
        assert receiver.next() == ("closed", 4321, "")  # the text is the peer's
        assert receiver.events.empty()
    with server.websocket() as peer:
        receiver = receiver_of(server)
        peer.send(masked(8))
        assert peer.close_frame() == (1005, "")
        assert receiver.next() == ("closed", 1005, "")


def test_closing_from_the_app(server: Running) -> None:
    """Close frame, later data is dropped, `closed` with our code at the peer's answer, then FIN."""
    with server.websocket() as peer:
        receiver = receiver_of(server)
        out = receiver.socket
        assert out is not None
        server.call(lambda: out.close(3000, "bye"))
        server.call(lambda: out.close(3001, "again"))
        server.call(lambda: out.send(Prepared(b"too late")))
        assert peer.close_frame() == (3000, "bye")
        peer.send(masked(1, b"dropped"))
        assert receiver.events.empty()
        peer.send(close(3000))
        assert peer.rest() == b""
        assert receiver.next() == ("closed", 3000, "bye")


def test_a_close_that_is_not_answered() -> None:
    """After `close_s` the connection is dropped, and the receiver gets our code."""
    with Running(EdgeLimits(close_s=0.2, linger_s=0.2)) as server, server.websocket() as peer:
        receiver = receiver_of(server)
        out = receiver.socket
        assert out is not None
        server.call(lambda: out.close(3008, "slow"))
        assert peer.close_frame() == (3008, "slow")
        assert receiver.next() == ("closed", 3008, "slow")
        assert peer.rest() == b""


def test_a_connection_that_breaks(server: Running) -> None:
    """RST, FIN without a close frame, and abort: 1006, once."""
    with server.websocket() as peer:
        receiver = receiver_of(server)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert receiver.next() == ("closed", 1006, "")
    with server.websocket() as peer:
        receiver = receiver_of(server)
        peer.send(masked(1, b"half")[:-1])
        peer.half_close()
        assert peer.rest() == b""
        assert receiver.next() == ("closed", 1006, "")
    with server.websocket() as peer:
        receiver = receiver_of(server)
        peer.send(masked(1, b"abort") + masked(1, b"dropped"))
        assert receiver.next() == ("message", b"abort", False)
        assert receiver.next() == ("closed", 1006, "")
        assert receiver.events.empty()


def test_pings_are_answered_in_order(server: Running) -> None:
    """One pong for each, with its payload; pongs are accepted silently."""
    with server.websocket() as peer:
        receiver_of(server)
        peer.send(masked(9, b"a") + masked(10, b"x") + masked(9, b"b" * 125))
        assert peer.frame() == (0x8A, b"a")
        assert peer.frame() == (0x8A, b"b" * 125)


def test_as_many_control_frames_a_second_as_allowed() -> None:
    """The last allowed ping of each second is answered; one more closes 3013."""
    with Running(EdgeLimits(app=MessageLimits(control_per_s=5))) as server, server.websocket() as peer:
        for second in (100.0, 101.0):
            server.call(partial(setattr, server.edge, "clock", partial(float, second)))
            peer.send(b"".join(masked(9, bytes([number])) for number in range(5)))
            assert [peer.frame() for _ in range(5)] == [(0x8A, bytes([number])) for number in range(5)]
        peer.send(masked(9, b"one more"))
        code, reason = peer.close_frame()
        assert (code, reason) == (3013, "rate_limited: more than 5 control frames a second")


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"\x81\x00", 1002, "a client's frames must be masked"),
        (masked(1, b"\xff"), 1007, "the text is not UTF-8"),
        (masked(1, b"x" * 65_537), 1009, "a message may have 65536 bytes"),
        (masked(2, final=False) + masked(0, final=False) * 1024, 1009, "a message may have 1024 fragments"),
        (masked(9) * 41, 3013, "rate_limited: more than 20 control frames a second"),
        (masked(10) * 41, 3013, "rate_limited: more than 20 control frames a second"),
        (masked(1, b"raise"), 1011, "internal: A bug in narthex"),
    ],
)
def test_failing_with_the_right_code(server: Running, data: bytes, code: int, reason: str) -> None:
    """Close frame with the code, FIN, the receiver is called; later data is discarded."""
    with server.websocket() as peer:
        receiver = receiver_of(server)
        peer.send(data + b"more" * 1000)
        while (found := peer.frame())[0] == 0x8A:
            pass
        assert found == (0x88, code.to_bytes(2, "big") + reason.encode())
        assert peer.rest() == b""
        assert receiver.next() == ("closed", code, reason)


def test_deflate_is_off_by_default(server: Running) -> None:
    """An offer is not accepted, and RSV1 is a violation."""
    with server.peer() as peer:
        peer.send(
            upgrade(extra="Sec-WebSocket-Extensions: permessage-deflate\r\n") + masked(1, b"x", rsv=0x40)
        )
        assert "sec-websocket-extensions" not in peer.head().headers
        assert peer.close_frame()[0] == 1002
        assert receiver_of(server).next()[:2] == ("closed", 1002)


def test_deflate_when_it_is_on() -> None:
    """Agreed: frames for `WEBSOCKET_DEFLATE`; a smaller window than ours: plain frames."""
    with Running(EdgeLimits(app=MessageLimits(deflate=True))) as server:
        for offer, framing in (
            ("permessage-deflate", Framing.WEBSOCKET_DEFLATE),
            ("permessage-deflate; server_max_window_bits=10", Framing.WEBSOCKET),
        ):
            with server.websocket(extra=f"Sec-WebSocket-Extensions: {offer}\r\n"):
                out = receiver_of(server).socket
                assert out is not None
                assert out.framing == framing


def test_many_messages_in_one_read_come_in_order(server: Running) -> None:
    """More than a slice: all are delivered, in order, and the socket reads on."""
    with server.websocket() as peer:
        receiver = receiver_of(server)
        peer.send(b"".join(masked(1, b"%d" % number) for number in range(2000)))
        for number in range(2000):
            assert receiver.next() == ("message", b"%d" % number, False)
        peer.send(masked(1, b"on"))
        assert receiver.next() == ("message", b"on", False)


def test_back_pressure_is_told(server: Running) -> None:
    """A client that does not read: `writable(False)`, `buffered` grows; it reads: `writable(True)`."""
    with server.websocket() as peer:
        receiver = receiver_of(server)
        out = receiver.socket
        assert out is not None
        block = Prepared(b"x" * 60_000)
        for _ in range(100):
            server.call(lambda: out.send(block))
        assert receiver.next() == ("writable", False)
        assert server.call(out.buffered) > 64 * 1024
        for _ in range(100):
            assert peer.frame() == (0x81, b"x" * 60_000)
        assert receiver.next() == ("writable", True)
        assert server.call(out.buffered) == 0


def test_the_marks_of_the_write_buffer_can_be_set() -> None:
    """A higher mark is reported later."""
    with Running(EdgeLimits(write_high_bytes=1 << 20, write_low_bytes=1 << 19)) as server, server.websocket():
        receiver = receiver_of(server)
        out = receiver.socket
        assert out is not None
        block = Prepared(b"x" * 60_000)
        while server.call(out.buffered) < 900_000:
            server.call(lambda: out.send(block))
        assert receiver.events.empty()
        for _ in range(10):
            server.call(lambda: out.send(block))
        assert receiver.next() == ("writable", False)


def test_send_buffers_are_bounded_so_that_lag_shows(server: Running) -> None:
    """`SO_SNDBUF` is inherited from the listener (Linux reports the double)."""
    with server.websocket():
        receiver = receiver_of(server)
        transport = receiver.socket._transport  # type: ignore[union-attr]  # the edge's own WebSocket
        raw = server.call(lambda: transport.get_extra_info("socket"))
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 128 * 1024


def test_an_echo_that_is_not_read_stops_reading(server: Running) -> None:
    """The conformance echo holds a bounded amount for a client that only sends."""
    with server.websocket("/ws/conformance") as peer:
        peer.socket.settimeout(1.0)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                sent += peer.socket.send(masked(2, bytes(60_000)))
        assert sent < 32 << 20
        (held,) = server.call(
            lambda: [
                one.stage.buffered() for one in server.edge.connections if isinstance(one.stage, WebSocket)
            ]
        )
        assert held < 1 << 20


def test_nothing_is_left_behind(server: Running) -> None:
    """Closed connections leave no deadline and no count."""
    for _ in range(20):
        with server.websocket() as peer:
            receiver_of(server)
            peer.send(close(1000))
            peer.rest()
    deadline = time.monotonic() + 5
    while server.edge.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (server.edge.open, len(server.edge.timers)) == (0, 0)
