"""Plans: the limits of a user (docs/design.md#runs). A claim of the token decides on the user's plan.

Rules: an unknown plan is `free`; a test identity is as `mid`, a guest as `guest`, whatever their token says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from narthex.domain.identity import Identity, IdentityClass

DAY_S: Final = 86_400.0
INVITATION_DAYS: Final = 30  # an invitation that was not answered by then is over
LINK_DAYS: Final = 7  # how long a link to a thread is open, unless its maker says otherwise
MAX_LINK_DAYS: Final = 30
GUEST_PLAN: Final = "guest"
E2E_PLAN: Final = "mid"
FALLBACK_PLAN: Final = "free"
ENDLESS: Final = ("history_days", "threads")  # fields that may be None: no end


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one plan.

    Attributes:
        connections: live sockets of one user.
        concurrent_runs: runs of one user at once.
        messages_per_minute: `run.start` and messages of one user.
        history_days: days for which messages in a user's threads are kept; None: no end.
        thread_members: members of one thread, invited users included.
        threads: threads that one user owns; None: any number.
        additions_per_day: invitations and additions of others that one user makes in a UTC day; users who join by the
            user's links count.
        exports: exports of one user at once.
    """

    name: str
    connections: int
    concurrent_runs: int
    messages_per_minute: int
    history_days: int | None
    thread_members: int
    threads: int | None
    additions_per_day: int
    exports: int


def _plan(
    name: str,
    connections: int,
    runs: int,
    messages: int,
    days: int | None,
    members: int,
    threads: int | None,
    additions: int,
    exports: int,
) -> Plan:
    return Plan(
        name=name,
        connections=connections,
        concurrent_runs=runs,
        messages_per_minute=messages,
        history_days=days,
        thread_members=members,
        threads=threads,
        additions_per_day=additions,
        exports=exports,
    )


PLANS: Final[Mapping[str, Plan]] = {
    plan.name: plan
    for plan in (
        _plan("guest", 3, 1, 10, 1, 1, 20, 5, 1),
        _plan("free", 10, 2, 30, 30, 3, 200, 20, 1),
        _plan("early", 20, 5, 60, 90, 10, 1_000, 100, 2),
        _plan("mid", 50, 20, 120, 365, 50, 10_000, 500, 4),
        _plan("enterprise", 500, 200, 1200, None, 1000, None, 5_000, 16),
    )
}
"""The defaults."""


def with_overrides(
    overrides: Mapping[str, Mapping[str, int | None]], *, connections: int | None = None
) -> dict[str, Plan]:
    """The plans with settings' changes.

    Args:
        overrides: plan name → field → value; None leaves the default, and 0 for `history_days` or `threads` means
            no end. A plan that is no default one starts from `free`.
        connections: `max_connections_per_user`: instead of every plan's own, when it is set.
    """
    plans = dict(PLANS)
    for name, changes in overrides.items():
        fields = {field: value for field, value in changes.items() if value is not None}
        endless = {field: fields.pop(field) or None for field in ENDLESS if field in fields}
        base = plans.get(name, PLANS[FALLBACK_PLAN])
        plans[name] = msgspec.structs.replace(base, name=name, **fields, **endless)
    if connections is not None:
        plans = {name: msgspec.structs.replace(plan, connections=connections) for name, plan in plans.items()}
    return plans


def plan_of(identity: Identity, plans: Mapping[str, Plan] = PLANS) -> Plan:
    """The plan whose limits apply to an identity. `plans` holds at least the default names."""
    if identity.e2e:
        return plans[E2E_PLAN]
    if identity.identity_class is IdentityClass.GUEST:
        return plans[GUEST_PLAN]
    return plans.get(identity.plan) or plans[FALLBACK_PLAN]


def kept_since(plans: Mapping[str, Plan], now: float) -> dict[str, float]:
    """Plan → the moment before which nothing of its owners' threads is kept; plans that keep all are not in it."""
    return {
        name: now - plan.history_days * DAY_S for name, plan in plans.items() if plan.history_days is not None
    }
