"""Connections that only occupy slots, from any number of loopback addresses; and a client at another address.

Rules: a flood is bounded in count, ends with its block, and reopens closed connections, as an attacker would. A flood
of more connections than a process may have files uses several processes (`python -m tests.security.flood`), which end
with their standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.acceptance.program import Program
from tests.timing import within

ELSEWHERE = "127.0.9.9"


class Limited(Program):
    """The program with a soft and a hard limit of open files."""

    def __init__(self, directory: Path, env: dict[str, str], descriptors: tuple[int, int]) -> None:
        super().__init__(directory, env)
        self.descriptors = descriptors

    def command(self, *words: str) -> list[str]:
        """See `Program`."""
        soft, hard = self.descriptors
        limited = ["prlimit", f"--nofile={soft}:{hard}", "--"] if words[0] == "serve" else []
        return [*limited, sys.executable, "-m", "narthex", *words]

    def open_files(self) -> int:
        """Its current file descriptors."""
        assert self.process is not None
        return int(psutil.Process(self.process.pid).num_fds())


AT_A_LOOK = 192  # opened at most per 50 ms by all processes together: idle connections are tested, not a storm of SYNs
OF_PROCESS = 8_000  # connections: a machine's hard limit may be no higher than the program's own


def own_descriptors(wanted: int) -> None:
    """Let this process open this many files; the test fails if the system does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))


class Flood:
    """`count` connections from `addresses` addresses, each sending only `says`.

    Attributes:
        opened: the total number opened; more than `count` when the server closed some.
    """

    def __init__(
        self, port: int, count: int, addresses: int, says: bytes = b"", at_a_look: int = AT_A_LOOK
    ) -> None:
        self.port = port
        self.addresses = addresses
        self._sources = [f"127.0.1.{number + 1}" for number in range(addresses)]
        self.count = count
        self.says = says
        self._at_a_look = at_a_look
        self._open: dict[int, socket.socket] = {}  # by descriptor
        # An attacker's CPU is elsewhere: here it must not take the server's, so that nothing is done per open socket.
        self._readable = select.epoll()
        self.opened = 0

    async def _add(self) -> None:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.setblocking(False)
        source = self._sources[self.opened % len(self._sources)]
        self.opened += 1
        try:
            one.bind((source, 0))
            await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", self.port))
            if self.says:
                one.send(self.says)
        except OSError:
            one.close()
            return
        except asyncio.CancelledError:  # the flood ends while it connects
            one.close()
            raise
        self._open[one.fileno()] = one
        self._readable.register(one, select.EPOLLIN)

    async def run(self) -> None:
        """Open them, and reopen closed ones, until cancelled."""
        while True:
            missing = self.count - len(self._open)
            for left in range(min(missing, self._at_a_look), 0, -64):
                await asyncio.gather(*(self._add() for _ in range(min(64, left))))
            self._look()
            await asyncio.sleep(0.05)

    def _look(self) -> None:
        """Forget connections that the server closed. What it answers is discarded: the end is behind it."""
        for descriptor, _ in self._readable.poll(0):
            one = self._open[descriptor]
            try:
                gone = one.recv(4096) == b""
            except OSError:
                gone = True
            if gone:
                del self._open[descriptor]
                one.close()  # which takes it out of the epoll object

    def close(self) -> None:
        """End all of them."""
        for one in self._open.values():
            one.close()
        self._open.clear()
        self._readable.close()


@contextlib.asynccontextmanager
async def flooding(flood: Flood) -> AsyncIterator[None]:
    """Runs while the block runs; it starts once the flood has opened all its connections."""
    task = asyncio.ensure_future(flood.run())
    try:
        while flood.opened < flood.count and not task.done():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)
        yield
        assert not task.done(), "the flood ended before the test"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        flood.close()


@contextlib.asynccontextmanager
async def flooding_from_processes(flood: Flood) -> AsyncIterator[None]:
    """As `flooding`, from as many processes as needed."""
    number = -(-flood.count // OF_PROCESS)
    words = [sys.executable, "-m", "tests.security.flood", str(flood.port), str(flood.count // number)]
    words += [str(flood.addresses), flood.says.hex(), str(AT_A_LOOK // number)]
    children = [
        await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(number)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            async with asyncio.timeout(within(60)):
                assert await child.stdout.readline() == b"open\n"
        yield
        assert all(child.returncode is None for child in children), "a flood ended before the test"
    finally:
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
        for child in children:
            await child.wait()


async def _flood_alone(port: int, count: int, addresses: int, says: bytes, at_a_look: int) -> None:
    """The main function of such a process."""
    own_descriptors(count + 100)
    async with flooding(Flood(port, count, addresses, says, at_a_look)):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)


class Visit(NamedTuple):
    """A client's attempt to connect: the status line, and how long it took."""

    status: str
    took_s: float


async def visit(port: int, head: str, source: str = ELSEWHERE, within_s: float = 10.0) -> Visit:
    """Connect from an address, send a request head, read the status line."""
    began = time.monotonic()
    status = ""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            writer.write(head.encode())
            status = (await reader.readline()).decode().strip()
    except (OSError, TimeoutError) as fault:
        status = f"{type(fault).__name__} {fault}"
    finally:
        if writer is not None:
            writer.transport.abort()
    return Visit(status, time.monotonic() - began)


def plain(path: str) -> str:
    """A plain request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def upgrade(token: str) -> str:
    """A handshake with a credential."""
    return (
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )


if __name__ == "__main__":
    _, _port, _count, _addresses, _says, _at_a_look = sys.argv
    asyncio.run(_flood_alone(int(_port), int(_count), int(_addresses), bytes.fromhex(_says), int(_at_a_look)))
