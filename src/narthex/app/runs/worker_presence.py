"""Lets workers announce themselves, and lets gateways that run no agents check which workers are running.

Not here: claiming (loops). Rules: a worker is present on a channel of its own, so its entry expires by itself when the
worker dies; it decides nothing but health, which reports agents that no worker would run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from narthex.app.health import Degraded
from narthex.app.periodic import BackgroundTask
from narthex.errors import NarthexError
from narthex.ports.broker import PRESENCE_TTL_S, Member, Presence
from narthex.ports.telemetry import Meter

CHANNEL: Final = "narthex/workers:attendance"  # no client's channel has this kind
EVERY_S: Final = PRESENCE_TTL_S / 3  # two may fail


class WorkerPresence(BackgroundTask):
    """Announces one worker.

    Args:
        broker: keeps the presence.
        node: the worker's node id.
        agents: names of the worker's agents.
        meter: counts the broker's failures.
    """

    def __init__(self, broker: Presence, node: str, agents: Iterable[str], meter: Meter) -> None:
        super().__init__(self._stay, "attendance")
        self._broker = broker
        self._member = Member(client=node, user="worker", conn_info={"agents": list(agents)})
        self._meter = meter

    async def stop(self) -> None:
        """Withdraw the announcement."""
        await super().stop()
        try:
            await self._broker.leave(CHANNEL, self._member.client)
        except NarthexError:  # then the entry expires
            self._meter.count("presence_failures", reason="worker")

    async def _stay(self) -> None:
        while True:
            try:
                await self._broker.join(CHANNEL, self._member)
            except NarthexError:
                self._meter.count("presence_failures", reason="worker")
            await asyncio.sleep(EVERY_S)


async def present_workers(broker: Presence) -> dict[str, list[str]]:
    """By node: the names of the agents that its worker runs. Raises DependencyError."""
    found: dict[str, list[str]] = {}
    for node, member in (await broker.members(CHANNEL)).items():
        names = (member.conn_info or {}).get("agents")
        found[node] = [str(name) for name in names] if isinstance(names, list) else []
    return found


def workers_check(broker: Presence, agents: Iterable[str]) -> Callable[[], Awaitable[str]]:
    """A health check: degraded while no worker runs one of the agents."""
    wanted = list(agents)

    async def check() -> str:
        workers = await present_workers(broker)
        run = {name for names in workers.values() for name in names}
        missing = [name for name in wanted if name not in run]
        if missing:
            raise Degraded(f"no worker runs {', '.join(missing)}: start narthex worker with the same agents")
        return f"{len(workers)} workers"

    return check
