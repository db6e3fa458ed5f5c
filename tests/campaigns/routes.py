"""Three NATS servers whose routes to each other can be cut one by one, while no client loses its connection.

Each route passes through a proxy of the test. Rules: a server advertises a closed address to the others, so that they
do not bypass the proxies; a cut route is reset and refused until it is restored.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats

from narthex.e2e.children import free_port
from tests.fault_proxy import FaultProxy
from tests.services import NatsServer, data_directory
from tests.timing import within

NOBODY = "127.0.0.1:1"


class RoutedServer(NatsServer):
    """A member of the cluster that reaches each peer through a proxy."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.name = directory.name
        self.ways: list[FaultProxy] = []

    def command(self) -> list[str]:
        options = ["-a", self.host, "-p", str(self.port), "-js", "-sd", str(self.directory)]
        options += ["-n", self.name, "--cluster_name", "narthex-routes", "-cluster", self.route]
        options += ["-cluster_advertise", NOBODY]
        options += ["-routes", ",".join(f"nats://127.0.0.1:{way.port}" for way in self.ways)]
        return [self._binary, *options]


class RoutedCluster:
    """See the module."""

    def __init__(self, directory: Path) -> None:
        self.servers = [RoutedServer(directory / f"s{number}") for number in range(3)]
        self._ways: dict[frozenset[str], list[FaultProxy]] = {}

    @property
    def url(self) -> str:
        """The URL of all servers."""
        return "nats://" + ",".join(f"{server.host}:{server.port}" for server in self.servers)

    def between(self, one: RoutedServer, two: RoutedServer) -> list[FaultProxy]:
        """The two directions between two servers."""
        return self._ways[frozenset((one.name, two.name))]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[RoutedCluster]:
        """Start proxies, then servers; JetStream elects its leaders shortly afterwards."""
        async with contextlib.AsyncExitStack() as stack:
            for one, two in itertools.permutations(self.servers, 2):
                way = FaultProxy(two._cluster_port)
                way.port = free_port()
                await stack.enter_async_context(way)
                one.ways.append(way)
                self._ways.setdefault(frozenset((one.name, two.name)), []).append(way)
            for server in self.servers:
                stack.callback(server.kill)
                await asyncio.to_thread(server.start)
            yield self

    @contextlib.asynccontextmanager
    async def cut(self, one: RoutedServer, two: RoutedServer) -> AsyncIterator[None]:
        """Reset the routes between two servers and refuse new ones within the block."""
        ways = self.between(one, two)
        await asyncio.gather(*(way.set("dead") for way in ways))
        try:
            yield
        finally:
            await asyncio.gather(*(way.set("pass") for way in ways))

    async def leader(self, stream: str = "narthex-log") -> RoutedServer:
        """The server that leads a stream's replicas."""
        client = await nats.connect([server.url for server in self.servers])
        try:
            async with asyncio.timeout(within(20)):
                while True:
                    answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
                    name = msgspec.json.decode(answer.data).get("cluster", {}).get("leader", "")
                    for server in self.servers:
                        if server.name == name:
                            return server
                    await asyncio.sleep(0.1)
        finally:
            await client.close()


@contextlib.asynccontextmanager
async def routed_cluster() -> AsyncIterator[RoutedCluster]:
    """A started cluster, stopped afterwards."""
    with data_directory("routes") as directory:
        async with RoutedCluster(directory).running() as cluster:
            yield cluster
