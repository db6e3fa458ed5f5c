"""`kill -9` of the server at random points of runs: acknowledged events are present, and every run ends in time."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Program, running
from tests.campaigns.follower import SERVED, Follower, attending, quantile, start_run, token
from tests.timing import within

pytestmark = pytest.mark.acceptance
AGENTS = ("steady", "again")
SECONDS = 2.0
TERMINAL_WITHIN_S = 15.0


async def test_killed_at_a_random_point(tmp_path: Path) -> None:
    """The short variant."""
    await campaign(tmp_path, kills=1, seed=5)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_killed_at_twenty_random_points(tmp_path: Path) -> None:
    """Twenty restarts of one server on one data directory."""
    await campaign(tmp_path, kills=20, seed=6)


async def campaign(directory: Path, *, kills: int, seed: int) -> None:
    """Kill it `kills` times, and check after each kill."""
    chance = random.Random(seed)
    arguments = tuple(word for name in AGENTS for word in ("--agent", f"tests.campaigns.agents:{name}"))
    ended_s: list[float] = []
    states: dict[str, int] = {}
    seen = 0
    async with running(directory, SERVED, arguments) as program:
        for number in range(kills):
            followers = [Person(program.port, f"user-{number}-{at}", AGENTS[at % 2]) for at in range(6)]
            for follower in followers:
                await follower.begin(program.port)
            seen += await kill(program, followers, chance.uniform(0.0, SECONDS + 0.3))
            began = time.monotonic()
            await program.start()
            async with attending(*followers):
                await asyncio.gather(*(follower.again(began) for follower in followers))
            for follower in followers:
                assert follower.faults == []
                proof = follower.runs[follower.run_id]
                assert proof.proven, (proof.terminal, proof.last)
                ended_s.append(follower.ended_s)
                end = proof.terminal or {}
                how = end.get("code") or end["outcome"]["type"]
                states[f"{follower.agent} {how}"] = states.get(f"{follower.agent} {how}", 0) + 1
        figures = {
            "kills": kills,
            "runs": len(ended_s),
            "events_seen_before": seen,
            "ended_p50_s": round(quantile(ended_s, 0.5), 2),
            "ended_max_s": round(max(ended_s), 2),
            "ends": states,
        }
        print(f"kill -9: {figures}")
        assert max(ended_s) < within(TERMINAL_WITHIN_S)
        assert "run_bug" not in program.log


class Person(Follower):
    """A follower of one of their own runs, who remembers the events from before the kill."""

    def __init__(self, port: int, subject: str, agent: str) -> None:
        super().__init__(port, token(subject))
        self.agent = agent
        self.message = uuid.uuid4().hex
        self.run_id = ""
        self.ended_s = 0.0
        self.shown: list[tuple[int, Any]] = []

    async def begin(self, port: int) -> None:
        """Start the run; without an answer, ask again later with the same message."""
        text = f"rate=20 seconds={SECONDS:g}"
        started = await start_run(port, self.secret, text, self.message, agent=self.agent)
        if self.run_id:
            assert started["run_id"] == self.run_id, "the same message gave another run"
        self.run_id, self.channel = started["run_id"], started["channel"]

    def take(self, publication: dict[str, Any], *, live: bool = False) -> None:
        """Take it as any follower does, and keep it."""
        self.shown.append((publication.get("offset", 0), publication["data"]))
        super().take(publication, live=live)

    async def again(self, began: float) -> None:
        """After the restart: the same run for the same message, to its end; the earlier events are in the log."""
        await self.begin(self.port)
        proof = await self.until_over(self.run_id)
        self.ended_s = time.monotonic() - began
        assert proof.terminal is not None
        fresh = Person(self.port, "", self.agent)
        fresh.secret, fresh.channel = self.secret, self.channel
        async with attending(fresh):
            async with asyncio.timeout(within(5)):
                await fresh.recovered.wait()
        assert fresh.faults == []
        kept = dict(fresh.shown)
        missing = [offset for offset, data in self.shown if offset and kept.get(offset) != data]
        assert missing == [], "acknowledged events are not what the log has"


async def kill(program: Program, followers: list[Person], after_s: float) -> int:
    """Follow for a while, then kill; returns how many events had arrived."""
    async with attending(*followers):
        async with asyncio.timeout(within(10)):
            for follower in followers:
                await follower.recovered.wait()
        await asyncio.sleep(after_s)  # the point of the kill, not a wait for an event
        program.kill()
    return sum(follower.events for follower in followers)
