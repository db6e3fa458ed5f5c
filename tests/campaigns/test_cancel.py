"""Cancel: acknowledged at once, the agent's code stopped soon, no event after the end."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import pytest

from tests.acceptance.program import Program, running
from tests.campaigns.follower import SERVED, Follower, attending, quantile, token
from tests.timing import within

pytestmark = pytest.mark.acceptance
AGENTS = ("endless", "waiting")
AT_ONCE = 10


async def test_cancelled_many_times(tmp_path: Path) -> None:
    """The short variant."""
    await campaign(tmp_path, runs=40)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_cancelled_a_thousand_times(tmp_path: Path) -> None:
    """1,000 runs, ten at a time."""
    await campaign(tmp_path, runs=1000)


async def campaign(directory: Path, *, runs: int) -> None:
    """Start, cancel, and check the agent's side and the log."""
    notes = directory / "notes"
    notes.touch()
    arguments = tuple(word for name in AGENTS for word in ("--agent", f"tests.campaigns.agents:{name}"))
    env = {**SERVED, "CAMPAIGN_NOTES": str(notes)}
    async with running(directory, env, arguments) as program:
        turns = asyncio.Semaphore(AT_ONCE)
        cancels = [Cancelled(program, number) for number in range(runs)]
        await asyncio.gather(*(cancel.life(turns) for cancel in cancels))
        stopped = {line.split()[2]: int(line.split()[0]) / 1e9 for line in notes.read_text().splitlines()}
        acknowledged = [cancel.acknowledged_s for cancel in cancels]
        stops = [stopped[cancel.run_id] - cancel.asked_at for cancel in cancels]
        ends = [cancel.ended_s for cancel in cancels]
        figures = {
            "runs": runs,
            "acknowledged_p50_ms": round(1000 * quantile(acknowledged, 0.5), 1),
            "acknowledged_p99_ms": round(1000 * quantile(acknowledged, 0.99), 1),
            "acknowledged_max_ms": round(1000 * max(acknowledged), 1),
            "stopped_p99_ms": round(1000 * quantile(stops, 0.99), 1),
            "stopped_max_ms": round(1000 * max(stops), 1),
            "ended_p99_ms": round(1000 * quantile(ends, 0.99), 1),
        }
        print(f"cancel: {figures}")
        assert quantile(acknowledged, 0.99) < within(0.1)
        assert quantile(stops, 0.99) < within(1)
        for cancel in cancels:
            assert cancel.faults == []  # an event after the end is one
            assert len(cancel.runs) == 1
            proof = cancel.runs[cancel.run_id]
            assert proof.proven
            assert (proof.terminal or {})["outcome"] == {"type": "cancelled"}


class Cancelled(Follower):
    """A follower who cancels their own run."""

    def __init__(self, program: Program, number: int) -> None:
        super().__init__(program.port, token(f"user-{number}"))
        self.agent = AGENTS[number % 2]
        self.run_id = ""
        self.asked_at = self.acknowledged_s = self.ended_s = 0.0

    async def life(self, turns: asyncio.Semaphore) -> None:
        """Start, receive a delta, cancel, receive the end, and keep listening for a while."""
        async with turns, attending(self):
            async with asyncio.timeout(within(30)):
                await self._cancel()
            await asyncio.sleep(
                1.3
            )  # longer than the agent's second to clean up: a late event would arrive now
            self.changed.clear()

    async def _cancel(self) -> None:
        while self.line is None or self.line.status != 101:  # noqa: ASYNC110 - the dialling has no event
            await asyncio.sleep(0.001)
        data = {"text": "go", "client_message_id": uuid.uuid4().hex, "agent": self.agent}
        started = (await self.line.call("run.start", **data))["rpc"]["data"]
        self.run_id = started["run_id"]
        self.join(started["channel"])
        while not self.runs or not self.runs[self.run_id].text:
            self.changed.clear()
            await self.changed.wait()
        self.asked_at = time.monotonic()
        reply = await self.line.call("run.cancel", run_id=self.run_id)
        self.acknowledged_s = time.monotonic() - self.asked_at
        assert reply["rpc"]["data"]["state"] in ("running", "cancelled"), reply
        await self.until_over(self.run_id)
        self.ended_s = time.monotonic() - self.asked_at
