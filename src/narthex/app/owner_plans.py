"""Persists each owner's plan from the token claim, so that retention works while the owner is offline.

Not here: deleting by it (`app/retention.py`). Rules: a plan is noted before the first operation of its user
on threads at this instance, so that an upgrade counts before anything is hidden; a later token's plan
replaces it; the table is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from narthex.domain.identity import Identity
from narthex.domain.plans import Plan
from narthex.ports.threads import OwnerPlan, Threads

MAX_KNOWN: Final = (
    50_000  # users of one node within `NOTED_FOR_S`: about 10 MB; those unseen for longest are noted again
)
NOTED_FOR_S: Final = 3_600.0  # another instance may have made a thread under an older token meanwhile


class OwnerPlans:
    """See the module.

    Args:
        threads: stores plans.
        plans: gives the plan of an identity.
        now: seconds since the epoch.
    """

    def __init__(self, threads: Threads, plans: Callable[[Identity], Plan], now: Callable[[], float]) -> None:
        self._threads = threads
        self._plans = plans
        self._now = now
        self._known: OrderedDict[str, tuple[OwnerPlan, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def plan_of(self, identity: Identity) -> OwnerPlan:
        """The plan of the identity's token; without `iat` as of now."""
        issued_at = identity.issued_at
        return OwnerPlan(
            tenant=identity.tenant,
            user_id=identity.subject,
            plan=self._plans(identity).name,
            at=self._now() if issued_at is None else issued_at,
        )

    async def seen(self, identity: Identity) -> None:
        """Note the plan unless it is known. No I/O except the first time and once an hour. Raises DependencyError."""
        plan, now = self.plan_of(identity), self._now()
        kept = self._known.get(identity.user)
        if kept is not None:
            known, noted_at = kept
            plan = max(plan, known, key=lambda one: one.at)
            if plan.plan == known.plan and now - noted_at < NOTED_FOR_S:
                self._known[identity.user] = (plan, noted_at)
                return
        await self._threads.note_plan(plan)
        self._known[identity.user] = (plan, now)
        self._known.move_to_end(identity.user)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
