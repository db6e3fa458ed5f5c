"""Counts TCP connections by address from accept to end, and tracks those that wait for their client.

When a new connection exceeds a limit, the table evicts one that waits for its client: of the same address if that is at
its limit, else of the address with the most waiting ones. So a flood of idle connections evicts its own, and other
clients get in. Not here: the reaction of a protocol to its eviction (`evict`). Rules: a new connection is refused when
its address or the process is at the limit and no connection can be evicted; each connection leaves the counts exactly
once, also after repeated calls; connections of trusted proxies count under the forwarded address once a request has
named it, and under none before. Costs: some dict operations per connection; the address with the most is searched once
per batch of `BATCH` evictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from narthex.domain.addresses import bucket

PROXY: Final = ""  # the key of connections that a trusted proxy holds for clients not known yet
BATCH: Final = 64

Evicted = Callable[[str, str, int], None]
"""Called at evictions: reason (`address`, `process`), the connections' address (empty: a proxy), their number."""


class Counted(Protocol):
    """A connection. `address` is the table's: the key that it is counted under, None while it is not counted."""

    address: str | None

    def evict(self) -> None:
        """Close at once, because a new connection needs the slot. The connection has left the counts."""


C = TypeVar("C", bound=Counted)


class Connections(Generic[C]):
    """See the module.

    Args:
        limit: of all connections together.
        per_address: of one address.
        proxied: returns whether a peer is a trusted proxy.
        evicted: called at evictions.
    """

    __slots__ = ("_all", "_counts", "_evicted", "_limit", "_per_address", "_proxied", "_waiting")

    def __init__(
        self,
        limit: int,
        per_address: int,
        *,
        proxied: Callable[[str], bool],
        evicted: Evicted,
    ) -> None:
        self._limit = limit
        self._per_address = per_address
        self._proxied = proxied
        self._evicted = evicted
        self._all: set[C] = set()
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, dict[C, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[C]:
        """All of them, in no order; they may leave meanwhile."""
        return iter(tuple(self._all))

    def of_address(self, address: str) -> int:
        """Connections of an address."""
        return self._counts.get(bucket(address), 0)

    def waiting(self) -> int:
        """Connections that wait for their client."""
        return sum(map(len, self._waiting.values()))

    def add(self, one: C, peer: str) -> bool:
        """Count an accepted connection, which waits for its first request.

        Returns:
            False: a limit is reached. It counts all the same until it leaves; refuse it.
        """
        key = PROXY if self._proxied(peer) else bucket(peer)
        placed = self._has_space(key) and (len(self._all) < self._limit or self._make_space())
        self._all.add(one)
        one.address = key
        self._counts[key] = self._counts.get(key, 0) + 1
        self._wait(one, key)
        return placed

    def reassign(self, one: C, address: str | None) -> bool:
        """Count a trusted proxy's connection for the client of its request; None: it is between two requests.

        Returns:
            False: that address is at its limit. Refuse the request.
        """
        before = one.address
        key = PROXY if address is None else bucket(address)
        if before is None or key == before:
            return True
        placed = self._has_space(key)
        waited = self._remove_waiting(one, before)
        self._decrement(before)
        one.address = key
        self._counts[key] = self._counts.get(key, 0) + 1
        if waited:
            self._wait(one, key)
        return placed

    def busy(self, one: C) -> None:
        """The next step is the server's; idempotent."""
        key = one.address
        if key is not None:
            self._remove_waiting(one, key)

    def idle(self, one: C) -> None:
        """The next step is the client's; idempotent: a repeat does not change its place in the order of waiting."""
        key = one.address
        if key is not None:
            self._wait(one, key)

    def remove(self, one: C) -> None:
        """The connection has ended; idempotent."""
        key, one.address = one.address, None
        if key is not None:
            self._all.discard(one)
            self._remove_waiting(one, key)
            self._decrement(key)

    def _wait(self, one: C, key: str) -> None:
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = {one: None}
        else:
            waiting[one] = None

    def _remove_waiting(self, one: C, key: str) -> bool:
        waiting = self._waiting.get(key)
        if waiting is None or one not in waiting:
            return False
        del waiting[one]
        if not waiting:
            del self._waiting[key]
        return True

    def _decrement(self, key: str) -> None:
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]

    def _has_space(self, key: str) -> bool:
        """Whether an address may have one more; evicts a waiting one of its own if necessary."""
        if key == PROXY or self._counts.get(key, 0) < self._per_address:
            return True
        return self._evict(key, 1, "address") > 0

    def _make_space(self) -> bool:
        """Evict connections in a full process."""
        waiting = self._waiting
        if not waiting:
            return False
        heaviest = max(waiting, key=lambda key: len(waiting[key]) if key != PROXY else 0)
        most = len(waiting[heaviest])
        if most > 2 or heaviest == PROXY:
            return self._evict(heaviest, min(BATCH, max(1, most // 4)), "process") > 0
        # No address has many: the batch is the oldest one of each of the addresses that have waited longest.
        keys = [key for key, _ in zip(waiting, range(BATCH), strict=False) if key != PROXY]
        return sum(self._evict(key, 1, "process") for key in keys) > 0

    def _evict(self, key: str, count: int, reason: str) -> int:
        """Close the `count` connections of an address that have waited longest."""
        chosen = [one for one, _ in zip(self._waiting.get(key, ()), range(count), strict=False)]
        for one in chosen:
            self.remove(one)
            one.evict()
        if chosen:
            self._evicted(reason, key, len(chosen))
        return len(chosen)
