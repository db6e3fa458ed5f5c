"""Sockets for thousands of clients: opened on many loopback addresses, watched by one epoll.

Rules: a client's end is never waited for without a deadline; an operation that a phase did not finish is counted as a
failure, not hidden.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from narthex.bench.load.dialects import ServerDialect
from narthex.bench.load.wire import frames
from narthex.protocol.client import Reply, StreamPosition, decode_messages

ADDRESSES: Final = 16  # client addresses: 28,000 ephemeral ports each, and TIME_WAIT holds one for a minute
STALL_S: Final = 20.0  # without a byte for this time the phase is over
_NO_PORT: Final = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect, by the whole four-tuple
_RESET: Final = struct.pack("ii", 1, 0)
READ: Final = 65536


class ClientSocket:
    """One client socket and its progress."""

    __slots__ = ("began", "buffer", "connect", "fd", "sock", "state", "subject", "subscribe")

    def __init__(
        self, sock: socket.socket, subject: str, connect: bytes = b"", subscribe: bytes = b""
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.subject = subject
        self.connect = connect
        self.subscribe = subscribe
        self.state = 0
        self.began = 0.0
        self.buffer = bytearray()


def open_socket(host: str, port: int, index: int) -> socket.socket:
    """A connected, non-blocking socket from the `index`-th client address (loopback only)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if host.startswith("127."):
        sock.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + index % ADDRESSES}", 0))
    sock.settimeout(STALL_S)
    try:
        sock.connect((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def received(sock: socket.socket) -> bytes:
    """The bytes that have come, at most `READ`; empty where the socket was closed."""
    try:
        return sock.recv(READ)
    except OSError:
        return b""


def reset(clients: Sequence[ClientSocket]) -> None:
    """End sockets at once (RST), outside of any measurement."""
    for client in clients:
        with contextlib.suppress(OSError):
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.sock.close()


class ClientPool:
    """Clients of one target that all did the same handshake; as a context, it ends their sockets at once."""

    def __init__(self, dialect: ServerDialect, *, role: str = "sub", channel: str = "") -> None:
        self.dialect = dialect
        self.role = role
        self.channel = channel
        self.clients: dict[int, ClientSocket] = {}
        self.poll = select.epoll()
        self.waits: list[tuple[float, float]] = []
        """When each handshake began and how long it took."""
        self.failures = 0
        self.refused: dict[str, int] = {}
        self.results: dict[str, dict[str, Any]] = {}
        """By subject, the result of its last `connect`, or `subscribe` where there is a `channel`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grow(
        self,
        subjects: Sequence[str],
        *,
        in_flight: int = 50,
        recover: Callable[[str], dict[str, StreamPosition] | None] = lambda _: None,
        position: Callable[[str], StreamPosition | None] = lambda _: None,
    ) -> None:
        """Connect one client per subject, `in_flight` at a time; `waits` gets each one's time.

        A raw client is done with the 101, others with the reply to `connect`, and with `channel` with the reply
        to `subscribe`. Each client has a token of its own, also where two have one subject.

        Args:
            subjects: one a client.
            in_flight: handshakes at a time.
            recover: the last positions of a returning subject, by channel that the server subscribes.
            position: the last position of a returning subject in `channel`.
        """
        target = self.dialect.target
        dialect = self.dialect
        # Prepared beforehand: minting a token costs the generator more than the handshake.
        requests = iter(
            [
                (
                    subject,
                    dialect.upgrade(subject, role=self.role),
                    dialect.connect(subject, recover(subject)),
                    dialect.subscribe(self.channel, position(subject)) if self.channel else b"",
                )
                for subject in subjects
            ]
        )
        pending: dict[int, ClientSocket] = {}
        opened = 0
        while True:
            while len(pending) < in_flight and (following := next(requests, None)) is not None:
                subject, request, connect, subscribe = following
                began = time.perf_counter()
                try:
                    sock = open_socket(target.host, target.port, opened)
                except OSError as fault:
                    self._failed(f"connect: {fault.strerror or fault}")
                    continue
                opened += 1
                client = ClientSocket(sock, subject, connect, subscribe)
                client.began = began
                sock.send(request)
                pending[client.fd] = client
                self.poll.register(client.fd, select.EPOLLIN)
            if not pending:
                return
            ready = self.poll.poll(STALL_S)
            if not ready:
                for client in pending.values():
                    self._failed("no answer")
                    self._drop(client)
                return
            for fd, _ in ready:
                waiting = pending.get(fd)
                if waiting is None:
                    self.idle_read(fd)
                    continue
                done = self._advance(waiting)
                if done is not None:
                    del pending[fd]
                if done:
                    self.waits.append((waiting.began, time.perf_counter() - waiting.began))
                    self.clients[fd] = waiting

    def _advance(self, client: ClientSocket) -> bool | None:
        """True: the client is connected. False: it never will be. None: more bytes are to come."""
        try:
            data = client.sock.recv(READ)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            return self._refused(
                client, "closed in the handshake" if client.state == 0 else "closed after the upgrade"
            )
        client.buffer += data
        if client.state == 0:
            end = client.buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            if b" 101 " not in client.buffer[:16]:
                return self._refused(client, f"HTTP {client.buffer[9:12].decode(errors='replace')}")
            del client.buffer[: end + 4]
            if not client.connect:
                return True
            client.state = 1
            client.sock.send(client.connect)
        for payload in frames(client.buffer):
            for message in decode_messages(payload):
                if isinstance(message, Reply):
                    return self._replied(client, message)
        return None

    def _replied(self, client: ClientSocket, reply: Reply) -> bool | None:
        if reply.error is not None:
            return self._refused(client, f"error: {reply.error.code} {reply.error.message[:80]}")
        if client.state == 1 and self.channel:
            client.state = 2
            client.sock.send(client.subscribe)
            return None
        self.results[client.subject] = reply.result
        return True

    def _refused(self, client: ClientSocket, why: str) -> bool:
        self._failed(why)
        self._drop(client)
        return False

    def idle_read(self, fd: int) -> None:
        """Discard the bytes that came on a socket; one that was closed is counted and dropped."""
        client = self.clients.get(fd)
        if client is None:
            return
        if not received(client.sock):
            self._failed("closed while idle")
            self._drop(client)
            self.clients.pop(fd, None)

    def _failed(self, why: str) -> None:
        self.failures += 1
        self.refused[why] = self.refused.get(why, 0) + 1

    def _drop(self, client: ClientSocket) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.poll.unregister(client.fd)
        client.sock.close()

    def drain(self) -> None:
        """Discard all bytes that have come, such as earlier pushes; nothing is counted."""
        while ready := self.poll.poll(0.05):
            for fd, _ in ready:
                self.idle_read(fd)

    def close(self) -> None:
        """End all sockets at once."""
        reset(list(self.clients.values()))
        self.clients.clear()
        self.poll.close()

    def why(self) -> list[str]:
        """The failures in words, most frequent first."""
        return [
            f"{count} × {why}" for why, count in sorted(self.refused.items(), key=lambda item: -item[1])[:4]
        ]
