"""Decides of which agents this node claims runs.

These are its own agents, and agents that no live node has: their runs are claimed to be ended (`agent_unknown`), so
that none waits for ever. Every node that runs agents, or accepts messages for them, announces their names
(`worker_presence`). A node that serves no users, such as a revision before it gets traffic, leaves the runs that others
accepted to nodes that do: while one of those announces the agent, and as long as it claims them. A node that drains
claims none.

Not here: claiming (`loops`). Rule: only looks of this node count, never a clock, so that a node that was suspended
concludes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from narthex.app.runs.worker_presence import WorkerPresence, known_agents, served_agents
from narthex.ports.agents import Agent
from narthex.ports.broker import Presence
from narthex.ports.runs import Runs

ABSENT_LOOKS: Final = 20
"""Looks in a row at which no live node had an agent: a minute, in which a restarted node is back."""


class AgentCoverage:
    """See the module.

    Args:
        broker: keeps the presence of nodes.
        runs: the queue.
        agents: this node's, by name.
        node: its id.
        claims: whether agents run here.
        serves_users: whether users are connected here.
        presence: announces what this node does; None: nothing does.

    Attributes:
        draining: this node claims no run any more.
        absent: agents with waiting runs that no live node has, while their runs may be ended.
        missing: the same, from the first look on, for health.
    """

    def __init__(
        self,
        broker: Presence,
        runs: Runs,
        agents: Mapping[str, Agent],
        node: str,
        *,
        claims: bool,
        serves_users: Callable[[], bool],
        presence: WorkerPresence | None,
    ) -> None:
        self._broker = broker
        self._runs = runs
        self._agents = agents
        self._node = node
        self._claims = claims
        self._serves_users = serves_users
        self._presence = presence
        self.draining = False
        self._served: frozenset[str] = frozenset(agents)  # until the first look
        self._looks: dict[str, int] = {}
        self._heads: dict[str, str] = {}
        self._stuck: frozenset[str] = frozenset()
        self._left: set[str] = set()
        self.absent: frozenset[str] = frozenset()

    @property
    def missing(self) -> list[str]:
        """Agents with waiting runs that no live node had at the last look."""
        return sorted(self._looks)

    def claimable(self) -> list[str]:
        """The agents whose runs this node may claim now, besides those that it has reserved."""
        if self.draining or not self._claims:
            return []
        own = self._agents.keys()
        found = own if self._serves_users() else own - (self._served - self._stuck)
        return [*found, *self.absent]

    def covers(self, agent: str) -> bool:
        """Whether a run of the agent, which would have to be started, is for this node."""
        if agent in self._agents or agent in self.absent:
            return True
        self._left.add(agent)
        return False

    async def announce(self) -> None:
        """Announce whether this node claims runs that others accepted, where that has changed."""
        if self._presence is not None:
            await self._presence.announce(serves_users=self._serves_users() and not self.draining)

    async def look(self) -> bool:
        """Compare the queue with the agents of live nodes. Returns whether this node may claim more than before.

        Raises:
            DependencyError: nothing was learnt.
        """
        await self.announce()
        queue = await self._runs.queue()
        left, self._left = self._left, set()
        foreign = (queue.heads.keys() | left) - self._agents.keys()
        if foreign:
            foreign -= await known_agents(self._broker)
        before = set(self.claimable())
        if not self._serves_users():
            self._served = await served_agents(self._broker, self._node)
        self._looks = {name: self._looks.get(name, 0) + 1 for name in foreign}
        self.absent = frozenset(name for name, looks in self._looks.items() if looks >= ABSENT_LOOKS)
        self._stuck = frozenset(name for name, head in queue.heads.items() if self._heads.get(name) == head)
        self._heads = dict(queue.heads)
        return not before.issuperset(self.claimable())
