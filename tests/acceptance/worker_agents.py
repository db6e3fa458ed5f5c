"""Agents of the worker tests, one restartable and one not. Slow, so that a process can die in between. And one that
shows where it runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import narthex
from narthex.ports.agents import Event, RunInput

WORDS = 60


async def _count(run: RunInput) -> AsyncIterator[Event | str]:
    for number in range(WORDS):
        yield f"{number} "
        await asyncio.sleep(0.05)


@narthex.agent(name="once")
async def once(run: RunInput) -> AsyncIterator[Event | str]:
    """Counts; ends when its owner dies."""
    async for word in _count(run):
        yield word


@narthex.agent(name="again", restartable=True)
async def again(run: RunInput) -> AsyncIterator[Event | str]:
    """Counts; restarts elsewhere."""
    async for word in _count(run):
        yield word


@narthex.agent(name="revision")
async def revision(run: RunInput) -> AsyncIterator[Event | str]:
    """Says which revision of it runs."""
    await asyncio.sleep(0.2)
    yield os.environ.get("TEST_REVISION", "none")
