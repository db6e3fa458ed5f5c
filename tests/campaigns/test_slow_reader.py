"""One reader on a line of 1 KB/s during a flood: it gets the same text, and other clients are not affected."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.program import Program, running
from tests.campaigns.follower import SERVED, Follower, Line, attending, quantile, start_run, token
from tests.timing import within

pytestmark = pytest.mark.acceptance
NOISE_S = within(0.1)  # a baseline below this comes from the scheduler: twice of it would mean nothing
PIECE = 256


class Flood(NamedTuple):
    """The deltas (`rate` a second of `size` characters) and the slow reader's speed."""

    rate: int
    size: int
    seconds: float
    bytes_per_s: int
    others: int
    lag_s: float
    ping_s: float = 25
    pong_s: float = 10


async def test_slow_for_seconds(tmp_path: Path) -> None:
    """The short variant: the default lag; a pong is due long before the data ahead of the ping can be read."""
    await campaign(tmp_path, Flood(100, 2000, 3.0, 64_000, 10, 10, ping_s=within(2.5), pong_s=within(2)))


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_slow_for_minutes(tmp_path: Path) -> None:
    """1 KB/s, which needs minutes for the buffers on the path: hence a longer lag is allowed."""
    await campaign(tmp_path, Flood(50, 400, 15.0, 1000, 20, 300))


async def campaign(directory: Path, flood: Flood) -> None:
    """The same flood twice, without and with a slow reader."""
    env = {
        **SERVED,
        "NARTHEX_MAX_LAG_S": f"{flood.lag_s:g}",
        "NARTHEX_PING_INTERVAL_S": f"{flood.ping_s:g}",
        "NARTHEX_PONG_TIMEOUT_S": f"{flood.pong_s:g}",
    }
    async with running(directory, env, ("--agent", "tests.campaigns.agents:steady")) as program:
        async with flooded(program, flood, "alone") as (run_id, others):
            await over(others, run_id, flood)
            baseline = lag_p99(others)
        async with flooded(program, flood, "beside") as (run_id, others):
            slow = SlowFollower(program.port, others[0].secret, others[0].channel, flood.bytes_per_s)
            began = time.monotonic()
            async with attending(slow):
                await over(others, run_id, flood)
                beside = lag_p99(others)
                text = "".join(others[0].runs[run_id].text)
                async with asyncio.timeout(2.5 * len(text) / flood.bytes_per_s + within(20)):
                    proof = await slow.until_over(run_id)
            took_s = time.monotonic() - began
        figures = {
            "bytes_of_text": len(text),
            "others_p99_ms": round(1000 * beside, 1),
            "baseline_p99_ms": round(1000 * baseline, 1),
            "slow_took_s": round(took_s, 1),
            "slow_bytes_per_s": round(slow.bytes_read / took_s),
            "slow_merged": proof.merged,
            "slow_events": proof.last,
            "closes": slow.closes,
        }
        print(f"slow reader: {figures}")
        assert slow.faults == []
        assert slow.closes == []
        assert "".join(proof.text) == text
        assert proof.proven
        assert proof.merged > 0
        assert beside < 2 * max(baseline, NOISE_S)
        for other in others:
            assert other.faults == []
            assert other.runs[run_id].proven


@contextlib.asynccontextmanager
async def flooded(program: Program, flood: Flood, name: str) -> AsyncIterator[tuple[str, list[Follower]]]:
    """A run of the flood, and its followers at full speed."""
    secret = token(name)
    text = f"rate={flood.rate} seconds={flood.seconds:g} size={flood.size}"
    run = await start_run(program.port, secret, text, "m-1")
    others = [Follower(program.port, secret, run["channel"]) for _ in range(flood.others)]
    async with attending(*others):
        yield run["run_id"], others


async def over(others: list[Follower], run_id: str, flood: Flood) -> None:
    """Wait until all of them have the end."""
    async with asyncio.timeout(flood.seconds + within(20)):
        for other in others:
            await other.until_over(run_id)


def lag_p99(others: list[Follower]) -> float:
    """Over all deltas at all of them, seconds from the creation of a delta until it is read."""
    return quantile([lag for other in others for lag in other.lags_s], 0.99)


class SlowFollower(Follower):
    """Reads this many bytes a second, steadily, through a small receive buffer."""

    def __init__(self, port: int, secret: str, channel: str, bytes_per_s: int) -> None:
        super().__init__(port, secret, channel)
        self.bytes_per_s = bytes_per_s
        self.bytes_read = 0

    def dial(self) -> Line:
        """See `Follower`."""
        return SlowLine(self)


class SlowLine(Line):
    """The socket of a slow follower."""

    def __init__(self, follower: SlowFollower) -> None:
        super().__init__(follower.port, follower.secret)
        self._follower = follower
        self._due = 0.0

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `Client`: with a small receive buffer, so that it hides no lag."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (self.host, self.port))
        return await asyncio.open_connection(sock=raw, limit=1024)

    async def exactly(self, size: int) -> bytes:
        """See `Client`: piece by piece, each when it is due."""
        loop = asyncio.get_running_loop()
        parts: list[bytes] = []
        while size:
            parts.append(await super().exactly(min(size, PIECE)))
            size -= len(parts[-1])
            self._follower.bytes_read += len(parts[-1])
            self._due = max(self._due, loop.time()) + len(parts[-1]) / self._follower.bytes_per_s
            if self._due - loop.time() > 0.01:
                await asyncio.sleep(self._due - loop.time())
        return b"".join(parts)
