"""The fan-out's price of two formats: CPU per delivery, with as many subscribers, half of them in protobuf.

The same publications go to the same number of subscribers of one gateway, once all in JSON and once half in each
format. Both arrangements alternate, so that other load of the machine affects both.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from narthex.bench.load.dialects import BenchTarget, ServerDialect
from narthex.bench.load.measuring import Measurement
from narthex.bench.load.publishing import Publisher
from narthex.bench.load.scenarios import Reader
from narthex.bench.load.sockets import ClientPool, ClientSocket, received
from narthex.bench.load.wire import upgrade
from narthex.protocol.client import StreamPosition
from narthex.protocol.framing import BINARY, NO_MASK, encode_frame
from tests.acceptance.program import running

pytestmark = [pytest.mark.acceptance, pytest.mark.bench, pytest.mark.timeout(300)]

USER: Final = "bench"
SIZE: Final = 240
IN_FLIGHT: Final = 8
SUBSCRIBERS: Final = int(os.environ.get("NARTHEX_TEST_SUBSCRIBERS", "2000"))
BURSTS: Final = 40
ROUNDS: Final = 5
MOST: Final = 1.15
CONNECT: Final = encode_frame(BINARY, b"\x04\x08\x01\x22\x00", NO_MASK)


class ProtobufDialect(ServerDialect):
    """As narthex's, in protobuf."""

    def upgrade(self, subject: str, *, role: str = "sub") -> bytes:
        """The upgrade request, which offers the format."""
        assert role == "sub"
        headers = {
            "Authorization": f"Bearer {self.token(subject)}",
            "Sec-WebSocket-Protocol": "centrifuge-protobuf",
        }
        return upgrade("/ws", self.host, headers)

    def connect(self, subject: str, recover: Mapping[str, StreamPosition] | None = None) -> bytes:
        """`connect` in a binary frame."""
        return CONNECT


class ProtobufPool(ClientPool):
    """Clients that are connected once a binary message came."""

    def _advance(self, client: ClientSocket) -> bool | None:
        if client.state == 0:
            return super()._advance(client)
        return received(client.sock)[:1] == b"\x82"


def cost(target: BenchTarget, *, mixed: bool) -> float:
    """Microseconds of the gateway's CPU per delivery."""
    half = SUBSCRIBERS // 2
    crowds = [ClientPool(ServerDialect(target))]
    crowds.append(ProtobufPool(ProtobufDialect(target)) if mixed else ClientPool(ServerDialect(target)))
    publisher = Publisher(ServerDialect(target), f"user:{USER}", IN_FLIGHT)
    try:
        for crowd in crowds:
            crowd.grow([USER] * half)
            assert not crowd.failures, crowd.why()
        publisher.burst(IN_FLIGHT, SIZE)
        publisher.settle()
        readers = [Reader(crowd) for crowd in crowds]
        for reader in readers:
            assert reader.until(IN_FLIGHT * half, publisher)
        with Measurement(target.pids) as measurement:
            for burst in range(2, BURSTS + 2):
                publisher.burst(IN_FLIGHT, SIZE)
                for reader in readers:
                    assert reader.until(burst * IN_FLIGHT * half, publisher)
        return measurement.server.total * 1e6 / (BURSTS * IN_FLIGHT * half * 2)
    finally:
        publisher.close()
        for crowd in crowds:
            crowd.close()


async def test_two_formats_cost_hardly_more_than_one(tmp_path: Path) -> None:
    """The median of the rounds' ratios is at most 1.15."""
    secret = secrets.token_urlsafe(48)
    env = {"NARTHEX_JWT_SECRET": secret, "NARTHEX_LOG_LEVEL": "warning"}
    # The generator publishes over one socket as fast as possible.
    env |= {"NARTHEX_COMMANDS_PER_S": "100000", "NARTHEX_COMMANDS_BURST": "1000000"}
    env |= {"NARTHEX_MAX_CONNECTIONS_PER_USER": "20000", "NARTHEX_MAX_CONNECTIONS_PER_ADDRESS": "20000"}
    env |= {"NARTHEX_PING_INTERVAL_S": "55", "NARTHEX_PONG_TIMEOUT_S": "50"}  # the generator answers no ping
    async with running(tmp_path, env) as gateway:
        assert gateway.process is not None
        target = BenchTarget(
            name="gateway",
            protocol="narthex",
            host="127.0.0.1",
            port=gateway.port,
            pids=[gateway.process.pid],
            secret=secret,
        )
        pairs: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            one = await asyncio.to_thread(cost, target, mixed=False)
            both = await asyncio.to_thread(cost, target, mixed=True)
            pairs.append((one, both))
        ratio = median(both / one for one, both in pairs)
        print(
            f"\n{SUBSCRIBERS} subscribers: JSON {median(one for one, _ in pairs):.3f} us a delivery, "
            f"half in protobuf {median(both for _, both in pairs):.3f}, ratio {ratio:.3f}; rounds {pairs}"
        )
        assert ratio <= MOST
