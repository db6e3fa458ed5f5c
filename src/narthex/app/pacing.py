"""Spreads the first pings and the rotations of connections in time.

Why: clients that came back together after an outage would otherwise pong together, and be rotated together.
"""

from __future__ import annotations

import random
from typing import Final

from narthex.protocol.session import NEVER

LIFE_JITTER: Final = 0.05  # of a socket's life, to both sides


class Pacing:
    """See the module.

    Args:
        ping_every_s: the period of pings.
        max_life_s: a socket's life before it is rotated; 0: no end.
        spread: the randomness of a simulation, which must repeat itself.
    """

    def __init__(self, ping_every_s: float, max_life_s: float, spread: random.Random | None = None) -> None:
        self._ping_every_s = ping_every_s
        self._max_life_s = max_life_s
        self._random = spread or random.Random()  # noqa: S311 - spreads load, guards nothing

    def first_ping_in_s(self) -> float:
        """Seconds to a new connection's first ping."""
        return self._ping_every_s * (0.2 + 0.8 * self._random.random())

    def life_s(self) -> float:
        """Seconds that a new connection lives before it is rotated."""
        if not self._max_life_s:
            return NEVER
        return self._max_life_s * (1 - LIFE_JITTER + 2 * LIFE_JITTER * self._random.random())
