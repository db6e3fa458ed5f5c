"""`narthex.app.pacing`: simultaneous actions of connections are spread."""

from __future__ import annotations

from typing import Any

import pytest

from narthex.app.pacing import Pacing
from narthex.protocol.session import NEVER


class Fixed:
    """A `random.Random` that draws one number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        """Between 0 and 1."""
        return self.number


@pytest.mark.parametrize(("draws", "first_ping_s", "life_s"), [(0.0, 5.0, 950.0), (1.0, 25.0, 1_050.0)])
def test_what_connections_do_at_once_is_spread(draws: float, first_ping_s: float, life_s: float) -> None:
    """The first ping over the period, but not at once; the lifetime by a twentieth either way."""
    fixed: Any = Fixed(draws)
    pacing = Pacing(25.0, 1_000.0, fixed)
    assert pacing.first_ping_in_s() == pytest.approx(first_ping_s)
    assert pacing.life_s() == pytest.approx(life_s)


def test_a_connection_without_a_longest_life_is_never_rotated() -> None:
    """0 turns the rotation off."""
    assert Pacing(25.0, 0.0).life_s() == NEVER
