"""The exception by which a scenario reports that it cannot run. Not here: whether the skip is allowed (`skips`)."""

from __future__ import annotations


class SkipScenario(Exception):
    """The scenario cannot run here; `reason` says why. The runner decides whether that is allowed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
