"""Attacks that have hit other servers, at a tenth of their size by default, in full under `-m soak`.

Each runs against the real program; what it may cost is memory of that process, and the next client is served
within a second.
"""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from tests.adapters.edge.child import Child, child
from tests.adapters.edge.harness import Peer, masked
from tests.timing import within

MIB = 1 << 20
SCALES = [pytest.param(0.1, id="tenth"), pytest.param(1.0, id="full", marks=pytest.mark.soak)]


@pytest.fixture(scope="module")
def program() -> Iterator[Child]:
    """One server for all attacks, warmed up, with deflate on."""
    with child(DEFLATE="1") as started:
        for _ in range(20):
            with started.websocket() as peer:
                peer.send(masked(8, b"\x03\xe8"))
                peer.rest()
            with started.peer() as peer:
                peer.send(b"garbage\r\n\r\n")
                peer.rest()
        yield started


@contextlib.contextmanager
def costs(program: Child, at_most: int) -> Iterator[None]:
    """The process's peak grows by at most this many bytes inside, and the next client is served within 1 s."""
    program.forget_peak()
    before = program.peak()
    yield
    grown = program.peak() - before
    assert grown <= at_most, f"{grown / MIB:.1f} MiB more"
    started = time.monotonic()
    with program.websocket("/ws/conformance") as peer:
        peer.send(masked(1, b"still here"))
        assert peer.frame() == (0x81, b"still here")
    assert time.monotonic() - started < within(1)


def flood(peer: Peer, unit: bytes, count: int) -> None:
    """Send `unit` this often, or until the server closes; another thread may read meanwhile."""
    block = unit * max(1, 60_000 // len(unit))
    with contextlib.suppress(OSError):
        for _ in range(count * len(unit) // len(block) + 1):
            peer.send(block)


def closed_with(peer: Peer, unit: bytes, count: int, *, first: bytes = b"") -> int:
    """The close code that a flood earns."""
    peer.send(first)
    sender = threading.Thread(target=flood, args=(peer, unit, count), daemon=True)
    sender.start()
    while (found := peer.frame())[0] != 0x88:
        pass
    peer.socket.close()
    sender.join(within(10))
    return int.from_bytes(found[1][:2], "big")


@pytest.mark.parametrize("scale", SCALES)
def test_empty_fragments(program: Child, scale: float) -> None:
    """12 M empty continuations: a count limits them, since no size limit does."""
    with costs(program, 8 * MIB), program.websocket() as peer:
        code = closed_with(peer, masked(0, final=False), int(12e6 * scale), first=masked(1, final=False))
        assert code == 1009


@pytest.mark.parametrize("scale", SCALES)
def test_one_byte_fragments(program: Child, scale: float) -> None:
    """3 M fragments of a byte."""
    with costs(program, 8 * MIB), program.websocket() as peer:
        code = closed_with(peer, masked(0, b"x", final=False), int(3e6 * scale), first=masked(1, final=False))
        assert code == 1009


@pytest.mark.parametrize("scale", SCALES)
def test_pings_that_are_never_read(program: Child, scale: float) -> None:
    """400 k pings, no pong read: closed for their rate, long before pongs pile up."""
    with costs(program, 8 * MIB), program.websocket() as peer:
        flood(peer, masked(9, b"p" * 125), int(400e3 * scale))
        while (found := peer.frame())[0] != 0x88:
            pass
        assert int.from_bytes(found[1][:2], "big") == 3013


@pytest.mark.parametrize("scale", SCALES)
def test_pings_where_there_is_no_rate(program: Child, scale: float) -> None:
    """The same on `/ws/conformance`: reading stops while pongs are not read, so that the sender blocks."""
    with costs(program, 8 * MIB), program.websocket("/ws/conformance") as peer:
        peer.socket.settimeout(1.0)
        flood(peer, masked(9, b"p" * 125), int(400e3 * scale))


@pytest.mark.parametrize("scale", SCALES)
def test_a_deflate_bomb(program: Child, scale: float) -> None:
    """200 MiB in 200 kB, in one message and in fragments."""
    machine = zlib.compressobj(wbits=-15)
    zeros = bytes(MIB)
    packed = b"".join(machine.compress(zeros) for _ in range(int(200 * scale)))
    bomb = packed + machine.flush(zlib.Z_SYNC_FLUSH)
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    for bound, path in ((8 * MIB, "/ws"), (32 * MIB, "/ws/conformance")):
        with costs(program, bound), program.websocket(path, extra=offer) as peer:
            peer.send(masked(2, bomb, rsv=0x40))
            assert peer.close_frame()[0] == 1009
    small = zlib.compressobj(wbits=-15)
    below = small.compress(bytes(50 * MIB)) + small.flush(zlib.Z_SYNC_FLUSH)
    with costs(program, 8 * MIB), program.websocket(extra=offer) as peer:
        half = len(below) // 2
        peer.send(masked(2, below[:half], final=False, rsv=0x40) + masked(0, below[half:]))
        assert peer.close_frame()[0] == 1009


@pytest.mark.parametrize("scale", SCALES)
def test_partial_requests(scale: float) -> None:
    """2,000 requests that never end: a few kB each, and every one gets 408 and FIN in time."""
    with (
        child(HANDSHAKE_S=str(10 * scale)) as program,
        contextlib.ExitStack() as open_peers,
        costs(program, 8 * MIB),
    ):
        peers = [open_peers.enter_context(program.peer()) for _ in range(int(2000 * scale))]
        for peer in peers:
            peer.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"c" * 100)
        with program.websocket():
            pass
        for peer in peers:
            peer.socket.settimeout(within(15))
            assert peer.answer()[0].status == 408
            assert peer.rest() == b""


def test_heads_that_are_too_much(program: Child) -> None:
    """129 headers and a header line of 70 KB, ten times each: 431, and nothing is kept."""
    many = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Y: z\r\n" * 129 + b"\r\n"
    long = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"
    with costs(program, 8 * MIB):
        for request in (many, long) * 10:
            with program.peer() as peer:
                peer.send(request)
                assert peer.answer()[0].status == 431
                assert peer.rest() == b""


def test_lengths_that_lie(program: Child) -> None:
    """2^63 and 2^62 bytes announced, and a frame that stops one byte short: no memory is reserved."""
    with costs(program, 8 * MIB):
        for length, code in ((1 << 63, 1002), ((1 << 62), 1009)):
            with program.websocket() as peer:
                peer.send(b"\x82\xff" + length.to_bytes(8, "big"))
                assert peer.close_frame()[0] == code
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                peer = stack.enter_context(program.websocket("/ws/conformance"))
                peer.send(b"\x82\xff" + (16 * MIB).to_bytes(8, "big") + b"mask")


def test_a_compressed_empty_message_stream(program: Child) -> None:
    """Thousands of tiny compressed messages: each is bounded by itself, none leaves a window behind."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    with costs(program, 8 * MIB), program.websocket(extra=offer) as peer:
        flood(peer, masked(1, b"\x00", rsv=0x40), 20_000)
        peer.send(masked(8, b"\x03\xe8"))
        assert peer.close_frame()[0] == 1000
