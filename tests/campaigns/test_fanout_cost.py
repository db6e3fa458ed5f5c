"""The cost of fan-out across two processes instead of one: CPU per delivery, with the same subscribers on each side.

The same publications go to the same number of subscribers, once all on one gateway and once half on each of two;
the gateways share NATS. Both arrangements alternate, so that other load of the machine affects both.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from narthex.bench.load.dialects import BenchTarget, ServerDialect
from narthex.bench.load.measuring import Measurement
from narthex.bench.load.publishing import Publisher
from narthex.bench.load.scenarios import Reader
from narthex.bench.load.sockets import ClientPool
from tests.acceptance.fleet import ADMIN_KEY, fleet

pytestmark = [pytest.mark.acceptance, pytest.mark.bench, pytest.mark.timeout(300)]

USER: Final = "bench"
SIZE: Final = 240
IN_FLIGHT: Final = 8
SUBSCRIBERS: Final = int(os.environ.get("NARTHEX_TEST_SUBSCRIBERS", "2000"))
BURSTS: Final = 40
ROUNDS: Final = 5
MOST: Final = 1.25


def cost(targets: list[BenchTarget], shares: list[int]) -> float:
    """Microseconds of the gateways' CPU per delivery, with this many subscribers on each of them."""
    crowds = [ClientPool(ServerDialect(target)) for target in targets]
    publisher = Publisher(ServerDialect(targets[0]), f"user:{USER}", IN_FLIGHT)
    try:
        for crowd, share in zip(crowds, shares, strict=True):
            crowd.grow([USER] * share)
            assert not crowd.failures, crowd.why()
        publisher.burst(IN_FLIGHT, SIZE)
        publisher.settle()
        readers = [Reader(crowd) for crowd in crowds]
        for reader, share in zip(readers, shares, strict=True):
            assert reader.until(IN_FLIGHT * share, publisher)
        with Measurement([pid for target in targets for pid in target.pids]) as measurement:
            for burst in range(2, BURSTS + 2):
                publisher.burst(IN_FLIGHT, SIZE)
                for reader, share in zip(readers, shares, strict=True):
                    assert reader.until(burst * IN_FLIGHT * share, publisher)
        return measurement.server.total * 1e6 / (BURSTS * IN_FLIGHT * sum(shares))
    finally:
        publisher.close()
        for crowd in crowds:
            crowd.close()


async def test_two_processes_cost_at_most_a_quarter_more(tmp_path: Path) -> None:
    """The median of the rounds' ratios is at most 1.25."""
    secret = secrets.token_urlsafe(48)
    env = {"NARTHEX_JWT_SECRET": secret, "NARTHEX_LOG_LEVEL": "warning"}
    # The generator publishes over one socket as fast as possible.
    env |= {"NARTHEX_COMMANDS_PER_S": "100000", "NARTHEX_COMMANDS_BURST": "1000000"}
    async with fleet(tmp_path, **env) as built:
        gateways = await built.gateways(2)
        targets = [
            BenchTarget(
                name=f"g{number}",
                protocol="narthex",
                host="127.0.0.1",
                port=gateway.port,
                pids=[gateway.process.pid if gateway.process else 0],
                secret=secret,
                api_key=ADMIN_KEY,
            )
            for number, gateway in enumerate(gateways)
        ]
        half = SUBSCRIBERS // 2
        pairs: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            one = await asyncio.to_thread(cost, targets[:1], [half * 2])
            two = await asyncio.to_thread(cost, targets, [half, half])
            pairs.append((one, two))
        ratio = median(two / one for one, two in pairs)
        print(
            f"\n{half * 2} subscribers: one process {median(one for one, _ in pairs):.2f} us a delivery, "
            f"two {median(two for _, two in pairs):.2f}, ratio {ratio:.3f}; rounds {pairs}"
        )
        assert ratio <= MOST
