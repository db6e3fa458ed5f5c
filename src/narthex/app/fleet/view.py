"""The latest snapshot of every process, and which of them are dead.

Not here: receiving snapshots (`publishing`). Rules: a process is `dead` when its snapshots stopped without a last one
that says `stopped`; moments of other machines are never compared with the clock here; the number of entries is bounded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from narthex.app.fleet.refusals import RecentRefusal
from narthex.app.fleet.snapshots import Snapshot

DEAD_AFTER_S: Final = 3.5  # while operators watch: three snapshots are missing
SPARSE_DEAD_AFTER_S: Final = 25.0  # otherwise: two are missing
KEPT_S: Final = 900.0  # a dead process is listed for a quarter of an hour
LEFT_KEPT_S: Final = 60.0
MAX_NODES: Final = 500
KEPT_REFUSALS: Final = 200


class FleetMember(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One process: `status` is `up`, `dead` or `left`; `age_s` is the time since its snapshot arrived."""

    status: str
    age_s: float
    snapshot: Snapshot


class FleetView:
    """See the module. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._snapshots: dict[str, tuple[Snapshot, float]] = {}
        self._watched_since = float("inf")
        self._watched_until = 0.0
        self.refusals: deque[RecentRefusal] = deque(maxlen=KEPT_REFUSALS)

    def watch(self, for_s: float) -> bool:
        """Operators watch for so long; returns whether they begin to."""
        now = self._clock()
        begins = now >= self._watched_until
        if begins:
            self._watched_since = now
        self._watched_until = max(self._watched_until, now + for_s)
        return begins

    @property
    def watched(self) -> bool:
        """Whether operators watch."""
        return self._clock() < self._watched_until

    def take(self, snapshot: Snapshot) -> None:
        """A snapshot arrived. An older one than the known one is a late message."""
        known = self._snapshots.get(snapshot.node)
        if known is not None and known[0].at > snapshot.at:
            return
        self._snapshots[snapshot.node] = (snapshot, self._clock())
        self.refusals.extend(snapshot.refusals)
        if len(self._snapshots) > MAX_NODES:
            oldest = min(self._snapshots, key=lambda node: self._snapshots[node][1])
            del self._snapshots[oldest]

    def members(self) -> list[FleetMember]:
        """Every process, the oldest first."""
        now = self._clock()
        found = []
        for node, (snapshot, received_at) in list(self._snapshots.items()):
            age_s = now - received_at
            left = snapshot.state == "stopped"
            if age_s > (LEFT_KEPT_S if left else KEPT_S):
                del self._snapshots[node]
                continue
            status = "left" if left else "dead" if self._silent(age_s, now) else "up"
            found.append(FleetMember(status=status, age_s=round(age_s, 1), snapshot=snapshot))
        return sorted(found, key=lambda member: (member.snapshot.started_at, member.snapshot.node))

    def _silent(self, age_s: float, now: float) -> bool:
        if now < self._watched_until:
            return min(age_s, now - self._watched_since) > DEAD_AFTER_S
        return age_s > SPARSE_DEAD_AFTER_S
