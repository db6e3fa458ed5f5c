"""The one time unit: every wait of a test that has a bound takes it from here.

Rules: a bound is how long a wait may take before the test fails; it is never how long something is slept for.
"""

from __future__ import annotations

import os
from typing import Final

TIME_UNIT: Final = float(os.environ.get("NARTHEX_TEST_TIME_UNIT", "1"))
"""Seconds: 1 on the machine that the bounds were written on, more on a slower one."""


def within(units: float) -> float:
    """`units` of the time unit, in seconds."""
    return units * TIME_UNIT
