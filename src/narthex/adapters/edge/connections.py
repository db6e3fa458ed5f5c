"""Every TCP connection from accept to its end: counted by address, and which of them only wait for their client.

Where there is no place for a new one, one that waits for its client makes way: of the same address if that is at its
limit, else of the address that has most of them waiting. So a flood of idle connections displaces itself, and a
client elsewhere gets in. Not here: what a protocol does when it must go (`evict`). Rules: an address at its limit and
a full process take nobody in whose place nobody can leave; each connection leaves exactly once, however often that is
said; connections of trusted proxies are counted by the forwarded address once a request has told it, and by none
before. Costs: some dict operations a connection; finding who has most is paid once for a batch of `BATCH` evictions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from narthex.domain.addresses import bucket

PROXY: Final = ""  # the key of connections that a trusted proxy holds for clients not known yet
BATCH: Final = 64

Evicted = Callable[[str, str, int], None]
"""Told of evictions: reason (`address`, `process`), the address they were of (empty: a proxy), how many."""


class Waiting(Protocol):
    """A protocol whose connection may wait for its client."""

    def evict(self) -> None:
        """Close now, without waiting for anything: the place is needed. The connection has left the counts."""


class Connections:
    """See the module.

    Args:
        limit: of all connections together.
        per_address: of one address.
        proxied: whether a peer is a trusted proxy.
        evicted: told of evictions.
    """

    __slots__ = ("_counts", "_evicted", "_keys", "_limit", "_per_address", "_proxied", "_waiting")

    def __init__(
        self,
        limit: int,
        per_address: int,
        *,
        proxied: Callable[[str], bool] = lambda _peer: False,
        evicted: Evicted = lambda _reason, _key, _count: None,
    ) -> None:
        self._limit = limit
        self._per_address = per_address
        self._proxied = proxied
        self._evicted = evicted
        self._keys: dict[asyncio.Transport, str] = {}
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, dict[asyncio.Transport, None]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def of_address(self, address: str) -> int:
        """Connections of an address."""
        return self._counts.get(bucket(address), 0)

    def waiting(self) -> int:
        """Connections that wait for their client."""
        return sum(map(len, self._waiting.values()))

    def arrive(self, transport: asyncio.Transport, peer: str) -> bool:
        """Count an accepted connection, which waits for its first request.

        Returns:
            False: there is no place for it. It is counted all the same until it leaves; refuse it.
        """
        key = PROXY if self._proxied(peer) else bucket(peer)
        placed = self._room_of(key) and (len(self._keys) < self._limit or self._room())
        self._keys[transport] = key
        self._counts[key] = self._counts.get(key, 0) + 1
        self._wait(transport, key)
        return placed

    def attribute(self, transport: asyncio.Transport, address: str | None) -> bool:
        """A trusted proxy's request says whose it is; None: it is between two requests.

        Returns:
            False: that address is at its limit. Refuse the request.
        """
        before = self._keys.get(transport)
        key = PROXY if address is None else bucket(address)
        if before is None or key == before:
            return True
        placed = self._room_of(key)
        waited = self._remove_waiting(transport, before)
        self._lower(before)
        self._keys[transport] = key
        self._counts[key] = self._counts.get(key, 0) + 1
        if waited:
            self._wait(transport, key)
        return placed

    def busy(self, transport: asyncio.Transport) -> None:
        """The next step is the server's; idempotent."""
        key = self._keys.get(transport)
        if key is not None:
            self._remove_waiting(transport, key)

    def idle(self, transport: asyncio.Transport) -> None:
        """The next step is the client's; idempotent, and it keeps its place among those that wait."""
        key = self._keys.get(transport)
        if key is not None:
            self._wait(transport, key)

    def leave(self, transport: asyncio.Transport) -> None:
        """It has ended; idempotent."""
        key = self._keys.pop(transport, None)
        if key is not None:
            self._remove_waiting(transport, key)
            self._lower(key)

    def _wait(self, transport: asyncio.Transport, key: str) -> None:
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = {transport: None}
        else:
            waiting[transport] = None

    def _remove_waiting(self, transport: asyncio.Transport, key: str) -> bool:
        waiting = self._waiting.get(key)
        if waiting is None or transport not in waiting:
            return False
        del waiting[transport]
        if not waiting:
            del self._waiting[key]
        return True

    def _lower(self, key: str) -> None:
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]

    def _room_of(self, key: str) -> bool:
        """Whether an address may have one more; one of its own that waits makes way."""
        if key == PROXY or self._counts.get(key, 0) < self._per_address:
            return True
        return self._evict(key, 1, "address") > 0

    def _room(self) -> bool:
        """Make way in a full process."""
        waiting = self._waiting
        if not waiting:
            return False
        heaviest = max(waiting, key=lambda key: len(waiting[key]) if key != PROXY else 0)
        most = len(waiting[heaviest])
        if most > 2 or heaviest == PROXY:
            return self._evict(heaviest, min(BATCH, max(1, most // 4)), "process") > 0
        # Nobody has many: the batch is the oldest one of each of the addresses that have waited longest.
        keys = [key for key, _ in zip(waiting, range(BATCH), strict=False) if key != PROXY]
        return sum(self._evict(key, 1, "process") for key in keys) > 0

    def _evict(self, key: str, count: int, reason: str) -> int:
        """Close the `count` connections of an address that have waited longest."""
        chosen = [transport for transport, _ in zip(self._waiting.get(key, ()), range(count), strict=False)]
        for transport in chosen:
            self.leave(transport)
            cast("Waiting", transport.get_protocol()).evict()
        if chosen:
            self._evicted(reason, key, len(chosen))
        return len(chosen)
