"""The one time unit: every bounded wait of a test uses it."""

from __future__ import annotations

import os
from typing import Final

TIME_UNIT: Final = float(os.environ.get("NARTHEX_TEST_TIME_UNIT", "1"))
"""Seconds: 1 on the machine that the bounds were written on, more on a slower one."""


def within(units: float) -> float:
    """`units` of the time unit, in seconds."""
    return units * TIME_UNIT
