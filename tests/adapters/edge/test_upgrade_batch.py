"""One loop iteration in stages; no action of a client before its end is lost."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from narthex.adapters.edge.head_stage import RequestHeadStage
from narthex.adapters.edge.tcp import TcpConnection
from narthex.adapters.edge.upgrade_batch import AT_ONCE, PendingUpgrade, UpgradeBatch
from tests.adapters.edge.harness import LOOPS, TIME_UNIT_S, Peer, Running, masked, upgrade


class Line:
    """A protocol, its transport and its socket, which record their calls in one common list."""

    def __init__(self, events: list[tuple[str, int]], name: int, *, broken: str = "") -> None:
        self.events = events
        self.name = name
        self.broken = broken

    def read(self) -> PendingUpgrade | None:
        self.events.append(("read", self.name))
        if self.broken == "read":
            raise RuntimeError("a bug")
        if self.broken == "refused":
            return None
        return PendingUpgrade(self, cast("asyncio.Transport", self), b"101", b"early")

    def write(self, data: bytes) -> None:
        if self.broken == "write":
            raise RuntimeError("unable to perform operation on closed transport")
        self.events.append((f"write {data.decode()}", self.name))

    def abort(self) -> None:
        self.events.append(("abort", self.name))

    def start(self, early: bytes) -> None:
        if self.broken == "start":
            raise RuntimeError("a bug")
        self.events.append((f"start {early.decode()}", self.name))

    def abandon(self) -> None:
        self.events.append(("miss", self.name))

    def end(self) -> None:
        self.events.append(("end", self.name))


def stages(*names: int) -> list[tuple[str, int]]:
    """The calls of one iteration."""
    return [(stage, name) for stage in ("read", "write 101", "start early") for name in names]


async def test_all_are_read_then_written_then_started() -> None:
    """At the end of the iteration, not before."""
    events: list[tuple[str, int]] = []
    upgrades = UpgradeBatch(asyncio.get_running_loop())
    for name in range(3):
        upgrades.add(Line(events, name))
    assert events == []
    await asyncio.sleep(0)
    assert events == stages(0, 1, 2)
    upgrades.add(Line(events, 3))
    await asyncio.sleep(0)
    assert events[9:] == stages(3)


async def test_nobody_waits_for_more_than_a_few() -> None:
    """A large number of connections is handled in parts, in order, and none twice."""
    events: list[tuple[str, int]] = []
    upgrades = UpgradeBatch(asyncio.get_running_loop())
    for name in range(2 * AT_ONCE + 1):
        upgrades.add(Line(events, name))
    await asyncio.sleep(0)
    first, second = range(AT_ONCE), range(AT_ONCE, 2 * AT_ONCE)
    assert events == stages(*first) + stages(*second) + stages(2 * AT_ONCE)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("refused", []),
        ("read", [("end", 1)]),
        ("write", [("abort", 1), ("miss", 1)]),
        ("start", [("write 101", 1), ("abort", 1)]),
    ],
)
async def test_one_costs_the_others_nothing(
    broken: str, expected: list[tuple[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    """A refused request has no 101; a bug ends its own connection; an unwritable one is abandoned, and logged."""
    events: list[tuple[str, int]] = []
    upgrades = UpgradeBatch(asyncio.get_running_loop())
    for name in range(3):
        upgrades.add(Line(events, name, broken=broken if name == 1 else ""))
    await asyncio.sleep(0)
    assert [event for event in events if event[1] != 1] == stages(0, 2)
    assert [event for event in events if event[1] == 1] == [("read", 1), *expected]
    assert bool(caplog.records) is bool(expected)


@pytest.mark.parametrize("behind", [b"", masked(1, b"hello")])
@pytest.mark.parametrize("event", ["", "data", "eof", "expired", "lost"])
def test_what_happens_before_the_turns_end_is_kept(server: Running, event: str, behind: bytes) -> None:
    """A head, then at once more bytes, a FIN, the deadline or a loss, all before the loop continues."""
    transport, tcp = _Transport(), accepted(server)

    def arrive() -> None:
        tcp.connection_made(cast("asyncio.Transport", transport))
        tcp.data_received(upgrade() + behind)
        if event == "data":
            tcp.data_received(masked(1, b"more"))
        elif event == "eof":
            tcp.eof_received()
        elif event == "expired":
            tcp.clear_deadline()
            tcp.wake(0.0)
        elif event == "lost":
            tcp.connection_lost(None)

    before = server.edge.open
    server.call(arrive)
    server.call(lambda: None)  # one iteration later
    if event == "lost":
        assert (transport.written, server.edge.open, len(server.edge.timers)) == (b"", before, 0)
        return
    recorder = server.gate.receivers.get(timeout=TIME_UNIT_S)
    said = [("message", b"hello", False)] if behind else []
    said += [("message", b"more", False)] if event == "data" else []
    end = [("closed", 1006, "")] if event == "eof" else []
    assert [recorder.next() for _ in range(1 + len(said) + len(end))] == [("opened",), *said, *end]
    assert transport.written.startswith(b"HTTP/1.1 101 ")
    assert transport.written.count(b"101 Switching") == 1
    assert server.edge.open == before + 1
    server.call(partial(tcp.connection_lost, None))
    assert server.edge.open == before
    if not end:
        assert recorder.next() == ("closed", 1006, "")


def test_what_one_turn_may_bring_is_bounded(server: Running) -> None:
    """A flood without a head is refused in the iteration that reads it: at most a head and one read are buffered."""
    transport, tcp = _Transport(), accepted(server)
    entrance = cast("RequestHeadStage", tcp.stage)
    limit = server.edge.limits.head_bytes

    def flood() -> tuple[int, bytes]:
        tcp.connection_made(cast("asyncio.Transport", transport))
        most = 0
        for _ in range(8):
            tcp.data_received(b"GET / HTTP/1.1\r\nX: " + b"x" * limit)
            most = max(most, len(entrance._unread))
        return most, transport.written[:12]

    most, written = server.call(flood)
    assert most <= limit
    assert written == b"HTTP/1.1 431"
    server.call(partial(tcp.connection_lost, None))


def test_a_fin_behind_a_part_of_a_head_is_answered(server: Running) -> None:
    """In one iteration, as in two: 400."""
    transport, tcp = _Transport(), accepted(server)

    def arrive() -> None:
        tcp.connection_made(cast("asyncio.Transport", transport))
        tcp.data_received(upgrade()[:-2])
        assert tcp.eof_received()

    server.call(arrive)
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    server.call(partial(tcp.connection_lost, None))


def test_a_crowd_is_answered() -> None:
    """More simultaneous clients than an iteration accepts or writes: each gets its 101 and is served, on each loop."""
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
def test_every_listener_is_closed_at_the_end(loop: str) -> None:
    """The listener's copies are closed too: no client connects any more, and no descriptor stays open."""
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


def accepted(server: Running) -> TcpConnection:
    """The server's objects for an accepted connection."""
    tcp = TcpConnection(server.edge)
    tcp.stage = RequestHeadStage(tcp)
    return tcp


class _Transport:
    """The parts of a transport that the edge uses."""

    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 5) if name == "peername" else default

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
