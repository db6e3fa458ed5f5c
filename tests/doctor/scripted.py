"""A TCP server with answers scripted byte for byte, and certificates for it.

Not here: expectations. Rules: on 127.0.0.1, a port of its own; everything that it opened is closed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from narthex.doctor.heads import accept_of


class Asked(NamedTuple):
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    size: int
    number: int  # the number of upgrades before it

    @property
    def upgrade(self) -> bool:
        return self.headers.get("upgrade", "").lower() == "websocket"

    @property
    def key(self) -> str:
        return self.headers.get("sec-websocket-key", "")


class Wire:
    """One connection of the scripted server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say(
        self, status: int, phrase: str = "X", body: str = "", *, date: bool = False, **headers: str
    ) -> None:
        """A whole HTTP answer; `content_type=` becomes `Content-Type:`."""
        lines = [f"HTTP/1.1 {status} {phrase}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode())

    async def accept(
        self, asked: Asked, *, accept: str | None = None, without: str = "", **headers: str
    ) -> None:
        """A 101, wrong where the test requests it."""
        found = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": accept or accept_of(asked.key),
        }
        found.pop(without, None)
        found |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in found.items())]
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def frame(self, opcode: int, payload: bytes = b"") -> None:
        await self.raw(bytes([0x80 | opcode, len(payload)]) + payload)

    async def close_frame(self, code: int, reason: str = "") -> None:
        await self.frame(8, struct.pack("!H", code) + reason.encode())

    async def talk(self, *, pong: bool = True) -> None:
        """Answer pings and the close, as a good server does, until the client leaves."""
        while True:
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            mask = await self.reader.readexactly(4)
            masked = await self.reader.readexactly(size)
            payload = bytes(byte ^ mask[at & 3] for at, byte in enumerate(masked))
            if first & 0x0F == 9 and pong:
                await self.frame(10, payload)
            if first & 0x0F == 8:
                await self.frame(8, payload)
                return

    def reset(self) -> None:
        """Send an RST."""
        held: socket.socket = self.writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Answer = Callable[[Asked, Wire], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(answer: Answer | None, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve; yields the port. With `answer` None it accepts and reads, but never answers."""
    tasks: set[asyncio.Task[None]] = set()
    upgrades = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal upgrades
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
            lowered = {name.lower(): value for name, value in headers.items()}
            asked = Asked(lines[0].split(" ")[1], lowered, len(head), upgrades)
            upgrades += asked.upgrade
            if answer is None:
                await reader.read()
            else:
                await answer(asked, Wire(reader, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context, limit=1024 * 1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class Authority:
    """A certificate authority for one test; `root` is the file that a client trusts."""

    def __init__(self, directory: Path) -> None:

        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Doctor's test root")])
        self._serial = 0
        self.root = directory / "root.pem"
        self._write(self.root, self._certificate(self._name, self._key.public_key(), None, -1, 30))

    def context(self, name: str, *, begin_days: int = -1, end_days: int = 30) -> ssl.SSLContext:
        """A server's context with a certificate for `name`, an IP address or a host name."""
        self._serial += 1
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        file = self._directory / f"leaf{self._serial}.pem"
        self._write(file, self._certificate(subject, key.public_key(), name, begin_days, end_days))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with file.open("ab") as out:
            out.write(private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certificate(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        name: str | None,
        begin_days: int,
        end_days: int,
    ) -> x509.Certificate:

        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=begin_days))
            .not_valid_after(now + dt.timedelta(days=end_days))
            .add_extension(x509.BasicConstraints(ca=name is None, path_length=None), critical=True)
        )
        if name is not None:
            try:
                general: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
            except ValueError:
                general = x509.DNSName(name)
            builder = builder.add_extension(x509.SubjectAlternativeName([general]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, file: Path, certificate: x509.Certificate) -> None:

        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
