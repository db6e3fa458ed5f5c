"""Limits open sockets: per user, per client address, unproven, in the whole process (docs/design.md#limits).

Not here: admission (`domain.admission`). Rules: live sockets are counted, never objects that code may forget
to release; N are admitted and the N+1st is refused `connection_limit`; a slot is released exactly
once, however often `release` is called; counts are this process's own. Probes hold a slot that counts nowhere.
Where the unproven are at their limit, the oldest inert one of the address that has most of them is closed for a socket
of an address that has fewer, so that no address takes the slots of the others; guests are never closed for that, and
one address has at most half of the slots with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from narthex.domain.addresses import bucket
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.limits import Limits
from narthex.domain.plans import Plan, plan_of
from narthex.domain.refusals import Refusal
from narthex.ports.telemetry import Meter

RETRY_AFTER_S: Final = 5  # sockets come and go within seconds; earlier retries would only add load


class ConnectionSlot:
    """One socket's slot in the counts. Made by `ConnectionLimiter.acquire`."""

    __slots__ = ("_address", "_close", "_guest", "_limiter", "_open", "_unproven", "_user", "traffic")

    def __init__(
        self,
        limiter: ConnectionLimiter,
        address: str,
        user: str,
        *,
        unproven: bool,
        guest: bool = False,
        traffic: str,
    ) -> None:
        self._close: Callable[[Refusal], None] | None = None
        self._guest = guest
        self._limiter = limiter
        self._address = address
        self._user = user
        self._unproven = unproven
        self._open = True
        self.traffic = traffic

    def identify(self, identity: Identity) -> Refusal | None:
        """Count the socket among its user's after an in-band proof. A refusal changes nothing."""
        if not self._open or not self.traffic:
            return None
        if identity.user == self._user and not self._unproven:
            return None
        refusal = self._limiter.user_refusal(identity)
        if refusal is not None:
            return refusal
        self._limiter.move(self, self._address, self._user, identity.user, unproven=self._unproven)
        traffic = identity.identity_class.value
        if traffic != self.traffic:
            self._limiter.meter.connections(self.traffic, -1)
            self._limiter.meter.connections(traffic, 1)
        self._user, self._unproven, self.traffic = identity.user, False, traffic
        self._close = None
        return None

    def allow_eviction(self, close: Callable[[Refusal], None]) -> None:
        """Set how to close the socket, should it be evicted while it is inert."""
        if self._open and self._unproven and not self._guest:
            self._close = close

    @property
    def guest(self) -> bool:
        """Whether the socket is a guest's."""
        return self._guest

    @property
    def evictable(self) -> bool:
        """Whether it is inert, and can be closed."""
        return self._close is not None

    def evict(self) -> None:
        """Close the socket; its slot is free at once."""
        close = self._close
        self.release()
        if close is not None:
            close(_limit_refusal("Too many connections have not authenticated; send a credential."))

    def release(self) -> None:
        """Release the slot of a socket that is gone; idempotent."""
        if self._open:
            self._open = False
            self._close = None  # it holds the connection, which holds this
            if self.traffic:
                self._limiter.remove(
                    self, self._address, self._user, unproven=self._unproven, traffic=self.traffic
                )


class ConnectionLimiter:
    """The counts of this process.

    Args:
        limits: of docs/design.md#limits.
        plans: by name; a user's plan sets the user's limit.
        meter: counts every socket that comes and goes.
    """

    __slots__ = (
        "_by_address",
        "_by_user",
        "_limits",
        "_plans",
        "_total",
        "_unproven",
        "_unproven_of",
        "meter",
    )

    def __init__(self, limits: Limits, plans: Mapping[str, Plan], meter: Meter) -> None:
        self._limits = limits
        self._plans = plans
        self.meter = meter
        self._total = 0
        self._unproven = 0
        self._by_address: dict[str, int] = {}
        # By address, in the order of arrival
        self._unproven_of: dict[str, dict[ConnectionSlot, None]] = {}
        self._by_user: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Live sockets of this process."""
        return self._total

    @property
    def unproven(self) -> int:
        """Live sockets of clients without a proven identity; guests count among them."""
        return self._unproven

    def of_user(self, user: str) -> int:
        """Live sockets of `Identity.user`."""
        return self._by_user.get(user, 0)

    def of_address(self, address: str) -> int:
        """Live sockets of a client address."""
        return self._by_address.get(bucket(address), 0)

    def capacity_refusal(self, address: str) -> Refusal | None:
        """The refusal that is due before a credential is verified: the process's and the address's limit."""
        limits = self._limits
        if self._total >= limits.max_connections:
            return _limit_refusal(f"This process is at its limit of {limits.max_connections} connections.")
        if self._by_address.get(bucket(address), 0) >= limits.max_connections_per_address:
            return _limit_refusal(
                f"This address is at its limit of {limits.max_connections_per_address} connections."
            )
        return None

    def user_refusal(self, identity: Identity) -> Refusal | None:
        """The refusal of a user who has as many sockets as their plan allows, else None."""
        plan = plan_of(identity, self._plans)
        if self._by_user.get(identity.user, 0) >= plan.connections:
            return _limit_refusal(
                f"This user is at the limit of {plan.connections} connections of plan {plan.name}."
            )
        return None

    def would_refuse(self, address: str, identity: Identity | None) -> Refusal | None:
        """The refusal that `acquire` would give now; takes nothing."""
        if identity is not None and identity.identity_class is IdentityClass.PROBE:
            return None
        refusal = self.capacity_refusal(address)
        if refusal is None and identity is not None:
            refusal = self.user_refusal(identity)
        if refusal is None and (identity is None or identity.identity_class is IdentityClass.GUEST):
            return self._unproven_refusal(bucket(address), guest=identity is not None)
        return refusal

    def _unproven_refusal(self, key: str, *, guest: bool) -> Refusal | None:
        limit = self._limits.max_connections_unauthenticated
        if guest and sum(slot.guest for slot in self._unproven_of.get(key, ())) >= max(1, limit // 2):
            return _limit_refusal("This address has reached its limit of guest connections; sign in.")
        if self._unproven >= limit and self._evictable_slot(key) is None:
            return _limit_refusal("Too many connections have not authenticated; send a credential.")
        return None

    def _evictable_slot(self, key: str) -> ConnectionSlot | None:
        """The inert slot to evict for one of address `key`; None: no address has more than that one would have."""
        of = self._unproven_of
        if not of:
            return None
        heaviest = max(of, key=lambda one: len(of[one]))
        if len(of[heaviest]) <= len(of.get(key, ())) + 1:
            return None
        return next((slot for slot in of[heaviest] if slot.evictable), None)

    def acquire(self, address: str, identity: Identity | None) -> ConnectionSlot | Refusal:
        """Count a socket in, or refuse it.

        Args:
            address: the client's.
            identity: the user; None while inert.
        """
        refusal = self.would_refuse(address, identity)
        if refusal is not None:
            return refusal
        if identity is not None and identity.identity_class is IdentityClass.PROBE:
            return ConnectionSlot(self, "", "", unproven=False, traffic="")
        unproven = identity is None or identity.identity_class is IdentityClass.GUEST
        traffic = (IdentityClass.USER if identity is None else identity.identity_class)._value_
        user = "" if identity is None else identity.user
        key = bucket(address)
        if unproven and self._unproven >= self._limits.max_connections_unauthenticated:
            evictable = self._evictable_slot(key)
            assert evictable is not None  # `would_refuse` has looked
            evictable.evict()
        slot = ConnectionSlot(
            self, key, user, unproven=unproven, guest=unproven and bool(user), traffic=traffic
        )
        if unproven:
            self._unproven_of.setdefault(key, {})[slot] = None
        self._total += 1
        self._unproven += unproven
        self._by_address[key] = self._by_address.get(key, 0) + 1
        if user:
            self._by_user[user] = self._by_user.get(user, 0) + 1
        self.meter.connections(traffic, 1)
        return slot

    def move(self, slot: ConnectionSlot, key: str, before: str, after: str, *, unproven: bool) -> None:
        """For `ConnectionSlot.identify`: from one user (empty: unproven) to another."""
        if unproven:
            self._forget_unproven(slot, key)
        if before:
            _decrement(self._by_user, before)
        self._by_user[after] = self._by_user.get(after, 0) + 1

    def _forget_unproven(self, slot: ConnectionSlot, key: str) -> None:
        self._unproven -= 1
        of_address = self._unproven_of[key]
        del of_address[slot]
        if not of_address:
            del self._unproven_of[key]

    def remove(self, slot: ConnectionSlot, key: str, user: str, *, unproven: bool, traffic: str) -> None:
        """For `ConnectionSlot.release`."""
        self._total -= 1
        if unproven:
            self._forget_unproven(slot, key)
        _decrement(self._by_address, key)
        if user:
            _decrement(self._by_user, user)
        self.meter.connections(traffic, -1)


def _decrement(counts: dict[str, int], key: str) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]


def _limit_refusal(detail: str) -> Refusal:
    return Refusal(code="connection_limit", detail=detail, retry_after_s=RETRY_AFTER_S)
