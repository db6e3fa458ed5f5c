"""permessage-deflate: negotiation by RFC 7692 section 7.1, and inflating within a bound."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.adapters.edge.deflate import TooLarge, inflate, negotiate
from narthex.protocol.framing import deflate
from tests.adapters.edge.harness import Running, upgrade

BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "response", "window"),
    [
        ("permessage-deflate", BOTH, 15),
        ("permessage-deflate; client_max_window_bits", BOTH, 15),
        ("permessage-deflate; client_max_window_bits=9; client_no_context_takeover", BOTH, 15),
        ("permessage-deflate; server_max_window_bits=10", BOTH + "; server_max_window_bits=10", 10),
        ("permessage-deflate; server_max_window_bits=15", BOTH + "; server_max_window_bits=15", 15),
        ('permessage-deflate; server_max_window_bits="12"', BOTH + "; server_max_window_bits=12", 12),
        ("x-webkit-deflate-frame, permessage-deflate; server_no_context_takeover", BOTH, 15),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", BOTH, 15),
        ("permessage-deflate; foo, permessage-deflate", BOTH, 15),
    ],
)
def test_offers_that_are_met(offers: str, response: str, window: int) -> None:
    """The first offer that can be met exactly wins; both directions lose their context."""
    assert negotiate(offers) == (response, window)


@pytest.mark.parametrize(
    "offers",
    [
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; foo=1",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-bzip2",
        ";;;",
        "permessage-deflate; =",
    ],
)
def test_offers_that_are_declined(offers: str) -> None:
    """No agreement, and no error: the connection continues uncompressed."""
    assert negotiate(offers) is None


@pytest.mark.parametrize(("path", "agreed"), [("/ws", False), ("/ws/conformance", True)])
def test_deflate_is_off_unless_it_was_set(path: str, agreed: bool) -> None:
    """It costs memory and CPU for each message; the path for protocol suites has it."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    with Running() as server, server.peer() as peer:
        peer.send(upgrade(path, extra=offer))
        head = peer.head()
        assert (head.status, "sec-websocket-extensions" in head.headers) == (101, agreed)


@given(st.binary(max_size=5000))
def test_inflating_undoes_deflating(data: bytes) -> None:
    """Data deflated by our own framing is restored."""
    assert inflate(deflate(data), len(data)) == data
    if data:
        with pytest.raises(TooLarge):
            inflate(deflate(data), len(data) - 1)


@pytest.mark.parametrize("size", [(1 << 18) - 1, 1 << 18, (1 << 18) + 1, 1 << 20, 3_500_000])
def test_large_messages_in_steps(size: int) -> None:
    """Around the size of a step and past it, to the byte."""
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    assert inflate(deflate(data), size) == data
    with pytest.raises(TooLarge):
        inflate(deflate(data), size - 1)


def test_a_final_block_is_accepted() -> None:
    """RFC 7692 section 7.2.3.4: a sender may set BFINAL."""
    machine = zlib.compressobj(wbits=-15)
    assert inflate(machine.compress(b"hello") + machine.flush() + b"\x00", 100) == b"hello"


def test_a_bomb_is_not_produced() -> None:
    """200 MiB in 200 kB stop at the bound, before the memory is taken."""
    machine = zlib.compressobj(wbits=-15)
    bomb = b"".join(machine.compress(bytes(1 << 20)) for _ in range(200)) + machine.flush(zlib.Z_SYNC_FLUSH)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflate(bomb[:-4], 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300))
def test_garbage_is_an_error_with_a_name(data: bytes) -> None:
    """Only zlib's error and the limit are reported."""
    with contextlib.suppress(zlib.error, TooLarge):
        assert len(inflate(data, 1000)) <= 1000
