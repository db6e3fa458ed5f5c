"""Decides of which agents this node claims runs.

These are its own agents, and agents that no live node has: their runs are claimed to be ended (`agent_unknown`), so
that none waits for ever. Every node that runs agents, or accepts messages for them, announces their names
(`worker_presence`). A node that serves no users, such as a revision before it gets traffic, leaves the runs that others
accepted to nodes that do, as long as those claim them.

Not here: claiming (`loops`). Rule: only looks of this node count, never a clock, so that a node that was suspended
concludes nothing.
"""

from __future__ import annotations

from typing import Final

from narthex.app.runs.services import RunServices
from narthex.app.runs.worker_presence import known_agents

ABSENT_LOOKS: Final = 20
"""Looks in a row at which no live node had an agent: a minute, in which a restarted node is back."""


class AgentCoverage:
    """See the module.

    Attributes:
        absent: agents with waiting runs that no live node has, while their runs may be ended.
        missing: the same, from the first look on, for health.
    """

    def __init__(self, services: RunServices) -> None:
        self._services = services
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
        """The agents whose runs this node may claim now."""
        own = self._services.agents
        found = own if self._services.serves_users() else own.keys() & self._stuck
        return [*found, *self.absent]

    def covers(self, agent: str) -> bool:
        """Whether a run of the agent, which would have to be started, is for this node."""
        if agent in self._services.agents or agent in self.absent:
            return True
        self._left.add(agent)
        return False

    async def look(self) -> bool:
        """Compare the queue with the agents of live nodes. Returns whether this node may claim more than before.

        Raises:
            DependencyError: nothing was learnt.
        """
        queue = await self._services.runs.queue()
        left, self._left = self._left, set()
        foreign = (queue.heads.keys() | left) - self._services.agents.keys()
        if foreign:
            foreign -= await known_agents(self._services.broker)
        self._looks = {name: self._looks.get(name, 0) + 1 for name in foreign}
        before = self.absent | self._stuck
        self.absent = frozenset(name for name, looks in self._looks.items() if looks >= ABSENT_LOOKS)
        self._stuck = frozenset(name for name, head in queue.heads.items() if self._heads.get(name) == head)
        self._heads = dict(queue.heads)
        return not (self.absent | self._stuck) <= before
