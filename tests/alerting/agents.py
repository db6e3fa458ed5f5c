"""Agents of the fault tests."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import narthex
from narthex.ports.agents import RunInput


@narthex.agent(name="fails")
async def fails(run: RunInput) -> AsyncIterator[str]:
    """Raises after its first word."""
    yield "so far "
    raise RuntimeError("as the test wants it")


@narthex.agent(name="blocks")
async def blocks(run: RunInput) -> AsyncIterator[str]:
    """Holds the event loop."""
    yield "a "
    time.sleep(0.4)  # noqa: ASYNC251 - the fault
    yield "b"
