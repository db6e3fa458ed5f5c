"""Cancellations that come before their run: a user who presses Stop may be faster than the request for the run.

Not here: cancelling (`requests`). Rules: a cancellation is kept for the time that a request may take, for its user and
the client's name of the run; a table that is full forgets the oldest one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from narthex.domain.identity import Identity

KEPT_S: Final = 10.0  # as long as the gateway works on a request (`connection.COMMAND_TIMEOUT_S`)
MAX_ENTRIES: Final = 1_000


class EarlyStops:
    """See the module."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str, str], float] = {}  # in the order of their ends

    def note(self, identity: Identity, run_name: str) -> None:
        """A user cancelled a run that is not there (yet)."""
        key = _key(identity, run_name)
        self._until.pop(key, None)
        if len(self._until) >= MAX_ENTRIES:
            del self._until[next(iter(self._until))]
        self._until[key] = asyncio.get_running_loop().time() + KEPT_S

    def take(self, identity: Identity, run_name: str) -> bool:
        """Whether a run that has begun was cancelled before."""
        until = self._until.pop(_key(identity, run_name), 0.0)
        return asyncio.get_running_loop().time() < until


def _key(identity: Identity, run_name: str) -> tuple[str, str, str]:
    return identity.tenant, identity.subject, run_name
