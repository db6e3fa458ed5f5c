"""Deletes credentials that have ended (tickets, refresh tokens, keys, revocations), so that the store stays small.

Rules: several instances may do it at once (deleting twice deletes once); a store that is down is tried next time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from narthex.app.periodic import Periodic
from narthex.errors import DependencyError
from narthex.ports.credentials import Credentials

EVERY_S: Final = 600.0  # a hundred tickets a second leave 60,000 small rows until then


class CredentialExpiry(Periodic):
    """See the module.

    Args:
        credentials: the store's.
        clock: seconds since the epoch.
        every_s: interval, with jitter so that instances do not meet.
    """

    def __init__(
        self, credentials: Credentials, *, clock: Callable[[], float] = time.time, every_s: float = EVERY_S
    ) -> None:
        super().__init__(self._expire, every_s=every_s)
        self._credentials = credentials
        self._clock = clock

    async def _expire(self) -> None:
        with contextlib.suppress(DependencyError):
            await self._credentials.expire(self._clock())
