"""The agents of the killed process, and of its successor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from narthex.domain import events as ev
from narthex.ports.agents import Event, RunInput
from narthex.ports.broker import Control, Member, Publication
from tests.app.runs.rig import QUICK, agent

VICTIM_LIMITS: Final = msgspec.structs.replace(QUICK, max_attempts=100)


async def busy(run: RunInput) -> AsyncIterator[Event | str]:
    """A tool call, then text, for about a third of a second."""
    yield ev.tool_call_start("c", "work")
    for n in range(10):
        yield ev.tool_call_args("c", f"{n}")
        await asyncio.sleep(0.005)
    yield ev.tool_call_end("c")
    yield ev.tool_call_result("r", "c", "done")
    for n in range(60):
        yield f"{n} "
        await asyncio.sleep(0.005)


AGENTS: Final = (agent(busy, "once"), agent(busy, "again", restartable=True))
TEXT: Final = "".join(f"{n} " for n in range(60))


class Deaf:
    """A broker handler that ignores everything."""

    def publication(self, channel: str, publication: Publication, epoch: str) -> None: ...
    def presence(self, channel: str, member: Member, joined: bool) -> None: ...
    def control(self, message: Control) -> None: ...
    def resync(self, channels: list[str] | None) -> None: ...
