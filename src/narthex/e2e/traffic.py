"""Counts the bytes that a scenario exchanged with the server under test: a test without traffic has failed."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Protocol


class TrackedConnection(Protocol):
    """A connection that a scenario opened (`scenario_client.ScenarioClient`); the runner drops it at the
    end of the scenario.
    """

    close_code: int

    def drop(self) -> None:
        """Cut the connection."""


class ScenarioTraffic:
    """Counts of one scenario. `contacted` names the peers (scheme, host, port); `connections` those to close.

    `label` distinguishes its identities from those of other scenarios, so that parallel scenarios share no limits.
    """

    __slots__ = ("connections", "contacted", "label", "received", "sent")

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.sent = 0
        self.received = 0
        self.contacted: set[str] = set()
        self.connections: list[TrackedConnection] = []

    def out(self, count: int) -> None:
        """Bytes that went out."""
        self.sent += count

    def back(self, count: int, peer: str) -> None:
        """Bytes that came back from `peer`."""
        self.received += count
        if count:
            self.contacted.add(peer)


CURRENT: Final[ContextVar[ScenarioTraffic | None]] = ContextVar("narthex_e2e_traffic", default=None)


def current() -> ScenarioTraffic:
    """The `ScenarioTraffic` of the running scenario; a throw-away one outside of any."""
    return CURRENT.get() or ScenarioTraffic()
