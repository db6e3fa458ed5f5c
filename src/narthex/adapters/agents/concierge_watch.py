"""The concierge's slow task: it watches the gateway's health for a while, in steps, and can be steered and cancelled.

Rule: the summary reports only what the task observed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from narthex.adapters.agents.speech import ToolCallEvents, say, think
from narthex.domain import events as ev
from narthex.ports.agents import Event, RunInput

Facts = Callable[[], Awaitable[Mapping[str, Any]]]
"""The part of the gateway that the concierge can read: the body of `/ws/health`."""
Items = AsyncIterator[Event | str]


class Watch:
    """One watch.

    Args:
        facts: gives the body of `/ws/health`.
        pace_s: pause between two words.
        total_s: how long, unless a member sends `enough`.
        heard: texts that members send meanwhile.
    """

    def __init__(self, facts: Facts, pace_s: float, total_s: float, heard: asyncio.Queue[str]) -> None:
        self._facts = facts
        self._pace_s = pace_s
        self._total_s = total_s
        self._heard = heard
        self._every_s = max(0.5, total_s / 5)
        self._enough = False
        self._seen: list[tuple[str, float]] = []

    async def run(self) -> Items:
        """Look, wait, look again; then sum up."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async for thought in think(
            f"I will watch for {self._total_s:g} seconds and check every {self._every_s:g}.", self._pace_s / 2
        ):
            yield thought
        yield ev.state_snapshot({"watch": {"seconds": 0, "of": self._total_s, "looks": 0}})
        while not self._enough:
            async for item in self._look(loop.time() - began):
                yield item
            left_s = self._total_s - (loop.time() - began)
            if left_s <= 0:
                break
            async for item in self._pause(min(self._every_s, left_s)):
                yield item
        async for word in say(self._summary(loop.time() - began), self._pace_s):
            yield word

    async def _look(self, elapsed_s: float) -> Items:
        name = f"look {len(self._seen) + 1}"
        yield ev.step_started(name)
        call = ToolCallEvents("get_health", {"look": len(self._seen) + 1})
        for event in call.begin():
            yield event
        began = asyncio.get_running_loop().time()
        body = await self._facts()
        took_ms = (asyncio.get_running_loop().time() - began) * 1000
        self._seen.append((str(body.get("status", "unknown")), took_ms))
        yield call.end({"status": self._seen[-1][0], "took_ms": round(took_ms, 1)})
        yield ev.state_delta(
            [
                {"op": "replace", "path": "/watch/seconds", "value": round(elapsed_s, 1)},
                {"op": "replace", "path": "/watch/looks", "value": len(self._seen)},
            ]
        )
        yield ev.step_finished(name)

    async def _pause(self, wait_s: float) -> Items:
        """Wait, and take in the texts that members send meanwhile."""
        try:
            async with asyncio.timeout(wait_s):
                said = await self._heard.get()
        except TimeoutError:
            return
        async for word in say(self._obey(said) + "\n\n", self._pace_s):
            yield word

    def _obey(self, said: str) -> str:
        wish = said.strip().lower()
        if "fast" in wish:
            self._every_s = max(0.2, self._every_s / 2)
            return f"Faster: I now check every {self._every_s:.1f} seconds now."
        if "slow" in wish:
            self._every_s = min(30.0, self._every_s * 2)
            return f"Slower: I now check every {self._every_s:.1f} seconds now."
        if wish.rstrip(".!") in {"enough", "stop", "done", "finish"}:
            self._enough = True
            return "Enough: here is the summary."
        return f"Noted: “{said[:100]}”. (I understand `faster`, `slower` and `enough`.)"

    def _summary(self, elapsed_s: float) -> str:
        states = [status for status, _ in self._seen]
        worst = max(took_ms for _, took_ms in self._seen)
        counted = ", ".join(f"{states.count(state)} × {state}" for state in sorted(set(states)))
        return (
            f"I watched for {elapsed_s:.0f} seconds and looked {len(states)} times: {counted}. "
            f"The slowest look took {worst:.0f} ms."
        )


async def listen(run: RunInput, heard: asyncio.Queue[str]) -> None:
    """Put what people say into `heard`; ends with the task that it runs in."""
    async for said in run.steer:
        await heard.put(said)
