"""A relayed connection: bytes both ways, close frames between two frames, ends of either side, back-pressure."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from narthex.adapters.edge.limits import EdgeLimits
from narthex.protocol.framing import encode_close, encode_frame
from tests.adapters.edge.harness import LOOPS, Peer, Running, masked, upgrade
from tests.adapters.edge.upstream.harness import Admitted, Guarding
from tests.adapters.edge.upstream.raw import Accepted, RawUpstream, reset
from tests.timing import within

EXPIRED = (3005, "expired: soon")
FRAME = encode_frame(2, b"0123456789")


def close(code: int) -> bytes:
    return masked(8, code.to_bytes(2, "big"))


def opened(guard: Guarding) -> Admitted:
    """The receiver of the next connection, which has begun."""
    admitted = guard.admitted()
    assert admitted.next() == ("opened",)
    return admitted


def end(guard: Guarding, admitted: Admitted) -> None:
    """Close by the guard."""
    socket = admitted.socket
    assert socket is not None
    guard.call(lambda: socket.close(*EXPIRED))


def close_frame_of(upstream: Peer) -> tuple[int, str]:
    """The next frame that the upstream gets, which is a masked close frame."""
    first, second = upstream.exactly(2)
    assert (first, second & 0x80) == (0x88, 0x80)
    key = upstream.exactly(4)
    payload = bytes(byte ^ key[at % 4] for at, byte in enumerate(upstream.exactly(second & 0x7F)))
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def test_frames_pass_as_they_are(guard: Guarding) -> None:
    """Texts, large messages, many at once, fragments, pings; bytes behind the head on both sides."""
    with guard.websocket("/ws/conformance", behind=masked(1, b"first")) as peer:
        assert peer.frame() == (0x81, b"first")
        peer.send(masked(2, b"\xff" * 300_000))
        assert peer.frame() == (0x82, b"\xff" * 300_000)
        peer.send(b"".join(masked(1, str(at).encode()) for at in range(500)))
        assert [peer.frame()[1] for _ in range(500)] == [str(at).encode() for at in range(500)]
        peer.send(masked(9, b"ping") + masked(1, b"a", final=False) + masked(0, b"b"))
        assert peer.frame() == (0x8A, b"ping")
        assert peer.frame() == (0x81, b"ab")
        admitted = opened(guard)
        peer.send(close(1000))
        assert peer.close_frame() == (1000, "")
        assert peer.rest() == b""
        assert admitted.next() == ("closed", 1005, "")


def test_what_the_upstream_refuses_passes_too(guard: Guarding) -> None:
    """A frame that breaks the rules is the upstream's to fail, with the upstream's own close code."""
    with guard.websocket("/ws/conformance") as peer:
        peer.send(b"\xf1\x80\x00\x00\x00\x00")
        assert peer.close_frame()[0] == 1002
        assert peer.rest() == b""


def test_the_guard_closes_both_sides(guard: Guarding, upstream: Running) -> None:
    """Each gets the code; both connections end when both have answered. Other tests read the close text upstream."""
    with guard.websocket("/ws") as peer:
        admitted = opened(guard)
        receiver = upstream.gate.receivers.get(timeout=5)
        end(guard, admitted)
        assert peer.close_frame() == EXPIRED
        assert receiver.next() == ("opened",)
        assert receiver.next() == ("closed", EXPIRED[0], "")  # the edge passes no peer's text on
        peer.send(close(3005))
        assert peer.rest() == b""
        assert admitted.next() == ("closed", *EXPIRED)


@contextmanager
def joined(
    upstream: RawUpstream,
    guard: Guarding,
    *,
    early: bytes = b"",
    behind: bytes = b"",
    receive_buffer: int = 0,
) -> Iterator[tuple[Peer, Accepted, Admitted]]:
    """A client, its connection to `upstream`, and the receiver. `early` and `behind`: bytes behind the two heads."""
    with Peer(guard.port, receive_buffer=receive_buffer) as peer:
        peer.send(upgrade() + early)
        with upstream.joined(behind) as accepted:
            assert peer.head().status == 101
            yield peer, accepted, opened(guard)


@pytest.mark.parametrize("at", [1, 2, 5, len(FRAME) - 1])
@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_a_close_frame_waits_for_the_end_of_a_frame(at: int, loop: str) -> None:
    """Of the upstream's frame towards the client, of the client's towards the upstream; what follows is dropped."""
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port, loop=loop) as guard,
        joined(upstream, guard) as (peer, accepted, admitted),
    ):
        accepted.send(FRAME + FRAME[:at])
        peer.exactly(len(FRAME) + at)
        begun = masked(1, b"of the client")
        peer.send(begun[:at])
        assert accepted.exactly(at) == begun[:at]
        end(guard, admitted)
        accepted.send(FRAME[at:] + FRAME)
        assert peer.exactly(len(FRAME) - at) == FRAME[at:]
        assert peer.close_frame() == EXPIRED
        peer.send(begun[at:] + masked(1, b"never"))
        assert accepted.exactly(len(begun) - at) == begun[at:]
        assert close_frame_of(accepted) == EXPIRED
        peer.send(close(3005))
        accepted.send(encode_close(3005))
        assert accepted.rest() == b""
        assert peer.rest() == b""
        assert admitted.next() == ("closed", *EXPIRED)


def test_a_frame_that_never_ends_is_given_up() -> None:
    """No close frame can be sent inside it, so that the connection is dropped after the time for closing."""
    limits = EdgeLimits(close_s=0.3)
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port, limits) as guard,
        joined(upstream, guard) as (peer, accepted, admitted),
    ):
        accepted.send(FRAME[:3])
        peer.exactly(3)
        end(guard, admitted)
        assert admitted.next() == ("closed", *EXPIRED)
        assert peer.rest() == b""


def test_a_client_that_does_not_answer_the_close_frame_is_given_up() -> None:
    """It has the reason; after the time for closing both connections end."""
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port, EdgeLimits(close_s=0.3)) as guard,
        joined(upstream, guard) as (peer, accepted, admitted),
    ):
        end(guard, admitted)
        assert peer.close_frame() == EXPIRED
        assert close_frame_of(accepted) == EXPIRED
        assert peer.rest() == b""
        assert accepted.rest() == b""
        assert admitted.next() == ("closed", *EXPIRED)


@pytest.mark.parametrize("loop", sorted(LOOPS))
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_lost_upstream_is_named_to_the_client(loop: str, how: str) -> None:
    """Its process was killed: FIN, or RST where bytes were unread. The client gets a close frame with the reason."""
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port, loop=loop) as guard,
        joined(upstream, guard) as (peer, accepted, admitted),
    ):
        accepted.send(FRAME)
        assert peer.frame() == (0x82, b"0123456789")
        if how == "fin":
            accepted.socket.close()
        else:
            reset(accepted)
        code, reason = peer.close_frame()
        assert (code, reason.split(":")[0]) == (4006, "upstream_gone")
        assert peer.rest() == b""
        assert admitted.next()[:2] == ("closed", 4006)


def test_an_upstream_lost_within_a_frame_ends_the_connection_without_another_byte() -> None:
    """A close frame would be taken for the rest of the frame."""
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port) as guard,
        joined(upstream, guard) as (peer, accepted, admitted),
    ):
        accepted.send(FRAME[:4])
        accepted.socket.close()
        assert peer.rest() == FRAME[:4]
        assert admitted.next() == ("closed", 1006, "")


def test_an_upstreams_own_close_frame_is_the_last_word() -> None:
    """Its code passes, and nothing of the guard's follows it; bytes behind its 101 pass first."""
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port) as guard,
        joined(upstream, guard, behind=FRAME + encode_close(4123, "own")) as (peer, accepted, admitted),
    ):
        assert peer.frame() == (0x82, b"0123456789")
        assert peer.close_frame() == (4123, "own")
        end(guard, admitted)
        peer.send(close(4123))
        assert close_frame_of(accepted) == EXPIRED
        assert peer.rest() == b""
        assert admitted.next() == ("closed", *EXPIRED)


def test_an_upstreams_close_frame_under_way_is_completed() -> None:
    """It had begun when the guard wanted to close: its rest passes, and no other close frame follows."""
    own = encode_close(4123, "own")
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port) as guard,
        joined(upstream, guard, behind=own[:5]) as (peer, accepted, admitted),
    ):
        assert peer.exactly(5) == own[:5]
        end(guard, admitted)
        accepted.send(own[5:])
        assert peer.exactly(len(own) - 5) == own[5:]
        peer.send(close(4123))
        assert peer.rest() == b""


def test_an_upstream_that_ends_at_once_is_named() -> None:
    """The FIN comes with the 101."""
    with RawUpstream() as upstream, Guarding(upstream.port) as alone, alone.peer() as peer:
        peer.send(upgrade())
        with upstream.joined():
            pass
        assert peer.head().status == 101
        assert peer.close_frame()[0] == 4006


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_client_that_leaves_ends_the_upstreams_connection(how: str) -> None:
    """The upstream gets every byte that the client sent, then FIN; the receiver is told."""
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port) as guard,
        joined(upstream, guard, early=masked(1, b"early")) as (peer, accepted, admitted),
    ):
        assert accepted.exactly(len(masked(1, b"early"))) == masked(1, b"early")
        if how == "fin":
            peer.half_close()
        else:
            reset(peer)
        assert accepted.rest() == b""
        assert admitted.next() == ("closed", 1006, "")


def test_an_upstream_that_does_not_end_is_dropped_in_time() -> None:
    """It gets the client's FIN and `close_s` for its own: otherwise each client that leaves would keep a connection."""
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port, EdgeLimits(close_s=0.2)) as guard,
        joined(upstream, guard) as (peer, accepted, admitted),
    ):
        peer.half_close()
        assert accepted.rest() == b""
        assert admitted.next() == ("closed", 1006, "")
        gives_up_at = time.monotonic() + within(10)
        with pytest.raises(OSError):
            while time.monotonic() < gives_up_at:  # its own direction stays open until then
                accepted.send(encode_frame(2, b"x"))
                time.sleep(0.01)


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_a_side_that_does_not_read_stops_the_other(loop: str) -> None:
    """In both directions: the sender is blocked after the buffers are full, and gets on when the reader reads."""
    size = 64 * 1024
    with (
        RawUpstream(receive_buffer=32_768) as upstream,
        Guarding(upstream.port, loop=loop) as guard,
        joined(upstream, guard, receive_buffer=32_768) as (peer, accepted, _),
    ):
        for sender, reader in ((accepted, peer), (peer, accepted)):
            sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            frame = encode_frame(2, bytes(size), None if sender is accepted else b"mask")
            sent = blocked_after(sender, frame)
            assert sent < kernel_buffers() + 2_000_000, "the guard kept everything"
            reader.exactly(sent)
            sender.socket.settimeout(5)
            rest = frame[sent % len(frame) :]
            sender.send(rest)
            assert reader.exactly(len(rest)) == rest


def kernel_buffers() -> int:
    """The most that the guard's own sockets may hold before it in the kernel, in bytes: one receives, one sends."""
    sizes = [Path(f"/proc/sys/net/ipv4/tcp_{kind}").read_text().split()[2] for kind in ("rmem", "wmem")]
    return sum(map(int, sizes))


def blocked_after(sender: Peer, frame: bytes) -> int:
    """Send frames until nothing is taken for half a second; returns the number of bytes."""
    sender.socket.settimeout(0.5)
    sent = 0
    while sent < 2 * kernel_buffers() + 4_000_000:
        try:
            sent += sender.socket.send(frame[sent % len(frame) :])
        except TimeoutError:
            return sent
    return sent


def test_a_slow_client_gets_what_came_before_the_end() -> None:
    """The upstream sends much, says goodbye and is gone: a client that reads late gets all of it."""
    frame = encode_frame(2, bytes(200_000))
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port, EdgeLimits(linger_s=0.2)) as guard,
        joined(upstream, guard, receive_buffer=4096) as (peer, accepted, admitted),
    ):
        accepted.send(frame + encode_close(1000, "done"))
        accepted.half_close()
        assert admitted.next() == ("closed", 1005, "")
        time.sleep(0.5)  # longer than a client that has read everything is given
        assert peer.exactly(len(frame)) == frame
        assert peer.close_frame() == (1000, "done")


def test_the_server_ends_relayed_connections_when_it_stops() -> None:
    """The drain's leftovers get the draining code."""
    with (
        RawUpstream() as upstream,
        Guarding(upstream.port) as alone,
        joined(upstream, alone) as (peer, accepted, _),
    ):
        alone.call(alone.server.stop)
        code, reason = peer.close_frame()
        assert (code, reason.split(":")[0]) == (3001, "draining")
        assert close_frame_of(accepted)[0] == 3001
        peer.send(close(3001))
