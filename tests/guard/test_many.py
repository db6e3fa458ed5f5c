"""Many guarded sockets at once: a revocation, an expiry and a drain close the right ones in time, and no other."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest

from tests.guard.cores import token
from tests.guard.servers import serving
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.alone]
ADMIN = "admin-key-0123456789abcdef"
GRACE_S = 3.0
ADDRESSES = 10  # of loopback: one address has a limit of its own
PING, PONG, CLOSE = 0x89, 0x8A, 0x88


class Held:
    """A client that answers pings and remembers how and when it was closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.code = 0
        self.closed_at = 0.0
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while not self.code:
                opcode, length = await self._reader.readexactly(2)
                payload = await self._reader.readexactly(length)
                if opcode == CLOSE:
                    self.code, self.closed_at = int.from_bytes(payload[:2]), time.time()
                    self._writer.write(bytes([CLOSE, 0x80 | 2]) + bytes(4) + payload[:2])
                elif opcode == PING:
                    self._writer.write(bytes([PONG, 0x80 | length]) + bytes(4) + payload)
        if not self.code:
            self.code, self.closed_at = 1006, time.time()

    async def leave(self) -> None:
        """End the connection."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        self.task.cancel()


async def held(port: int, number: int, text: str) -> Held:
    """A connection with a token."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(f"127.0.0.{2 + number % ADDRESSES}", 0)
    )
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nAuthorization: Bearer {text}\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), within(20))
    assert head.startswith(b"HTTP/1.1 101"), head
    return Held(reader, writer)


async def crowd(port: int, count: int, subject: str, ttl_s: float = 3600) -> list[Held]:
    """Connections of many users, `subject` and a number, or of one user where the subject ends in no colon."""
    slots = asyncio.Semaphore(50)

    async def one(number: int, text: str) -> Held:
        async with slots:
            return await held(port, number, text)

    # All are made first, so that they expire in the same second however long the connections take.
    names = [f"{subject}{number}" if subject.endswith(":") else subject for number in range(count)]
    texts = [token(name, ttl_s=ttl_s) for name in names]
    return await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))


def codes(found: Sequence[Held]) -> dict[int, int]:
    """How many were closed with each code; 0: open."""
    return dict(Counter(one.code for one in found))


async def ended(found: Sequence[Held], within_s: float) -> None:
    """Wait until all are closed."""
    await asyncio.wait([one.task for one in found], timeout=within_s)


@pytest.mark.parametrize("count", [500, pytest.param(5_000, marks=pytest.mark.soak)])
async def test_many_guarded_sockets(count: int, tmp_path: Path) -> None:
    """A tenth is revoked, a tenth expires, the rest drains paced; each group alone, with its code, in its time."""
    environ = {
        "NARTHEX_ADMIN_KEY": ADMIN,
        "NARTHEX_TOKEN_GRACE_S": "0",
        "NARTHEX_DRAIN_GRACE_S": str(GRACE_S),
        "NARTHEX_MAX_CONNECTIONS_PER_USER": "100000",
    }
    admin = {"Authorization": f"Bearer {ADMIN}"}
    tenth = count // 10
    everyone: list[Held] = []
    async with (
        serving("uvicorn-websockets", "starlette", tmp_path, environ) as guard,
        httpx2.AsyncClient(base_url=guard.http, trust_env=False, headers=admin, timeout=within(20)) as client,
    ):
        try:
            staying = await crowd(guard.port, count - 2 * tenth, "ann:")
            revoked = await crowd(guard.port, tenth, "eve")
            everyone += staying + revoked

            began = time.time()
            body = {"kind": "subject", "tenant": "default", "value": "eve"}
            assert (await client.post("/api/v1/revoke", json=body)).status_code == 200
            await ended(revoked, within(5))
            assert codes(revoked) == {3500: tenth}
            assert max(one.closed_at for one in revoked) - began < within(1)
            assert codes(staying) == {0: len(staying)}

            ttl_s = within(2 + count / 250)
            expires = int(time.time() + ttl_s)
            expiring = await crowd(guard.port, tenth, "old", ttl_s=expires + 0.5 - time.time())
            everyone += expiring
            assert codes(expiring) == {0: tenth}
            await ended(expiring, ttl_s + within(5))
            assert codes(expiring) == {3005: tenth}
            moments = [one.closed_at for one in expiring]
            assert expires - 0.1 <= min(moments)
            assert max(moments) < expires + within(1)
            assert codes(staying) == {0: len(staying)}

            assert (await client.post("/api/v1/drain", json={})).status_code in (200, 202)
            await ended(staying, within(GRACE_S + 5))
            assert codes(staying) == {3001: len(staying)}
            moments = sorted(one.closed_at for one in staying)
            assert GRACE_S * 0.3 < moments[-1] - moments[0] < within(GRACE_S)
            half_s = (moments[-1] - moments[0]) / 2
            first_half = sum(moment - moments[0] < half_s for moment in moments)
            assert 0.2 < first_half / len(moments) < 0.8
        finally:
            await asyncio.gather(*(one.leave() for one in everyone))
