"""How a scenario says that it cannot be run where it is. What such a word is worth is decided in `skips`."""

from __future__ import annotations


class SkipScenario(Exception):
    """It cannot be run here; `reason` says why. The runner decides whether that is allowed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
