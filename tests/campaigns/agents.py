"""Agents that the campaigns' server runs: `--agent tests.campaigns.agents:steady` and so on.

Rules: an agent writes what only it knows (when it was stopped) to the file that `CAMPAIGN_NOTES` names, one line per
event, with CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

from narthex.ports.agents import Event, RunInput, agent

_ASKED = re.compile(r"rate=(\d+) seconds=([\d.]+)(?: size=(\d+))?")


async def _stream(run: RunInput) -> AsyncIterator[str]:
    """`rate=20 seconds=5 size=10`: this many deltas a second, each with its creation time, padded to `size`."""
    match = _ASKED.search(run.messages[-1].content)
    assert match is not None
    rate, seconds, size = int(match[1]), float(match[2]), int(match[3] or 0)
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        wait_s = began + number / rate - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        yield f"{time.monotonic_ns()} ".ljust(size, ".")


@agent(name="steady")
async def steady(run: RunInput) -> AsyncIterator[str]:
    """A steady stream; its run is lost when its server dies."""
    async for text in _stream(run):
        yield text


@agent(name="again", restartable=True)
async def again(run: RunInput) -> AsyncIterator[str]:
    """The same, declared restartable."""
    async for text in _stream(run):
        yield text


@agent(name="endless")
async def endless(run: RunInput) -> AsyncIterator[str]:
    """Streams until it is stopped, and notes the time of the stop."""
    try:
        while True:
            yield "and on "
            await asyncio.sleep(0.02)
    finally:
        note(f"stopped {run.run_id}")


@agent(name="waiting")
async def waiting(run: RunInput) -> AsyncIterator[str]:
    """Waits for an event that never comes, cleans up slowly, and notes when it has finished."""
    yield "waiting "
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.2)
        note(f"stopped {run.run_id}")


@agent(name="parrot")
async def parrot(run: RunInput) -> AsyncIterator[str]:
    """Repeats the message and its author."""
    yield f"{run.user.subject} said {run.messages[-1].content}"


def note(line: str) -> None:
    """Append `<monotonic ns> <line>`."""
    with Path(os.environ["CAMPAIGN_NOTES"]).open("a") as notes:
        notes.write(f"{time.monotonic_ns()} {line}\n")


@agent(name="lengthy")
async def lengthy(run: RunInput) -> AsyncIterator[Event | str]:
    """`events=18000`: this many deltas, alternating between two messages so that none are joined; then it waits."""
    wanted = int(run.messages[-1].content.partition("events=")[2])
    note(f"began {run.run_id}")
    for name in ("even", "odd"):
        yield {"type": "TEXT_MESSAGE_START", "messageId": f"{run.run_id}-{name}", "role": "assistant"}
    for number in range(wanted):
        name = f"{run.run_id}-{'odd' if number % 2 else 'even'}"
        yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": name, "delta": f"{number % 100} "}
    await asyncio.Event().wait()
