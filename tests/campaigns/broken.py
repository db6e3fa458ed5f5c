"""The agent of a faulty revision (`--agent tests.campaigns.broken:agent`): every run fails, and health is good."""

from __future__ import annotations

from collections.abc import AsyncIterator

from narthex.ports.agents import RunInput


async def agent(run: RunInput) -> AsyncIterator[str]:
    """Fail after the first delta."""
    yield f"{run.user.subject}: "
    raise RuntimeError("the seeded fault of the rehearsal")
