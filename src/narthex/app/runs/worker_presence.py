"""Lets nodes announce their agents: those that run there, and those that a gateway only accepts messages for; and
whether they serve users.

Not here: claiming (`loops`), what the names decide (`agent_coverage`). Rule: a node is present on a channel of its own,
so its entry expires by itself when the node dies.
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
_SERVES: Final = "serves_users"
EVERY_S: Final = PRESENCE_TTL_S / 3  # two may fail


class WorkerPresence(BackgroundTask):
    """Announces one node.

    Args:
        broker: keeps the presence.
        node: the node's id.
        agents: names of the node's agents.
        meter: counts the broker's failures.
        runs: whether they run there; else the node only accepts messages for them.
    """

    def __init__(
        self, broker: Presence, node: str, agents: Iterable[str], meter: Meter, *, runs: bool = True
    ) -> None:
        super().__init__(self._stay, "attendance")
        self._broker = broker
        # Not `agents` where none runs: 0.1.0 takes everything that has this member for a worker.
        self._kind = "agents" if runs else "accepts"
        self._node = node
        self._agents = list(agents)
        self._serves_users = False
        self._meter = meter

    async def stop(self) -> None:
        """Withdraw the announcement."""
        await super().stop()
        try:
            await self._broker.leave(CHANNEL, self._node)
        except NarthexError:  # then the entry expires
            self._meter.count("presence_failures", reason="worker")

    async def announce(self, *, serves_users: bool) -> None:
        """Announce at once whether this node runs the messages of users, where that has changed."""
        changed, self._serves_users = self._serves_users != serves_users, serves_users
        if changed and self.started:
            await self._join()

    async def _stay(self) -> None:
        while True:
            await self._join()
            await asyncio.sleep(EVERY_S)

    async def _join(self) -> None:
        about = {self._kind: self._agents, _SERVES: self._serves_users}
        try:
            await self._broker.join(CHANNEL, Member(client=self._node, user="worker", conn_info=about))
        except NarthexError:
            self._meter.count("presence_failures", reason="worker")


async def present_workers(broker: Presence) -> dict[str, list[str]]:
    """By node: the names of the agents that run there. Raises DependencyError."""
    members = await broker.members(CHANNEL)
    return {node: names for node, member in members.items() if (names := _names(member, "agents"))}


async def known_agents(broker: Presence) -> set[str]:
    """The names of the agents that a live node runs or accepts messages for. Raises DependencyError."""
    members = (await broker.members(CHANNEL)).values()
    return {name for member in members for kind in ("agents", "accepts") for name in _names(member, kind)}


async def served_agents(broker: Presence, node: str) -> frozenset[str]:
    """The names of the agents that live nodes other than `node` run for users. Raises DependencyError."""
    members = await broker.members(CHANNEL)
    return frozenset(
        name
        for other, member in members.items()
        # Version 0.1.0 announces workers only, which all run them.
        if other != node and (member.conn_info or {}).get(_SERVES, True)
        for name in _names(member, "agents")
    )


def _names(member: Member, kind: str) -> list[str]:
    names = (member.conn_info or {}).get(kind)
    return [str(name) for name in names] if isinstance(names, list) else []


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
