"""Closes live connections whose credential has ended: revoked, or signed by a key that was withdrawn.

Not here: the set of revocations (`app/revocations`), refusing new handshakes (`app/credentials`). Rules: every live
connection is checked, because a `jti` names no user; checks are at least `CLOSE_EVERY_S` apart for any number of
revocations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from narthex.app.registry import LiveConnection
from narthex.app.revocations import Revocations
from narthex.ports.credentials import Revocation
from narthex.protocol.codes import FORCE_RECONNECT, REVOKED

CLOSE_EVERY_S: Final = 0.1  # 20,000 connections take 10 ms: a tenth of the loop at most


class RevocationEnforcer:
    """See the module.

    Args:
        registry: the live connections.
        revocations: reports each new revocation.
        loop: runs the checks.

    Attributes:
        withdrawn: ids of our own keys that were withdrawn; a few a year.
    """

    def __init__(
        self,
        registry: Iterable[LiveConnection],
        revocations: Revocations,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._registry = registry
        self._revocations = revocations
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.withdrawn: set[str] = set()
        revocations.listen(self._revoked)

    def withdraw(self, keys: frozenset[str]) -> None:
        """Keys were withdrawn (they leaked): connections that they admitted are closed 3011 and come back with a
        fresh token, or not at all.
        """
        self.withdrawn |= keys
        for connection in self._registry:
            if connection.context.key_id in keys:
                connection.close(FORCE_RECONNECT)

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _revoked(self, _: Sequence[Revocation]) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(CLOSE_EVERY_S, self._close)

    def _close(self) -> None:
        self._timer = None
        for connection in self._registry:
            identity = connection.known_identity  # also before its `connect`, which must not succeed any more
            if identity is not None and self._revocations.covers(identity):
                connection.close(REVOKED)
