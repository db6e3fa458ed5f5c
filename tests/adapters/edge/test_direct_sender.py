"""Direct sends to the kernel, over real sockets: nothing lost, duplicated, reordered, or sent to another connection."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import struct
from functools import partial
from typing import Any

import pytest

from narthex.adapters.edge.direct_sender import SocketSender
from narthex.adapters.edge.limits import EdgeLimits, MessageLimits
from narthex.adapters.edge.websocket import WebSocket
from narthex.app.hub.batch_writer import BatchWriter
from narthex.app.hub.channel import Channel
from narthex.app.hub.delivery import Delivery
from narthex.protocol.framing import Framing, Prepared
from narthex.web.fallbacks import StreamSocket
from tests.adapters.edge.harness import TIME_UNIT_S, PathHandler, Peer, Recorder, Running, upgrade

SEEDS = range(6)
STEPS = 80


class Listener(Recorder):
    """A receiver that is a channel's subscriber too, and keeps unsent data as a connection does."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel
        self.lagging = False
        self.late: list[bytes] = []
        self.first = 0  # the first publication that it is to be shown
        self.closing = False

    def writable(self, ready: bool) -> None:
        self.lagging = not ready
        while self.late and not self.lagging:
            assert self.socket is not None
            self.socket.send_frames(self.late.pop(0))

    def deliver_late(self, channel: Channel, items: list[Delivery]) -> None:
        assert self.socket is not None
        self.late += [item.prepared.framed(self.socket.framing) for item in items]

    def position_lost(self, channel: Channel) -> None:
        raise AssertionError

    def closed(self, code: int, reason: str) -> None:
        self.channel.drop(self)  # type: ignore[arg-type]  # `socket` may be None before it is opened
        super().closed(code, reason)


class ListeningHandler(PathHandler):
    """Every connection follows one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.channel = Channel("t/thread:one", "thread:one")

    def _recorder(self) -> Recorder:
        listener = Listener(self.channel)
        self.receivers.put(listener)
        return listener


def opened(server: Running) -> WebSocket:
    """The server's end of the newest connection."""
    receiver = server.gate.receivers.get(timeout=TIME_UNIT_S)
    assert receiver.next() == ("opened",)
    assert isinstance(receiver.socket, WebSocket)
    return receiver.socket


def test_a_direct_sender_owns_nothing() -> None:
    """Disabled it fails, enabled it sends, and after its release the descriptor stays with its owner."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = SocketSender(ours.fileno())
        assert sender.send(b"one") == 3
        sender.disable()
        sender.disable()
        with pytest.raises(OSError, match="Bad file descriptor"):
            sender.send(b"two")
        sender.enable(ours.fileno())
        assert sender.send(b"three") == 5
        del sender
        gc.collect()
        ours.sendall(b"four")
        assert theirs.recv(100) == b"onethreefour"


def test_a_direct_sender_never_blocks() -> None:
    """Not even if an agent in the same process has set a time-out for every new socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        socket.setdefaulttimeout(TIME_UNIT_S)
        try:
            sender = SocketSender(ours.fileno())
            assert sender.gettimeout() == 0.0
            sender.disable()
            sender.enable(ours.fileno())
            assert sender.gettimeout() == 0.0
        finally:
            socket.setdefaulttimeout(None)
        with contextlib.suppress(BlockingIOError):
            while sender.send(bytes(65_536)):
                pass
        with pytest.raises(BlockingIOError):
            sender.send(b"full")
        sender.disable()


def test_no_direct_sender_outlives_its_connection(server: Running) -> None:
    """The next connection gets the same descriptor; the old direct sender does not reach it."""
    with server.websocket():
        old = opened(server)
        descriptor, sender = old._descriptor, old.direct_sender
        assert sender is not None
    for _ in range(50):
        with server.websocket() as peer:
            new = opened(server)
            if new._descriptor != descriptor:
                continue
            with pytest.raises(OSError, match="Bad file descriptor"):
                server.call(lambda: sender.send(b"\x81\x05stray"))
            server.call(partial(new.send, Prepared(b"mine")))
            assert peer.frame() == (0x81, b"mine")
            return
    raise AssertionError("no connection got the descriptor again")


def test_nothing_follows_a_close_frame(server: Running) -> None:
    """Closing disables the direct sender in the same call."""
    with server.websocket() as peer:
        out = opened(server)
        sender = out.direct_sender
        assert sender is not None

        def close() -> str:
            out.send(Prepared(b"first"))
            assert sender.send(b"\x81\x04lane") == 6
            out.close(3000, "bye")
            with pytest.raises(OSError, match="Bad file descriptor"):
                sender.send(b"\x81\x05stray")
            out.send(Prepared(b"too late"))
            return "done"

        assert server.call(close) == "done"
        assert [peer.frame(), peer.frame()] == [(0x81, b"first"), (0x81, b"lane")]
        assert peer.close_frame() == (3000, "bye")


def test_nothing_follows_an_end(server: Running) -> None:
    """The process stops: the transport drops its buffer, so a direct sender must not write behind the gap."""
    with server.websocket() as peer:
        out = opened(server)
        sender = out.direct_sender
        assert sender is not None

        def end() -> None:
            out.send(Prepared(b"first"))
            out.end()
            with pytest.raises(OSError, match="Bad file descriptor"):
                sender.send(b"\x81\x05stray")
            out.send(Prepared(b"too late"))

        server.call(end)
        assert peer.frame() == (0x81, b"first")
        with contextlib.suppress(ConnectionResetError):
            assert peer.rest() == b""


def test_connections_without_a_direct_sender() -> None:
    """Deflate: plain frames would go out uncompressed."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    limits = EdgeLimits(app=MessageLimits(deflate=True))
    with Running(limits) as server, server.websocket(extra=offer) as peer:
        out = opened(server)
        assert (out.framing, out.direct_sender) == (Framing.WEBSOCKET_DEFLATE, None)
        server.call(lambda: out.send(Prepared(b"x" * 1000)))
        first, payload = peer.frame()
        assert first == 0xC1
        assert len(payload) < 100


def test_tls_and_streams_have_none() -> None:
    """Data that must be encrypted, or goes through a response, is never written straight to a descriptor."""
    assert StreamSocket.direct_sender is None
    with Running() as server:
        server.edge.secure = True
        with server.websocket() as peer:
            out = opened(server)
            assert (out.direct_sender, out._sender) == (None, None)
            server.call(lambda: out.send(Prepared(b"by the transport")))
            assert peer.frame() == (0x81, b"by the transport")


class World:
    """Connections that open, follow, lag, send and close, and the publications that each must have received."""

    def __init__(self, server: Running, handler: ListeningHandler, seed: int) -> None:
        self.server = server
        self.channel = handler.channel
        self.receivers = handler.receivers
        self.dice = random.Random(seed)
        self.people: list[tuple[Listener, Peer]] = []
        self.published = 0
        self.answered = 0
        self.writer: BatchWriter | None = None
        self.waited = 0  # how often data was queued behind bytes that the kernel had not taken

    def joins(self) -> None:
        """A connection, a member from the next round on."""
        peer = Peer(self.server.port)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        peer.send(upgrade())
        assert peer.head().status == 101
        listener: Any = self.receivers.get(timeout=TIME_UNIT_S)
        assert listener.next() == ("opened",)

        def join() -> None:
            self._finish()
            listener.first = self.published + 1
            self.channel.members[listener] = None
            self.channel._recipients = None  # as `promote` does

        self.server.call(join)
        self.people.append((listener, peer))

    def publishes(self) -> None:
        """One or more publications of any size, part of which is written now and the rest later."""
        sizes = [self.dice.choice((3, 200, 30_000, 150_000)) for _ in range(self.dice.randint(1, 3))]
        part = self.dice.randint(0, len(self.people) + 1)

        def publish() -> None:
            self._finish()
            if not self.channel.members:
                return
            self.waited += sum(one.socket.buffered() > 0 for one in self.channel.members)
            for size in sizes:
                self.published += 1
                self.channel.put(Delivery(Prepared(b"P%d:" % self.published + b"x" * size), None))
            self.writer = BatchWriter(self.channel, self._fault)
            self.writer.write(part)

        self.server.call(publish)

    def answers(self) -> None:
        """Replies to a client, during a batch or not."""
        listener, _ = self.dice.choice(self.people)
        size = self.dice.choice((3, 500, 20_000))

        def answer() -> None:
            assert listener.socket is not None
            done = self.published if self.writer is None else 0
            if listener.late or listener.closing:
                return  # a connection's reply overtakes its backlog: the connection handles that, not the direct sender
            self.answered += 1
            listener.socket.send(Prepared(b"R%d:%d:" % (self.answered, done) + b"y" * size))

        self.server.call(answer)

    def reads(self) -> None:
        """A client reads a little."""
        _, peer = self.dice.choice(self.people)
        peer.socket.settimeout(0.001)
        with contextlib.suppress(TimeoutError):
            peer._read += peer.socket.recv(self.dice.choice((1_000, 100_000, 1_000_000)))
        peer.socket.settimeout(TIME_UNIT_S)

    def goes(self) -> None:
        """Reset by the peer: another client connects at once, and may get the descriptor, with a batch in progress."""
        at = self.dice.randrange(len(self.people))
        listener, peer = self.people.pop(at)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()
        if self.dice.random() < 0.5:
            while listener.next()[0] != "closed":
                pass
        self.joins()

    def closes(self) -> None:
        """The app closes a connection, whatever is in progress."""
        listener, _ = self.dice.choice(self.people)

        def close() -> None:
            assert listener.socket is not None
            listener.closing = True
            listener.late.clear()
            self.channel.drop(listener)  # type: ignore[arg-type]  # see Listener
            listener.socket.close(3000, "bye")

        self.server.call(close)

    def _finish(self) -> None:
        while self.writer is not None and not self.writer.done():
            self.writer.write(self.dice.randint(1, 3))
        self.writer = None

    def _fault(self, fault: BaseException) -> None:
        raise AssertionError from fault

    def judged(self) -> None:
        """Everything is read; each client received its publications, once, in order."""
        self.server.call(self._finish)
        for listener, peer in self.people:
            if not listener.closing:
                self.server.call(partial(self._ends, listener))
            self._judge(listener, peer)

    @staticmethod
    def _ends(listener: Listener) -> None:
        end = Prepared(b"end")
        if listener.late:
            listener.late.append(end.framed(Framing.WEBSOCKET))
        elif listener.socket is not None:
            listener.socket.send(end)

    def _judge(self, listener: Listener, peer: Peer) -> None:
        publications: list[int] = []
        replies: list[int] = []
        while (found := peer.frame()) not in ((0x81, b"end"), (0x88, b"\x0b\xb8bye")):
            kind, numbers = found[1][:1], found[1].split(b":")
            if kind == b"P":
                publications.append(int(numbers[0][1:]))
            else:
                replies.append(int(numbers[0][1:]))
                shown = int(numbers[1])
                if shown >= listener.first and not listener.closing:
                    assert publications, "a reply overtook a publication"
                    assert publications[-1] >= shown
        assert replies == sorted(set(replies))
        everything = list(range(listener.first, self.published + 1))
        if listener.closing:
            assert found[0] == 0x88
            assert publications == everything[: len(publications)]
        else:
            assert publications == everything


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("seed", SEEDS)
def test_any_sequence_of_events(loop: str, seed: int) -> None:
    """Publications in parts, replies, lag, draining, closing, resets, and new clients on old descriptors."""
    handler = ListeningHandler()
    with Running(EdgeLimits(send_buffer_bytes=8_192), loop=loop, handler=handler) as server:
        world = World(server, handler, seed)
        for _ in range(4):
            world.joins()
        acts = [world.publishes] * 6 + [world.answers] * 4 + [world.reads] * 4 + [world.goes, world.closes]
        for _ in range(STEPS):
            world.dice.choice(acts)()
        try:
            world.judged()
            assert world.waited, "nothing was ever in the way: the story has no teeth"
        finally:
            for _, peer in world.people:
                peer.socket.close()
