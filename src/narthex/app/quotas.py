"""Enforces a plan's messages a minute, and shows the limits with their use (`limits`).

Not here: counting connections (app/connection_limits), concurrent runs (at the claim, ports/runs), members and
additions (app/memberships), threads (app/chat). Rules: per user and per node; the table of buckets is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from narthex.domain.identity import Identity
from narthex.domain.plans import Plan
from narthex.errors import ClientError
from narthex.ports.memberships import Memberships
from narthex.ports.runs import Runs
from narthex.ports.threads import KEEPS_ALL, Kept

MAX_BUCKETS: Final = 100_000  # users of one node within a minute; the longest unused is dropped first
_WINDOW_S: Final = 60.0


class Quotas:
    """Token buckets of a minute: a burst of the whole minute's messages, then a steady rate.

    Args:
        plans: gives the plan of an identity.
        runs: counts a user's runs.
        memberships: counts a user's threads and additions.
        connections_of: counts a user's connections.
        now: seconds since the epoch.
        kept: since when threads are kept, by plan, as of now; older ones count no more, as for `Chat.create`.
    """

    def __init__(
        self,
        plans: Callable[[Identity], Plan],
        runs: Runs,
        memberships: Memberships,
        connections_of: Callable[[str], int],
        now: Callable[[], float],
        kept: Callable[[], Kept] = lambda: KEEPS_ALL,
    ) -> None:
        self._plans = plans
        self._runs = runs
        self._memberships = memberships
        self._connections_of = connections_of
        self._now = now
        self._kept = kept
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def _level(self, identity: Identity, capacity: int) -> float:
        """Messages left now."""
        now = self._now()
        level, at = self._buckets.get(identity.user, (float(capacity), now))
        return min(float(capacity), level + max(0.0, now - at) * capacity / _WINDOW_S)

    def take_message(self, identity: Identity) -> None:
        """Count one message.

        Raises:
            ClientError: `rate_limited` (429) with the seconds to wait.
        """
        plan = self._plans(identity)
        capacity = plan.messages_per_minute
        level = self._level(identity, capacity)
        if level < 1.0:
            wait_s = max(1, round((1.0 - level) * _WINDOW_S / capacity))
            raise ClientError(
                "rate_limited",
                f"The plan {plan.name} allows {capacity} messages per minute.",
                f"Wait {wait_s} s.",
                number=429,
            )
        self._buckets[identity.user] = (level - 1.0, self._now())
        self._buckets.move_to_end(identity.user)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)

    async def shown(self, identity: Identity) -> dict[str, object]:
        """The plan's limits with their use, for RPC `limits`."""
        plan = self._plans(identity)
        left = self._level(identity, plan.messages_per_minute)
        return {
            "plan": plan.name,
            "connections": {"limit": plan.connections, "used": self._connections_of(identity.user)},
            "concurrent_runs": {
                "limit": plan.concurrent_runs,
                "used": await self._runs.active_count(identity.tenant, identity.subject),
            },
            "messages_per_minute": {"limit": plan.messages_per_minute, "left": int(left)},
            "thread_members": {"limit": plan.thread_members},
            "threads": {
                "limit": plan.threads,
                "used": await self._memberships.owned(identity.tenant, identity.subject, self._kept()),
            },
            "additions_per_day": {
                "limit": plan.additions_per_day,
                "used": await self._memberships.additions(identity.tenant, identity.subject, self._now()),
            },
            "exports": {"limit": plan.exports},
            "history_days": {"limit": plan.history_days},
        }
