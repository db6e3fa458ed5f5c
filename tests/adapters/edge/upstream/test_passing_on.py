"""How relayed bytes leave: straight to the kernel while the transport holds none, in order in any case."""

from __future__ import annotations

from typing import Any, cast

import pytest

from narthex.adapters.edge.upstream.relay import _pass_on, _pause, _resume


class Transport:
    """A transport that holds what it was given."""

    def __init__(self, held: bytes = b"", *, closing: bool = False) -> None:
        self.held, self.closing = held, closing
        self.calls: list[str] = []

    def get_write_buffer_size(self) -> int:
        """Bytes that are not in the kernel yet."""
        return len(self.held)

    def write(self, data: bytes) -> None:
        """As a transport."""
        self.held += data

    def is_closing(self) -> bool:
        """As a transport."""
        return self.closing

    def pause_reading(self) -> None:
        """Note it."""
        self.calls.append("pause")

    def resume_reading(self) -> None:
        """Note it."""
        self.calls.append("resume")


class Sender:
    """A sender that takes so many bytes; None: it fails."""

    def __init__(self, takes: int | None) -> None:
        self.takes = takes
        self.sent = b""

    def send(self, data: bytes) -> int:
        """As `SocketSender.send`."""
        if self.takes is None:
            raise BlockingIOError
        self.sent += data[: self.takes]
        return min(self.takes, len(data))


@pytest.mark.parametrize(
    ("held", "takes", "sent", "left"),
    [
        (b"", 4, b"abcd", b""),
        (b"", 9, b"abcd", b""),
        (b"", 3, b"abc", b"d"),
        (b"", 0, b"", b"abcd"),
        (b"", None, b"", b"abcd"),
        (b"x", 9, b"", b"xabcd"),
    ],
)
def test_no_byte_is_lost_or_overtaken(held: bytes, takes: int | None, sent: bytes, left: bytes) -> None:
    """What the kernel takes is not written again; behind bytes that wait nothing is sent directly."""
    transport, sender = Transport(held), Sender(takes)
    _pass_on(b"abcd", cast("Any", sender), cast("Any", transport))
    assert (sender.sent, transport.held) == (sent, left)


def test_a_closing_transport_is_left_alone() -> None:
    """Pausing or resuming it would raise."""
    for closing, calls in ((False, ["pause", "resume"]), (True, [])):
        transport = Transport(closing=closing)
        _pause(cast("Any", transport))
        _resume(cast("Any", transport))
        assert transport.calls == calls
