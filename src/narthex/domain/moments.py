"""Bounds on moments that other programs give: seconds since the epoch, up to the end of the year 9999.

Not here: clocks, and durations. Rule: today's date in milliseconds lies beyond the bound, so that a mistake of units
is refused wherever a moment enters, instead of being kept for 50,000 years.
"""

from __future__ import annotations

from typing import Final

LATEST_MOMENT_S: Final = 253_402_300_799
"""The last second of the year 9999, which some issuers write for "never" (RFC 3339 knows no later one)."""

MOMENT_RULE: Final = "seconds since the epoch, not milliseconds"
"""For refusals and documents."""


def valid_moment(value: float) -> bool:
    """Whether a moment is given in seconds, as far as its size can show; also False for `nan` and infinities."""
    return abs(value) <= LATEST_MOMENT_S
