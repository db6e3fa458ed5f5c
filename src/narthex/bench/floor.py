"""A trivial server for the floor: the speed of the generator when the server costs next to nothing.

A WebSocket server of a few lines that checks nothing, in a process of its own (`python -m narthex.bench.floor
PORT`). It speaks the raw dialect: `/echo`, `/pub` to `/sub`. Measured with the same generator it shows the
generator's own ceiling; it is no yardstick for servers (benchmarks/csrv.c is).
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from typing import Final

from narthex.bench.cpu import raise_open_files
from narthex.bench.load.wire import frames
from narthex.protocol.framing import NO_MASK, TEXT, accept_key, encode_frame

_READ: Final = 65536


class _Peer:
    __slots__ = ("buffer", "role", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.role = b""
        self.buffer = bytearray()


def serve(port: int) -> None:
    """Serve on a loopback port until the process is ended."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    peers: dict[int, _Peer] = {}
    subscribers: dict[int, _Peer] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _address = listener.accept()
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        sock.setblocking(False)
                        peers[sock.fileno()] = _Peer(sock)
                        poll.register(sock.fileno(), select.EPOLLIN)
                continue
            peer = peers[fd]
            try:
                data = peer.sock.recv(_READ)
            except OSError:
                data = b""
            if not data or data[0] == 0x88:
                poll.unregister(fd)
                peer.sock.close()
                del peers[fd]
                subscribers.pop(fd, None)
                continue
            _take(peer, fd, data, subscribers)


def _take(peer: _Peer, fd: int, data: bytes, subscribers: dict[int, _Peer]) -> None:
    peer.buffer += data
    if not peer.role:
        head, end, _ = bytes(peer.buffer).partition(b"\r\n\r\n")
        if not end:
            return
        peer.role = head[5:8]
        del peer.buffer[: len(head) + 4]
        key = head.partition(b"Sec-WebSocket-Key: ")[2][:24]
        peer.sock.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
        )
        if peer.role == b"sub":
            subscribers[fd] = peer
        return
    out = b"".join(encode_frame(TEXT, payload) for payload in frames(peer.buffer, NO_MASK))
    for other in subscribers.values() if peer.role == b"pub" else (peer,):
        with contextlib.suppress(BlockingIOError):
            other.sock.send(out)


if __name__ == "__main__":
    raise_open_files(20_000)
    serve(int(sys.argv[1]))
