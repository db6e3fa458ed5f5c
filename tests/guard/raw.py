"""Handshakes and frames as no client library sends them, and the raw sockets that send them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from tests.guard.cores import token
from tests.timing import within

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
GET: Final = "GET /ws HTTP/1.1"


def request(first: str, *lines: str, body: bytes = b"") -> bytes:
    """A request of these lines, with bytes behind its head."""
    return ("\r\n".join([first, *lines]) + "\r\n\r\n").encode("latin-1") + body


def upgrade(
    *more: str, first: str = GET, without: tuple[str, ...] = (), proof: str | None = "", body: bytes = b""
) -> bytes:
    """A handshake of ann's with more header lines.

    Args:
        more: header lines.
        first: the request line.
        without: names of headers that are left out.
        proof: the value of `Authorization`; empty: a valid token; None: no such header.
        body: bytes behind the head.
    """
    lines = [
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
    ]
    if proof is not None:
        lines.append(f"Authorization: {proof or 'Bearer ' + token()}")
    return request(
        first, *[line for line in lines if line.partition(":")[0] not in without], *more, body=body
    )


def masked(first: int, payload: bytes = b"", *, size: bytes = b"") -> bytes:
    """A client's frame by its first byte; `size`: length bytes that lie."""
    length = size or bytes([0x80 | len(payload)])
    return bytes([first]) + length + b"\0\0\0\0" + payload


STRANGER: Final = upgrade(proof=None)
_OTHER: Final = f"Bearer {token('bob')}"

REFUSED: Final = {
    "no credential": STRANGER,
    "frames behind a refusal": upgrade(proof="Bearer x", body=masked(0x81, b"hi")),
    "a handshake behind a refusal": upgrade(proof="Bearer x") + STRANGER,
    "a handshake behind a proven request": request(
        "GET /livez HTTP/1.1", "Host: 127.0.0.1", f"Authorization: {_OTHER}"
    )
    + STRANGER,
    "a body": upgrade("Content-Length: 5", body=b"hello"),
    "a handshake as its body": upgrade(
        f"Content-Length: {len(STRANGER)}", proof="Bearer x", body=upgrade()[: len(STRANGER)]
    ),
    "chunks": upgrade("Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "a length and chunks": upgrade("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "two proofs": upgrade("Authorization: Bearer x"),
    "two proofs, the second good": upgrade(f"Authorization: {_OTHER}", proof="Bearer x"),
    "two hosts": upgrade("Host: evil.example"),
    "the same host twice": upgrade("Host: 127.0.0.1"),
    "no host": upgrade(without=("Host",)),
    "two keys": upgrade("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
    "no key": upgrade(without=("Sec-WebSocket-Key",)),
    "two versions": upgrade("Sec-WebSocket-Version: 13"),
    "a bare CR before the proof": upgrade(f"X: a\rAuthorization: {_OTHER}", proof=None),
    "a space behind a name": upgrade(f"Authorization : {_OTHER}", proof=None),
    "dot segments": upgrade(first="GET /x/../ws HTTP/1.1"),
    "an empty segment": upgrade(first="GET //ws HTTP/1.1"),
    "a NUL in the path": upgrade(first="GET /ws%00 HTTP/1.1"),
    "a control character in an offer": upgrade("Sec-WebSocket-Protocol: jwt-auth, a\x0bb"),
    "a line of 20 kB": upgrade("X: " + "a" * 20_000),
    "a query of 20 kB": upgrade(first=f"GET /ws?{'a' * 20_000} HTTP/1.1"),
    "a head of 100 kB": upgrade(*(f"X-{number}: {'a' * 1_000}" for number in range(95))),
    "300 headers": upgrade(*(f"X-{number}: 1" for number in range(300))),
}
"""Handshakes that no server behind a guard upgrades."""

ADMITTED: Final = {
    "an empty body": upgrade("Content-Length: 0"),
    "a path that is encoded": upgrade(first="GET /%77s HTTP/1.1"),
    "a tab before the proof": upgrade(f"Authorization:\t{_OTHER}", proof=None),
    "claims in every spelling": upgrade(
        "Narthex-Subject: root", "narthex_tenant: root", "narthex.plan: root"
    ),
    "500 offers": upgrade("Sec-WebSocket-Protocol: " + ", ".join(f"p{number}" for number in range(500))),
}
"""Handshakes that every server upgrades."""

EITHER: Final = {
    "Upgrade twice": upgrade("Upgrade: websocket"),
    "h2c beside websocket": upgrade("Upgrade: h2c"),
    "a key that is none": upgrade("Sec-WebSocket-Key: short", without=("Sec-WebSocket-Key",)),
    "version 8": upgrade("Sec-WebSocket-Version: 8", without=("Sec-WebSocket-Version",)),
    "a proof on a folded line": upgrade("Authorization: Bearer", f" {token()}", proof=None),
    "a folded line": upgrade("X: a", f" Authorization: {_OTHER}"),
    "a bare LF before the proof": upgrade(f"X: a\nAuthorization: {_OTHER}", proof=None),
    "POST": upgrade(first="POST /ws HTTP/1.1"),
    "HTTP/1.0": upgrade(first="GET /ws HTTP/1.0"),
    "an absolute target": upgrade(first="GET http://127.0.0.1/ws HTTP/1.1"),
    "a fragment": upgrade(first="GET /ws#x HTTP/1.1"),
    "a name of 9 kB": upgrade("X" * 9_000 + ": 1"),
    "a wrong extension": upgrade("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99"),
    "Connection names the proof": upgrade("Connection: Authorization"),
}
"""Handshakes of a proven user that servers read differently: upgraded, or refused before the application."""

BROKEN: Final = {
    "a ping in fragments": masked(0x09, b"a") + masked(0x80, b"b"),
    "a close in fragments": masked(0x08, b"\x03\xe8") + masked(0x80, b"bye"),
    "a ping of 126 bytes": masked(0x89, b"x" * 126, size=b"\xfe\x00\x7e"),
    "no mask": b"\x81\x02hi",
    "a reserved opcode": masked(0x83, b"hi"),
    "a reserved control frame": masked(0x8B),
    "a reserved bit": masked(0xC1, b"hi"),
    "a continuation of nothing": masked(0x80, b"hi"),
    "a text within a text": masked(0x01, b"a") + masked(0x81, b"b"),
    "text that is no UTF-8": masked(0x81, b"\xff\xfe"),
    "a close of one byte": masked(0x88, b"\x03"),
    "a close with a reserved code": masked(0x88, (1005).to_bytes(2)),
    "a close with a code below 1000": masked(0x88, (999).to_bytes(2)),
    "a length with the top bit": masked(0x82, size=b"\xff" + b"\xff" * 8),
    "a message of 4 exabytes": masked(0x82, size=b"\xff\x40" + b"\0" * 7),
}
"""Frames that RFC 6455 forbids, or that no server takes."""


class Exchange(NamedTuple):
    """An answer to raw bytes: the status of each answer head, and the rest of the last one."""

    statuses: list[int]
    rest: bytes


class RawPeer:
    """One connection of a client that writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def status(self) -> int:
        """Of the next answer, whose head is read; 0: the server closed the connection instead."""
        try:
            async with asyncio.timeout(within(10)):
                head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0
        return int(head.split(b" ", 2)[1])

    async def ended(self) -> bytes:
        """The bytes up to the end of the connection."""
        found = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(within(15)):
                while data := await self.reader.read(65_536):
                    found += data
        return found


@asynccontextmanager
async def raw_peer(port: int, data: bytes = b"") -> AsyncIterator[RawPeer]:
    """A connection that has sent these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        yield RawPeer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
