"""A Valkey primary and its replica behind one address that fails over, for tests of what a fail-over loses.

Rules: the address is a TCP proxy in the test's own loop; `fail_over` leaves connections to the old server open, as
proxies of providers do, unless that server was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from tests.fault_proxy import FaultProxy
from tests.services import ValkeyServer, data_directory
from tests.timing import within

NOWHERE: Final = ("127.0.0.1", "9")  # the discard port: nothing listens there


class ValkeyPair:
    """See the module.

    Attributes:
        primary: the server that the address leads to.
        replica: the other one.
        proxy: the address.
    """

    def __init__(self, directory: Path, fsync: str = "everysec") -> None:
        self.primary = ValkeyServer(directory / "a", fsync=fsync)
        self.replica = ValkeyServer(directory / "b", fsync=fsync)
        self.proxy = FaultProxy(self.primary.port)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    async def ask(self, server: ValkeyServer, *words: str) -> Any:
        """One command to one of the servers, not through the address."""
        client: Any = Redis(port=server.port)
        try:
            return await client.execute_command(*words)
        finally:
            await client.aclose()

    async def follow(self) -> None:
        """Make the replica follow the primary, and wait until it has everything."""
        await self.ask(self.replica, "REPLICAOF", "127.0.0.1", str(self.primary.port))
        await self.level()

    async def level(self) -> None:
        """Wait until the replica is connected and has what the primary has."""
        async with asyncio.timeout(within(20)):
            while True:
                mine = await self.ask(self.primary, "INFO", "replication")
                its = await self.ask(self.replica, "INFO", "replication")
                if its.get("master_link_status") == "up" and (
                    its["master_repl_offset"] == mine["master_repl_offset"]
                ):
                    return
                await asyncio.sleep(0.02)

    async def detach(self) -> None:
        """From now on the replica falls behind; it keeps what it has."""
        await self.ask(self.replica, "REPLICAOF", *NOWHERE)

    async def promote(self) -> None:
        """The replica is the primary now, and new connections lead to it."""
        await self.ask(self.replica, "REPLICAOF", "NO", "ONE")
        self.primary, self.replica = self.replica, self.primary
        self.proxy.target = self.primary.port

    async def fail_over(self) -> None:
        """The primary is killed, the replica promoted."""
        await asyncio.to_thread(self.primary.kill)
        await self.promote()

    async def truncate(self, size: int) -> None:
        """Power loss: the primary restarts without the last `size` bytes of its append-only file."""
        await asyncio.to_thread(self.primary.kill)
        [tail] = sorted((self.primary.directory / "appendonlydir").glob("*.incr.aof"))[-1:]
        with tail.open("r+b") as file:
            file.truncate(max(0, tail.stat().st_size - size))
        await asyncio.to_thread(self.primary.start)


@contextlib.asynccontextmanager
async def valkey_pair(fsync: str = "everysec") -> AsyncIterator[ValkeyPair]:
    """Both servers run, and the replica follows."""
    with data_directory("valkey-pair") as directory:
        pair = ValkeyPair(directory, fsync)
        try:
            await asyncio.gather(asyncio.to_thread(pair.primary.start), asyncio.to_thread(pair.replica.start))
            await pair.follow()
            async with pair.proxy:
                yield pair
        finally:
            pair.primary.kill()
            pair.replica.kill()
