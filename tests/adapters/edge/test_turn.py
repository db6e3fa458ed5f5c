"""101s of one turn: written in a row, each once, and whatever a client does before the turn's end is kept."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from narthex.adapters.edge.protocol import Entrance
from narthex.adapters.edge.welcomes import AT_ONCE, Welcome, Welcomes
from tests.adapters.edge.harness import LOOPS, TIME_UNIT_S, Peer, Running, masked, upgrade


class Line:
    """A transport and its socket, which write down what happens to them, in one list for all."""

    def __init__(self, events: list[tuple[str, Any]], name: int, *, broken: bool = False) -> None:
        self.events = events
        self.name = name
        self.broken = broken

    def write(self, data: bytes) -> None:
        if self.broken:
            raise RuntimeError("unable to perform operation on closed transport")
        self.events.append((f"write {data.decode()}", self.name))

    def start(self, early: bytes) -> None:
        self.events.append((f"start {early.decode()}", self.name))

    def miss(self) -> None:
        self.events.append(("miss", self.name))

    def eof_received(self) -> None:
        self.events.append(("eof", self.name))

    def welcome(self) -> Welcome:
        """Its 101."""
        return Welcome(self, cast("asyncio.Transport", self), b"101")


async def test_all_are_written_before_any_starts() -> None:
    """At the end of the turn, not before."""
    events: list[tuple[str, Any]] = []
    welcomes = Welcomes(asyncio.get_running_loop())
    for name in range(3):
        welcomes.add(Line(events, name).welcome())
    assert events == []
    await asyncio.sleep(0)
    assert events == [("write 101", name) for name in range(3)] + [("start ", name) for name in range(3)]


async def test_nobody_waits_for_more_than_a_few() -> None:
    """The sixteenth writes all; the next begin anew, and none is written twice."""
    events: list[tuple[str, Any]] = []
    welcomes = Welcomes(asyncio.get_running_loop())
    for name in range(AT_ONCE + 1):
        welcomes.add(Line(events, name).welcome())
    assert events.count(("write 101", AT_ONCE - 1)) == 1
    assert ("write 101", AT_ONCE) not in events
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sorted(name for event, name in events if event == "write 101") == list(range(AT_ONCE + 1))
    assert len(events) == 2 * (AT_ONCE + 1)


async def test_a_client_that_speaks_or_leaves_meanwhile_is_told_once() -> None:
    """Bytes, a FIN and a reset before the turn's end come after the 101, in its place, or instead of it."""
    events: list[tuple[str, Any]] = []
    welcomes = Welcomes(asyncio.get_running_loop())
    speaks, ends, leaves = (Line(events, name).welcome() for name in (1, 2, 3))
    for welcome in (speaks, ends, leaves):
        welcomes.add(welcome)
    speaks.start(b"early")
    ends.start(eof=True)
    leaves.miss()
    told = [("write 101", 1), ("start early", 1), ("write 101", 2), ("start ", 2), ("eof", 2), ("miss", 3)]
    assert events == told
    await asyncio.sleep(0)
    assert events == told


async def test_a_broken_connection_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its receiver is opened and closed, since the Gate counted it; the others get their answers."""
    events: list[tuple[str, Any]] = []
    welcomes = Welcomes(asyncio.get_running_loop())
    for name in range(3):
        welcomes.add(Line(events, name, broken=name == 1).welcome())
    await asyncio.sleep(0)
    assert events == [("write 101", 0), ("miss", 1), ("write 101", 2), ("start ", 0), ("start ", 2)]
    assert "a 101 could not be written" in caplog.text


@pytest.mark.parametrize("behind", [b"", masked(1, b"hello")])
def test_what_comes_before_the_turns_end_is_kept(server: Running, behind: bytes) -> None:
    """The entrance itself: a head, then at once more bytes, a FIN or a loss, all before the loop turns."""
    for event in ("data", "eof", "lost"):
        transport = _Transport()
        entrance = Entrance(server.edge)

        def arrive(entrance: Entrance = entrance, transport: Any = transport, event: str = event) -> None:
            entrance.connection_made(transport)
            entrance.data_received(upgrade() + behind)
            current = transport.protocol or entrance
            if event == "data":
                current.data_received(masked(1, b"more"))
            elif event == "eof":
                current.eof_received()
            else:
                current.connection_lost(None)

        server.call(arrive)
        recorder = server.gate.receivers.get(timeout=TIME_UNIT_S)
        seen = [recorder.next()]
        while seen[-1][0] != "closed" and seen[-1] != ("message", b"more", False):
            seen.append(recorder.next())
        said = [("message", b"hello", False)] if behind else []
        last = ("message", b"more", False) if event == "data" else ("closed", 1006, "")
        assert seen == [("opened",), *said, last]
        if event != "lost":
            server.call(partial(transport.protocol.connection_lost, None))


def test_a_crowd_is_answered() -> None:
    """More clients at once than a turn accepts or writes: every one gets its 101 and is heard, on each loop."""
    for loop in LOOPS:
        with Running(loop=loop) as running:
            peers = [Peer(running.port) for _ in range(3 * AT_ONCE)]
            for peer in peers:
                peer.send(upgrade("/ws/conformance"))
            for peer in peers:
                assert peer.head().status == 101
                peer.send(masked(1, b"hello"))
            for peer in peers:
                assert peer.frame() == (0x81, b"hello")
                peer.socket.close()


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_every_door_is_closed_at_the_end(loop: str) -> None:
    """The listener's copies go with it: nobody connects any more, and no descriptor stays."""
    with Running(loop=loop):
        pass
    before = _descriptors()
    with Running(loop=loop) as running, Peer(running.port) as peer:
        peer.send(upgrade())
        assert peer.head().status == 101
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), timeout=TIME_UNIT_S)
    assert _descriptors() <= before


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class _Transport:
    """As much of a transport as the edge asks for."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.written = b""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 5) if name == "peername" else default

    def set_protocol(self, protocol: object) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, **_: int) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False
