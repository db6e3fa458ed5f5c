"""A process to be killed: SQLite engines, a run engine, a few runs; it prints its acknowledged events.

    stdout   `ready`, then one line `channel offset` for each publish that returned

Usage: `python -m tests.app.runs.victim DIR NUMBER`, where NUMBER names the runs that it starts.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from narthex.adapters.brokers.sqlite.broker import SqliteBroker
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.ports.broker import Position, Published
from tests.app.runs.rig import Rig
from tests.app.runs.victim_agents import AGENTS, VICTIM_LIMITS, Deaf


class Witness(SqliteBroker):
    """Prints acknowledged events at once."""

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        published = await super().publish(channel, data, key=key, tags=tags, expected=expected)
        sys.stdout.write(f"{channel} {published.offset}\n")
        sys.stdout.flush()
        return published


async def main(directory: Path, number: str) -> None:
    """Run until killed."""
    broker, store = Witness(directory / "log.db"), SqliteStore(directory / "store.db")
    await broker.start(Deaf(), "victim")
    await store.start()
    rig = Rig(broker=broker, store=store)
    engine = await rig.node(*AGENTS, name="victim", limits=VICTIM_LIMITS)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for agent in AGENTS:
        await rig.say(engine, await rig.thread(), f"@{agent.name}", client=f"{number}-{agent.name}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
