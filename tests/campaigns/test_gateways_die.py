"""`kill -9` of a gateway, again and again, under load: nothing acknowledged is lost, and everybody is back in time."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.acceptance.fleet import fleet
from tests.campaigns.load import Load, Verdict, under_load

pytestmark = pytest.mark.acceptance


async def campaign(directory: Path, *, rate: float, rounds: int, channels: int, writers: int = 2) -> Verdict:
    """Three gateways on NATS and PostgreSQL; each round one of them dies and is started again."""
    async with fleet(directory) as built:
        gateways = await built.gateways(3)
        async with under_load(Load(gateways, channels=channels, rate=rate, writers=writers)) as load:
            for left in reversed(range(rounds)):
                gateway = random.choice(gateways)
                await load.progress()
                gateway.kill()
                await load.progress()
                await load.resumed()
                if left:
                    await gateway.start()
            await load.settle()
            found: Verdict = load.verdict()
            print(f"\n{rounds} rounds, {found.acknowledged / load.seconds:.0f} publishes a second: {found}")
            return found


def check(found: Verdict) -> None:
    """What issue 6 asks for."""
    assert found.acknowledged
    assert found.lost == 0
    assert found.twice == 0
    assert found.gaps == []
    assert found.disordered == 0
    assert found.unrecovered == 0
    assert found.epochs == 1
    assert found.silences == 0
    assert found.resumed_s
    assert found.resumed_in_time >= 0.99


async def test_a_killed_gateway_loses_nothing(tmp_path: Path) -> None:
    """One round at 150 publishes a second."""
    check(await campaign(tmp_path, rate=150, rounds=1, channels=6))


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_twenty_killed_gateways_lose_nothing(tmp_path: Path) -> None:
    """Twenty rounds at 1,000 publishes a second (`NARTHEX_TEST_RATE` for another)."""
    rate = float(os.environ.get("NARTHEX_TEST_RATE", "1000"))
    check(await campaign(tmp_path, rate=rate, rounds=20, channels=20, writers=10))
