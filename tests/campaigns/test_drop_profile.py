"""Every socket is cut at random again and again while runs stream: no client misses an event or gets one twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.acceptance.program import running
from tests.campaigns.follower import SERVED, Follower, quantile, start_run, token
from tests.timing import within

pytestmark = pytest.mark.acceptance


class Profile(NamedTuple):
    """The load: `clients` on `threads` threads, each cut about every `cut_s` for about `away_s`."""

    clients: int
    threads: int
    seconds: float
    rate: int
    cut_s: float
    away_s: float


async def test_cut_off_for_seconds(tmp_path: Path) -> None:
    """The short variant."""
    await campaign(tmp_path, Profile(40, 8, 6.0, 10, 1.5, 0.3))


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_cut_off_for_five_minutes(tmp_path: Path) -> None:
    """500 clients, cut about every 15 s for about 2 s, during 5 minutes of streaming."""
    await campaign(tmp_path, Profile(500, 50, 300.0, 5, 15.0, 2.0))


async def campaign(directory: Path, profile: Profile) -> None:
    """Stream, cut, and verify every run at every client."""
    async with running(directory, SERVED, ("--agent", "tests.campaigns.agents:steady")) as program:
        secrets = [token(f"user-{number}") for number in range(profile.threads)]
        text = f"rate={profile.rate} seconds={profile.seconds:g}"
        runs = [
            await start_run(program.port, secret, text, f"m-{number}")
            for number, secret in enumerate(secrets)
        ]
        followers = [
            Follower(program.port, secrets[at % profile.threads], runs[at % profile.threads]["channel"])
            for at in range(profile.clients)
        ]
        lives = [
            asyncio.ensure_future(cut_often(follower, profile, at)) for at, follower in enumerate(followers)
        ]
        try:
            async with asyncio.timeout(profile.seconds + within(60)):
                for at, follower in enumerate(followers):
                    await follower.until_over(runs[at % profile.threads]["run_id"])
        finally:
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)
        proven = sum(
            follower.runs[runs[at % profile.threads]["run_id"]].proven
            for at, follower in enumerate(followers)
        )
        replays = [took for follower in followers for took in follower.replays_s]
        faults = [fault for follower in followers for fault in follower.faults]
        figures: dict[str, Any] = {
            "clients": len(followers),
            "proven": proven,
            "events": sum(follower.events for follower in followers),
            "cuts": sum(follower.cuts for follower in followers),
            "replay_p50_s": round(quantile(replays, 0.5), 3),
            "replay_p99_s": round(quantile(replays, 0.99), 3),
            "replay_max_s": round(max(replays), 3),
            "closes": sorted({code for follower in followers for code in follower.closes}),
        }
        print(f"drop profile: {figures}")
        assert faults == []
        assert proven == len(followers)
        assert figures["cuts"] >= profile.clients
        assert figures["replay_p99_s"] < within(2)
        assert "Traceback" not in program.log


async def cut_often(follower: Follower, profile: Profile, seed: int) -> None:
    """Attend until cut, wait, reconnect; until cancelled."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    while True:
        socket = loop.create_task(follower.attend())
        try:
            await asyncio.wait({socket}, timeout=chance.uniform(0.4, 1.6) * profile.cut_s)
            if follower.line is not None:
                follower.line.cut()
            follower.cuts += 1
        finally:
            socket.cancel()
            await asyncio.gather(socket, return_exceptions=True)
        await asyncio.sleep(chance.uniform(0.5, 1.5) * profile.away_s)
