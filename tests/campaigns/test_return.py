"""After a drain all clients reconnect: with the SDKs' back-off, spread as the closes were, and never as a storm."""

from __future__ import annotations

import asyncio
import random
import resource
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.crowd import Client
from tests.acceptance.program import Program, running
from tests.acceptance.test_drain import crowd
from tests.campaigns.watcher import BACKOFF_FIRST_S, BACKOFF_LAST_S

pytestmark = pytest.mark.acceptance

BIN_S = 1.0
LARGEST_SHARE = 0.3


async def come_back(client: Client, port: int) -> float:
    """Wait for the close, then act as centrifuge-js does until connected; returns the time of the connection."""
    await client.listen()
    assert client.close_code == 3001
    for attempt in range(20):
        await asyncio.sleep(random.uniform(0, min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2**attempt)))
        again = Client(client.host, port, client.token)
        try:
            await again.live()
        except (OSError, AssertionError, EOFError):
            continue
        finally:
            again.end()
        return asyncio.get_running_loop().time()
    raise AssertionError("it never came back")


async def returns(directory: Path, count: int) -> list[float]:
    """Drain one gateway with `count` sockets while another one accepts the same tokens; returns each reconnect time."""
    env = {
        "NARTHEX_MAX_CONNECTIONS_PER_USER": "10000",
        "NARTHEX_MAX_CONNECTIONS_PER_ADDRESS": "20000",
    }
    for name in ("old", "new"):
        (directory / name).mkdir()
    async with running(directory / "old", env) as old:
        clients = await crowd(old, count, 10)
        async with running(directory / "new", env) as new:
            await use_tokens_of(new, clients)
            coming = [asyncio.create_task(come_back(client, new.port)) for client in clients]
            assert old.process is not None
            old.process.send_signal(signal.SIGTERM)
            return sorted(await asyncio.gather(*coming))


async def use_tokens_of(new: Program, clients: list[Client]) -> None:
    """The other gateway has its own store and keys here: each client gets a token that it admits."""
    tokens = await asyncio.gather(*(new.login(f"user-{n}@example.com") for n in range(10)))
    for number, client in enumerate(clients):
        client.token = tokens[number % 10]


def largest_bin(moments: list[float]) -> float:
    """The largest share of them within any one second."""
    most = 0
    first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] > BIN_S:
            first += 1
        most = max(most, last - first + 1)
    return most / len(moments)


def report(moments: list[float]) -> None:
    """For the log: the number in each second."""
    bins = Counter(int(moment - moments[0]) for moment in moments)
    print(f"\nback by second: {dict(sorted(bins.items()))}; largest second {largest_bin(moments):.1%}")


async def test_five_hundred_come_back_spread(tmp_path: Path) -> None:
    """No second has over 30 % of them."""
    moments = await returns(tmp_path, 500)
    report(moments)
    assert largest_bin(moments) <= LARGEST_SHARE


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_five_thousand_come_back_spread(tmp_path: Path) -> None:
    """The same with 5,000."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    moments = await returns(tmp_path, 5_000)
    report(moments)
    assert largest_bin(moments) <= LARGEST_SHARE
